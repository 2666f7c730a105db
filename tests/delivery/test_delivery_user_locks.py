"""Calls that a caller waits for beside the delivery: a user has one call at a time, whichever
process makes it.
"""

import asyncio
import time
from pathlib import Path

import pytest

from app.delivery.user_locks import UserLocks
from app.errors import Erased, UpstreamUnavailable
from app.leanplum import mapping
from app.leanplum.client import LeanplumClient
from app.model import KeyKind, ReadRequest, Status
from app.outbox import liveness_lock
from app.outbox.liveness_lock import FileLock, KnownProcess
from app.relay.service import Relay, RelayedCall
from tests.support.wait import until_async

from .harness import CALL_SECONDS, Delivering, Leanplum, deliver, erase, other_process

pytestmark = pytest.mark.slow

LEASE_SECONDS = 60.0


async def steps(at: Delivering, count: int = 4) -> int:
    """Let the deliverer look for something to send; returns how many calls it has begun."""
    begun = 0
    for _ in range(count):
        at.deliverer.notify()
        begun += await at.step()
        await asyncio.sleep(0.02)
    return begun


def test_what_is_accepted_for_a_locked_user_waits_and_others_go_on(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        await at.step()
        async with other_process(at, database) as locks:
            async with locks.hold("default", ["uann"], patience=2, timeout=5):
                await at.accept_mixed([("ann", 1), ("bob", 1)])
                await steps(at)
                assert (leanplum.values("ann"), leanplum.values("bob")) == ([], [1])
            await locks.close(5)
            await at.finish()

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == [1]


def test_a_lock_waits_for_the_users_call_that_another_process_has_in_flight(
    database: str, leanplum: Leanplum
) -> None:
    """Also where it has no more patience for what waits."""

    async def body(at: Delivering, patience: float) -> None:
        await at.accept("ann", 1)
        leanplum.plan({"mode": "slow", "delay": 0.6, "times": 1})
        begun = time.monotonic()
        assert await at.deliverer.step() == 1
        async with (
            other_process(at, database) as locks,
            locks.hold("default", ["uann", "ubob"], patience=patience, timeout=5),
        ):
            assert time.monotonic() - begun >= 0.6
            assert (await at.receipt("ann-1")).status is Status.DELIVERED
        await at.deliverer.drain()

    async def both(at: Delivering) -> None:
        await body(at, 2)
        await at.accept("ann", 2)
        await at.finish()

    deliver(database, leanplum, both)


def test_a_lock_without_patience_goes_before_what_waits_and_nothing_new_is_begun_before_it(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        await at.accept("ann", 1)
        leanplum.plan({"mode": "slow", "delay": 0.8, "times": 1})
        assert await at.deliverer.step() == 1
        await at.accept("ann", 2)
        async with other_process(at, database) as locks:
            async with locks.hold("default", ["uann"], patience=0, timeout=5):
                await steps(at)
                assert leanplum.values("ann") == [1]
            await locks.close(5)
            await at.finish()

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == [1, 2]


def test_a_lock_is_not_granted_while_what_another_process_accepted_waits(
    database: str, leanplum: Leanplum
) -> None:
    """The count of the queue in memory knows nothing of it."""

    async def body(at: Delivering) -> None:
        async with other_process(at, database) as locks:
            await at.accept("ann", 1)
            asking = asyncio.create_task(enter(locks, ["uann"], patience=10))
            await asyncio.sleep(0.2)
            assert not asking.done()
            await at.finish()
            await asking

    async def enter(locks: UserLocks, subjects: list[str], patience: float) -> None:
        async with locks.hold("default", subjects, patience=patience, timeout=1):
            assert leanplum.values("ann") == [1]

    deliver(database, leanplum, body)


def test_calls_of_one_user_from_two_processes_never_overlap(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        at_work, most = 0, 0

        async def call(locks: UserLocks, subjects: list[str]) -> None:
            nonlocal at_work, most
            async with locks.hold("default", subjects, patience=0.2, timeout=20):
                at_work += 1
                most = max(most, at_work)
                await asyncio.sleep(0.01)
                at_work -= 1

        async with (
            other_process(at, database, "one") as one,
            other_process(at, database, "two") as two,
        ):
            calls = [
                call(locks, ["uann", f"u{number}"]) for number in range(10) for locks in (one, two)
            ]
            await asyncio.gather(*calls)
        assert most == 1

    deliver(database, leanplum, body)


def test_a_call_for_an_erased_user_is_refused_in_every_process(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        at.outbox._erased_ms = 60_000
        async with other_process(at, database) as locks:
            async with locks.hold("default", ["uann"], patience=1, timeout=1):
                await erase(at, "ann")
                await steps(at)
                assert leanplum.stats()["calls"] == 0, "the user is deleted after the call"
            with pytest.raises(Erased):
                async with locks.hold("default", ["uann"], patience=1, timeout=1):
                    pass
            async with locks.hold("default", ["uann"], patience=0, timeout=10, unless_erased=False):
                pass
        await at.finish()

    deliver(database, leanplum, body)


def test_where_other_calls_do_not_end_the_caller_is_told_so(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        async with (
            other_process(at, database, "one") as one,
            other_process(at, database, "two") as two,
        ):
            async with one.hold("default", ["uann"], patience=0, timeout=1):
                with pytest.raises(UpstreamUnavailable):
                    async with two.hold("default", ["uann"], patience=0, timeout=0.3):
                        pass
            await asyncio.gather(one.close(5), two.close(5))
            async with two.hold("default", ["uann"], patience=0, timeout=1):
                pass
            await two.close(5)
            with at.engine.connect() as connection:
                assert connection.exec_driver_sql("SELECT count(*) FROM user_locks").scalar() == 0

    deliver(database, leanplum, body)


def test_who_gives_up_asking_leaves_no_lock_behind(database: str, leanplum: Leanplum) -> None:
    async def body(at: Delivering) -> None:
        async with other_process(at, database) as locks:
            for delay in [0, 0.001, 0.003, 0.01] * 5:

                async def ask() -> None:
                    async with locks.hold("default", ["uann"], patience=0, timeout=5):
                        await asyncio.sleep(10)

                asking = asyncio.create_task(ask())
                await asyncio.sleep(delay)
                asking.cancel()
                await asyncio.wait({asking})
            await locks.close(5)
            with at.engine.connect() as connection:
                assert (
                    connection.exec_driver_sql(
                        "SELECT count(*) FROM user_locks WHERE holder <> ''"
                    ).scalar()
                    == 0
                )

    deliver(database, leanplum, body)


def test_many_calls_for_a_user_do_not_keep_their_items_waiting(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        done = False

        async def keep_calling(locks: UserLocks) -> None:
            while not done:
                async with locks.hold("default", ["uann"], patience=0.3, timeout=10):
                    await asyncio.sleep(0.1)

        async with at.running(), other_process(at, database) as locks:
            calling = [asyncio.create_task(keep_calling(locks)) for _ in range(4)]
            await asyncio.sleep(0.5)
            for value in range(3):
                begun = time.monotonic()
                await at.accept("ann", value)
                receipt = await at.outbox.settled_receipt("default", f"ann-{value}", 10)
                assert receipt is not None
                assert receipt.status is Status.DELIVERED
                assert time.monotonic() - begun < 8
            done = True
            await asyncio.gather(*calling)

    deliver(database, leanplum, body)
    assert leanplum.stats()["overlaps"] == 0


def test_a_call_in_line_lets_a_deletion_pass_that_is_accepted_meanwhile(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        at.outbox._erased_ms = 60_000
        await at.accept("ann", 1)
        leanplum.hold_a_call()
        assert await at.deliverer.step() == 1
        async with other_process(at, database) as locks:

            async def call() -> None:
                async with locks.hold("default", ["uann"], patience=0, timeout=10):
                    pass

            calling = asyncio.create_task(call())
            await asyncio.sleep(0.2)
            await erase(at, "ann")
            leanplum.unplan()
            begun = time.monotonic()
            while not (await at.receipt("erase-ann")).settled:
                await steps(at, 1)
            assert time.monotonic() - begun < 8, "less than the call's own time in line"
            with pytest.raises(Erased):
                await calling

    deliver(database, leanplum, body)


def test_a_call_that_is_cancelled_may_be_at_work_so_its_user_is_locked_for_a_while(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        async with other_process(at, database) as locks:
            entered = asyncio.Event()

            async def call() -> None:
                async with locks.hold("default", ["uann"], patience=0, timeout=5):
                    entered.set()
                    await asyncio.sleep(60)

            calling = asyncio.create_task(call())
            await entered.wait()
            calling.cancel()
            await asyncio.wait({calling})
            await locks.close(5)
            begun = time.monotonic()
            await at.accept("ann", 1)
            await at.finish(20)
            assert 4 < time.monotonic() - begun < 20

    deliver(database, leanplum, body)


def test_a_call_may_outlive_its_process_so_its_user_is_locked_for_a_while(
    path: Path, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        database = f"sqlite:///{path}"
        gone = FileLock(Path(f"{path}-deliverers"), "gone")
        with liveness_lock.held(database, at.deliverer.owner) as liveness:
            at.deliverer._attempts.liveness = liveness
            locks = UserLocks(at.outbox, gone, "gone", LEASE_SECONDS)
            holding = locks.hold("default", ["uann"], patience=0, timeout=1)
            await holding.__aenter__()
            gone.close()
            await at.accept("ann", 1)
            begun = time.monotonic()
            await at.finish(20)
            assert 4.5 < time.monotonic() - begun < 20

    deliver(f"sqlite:///{path}", leanplum, body)
    assert leanplum.values("ann") == [1]


class Lapsing(FileLock):
    """The lock of a process that others may have taken for dead `count` times."""

    count = 0

    def lapses(self) -> int:
        return self.count


def test_a_call_that_waits_for_its_turn_is_not_made_once_its_process_may_be_taken_for_dead(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        liveness = Lapsing(None, "one")
        locks = UserLocks(at.outbox, liveness, "one", LEASE_SECONDS)
        async with LeanplumClient(timeout=CALL_SECONDS, connections=2) as client:
            relay = Relay(
                client, locks, at.metrics, timeout=CALL_SECONDS, concurrency=1, cache_seconds=0
            )

            def begin(user: str) -> "asyncio.Task[object]":
                app = at.apps["default"]
                key = relay.key(app, KeyKind.PRODUCTION)
                body = mapping.body_for(app, "start", {"userId": user}, key, time.time())
                call = RelayedCall(app=app, action="start", body=body, subjects=[f"u{user}"])
                return relay.begin(relay.exchange(call))

            leanplum.hold_a_call()
            first = begin("ann")
            await until_async(lambda: leanplum.stats()["calls"] == 1)
            second = begin("bob")
            await until_async(lambda: locked(at) == 2)
            liveness.count += 1
            leanplum.unplan()
            await first
            with pytest.raises(UpstreamUnavailable, match="was not made"):
                await second
            assert leanplum.stats()["calls"] == 1
            await locks.close(5)

    deliver(database, leanplum, body)


def locked(at: Delivering) -> int:
    with at.engine.connect() as connection:
        held = connection.exec_driver_sql("SELECT count(*) FROM user_locks WHERE granted = 1")
        count = held.scalar()
    assert isinstance(count, int)
    return count


def test_after_recovery_to_unknown_the_next_item_of_the_user_waits_for_the_call(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        await at.outbox.renew("gone", 60_000, [], ())
        await at.accept("ann", 1, 2)
        found = await at.outbox.look(ReadRequest(tail=0))
        assert found.tail is not None
        assert await at.outbox.begin("lost", "gone", found.tail.items[:1]) == {}
        await at.outbox.renew("other", 60_000, [KnownProcess("gone", None)], {"track"})
        assert (await at.receipt("ann-1")).status is Status.UNKNOWN
        await at.outbox.release("other", range(64), leaving=True)
        begun = time.monotonic()
        await at.finish(20)
        assert time.monotonic() - begun > 4
        assert (await at.receipt("ann-2")).status is Status.DELIVERED

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == [2]
