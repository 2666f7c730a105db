"""What callers and deliverers share: turns between callers, leases between deliverers, and what is
sent only once.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app import ids
from app.delivery.verdicts import RetryPolicy
from app.leanplum.client import NO_HEADERS
from app.model import Status
from app.outbox.dead_letters import DeadLetterFilter
from app.outbox.liveness_lock import KnownProcess
from tests.support.wait import until_async

from .harness import Delivering, Leanplum, deliver

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_ten_events_of_one_caller_pass_anothers_long_backlog(
    path: Path, leanplum: Leanplum
) -> None:
    """A hundred thousand wait; by the time that the ten are through, a small part of those is."""

    async def body(at: Delivering) -> None:
        for number in range(0, 100_000, 1_000):
            await at.accept_many(
                [f"user{one}" for one in range(number, number + 1_000)], key="first"
            )
        async with at.running():
            await until_async(lambda: at.outbox.queued < 99_000)
            await at.accept_many([f"late{one}" for one in range(10)], key="second")
            begun = at.outbox.queued
            for number in range(10):
                receipt = await at.outbox.settled_receipt("default", f"late{number}-0", 20)
                assert receipt is not None
                assert receipt.status is Status.DELIVERED
            assert begun - at.outbox.queued < 40_000, "they had to wait for most of the backlog"

    deliver(f"sqlite:///{path}", leanplum, body)


@pytest.mark.slow
def test_a_users_events_of_two_callers_keep_their_order_though_one_has_a_backlog(
    path: Path, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        for value in range(3):
            await at.accept_many(
                [f"user{one}" for one in range(4_000)], value=2 * value, key="first"
            )
            await at.accept_many(
                [f"user{one}" for one in range(0, 4_000, 40)], value=2 * value + 1, key="second"
            )
        async with at.running():
            await until_async(lambda: at.outbox.queued == 0, 60)

    deliver(f"sqlite:///{path}", leanplum, body)
    for one in range(0, 4_000, 400):
        assert leanplum.values(f"user{one}") == [0, 1, 2, 3, 4, 5]
    assert leanplum.stats()["overlaps"] == 0


def test_two_deliverers_share_the_lanes_and_each_sends_its_own(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        other = at.another()
        tasks = [asyncio.create_task(at.deliverer.run()), asyncio.create_task(other.run())]
        await until_async(
            lambda: len(at.deliverer.window.shards) == len(other.window.shards) == ids.SHARDS // 2
        )
        assert not at.deliverer.window.shards & other.window.shards
        await at.accept_many([f"user{one}" for one in range(300)])
        await until_async(lambda: at.outbox.queued == 0)
        other.stop()
        await tasks[1]
        await until_async(lambda: len(at.deliverer.window.shards) == ids.SHARDS)
        await at.accept_many([f"user{one}" for one in range(300)], value=1)
        await until_async(lambda: at.outbox.queued == 0)
        at.deliverer.stop()
        await tasks[0]

    deliver(database, leanplum, body)
    assert [leanplum.values(f"user{one}") for one in range(300)] == [[0, 1]] * 300
    assert leanplum.stats()["overlaps"] == 0


def test_nothing_is_sent_by_one_whose_lease_was_given_to_another(
    path: Path, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        await at.step()
        await at.outbox.renew("other", 60_000, [KnownProcess(at.deliverer.owner, None)], ())
        await at.accept("ann", 0)
        at.deliverer.notify()
        await at.step()
        assert leanplum.stats()["calls"] == 0
        assert at.deliverer.window._failures == {}, "nothing was sent, so nothing failed"
        await at.outbox.release("other", range(ids.SHARDS), leaving=True)
        await at.finish()

    deliver(f"sqlite:///{path}", leanplum, body)
    assert leanplum.values("ann") == [0]


def test_who_was_taken_for_gone_sends_nothing_again_that_others_have_sent(
    path: Path, leanplum: Leanplum
) -> None:
    """Like a process that was stopped for longer than its lease, with items in memory, and then
    goes on.
    """

    async def body(at: Delivering) -> None:
        await at.step()
        await at.accept("ann", 0, 1)
        await at.deliverer._read()
        assert at.deliverer.window.sendable
        other = at.another()
        await at.outbox.renew(other.owner, 60_000, [KnownProcess(at.deliverer.owner, None)], ())
        for _ in range(3):
            await other.step()
            await other.drain()
        assert at.outbox.queued == 0
        await other.leave()
        at.deliverer._renewed_at = 0.0
        await at.step()
        await at.step()

    deliver(f"sqlite:///{path}", leanplum, body)
    assert leanplum.values("ann") == [0, 1]
    assert leanplum.stats()["duplicates"] == 0


def test_nothing_is_sent_that_may_not_be_answered_before_the_lease_ends(
    path: Path, leanplum: Leanplum
) -> None:
    class Ticks:
        now = 0.0

    async def body(at: Delivering) -> None:
        await at.step()
        await at.accept("ann", 0)
        at.deliverer._renewed_at = Ticks.now = 30.0  # as if the last renewal had taken so long
        await at.step()
        assert leanplum.stats()["calls"] == 0
        Ticks.now = 60.0
        await at.finish()

    deliver(f"sqlite:///{path}", leanplum, body, ticks=lambda: Ticks.now)
    assert leanplum.values("ann") == [0]


@pytest.mark.parametrize(
    ("mode", "hold", "status"),
    [
        ("disconnect", True, "unknown"),
        ("disconnect", False, "delivered"),
        ("html-200", True, "unknown"),
        ("503", True, "delivered"),
        ("429", True, "delivered"),
    ],
)
def test_what_was_sent_and_not_answered_is_sent_again_or_not_as_the_policy_says(
    database: str, leanplum: Leanplum, mode: str, hold: bool, status: str
) -> None:
    leanplum.plan({"mode": mode, "userId": "ann"})

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0, 1)
        await at.finish()
        assert {told for told, _ in await at.told("ann", 2)} == {status}
        await at.accept("ann", 2)
        await at.finish()
        assert (await at.receipt("ann-2")).status is Status.DELIVERED

    not_twice = frozenset({"track"} if hold else ())
    deliver(
        database, leanplum, body, policy=RetryPolicy(least=0.02, most=0.04, not_twice=not_twice)
    )


def test_an_error_that_nobody_foresaw_in_a_call_counts_as_trouble_and_closes_its_attempt(
    path: Path, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        client, failures = at.deliverer._attempts._client, [RuntimeError("unforeseen")]
        call = client.call

        async def fails(
            url: str, action: str, body: bytes, headers: Mapping[str, str] = NO_HEADERS
        ) -> Any:
            if failures:
                raise failures.pop()
            return await call(url, action, body, headers)

        client.call = fails  # type: ignore[method-assign]
        await at.accept("ann", 0)
        await at.step()
        assert await at.told("ann", 1) == [("retrying", 1)]
        with at.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM attempts").scalar() == 0
        await at.finish()

    deliver(f"sqlite:///{path}", leanplum, body)
    assert leanplum.values("ann") == [0]


def test_an_operators_replay_goes_before_what_the_user_has_waiting(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.plan({"mode": "success-false", "userId": "ann", "message": "Bad."})

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0)
        await at.finish()
        assert await at.told("ann", 1) == [("rejected", 1)]
        await at.accept("ann", 1)
        assert await at.outbox.dead_letters.replay(
            "default", DeadLetterFilter(), lambda _: (0, "{}")
        ) == (1, 1)
        await at.finish()
        assert await at.told("ann", 2) == [("delivered", 1)] * 2

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == [0, 1]


def test_users_that_make_calls_fail_are_soon_sent_alone(path: Path, leanplum: Leanplum) -> None:
    leanplum.plan({"mode": "503", "userId": "ann", "times": None})

    async def body(at: Delivering) -> None:
        await at.accept_many(["ann", *(f"user{one}" for one in range(99))])
        for _ in range(40):
            await at.step()
            await asyncio.sleep(0.005)
        assert at.outbox.queued == 1, "all but ann's are through"
        leanplum.unplan()
        await at.finish()

    deliver(f"sqlite:///{path}", leanplum, body)
    assert leanplum.stats()["duplicates"] == 0
