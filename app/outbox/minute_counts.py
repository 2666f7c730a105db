"""Counts of items and calls by minute and app, which cover all processes of the gateway.

Each process adds its counts every ten seconds. What a killed process had not stored by then is
lost: the counts of at most ten seconds. They are kept for two days.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import structlog
from sqlalchemy import Connection, Engine, func, select

from app.clock import now_ms
from app.database.driver import Cursor, in_time
from app.database.engine import reading
from app.database.tables import minute_counts
from app.database.writer import Writer, insert_rows
from app.telemetry import describe
from app.telemetry.minute_counts import MINUTE_MS, CountRow, MinuteCounts

FLUSH_SECONDS = 10.0
RETENTION_MS = 2 * 86_400_000
STEP = 500  # rows removed in one transaction, and those of the same minute
INSERT = "INSERT INTO minute_counts (minute, app, kind, part, total)"
REPLACE = " ON CONFLICT (minute, app, kind, part) DO UPDATE SET total = excluded.total"
OLD = "SELECT minute FROM minute_counts WHERE minute < ? ORDER BY minute LIMIT ?"
REMOVE = f"DELETE FROM minute_counts WHERE minute <= (SELECT max(minute) FROM ({OLD}) AS old)"

log = structlog.get_logger("counts")


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """The write that stores counts of this process, in place of those stored for the same part."""

    counts: Sequence[CountRow]

    @property
    def rows(self) -> int:
        """Rows written; counts against the size of a group commit."""
        return len(self.counts)

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["StoreCounts"]) -> Sequence[None]:
        """Store the counts of all writes."""
        for write in writes:
            insert_rows(cursor, INSERT, write.counts, REPLACE)
        return [None] * len(writes)


@dataclass(frozen=True, slots=True)
class RemoveOldCounts:
    """The write that removes some counts of minutes that began before a time, oldest first."""

    before: int
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["RemoveOldCounts"]) -> Sequence[int]:
        """Return for each write how many rows it has removed."""
        removed = []
        for write in writes:
            cursor.execute(REMOVE, (write.before, STEP))
            removed.append(cursor.rowcount)
        return removed


def any_old(connection: Connection, before: int) -> bool:
    """Return whether counts are stored of minutes that began before a time."""
    old = select(minute_counts.c.minute).where(minute_counts.c.minute < before).limit(1)
    return connection.execute(old).first() is not None


class MinuteCount(NamedTuple):
    """The count of all processes in a minute, given by when it began (epoch milliseconds)."""

    minute: int
    app: str
    kind: str
    total: int


def read_counts(
    connection: Connection, since: int, apps: Collection[str] | None
) -> list[MinuteCount]:
    """Return the counts of minutes that began at `since` or later, oldest first.

    `apps`: only those of these apps.
    """
    columns = minute_counts.c
    counts = select(columns.minute, columns.app, columns.kind, func.sum(columns.total))
    counts = counts.where(columns.minute >= since)
    if apps is not None:
        counts = counts.where(columns.app.in_(apps))
    counts = counts.group_by(columns.minute, columns.app, columns.kind)
    rows = connection.execute(counts.order_by(columns.minute, columns.app, columns.kind))
    return [MinuteCount(minute, app, kind, int(total)) for minute, app, kind, total in rows]


class MinuteCountStore:
    """The counts by minute of all processes, with the loop that stores those of this one."""

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        counts: MinuteCounts,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._engine, self._writer, self._counts, self._clock = engine, writer, counts, clock

    async def flush(self) -> None:
        """Store the counts of this process. Raises StorageUnavailable; they are kept then."""
        pending = self._counts.pending()
        if pending:
            await self._writer.write(StoreCounts(pending))
            self._counts.note_stored(pending)

    async def run(self) -> None:
        """Store the counts every ten seconds until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except Exception as error:
                # The task must not end with one failed write; the next one stores these counts too.
                log.warning("counts.write_failed", **describe(error))

    async def read(self, minutes: int, apps: Collection[str] | None = None) -> list[MinuteCount]:
        """Return the counts of the last `minutes`, with the current one, oldest first.

        `apps`: only those of these apps. A minute and app without a count of a kind has no row.
        Other processes' counts are up to ten seconds old. Raises StorageUnavailable.
        """
        since = (self._clock() // MINUTE_MS - minutes + 1) * MINUTE_MS
        return await in_time(partial(self._query, since, apps))

    def _query(self, since: int, apps: Collection[str] | None) -> list[MinuteCount]:
        with reading(self._engine) as connection:
            return read_counts(connection, since, apps)
