"""The deliverer as a whole: order, one call a user, nobody waits for another's trouble, nothing is
left behind.
"""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from app.delivery.verdicts import RetryPolicy
from app.model import ReadRequest, ReadResult, Status
from app.outbox.liveness_lock import FileLock
from tests.support.wait import until_async

from .harness import Delivering, Leanplum, deliver

pytestmark = pytest.mark.slow

PATIENT = RetryPolicy(window=60.0, least=30.0, most=60.0, held=0.3)


def test_the_loop_delivers_what_is_accepted_while_it_runs(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        async with at.running():
            for value in range(30):
                await at.accept("ann", value)
                await at.accept(f"user{value}", value)
            await until_async(lambda: at.outbox.queued == 0)

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == list(range(30))
    assert leanplum.stats()["overlaps"] == 0


def test_after_a_read_that_took_long_the_leases_are_renewed_before_anything_is_sent(
    database: str, leanplum: Leanplum
) -> None:
    late = 0.0

    async def body(at: Delivering) -> None:
        nonlocal late
        look = at.outbox.look

        async def look_long(wanted: ReadRequest) -> ReadResult:
            nonlocal late
            late += 20.0
            return await look(wanted)

        at.outbox.look = look_long  # type: ignore[method-assign]
        await at.accept("ann", 0)
        await at.deliverer.step()
        assert at.outbox.renewals == 2

    deliver(database, leanplum, body, ticks=lambda: time.monotonic() + late)


def test_many_users_in_several_calls_at_once_never_overlap(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.plan({"mode": "slow", "delay": 0.03, "times": None})

    async def body(at: Delivering) -> None:
        async with at.running():
            for value in range(6):
                await asyncio.gather(*(at.accept(f"user{number}", value) for number in range(150)))
            await until_async(lambda: at.outbox.queued == 0)

    deliver(database, leanplum, body)
    assert [leanplum.values(f"user{number}") for number in range(150)] == [list(range(6))] * 150
    assert leanplum.stats()["overlaps"] == 0


def test_one_users_trouble_does_not_hold_others(database: str, leanplum: Leanplum) -> None:
    leanplum.plan({"mode": "503", "userId": "ann", "times": None})

    async def body(at: Delivering) -> None:
        async with at.running():
            await at.accept("ann", 0)
            await until_async(lambda: leanplum.stats()["calls"] == 1)
            await at.accept("ann", 1)
            for number in range(100):
                await at.accept(f"user{number}", 0)
            await until_async(lambda: at.outbox.queued == 2)
            assert await at.told("ann", 2) == [("retrying", 1), ("accepted", 0)]

    deliver(database, leanplum, body, policy=PATIENT)


def test_a_wrong_key_holds_everything_and_drops_nothing_until_it_is_mended(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.plan({"mode": "403-key", "times": None})

    async def body(at: Delivering) -> None:
        for number in range(120):
            await at.accept(f"user{number}", 0)
        async with at.running():
            await until_async(lambda: at.metrics.states.get("default") == "held")
            assert leanplum.stats()["calls"] <= 16, (
                "while the key is refused, the app pauses as a whole"
            )
            assert await at.told("user0", 1) == [("held", 0)]
            leanplum.unplan()
            await until_async(lambda: at.outbox.queued == 0)
            assert await at.told("user0", 1) == [("delivered", 1)]

        assert at.metrics.states["default"] == "closed"

    deliver(database, leanplum, body, policy=PATIENT)


@pytest.mark.parametrize("trouble", ["503", "429", "disconnect", "403-key", "404-app"])
def test_of_a_call_sent_in_halves_no_item_overtakes_its_own_users(
    database: str, leanplum: Leanplum, trouble: str
) -> None:
    """The whole is refused, then the first half fails: the second half must not be sent before
    it.
    """
    leanplum.plan({"mode": "400"}, {"mode": trouble, "applied": False})

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0, 1, 2, 3)
        await at.finish()

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == [0, 1, 2, 3]


@pytest.mark.parametrize("refused", ["403-size", "400"])
def test_once_the_key_is_refused_the_other_halves_of_the_call_are_not_tried(
    database: str, leanplum: Leanplum, refused: str
) -> None:
    leanplum.plan({"mode": refused}, {"mode": "403-key"})

    async def body(at: Delivering) -> None:
        for number in range(8):
            await at.accept(f"user{number}", 0)
        await at.step()

    deliver(database, leanplum, body, policy=PATIENT)
    assert leanplum.stats()["calls"] == 2


def test_what_was_not_sent_since_its_users_earlier_item_failed_is_sent_although_that_one_expired(
    database: str, leanplum: Leanplum
) -> None:
    """The first half expires, so its user is not postponed; the rest, unsent, must not be forgotten
    until a restart.
    """
    leanplum.plan({"mode": "400"}, {"mode": "503"})

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0, 1, 2, 3)
        await asyncio.sleep(0.01)
        await at.finish()
        assert [status for status, _ in await at.told("ann", 4)] == [
            "expired",
            "expired",
            "delivered",
            "delivered",
        ]

    deliver(database, leanplum, body, policy=RetryPolicy(window=0.001))


def test_a_user_with_a_long_queue_does_not_make_the_deliverer_read_in_a_frenzy(
    database: str, leanplum: Leanplum
) -> None:
    """While this user's one call is in flight nothing can be sent, so there is nothing to look
    for.
    """
    leanplum.plan({"mode": "slow", "delay": 1.0, "times": None})

    async def body(at: Delivering) -> None:
        await at.accept("ann", *range(1_800))
        async with at.running():
            await until_async(lambda: leanplum.stats()["calls"] == 1)
            before = at.outbox.reads
            await asyncio.sleep(0.5)
            assert at.outbox.reads - before < 8
            leanplum.unplan()

    deliver(database, leanplum, body)


def test_calls_begin_as_others_end_while_a_long_queue_is_read(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        await at.accept_many([f"user{n}" for n in range(2_000)])
        assert await at.deliverer.step() == 2
        await at.accept("late", 0)
        at.outbox.read_gate = asyncio.Event()
        at.deliverer.notify()
        stepping = asyncio.create_task(at.deliverer.step())
        await until_async(lambda: leanplum.stats()["calls"] > 20)
        assert not stepping.done()
        at.outbox.read_gate.set()
        await stepping
        await at.finish()

    deliver(database, leanplum, body, concurrency=2)


def test_a_deliverer_whose_liveness_lock_changes_renews_its_leases_before_it_begins_a_call(
    database: str, leanplum: Leanplum
) -> None:
    """Others may take for dead whoever names the former one."""

    class Changing(FileLock):
        named = "first"

        def identity(self) -> str | None:
            return self.named

    async def body(at: Delivering) -> None:
        liveness = at.deliverer._attempts.liveness
        assert isinstance(liveness, Changing)
        await at.step()
        before = at.outbox.renewals
        await at.step()
        assert at.outbox.renewals == before
        liveness.named = "second"
        await at.accept("ann", 0)
        at.deliverer.notify()
        assert await at.step() == 1
        assert at.outbox.renewals == before + 1
        assert (await at.receipt("ann-0")).status is Status.DELIVERED

    deliver(database, leanplum, body, owner="one", liveness=Changing(None, "one"))


def test_a_user_with_a_queue_longer_than_the_window_is_delivered_whole_and_in_order(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        await at.accept("ann", *range(2_500))
        await at.accept("bob", 0)
        async with at.running():
            await until_async(lambda: at.outbox.queued == 0, 20)

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == list(range(2_500))
    assert leanplum.values("bob") == [0]


def test_stopping_finishes_and_settles_what_is_in_flight_and_begins_nothing_more(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.plan({"mode": "slow", "delay": 1.5})

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0)
        async with at.running():
            await until_async(lambda: leanplum.stats()["calls"] == 1)
            await at.accept("ann", 1)
            await at.accept("bob", 0)
        assert await at.told("ann", 2) == [("delivered", 1), ("accepted", 0)]
        assert await at.told("bob", 1) == [("accepted", 0)]

    deliver(database, leanplum, body)


def test_a_verdict_that_cannot_be_written_is_written_when_the_database_works_again(
    path: Path, leanplum: Leanplum
) -> None:
    """Leanplum did it; forgetting that would do it twice."""
    leanplum.plan({"mode": "slow", "delay": 1.5})

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0)
        async with at.running():
            await until_async(lambda: leanplum.stats()["calls"] == 1)
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                await asyncio.sleep(0.6)
                other.execute("ROLLBACK")
            await until_async(lambda: at.outbox.queued == 0)
        assert await at.told("ann", 1) == [("delivered", 1)]

    deliver(f"sqlite:///{path}", leanplum, body)
    assert leanplum.stats()["calls"] == 1


def test_when_leanplum_cannot_be_reached_at_all_everything_waits(
    database: str, leanplum: Leanplum
) -> None:
    nobody = Leanplum(leanplum.url)
    nobody.url = "http://127.0.0.1:1"

    async def body(at: Delivering) -> None:
        await at.accept("ann", 0)
        await at.step()
        assert await at.told("ann", 1) == [("retrying", 1)]
        receipt = await at.receipt("ann-0")
        assert receipt.leanplum == {
            "success": False,
            "error": "No answer from Leanplum: connection refused",
        }

    deliver(database, nobody, body)
    nobody.close()


def test_a_later_start_goes_on_where_an_earlier_one_stopped(
    database: str, leanplum: Leanplum
) -> None:
    async def first(at: Delivering) -> None:
        await at.accept("ann", 0, 1, 2)

    async def second(at: Delivering) -> None:
        await at.accept("ann", 3)
        await at.finish()

    deliver(database, leanplum, first)
    deliver(database, leanplum, second)
    assert leanplum.values("ann") == [0, 1, 2, 3]


def test_delivery_goes_on_after_an_error_that_nobody_foresaw(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        read, failures = at.outbox.look, [RuntimeError("unforeseen")]

        async def look(wanted: ReadRequest) -> ReadResult:
            if failures:
                raise failures.pop()
            return await read(wanted)

        at.outbox.look = look  # type: ignore[method-assign]
        async with at.running():
            await at.accept("ann", 0)
            await until_async(lambda: at.outbox.queued == 0)
        assert not failures

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == [0]


@pytest.mark.slow
def test_while_leanplum_is_away_it_is_asked_by_one_probe_at_a_time_and_then_everything_is_delivered(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.plan({"mode": "503", "times": None})

    async def body(at: Delivering) -> None:
        for number in range(1_000):
            await at.accept(f"user{number}", 0)
        async with at.running():
            await until_async(lambda: at.metrics.states.get("default") == "open")
            await asyncio.sleep(1.0)
            assert leanplum.stats()["calls"] < 40, (
                "a thousand users were asked for one after the other"
            )
            leanplum.unplan()
            await until_async(lambda: at.outbox.queued == 0)
            assert at.metrics.states["default"] == "closed"
        assert {
            await at.told(f"user{number}", 1) == [("delivered", 1)] for number in range(900, 1_000)
        } == {True}

    policy = RetryPolicy(window=60.0, least=0.2, most=1.0, held=0.05)
    deliver(database, leanplum, body, policy=policy)
    assert leanplum.stats()["overlaps"] == 0
