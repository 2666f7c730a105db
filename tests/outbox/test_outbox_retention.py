"""Retention: what is past its time goes, in small steps; what waits, or is a dead letter, stays."""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.database.driver import Cursor
from app.model import NewItem, Settled, Status
from app.outbox import retention
from app.outbox.retention import (
    COUNT_SECONDS,
    STEP,
    Housekeeper,
    RemoveExpired,
    RetentionLimits,
)

from .harness import Opened, gone, track, with_outbox

HOUR = 3_600_000
LIMITS = RetentionLimits(receipts=HOUR, dead_letters=5 * HOUR)
SAID = {"success": False, "error": "Bad."}


async def settled(at: Opened, *items: NewItem, status: Status = Status.DELIVERED) -> None:
    """Accept items and settle all that wait."""
    await at.accept(*items)
    waiting = await at.waiting(0, 10_000)
    await at.begin("t", waiting)
    said = None if status is Status.DELIVERED else SAID
    await at.outbox.settle("t", "default", [(item.seq, Settled(status, said)) for item in waiting])


async def swept(at: Opened) -> int:
    """Sweep until nothing more is past its time; how many rows went."""
    total = 0
    while removed := await at.outbox.sweep(LIMITS):
        total += removed
    return total


def counts(at: Opened) -> dict[str, object]:
    return {
        name: at.one(f"SELECT count(*) FROM {name}")
        for name in ("items", "item_ids", "acceptances")
    }


def test_a_receipt_is_kept_for_its_time_after_the_item_settled_and_then_nothing_of_it_is_left(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        await at.accept(track(item_id="a"), track())
        at.now += 3 * HOUR
        await settled(at)
        at.now += HOUR - 1
        assert await swept(at) == 0
        assert await at.outbox.receipt("default", "a") is not None
        at.now += 1
        await swept(at)
        assert counts(at) == {"items": 0, "item_ids": 0, "acceptances": 0}
        assert await at.outbox.receipt("default", "a") is None

    with_outbox(database, body)


def test_what_waits_is_never_removed_and_a_dead_letter_is_kept_longer(database: str) -> None:
    async def body(at: Opened) -> None:
        await settled(
            at, track("ann", item_id="dead"), track("bob", item_id="dead2"), status=Status.EXPIRED
        )
        await at.accept(track("cid", item_id="waits"))
        at.now += 2 * HOUR
        await swept(at)
        assert counts(at) == {"items": 3, "item_ids": 3, "acceptances": 2}
        at.now += 4 * HOUR
        await swept(at)
        assert [item.id for item in await at.waiting()] == ["waits"]
        assert counts(at) == {"items": 1, "item_ids": 1, "acceptances": 1}

    with_outbox(database, body)


def test_an_id_that_stands_for_a_later_item_stays(database: str) -> None:
    async def body(at: Opened) -> None:
        await settled(at, track(item_id="a"))
        at.now += HOUR
        await at.accept(track(item_id="a"))
        await swept(at)
        assert counts(at) == {"items": 1, "item_ids": 1, "acceptances": 1}
        assert await at.accept(track(item_id="a")) == [("a", "duplicate")]

    with_outbox(database, body)


def test_a_step_removes_no_more_than_its_number_of_items(database: str) -> None:
    async def body(at: Opened) -> None:
        await settled(at, *(track(f"user{number}") for number in range(STEP + 10)))
        at.now += 2 * HOUR
        assert await at.outbox.sweep(LIMITS) == STEP
        assert at.one("SELECT count(*) FROM items") == 10

    with_outbox(database, body)


def test_in_steady_state_the_database_file_stops_growing(path: Path) -> None:
    async def body(at: Opened) -> None:
        sizes = []
        for _ in range(12):
            await settled(
                at,
                *(track(f"user{number}", "E" * 100, f"{at.now}:{number}") for number in range(500)),
            )
            at.now += HOUR
            while await at.outbox.sweep(RetentionLimits(HOUR, HOUR)):
                pass
            sizes.append(os.stat(path).st_size)
        assert sizes[-1] <= sizes[5], sizes

    with_outbox(f"sqlite:///{path}", body)


def test_the_housekeeper_goes_on_step_by_step_and_counts_anew_what_waits(database: str) -> None:
    async def body(at: Opened) -> None:
        ticks = [0.0]
        keeper = Housekeeper(at.outbox, LIMITS, lambda: ticks[0])
        await settled(at, *(track(f"user{number}") for number in range(STEP + 10)))
        at.now += 2 * HOUR
        assert await keeper.step()
        assert await keeper.step()
        assert not await keeper.step()
        assert at.one("SELECT count(*) FROM items") == 0
        at.outbox.queued = 77
        ticks[0] += COUNT_SECONDS
        await keeper.step()
        assert at.outbox.queued == 0

    with_outbox(database, body)


def test_erasures_that_are_over_are_removed_in_steps(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 20)

    async def body(at: Opened) -> None:
        for number in range(30):
            await at.accept(gone(f"user{number}"))
            at.now += 1
        at.now += 2 * HOUR
        left = []
        while await at.outbox.sweep(RetentionLimits(10 * HOUR, 10 * HOUR)):
            left.append(at.one("SELECT count(*) FROM erasures"))
        assert left == [10, 0]

    with_outbox(database, body, erased_ms=HOUR)


def test_an_item_waits_for_one_step_of_retention_at_most(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [0]
    run_all = RemoveExpired.run_all

    def counted(cursor: Cursor, writes: Sequence[RemoveExpired]) -> Sequence[int]:
        steps[0] += 1
        return run_all(cursor, writes)

    monkeypatch.setattr(RemoveExpired, "run_all", counted)

    async def body(at: Opened) -> None:
        expired = 12 * STEP
        await settled(at, *(track(f"user{number}") for number in range(expired)))
        at.now += 2 * HOUR
        keeping = asyncio.create_task(Housekeeper(at.outbox, LIMITS).run())
        passed = []
        while at.one("SELECT count(*) FROM items WHERE settled_at IS NOT NULL"):
            before = steps[0]
            await at.accept(track("ann"))
            passed.append(steps[0] - before)
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        assert steps[0] >= expired // STEP
        assert len(passed) > expired // STEP, "items were accepted between the steps"
        assert max(passed) <= 2, "the step that is being done, and one in the same transaction"

    with_outbox(database, body)
