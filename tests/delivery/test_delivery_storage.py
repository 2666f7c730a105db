"""Deliveries while the database can't be written for a moment."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.database.writer import DatabaseWrite
from app.delivery.verdicts import RetryPolicy
from app.errors import StorageUnavailable
from app.model import Status
from app.outbox.leases import ReleaseLeases
from app.outbox.settle import Begin, Settle
from tests.support.wait import until_async

from .harness import Delivering, Leanplum, deliver

HOLD = RetryPolicy(window=60.0, least=0.02, most=0.04, held=0.05, not_twice=frozenset({"track"}))


def fail(at: Delivering, kind: type[DatabaseWrite[Any]], times: int, *, written: bool) -> list[int]:
    """Let the next writes of a kind fail, after they were written or instead; what is returned
    counts down.
    """
    left, write = [times], at.writer.write

    def failing(asked: DatabaseWrite[Any], **options: Any) -> "asyncio.Future[Any]":
        if not isinstance(asked, kind) or not left[0]:
            return write(asked, **options)
        left[0] -= 1
        return asyncio.ensure_future(lost(write(asked) if written else None))

    async def lost(writing: "asyncio.Future[Any] | None") -> Any:
        if writing is not None:
            await writing
        raise StorageUnavailable("The database can't commit now.")

    at.writer.write = failing  # type: ignore[method-assign, assignment]
    return left


def attempts(at: Delivering) -> int:
    with at.engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT count(*) FROM attempts").scalar()
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize("times", [1, 2])
def test_an_attempt_whose_begin_had_no_answer_is_removed_before_the_next(
    database: str, leanplum: Leanplum, times: int
) -> None:
    async def body(at: Delivering) -> None:
        fail(at, Begin, times, written=True)
        await at.accept("ann", 1)
        await at.step()
        assert (attempts(at), leanplum.stats()["calls"]) == (1, 0)
        await at.finish(10)
        assert attempts(at) == 0

    deliver(database, leanplum, body)
    assert leanplum.values("ann") == [1]


def test_what_was_never_sent_does_not_end_as_unknown(database: str, leanplum: Leanplum) -> None:
    """The answer to a begin is lost, then the deliverer stops in order; another takes its place."""

    async def body(at: Delivering) -> None:
        fail(at, Begin, 1, written=True)
        await at.accept("ann", 1, 2)
        await at.step()
        await at.deliverer.leave()
        assert attempts(at) == 0
        at.deliverer = at.another()
        await at.finish(10)
        assert (await at.receipt("ann-1")).status is Status.DELIVERED
        assert (await at.receipt("ann-2")).status is Status.DELIVERED

    deliver(database, leanplum, body, policy=HOLD)


def test_an_answer_that_came_before_a_stop_is_written_down_though_the_database_fails_at_first(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.hold_a_call()

    async def body(at: Delivering) -> None:
        await at.accept("ann", 1)
        async with at.running():
            await until_async(lambda: attempts(at) == 1)
            left = fail(at, Settle, 3, written=False)
            leanplum.unplan()
        assert left == [0]
        assert (await at.receipt("ann-1")).status is Status.DELIVERED
        assert attempts(at) == 0

    deliver(database, leanplum, body, policy=HOLD)


def test_the_leases_are_given_up_only_once_everything_is_written_down(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.hold_a_call()
    told: list[type] = []

    async def body(at: Delivering) -> None:
        await at.accept("ann", 1)
        async with at.running():
            await until_async(lambda: attempts(at) == 1)
            fail(at, Settle, 2, written=False)
            write = at.writer.write

            def noting(asked: DatabaseWrite[Any], **options: Any) -> "asyncio.Future[Any]":
                told.append(type(asked))
                return write(asked, **options)

            at.writer.write = noting  # type: ignore[method-assign, assignment]
            leanplum.unplan()
        assert told.index(ReleaseLeases) > max(
            index for index, kind in enumerate(told) if kind is Settle
        )

    deliver(database, leanplum, body)


def test_a_stop_ends_in_time_though_the_database_never_comes_back(
    path: Path, leanplum: Leanplum
) -> None:
    leanplum.hold_a_call()

    async def body(at: Delivering) -> None:
        await at.accept("ann", 1)
        async with at.running():
            await until_async(lambda: attempts(at) == 1)
            fail(at, Settle, 10**6, written=False)
            leanplum.unplan()
            begun = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - begun < 5

    deliver(f"sqlite:///{path}", leanplum, body, drain_seconds=2.5)


def test_an_error_of_ours_between_beginning_and_settling_leaves_no_attempt_open(
    database: str, leanplum: Leanplum
) -> None:
    left = [RuntimeError("unforeseen")]

    def pseudonyms(app: str, subjects: Sequence[str]) -> Sequence[str]:
        if left:
            raise left.pop()
        return ()

    async def body(at: Delivering) -> None:
        await at.accept("ann", 1)
        await at.finish(10)
        await at.accept("ann", 2)
        await at.finish(10)
        assert attempts(at) == 0

    deliver(database, leanplum, body, pseudonyms=pseudonyms)
    assert left == []


def test_a_stop_gives_the_leases_up_though_the_database_fails_at_first(
    database: str, leanplum: Leanplum
) -> None:
    async def body(at: Delivering) -> None:
        async with at.running():
            await until_async(lambda: bool(at.deliverer.window.shards))
            left = fail(at, ReleaseLeases, 2, written=False)
        assert left == [0]
        with at.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM deliverers").scalar() == 0

    deliver(database, leanplum, body)
