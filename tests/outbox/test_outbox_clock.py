"""Leases and locks while the clock is set, and while files are taken away."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from app import ids
from app.outbox import liveness_lock
from app.outbox.liveness_lock import FileLock, KnownProcess, LivenessLock
from app.outbox.user_lock_rows import OUTLIVES_MS, Denied, LockRequest, LockResult

from .harness import Opened, track, with_outbox

LEASE_MS = 45_000
HOUR_MS = 3_600_000


async def renew(at: Opened, lock: LivenessLock) -> frozenset[int]:
    """Renew a deliverer's leases as it does itself; returns its shards."""
    others = await at.outbox.processes()
    identity, gone = lock.identity(), lock.gone(others)
    lease = await at.outbox.renew(lock.owner, LEASE_MS, gone, {"track"}, liveness=identity)
    return lease.shards


def test_a_living_deliverer_keeps_its_users_when_the_clock_is_set_forward(path: Path) -> None:
    url = f"sqlite:///{path}"

    async def body(at: Opened) -> None:
        with liveness_lock.held(url, "one") as one, liveness_lock.held(url, "two") as two:
            assert len(await renew(at, one)) == ids.SHARDS
            await at.accept(track())
            items, lock = await at.waiting(), one.identity()
            assert await at.outbox.begin("open", "one", items, liveness=lock) is not None
            at.now += HOUR_MS
            assert await renew(at, two) == frozenset()
            assert at.one("SELECT status FROM items") == "accepted"
            assert len(await renew(at, one)) == ids.SHARDS

    with_outbox(url, body)


def test_a_living_deliverer_keeps_its_users_when_the_lock_file_is_deleted(path: Path) -> None:
    url = f"sqlite:///{path}"

    async def body(at: Opened) -> None:
        with liveness_lock.held(url, "one") as one:
            assert len(await renew(at, one)) == ids.SHARDS
            os.remove(f"{path}-deliverers")
            with liveness_lock.held(url, "two") as two:
                assert await renew(at, two) == frozenset()
                at.now += LEASE_MS - 1
                assert len(await renew(at, one)) == ids.SHARDS, "it has locked the new file"
                at.now += HOUR_MS
                assert await renew(at, two) == frozenset()

    with_outbox(url, body)


def test_a_deliverer_that_is_gone_is_replaced_at_once_though_the_clock_was_set_back(
    path: Path,
) -> None:
    url = f"sqlite:///{path}"

    async def body(at: Opened) -> None:
        with liveness_lock.held(url, "one") as one:
            await renew(at, one)
        at.now -= HOUR_MS
        with liveness_lock.held(url, "two") as two:
            assert len(await renew(at, two)) == ids.SHARDS

    with_outbox(url, body)


def test_without_liveness_locks_a_lease_ends_in_time_though_the_clock_was_set_back(
    path: Path,
) -> None:
    async def body(at: Opened) -> None:
        one, two = FileLock(None, "one"), FileLock(None, "two")
        await renew(at, one)
        at.now -= HOUR_MS
        assert await renew(at, two) == frozenset()
        at.now += LEASE_MS
        assert len(await renew(at, two)) == ids.SHARDS

    with_outbox(f"sqlite:///{path}", body)


def request(name: str, holder: str) -> LockRequest:
    return LockRequest(name, "default", ["uann"], holder, LEASE_MS)


def known(lock: LivenessLock) -> KnownProcess:
    """The process of a lock, as rows name it."""
    return KnownProcess(lock.owner, lock.identity())


async def lock(
    at: Opened, name: str, liveness: LivenessLock, dead: Sequence[KnownProcess] = ()
) -> LockResult | Denied:
    wish = request(name, liveness.owner)
    return await at.outbox.lock(wish, liveness=liveness.identity(), clear_upto=None, dead=dead)


def test_a_living_processes_lock_of_a_user_holds_whatever_the_clock_says(path: Path) -> None:
    url = f"sqlite:///{path}"

    async def body(at: Opened) -> None:
        with liveness_lock.held(url, "one") as one, liveness_lock.held(url, "two") as two:
            assert await lock(at, "first", one) is LockResult.GRANTED
            at.now += HOUR_MS
            await renew(at, two)
            denied = await lock(at, "second", two)
            assert denied == Denied({known(one)})
            await at.accept(track())
            (item,) = await at.waiting()
            assert await at.outbox.begin("early", "two", [item], liveness=two.identity()) == {
                item.lane: 0
            }
            await at.outbox.unlock("first")
            assert await lock(at, "second", two) is LockResult.GRANTED

    with_outbox(url, body)


def test_a_lock_of_a_process_that_is_gone_ends_once_its_call_must_be_over(path: Path) -> None:
    url = f"sqlite:///{path}"

    async def body(at: Opened) -> None:
        with liveness_lock.held(url, "one") as one, liveness_lock.held(url, "two") as two:
            await lock(at, "first", one)
            gone = known(one)
            one.close()
            assert await lock(at, "second", two, [gone]) == Denied({KnownProcess("", None)})
            at.now += OUTLIVES_MS
            assert await lock(at, "second", two) is LockResult.GRANTED

    with_outbox(url, body)


def test_a_lock_from_before_the_clock_was_set_back_ends_soon(path: Path) -> None:
    async def body(at: Opened) -> None:
        one, two = FileLock(None, "one"), FileLock(None, "two")
        await lock(at, "first", one)
        at.now -= HOUR_MS
        await renew(at, two)
        assert await lock(at, "second", two) == Denied({KnownProcess("one", None)})
        at.now += LEASE_MS
        assert await lock(at, "second", two) is LockResult.GRANTED

    with_outbox(f"sqlite:///{path}", body)


def test_those_who_wait_for_a_user_get_their_turn_in_order(database: str) -> None:
    async def body(at: Opened) -> None:
        here = FileLock(None, "one")
        assert await lock(at, "first", here) is LockResult.GRANTED
        for name in ("second", "third"):
            assert isinstance(await lock(at, name, here), Denied)
        await at.outbox.unlock("first")
        assert isinstance(await lock(at, "third", here), Denied)
        assert await lock(at, "second", here) is LockResult.GRANTED
        await at.outbox.unlock("second")
        assert await lock(at, "third", here) is LockResult.GRANTED

    with_outbox(database, body)


def test_a_lock_and_the_record_of_its_call_are_written_together_or_not_at_all(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        here = FileLock(None, "one")
        asked = [
            LockRequest(
                name, "default", ["uann"], "one", LEASE_MS, record=(at.now, '{"action":"start"}')
            )
            for name in ("first", "second")
        ]
        answers = await asyncio.gather(
            *(at.outbox.lock(one, liveness=here.identity(), clear_upto=0) for one in asked)
        )
        assert [answer is LockResult.GRANTED for answer in answers] == [True, False]
        assert at.one("SELECT count(*) FROM audit_records") == 1
        assert at.one("SELECT count(*) FROM user_locks") == 1

    with_outbox(database, body)


def test_a_process_that_has_taken_another_lock_since_it_was_judged_keeps_what_that_names(
    database: str,
) -> None:
    before, after = KnownProcess("one", "lock 1"), KnownProcess("one", "lock 2")

    async def body(at: Opened) -> None:
        await at.outbox.renew("one", LEASE_MS, [], (), liveness=after.lock)
        await at.accept(track())
        (item,) = await at.waiting()
        assert await at.outbox.begin("attempt", "one", [item], liveness=after.lock) == {}
        assert (await at.outbox.renew("two", LEASE_MS, [before], ())).lost == 0
        assert (await at.outbox.renew("two", LEASE_MS, [after], ())).lost == 1

    with_outbox(database, body)


def test_a_users_lock_that_names_another_lock_than_the_one_that_was_judged_is_kept(
    database: str,
) -> None:
    before, after = KnownProcess("one", "lock 1"), KnownProcess("one", "lock 2")

    async def ask(at: Opened, name: str, dead: Sequence[KnownProcess] = ()) -> object:
        wish = request(name, name)
        return await at.outbox.lock(wish, liveness=after.lock, clear_upto=None, dead=dead)

    async def body(at: Opened) -> None:
        assert await ask(at, "one") is LockResult.GRANTED
        assert await ask(at, "two", [before]) == Denied({after})
        assert await ask(at, "two", [after]) == Denied({KnownProcess("", None)})

    with_outbox(database, body)


def test_nothing_begins_while_the_leases_name_another_liveness_lock(database: str) -> None:
    """Others may be about to take the deliverer for dead by what its leases name."""

    async def body(at: Opened) -> None:
        await at.outbox.renew("one", LEASE_MS, [], (), liveness="lock 1")
        await at.accept(track())
        (item,) = await at.waiting()
        assert await at.outbox.begin("early", "one", [item], liveness="lock 2") is None
        assert await at.outbox.begin("early", "one", [item], liveness=None) is None
        await at.outbox.renew("one", LEASE_MS, [], (), liveness="lock 2")
        assert await at.outbox.begin("later", "one", [item], liveness="lock 2") == {}

    with_outbox(database, body)
