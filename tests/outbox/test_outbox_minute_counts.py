"""Counts by minute: none is lost or counted twice, and they cover all processes."""

import pytest

from app.errors import CommitUnknown, StorageUnavailable
from app.outbox.minute_counts import (
    RETENTION_MS,
    STEP,
    MinuteCount,
    MinuteCountStore,
    RemoveOldCounts,
    StoreCounts,
)
from app.outbox.retention import RetentionLimits
from app.telemetry import Metrics
from app.telemetry.minute_counts import MINUTE_MS, CountRow, MinuteCounts

from .harness import Opened, with_outbox

NOON = 1_800_000_000_000 // MINUTE_MS * MINUTE_MS


class Time:
    """The wall clock of a test."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now

    def seconds(self) -> float:
        return self.now / 1000


class Process:
    """The counts of one of several processes on a database."""

    def __init__(self, at: Opened, clock: Time) -> None:
        self.counts = MinuteCounts(clock.seconds)
        self.store = MinuteCountStore(at.engine, at.writer, self.counts, clock)


def test_the_counts_of_all_processes_are_added_up_by_minute_app_and_kind(database: str) -> None:
    async def body(at: Opened) -> None:
        clock = Time()
        one, two = Process(at, clock), Process(at, clock)
        one.counts.add("ios", "accepted", 3)
        two.counts.add("ios", "accepted", 4)
        two.counts.add("web", "delivered")
        clock.now += MINUTE_MS
        one.counts.add("ios", "accepted", 5)
        for process in (one, two):
            await process.store.flush()
        expected = [
            MinuteCount(NOON, "ios", "accepted", 7),
            MinuteCount(NOON, "web", "delivered", 1),
            MinuteCount(NOON + MINUTE_MS, "ios", "accepted", 5),
        ]
        assert await two.store.read(60) == expected
        assert await one.store.read(1) == expected[2:]
        assert await one.store.read(60, {"web"}) == expected[1:2]
        assert await one.store.read(60, ()) == []

    with_outbox(database, body)


def test_counts_of_a_minute_grow_with_each_flush(database: str) -> None:
    async def body(at: Opened) -> None:
        process = Process(at, Time())
        for _ in range(3):
            process.counts.add("ios", "accepted", 2)
            await process.store.flush()
        assert [row.total for row in await process.store.read(1)] == [6]
        assert process.counts.pending() == []

    with_outbox(database, body)


@pytest.mark.parametrize("committed", [False, True])
def test_a_flush_without_an_answer_is_repeated_and_counts_once(
    database: str, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(at: Opened) -> None:
        process, write = Process(at, Time()), at.writer.write

        async def lose_the_answer(counts: StoreCounts) -> None:
            if committed:
                await write(counts)
                raise CommitUnknown()
            raise StorageUnavailable("no")

        process.counts.add("ios", "accepted", 2)
        with monkeypatch.context() as patch:
            patch.setattr(at.writer, "write", lose_the_answer)
            with pytest.raises(StorageUnavailable):
                await process.store.flush()
        process.counts.add("ios", "accepted", 1)
        await process.store.flush()
        assert [row.total for row in await process.store.read(1)] == [3]

    with_outbox(database, body)


def test_a_minute_that_comes_again_because_the_clock_was_set_back_keeps_both_counts(
    database: str,
) -> None:
    async def body(at: Opened) -> None:
        clock = Time()
        process = Process(at, clock)
        for step in (MINUTE_MS, -MINUTE_MS, MINUTE_MS):
            process.counts.add("ios", "accepted", 2)
            await process.store.flush()
            clock.now += step
        counts = {row.minute: row.total for row in await process.store.read(60)}
        assert counts == {NOON: 4, NOON + MINUTE_MS: 2}

    with_outbox(database, body)


def test_nothing_is_written_while_nothing_is_counted(database: str) -> None:
    async def body(at: Opened) -> None:
        await at.writer.stop()  # a write would fail from now on
        await Process(at, Time()).store.flush()

    with_outbox(database, body)


def test_old_counts_are_removed_in_small_steps_of_whole_minutes(database: str) -> None:
    async def body(at: Opened) -> None:
        at.now = NOON + RETENTION_MS + 2 * MINUTE_MS
        rows = [
            CountRow(NOON + minute * MINUTE_MS, f"app{app}", "accepted", 1, 1)
            for minute in range(4)
            for app in range(STEP - 1)
        ]
        await at.writer.write(StoreCounts(rows))
        # The limit ends within the second minute, and that is removed as a whole
        removed = await at.writer.write(RemoveOldCounts(NOON + 2 * MINUTE_MS))
        assert removed == 2 * (STEP - 1)
        limits = RetentionLimits(receipts=10**12, dead_letters=10**12)
        assert await at.outbox.sweep(limits) == 0
        at.now += MINUTE_MS
        assert await at.outbox.sweep(limits) == STEP - 1
        assert await at.outbox.sweep(limits) == 0
        assert at.one("SELECT count(*) FROM minute_counts") == STEP - 1

    with_outbox(database, body)


def test_minutes_that_are_over_and_stored_are_forgotten() -> None:
    clock = Time()
    counts = MinuteCounts(clock.seconds)
    for _ in range(3):
        counts.add("ios", "accepted")
        clock.now += MINUTE_MS
    pending = counts.pending()
    assert [row.minute for row in pending] == [NOON, NOON + MINUTE_MS, NOON + 2 * MINUTE_MS]
    counts.note_stored(pending)
    counts.note_stored(pending)  # the answer to a flush that was cancelled meanwhile
    assert counts.pending() == []


@pytest.mark.parametrize(
    ("status", "failed"), [(200, 0), (404, 0), (302, 1), (403, 1), (429, 1), (500, 1), (None, 1)]
)
def test_a_call_is_a_failure_unless_leanplum_answered_it(status: int | None, failed: int) -> None:
    metrics = Metrics()
    metrics.count_call("ios", status, 0.1, "ok")
    kinds = [row.kind for row in metrics.minutes.pending()]
    assert kinds == ["calls", "failed-calls"][: 1 + failed]
