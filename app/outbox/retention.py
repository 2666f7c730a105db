"""Retention: content past its time is removed in small steps, so the database stops growing.

`Housekeeper` is the loop that does the steps.

Candidates are read outside the transaction that removes them, since reading may take long. They may
change in between (a replay, an erasure), so the removal checks the conditions again.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import orjson
import structlog
from sqlalchemy import Connection

from app.audit.records import AuditMacs
from app.audit.row_macs import ERASURES, RowSelection
from app.database.driver import DIALECTS, Cursor
from app.outbox import logins
from app.telemetry import explain

STEP = 500  # items removed in one transaction, at most
COUNT_SECONDS = 15.0  # between counts of what waits: other processes accept and deliver as well
# After the database was cleaned, it is not cleaned again for so many times as long as that took,
# since other writes wait for it.
SCRUB_REST = 100
STEP_SECONDS = 0.02  # between steps that removed something: callers' commits go first

# A settled item is old enough once `settled_at` is; the times of its acceptance count as well,
# since ids are remembered from then on. Two clocks are in play where one was set, so neither time
# follows from the other.
ACCEPTED = "(SELECT a.accepted_at FROM acceptances a WHERE a.first_seq = items.acceptance) <= ?"
# Each is found by an index of its own (`database/tables.py`): what is too young is not even looked
# at.
RECEIPTS = f"""
SELECT seq FROM items
WHERE settled_at IS NOT NULL AND body IS NULL AND settled_at <= ? AND {ACCEPTED}
ORDER BY settled_at LIMIT ?
"""
DEAD_LETTERS = f"""
SELECT seq FROM items
WHERE settled_at IS NOT NULL AND body IS NOT NULL AND settled_at <= ? AND {ACCEPTED}
ORDER BY settled_at LIMIT ?
"""
# Never true for a waiting item, whose `settled_at` is NULL
OLD_ENOUGH = f"settled_at <= CASE WHEN body IS NULL THEN ? ELSE ? END AND {ACCEPTED}"
ITEMS = "DELETE FROM items WHERE seq IN {seqs}{also} RETURNING seq, acceptance, id"
IDS = """
DELETE FROM item_ids WHERE seq IN {seqs} AND (app, id) IN (
    SELECT a.app, v.id FROM {rows} AS v JOIN acceptances a ON a.first_seq = v.acceptance
)
"""
# Not as NOT EXISTS, which PostgreSQL would make a join of: it would read all items for that.
ACCEPTANCES = """
DELETE FROM acceptances WHERE first_seq IN {firsts} AND (
    SELECT i.seq FROM items i
    WHERE i.acceptance = acceptances.first_seq AND i.seq >= acceptances.first_seq
      AND i.seq < coalesce(
        (SELECT min(b.first_seq) FROM acceptances b WHERE b.first_seq > acceptances.first_seq),
        9000000000000000000
      )
    ORDER BY i.seq LIMIT 1
) IS NULL
"""
END_ERASURES = "DELETE FROM erasures WHERE until <= ?"
LAST_OVER = """
SELECT max(until) FROM (SELECT until FROM erasures WHERE until <= ? ORDER BY until LIMIT ?) AS ended
"""

log = structlog.get_logger("housekeeping")


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """Retention times in milliseconds.

    `receipts` are kept after the item settled, ids after it was accepted. `audit/sealer.py` has
    the limits of audit records.
    """

    receipts: int
    dead_letters: int


def find_expired(connection: Connection, now: int, limits: RetentionLimits) -> list[int]:
    """Return the sequence numbers of items that are past their time, at most `STEP`."""
    dialect = DIALECTS[connection.dialect.name]
    accepted = now - limits.receipts
    expired: list[int] = []
    for statement, settled in (
        (RECEIPTS, now - limits.receipts),
        (DEAD_LETTERS, now - limits.dead_letters),
    ):
        values = (settled, accepted, STEP - len(expired))
        expired += connection.exec_driver_sql(dialect.sql(statement), values).scalars()
    return expired


@dataclass(frozen=True, slots=True)
class RemoveExpired:
    """The write that removes settled items past their time, with their ids.

    `over`: rows of logins that cannot wait any more.
    """

    seqs: Sequence[int]
    now: int
    limits: RetentionLimits
    over: Sequence[logins.Row] = ()
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["RemoveExpired"]) -> Sequence[int]:
        """Return for each how many items it has removed."""
        return [write._run(cursor) for write in writes]

    def _run(self, cursor: Cursor) -> int:
        receipts = self.now - self.limits.receipts
        dead_letters = self.now - self.limits.dead_letters
        values = (receipts, dead_letters, receipts)
        item_count, _ = _remove(cursor, self.seqs, f" AND {OLD_ENOUGH}", values)
        logins.remove(cursor, self.over)
        return item_count


def last_over(connection: Connection, now: int) -> int | None:
    """Return the time at which the last of the first `STEP` erasures that are over ended."""
    statement = DIALECTS[connection.dialect.name].sql(LAST_OVER)
    ended: int | None = connection.exec_driver_sql(statement, (now, STEP)).scalar_one()
    return ended


@dataclass(frozen=True, slots=True)
class EndErasures:
    """The write that removes erasures that ended by a time, also from the digest of their set."""

    upto: int
    macs: AuditMacs
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["EndErasures"]) -> Sequence[int]:
        """Return for each write how many erasures it has removed."""
        removed = []
        for write in writes:
            ended = RowSelection(ERASURES, "until <= ?", (write.upto,))
            with write.macs.rows.updating(cursor, ended):
                cursor.execute(END_ERASURES, (write.upto,))
                removed.append(cursor.rowcount)
        return removed


def remove(cursor: Cursor, seqs: Sequence[int]) -> int:
    """Remove items that were chosen in the open transaction; return how many ids went.

    Their ids, and acceptances without other items, are removed as well.
    """
    _, id_count = _remove(cursor, seqs)
    return id_count


def _remove(
    cursor: Cursor, seqs: Sequence[int], also: str = "", values: tuple[int, ...] = ()
) -> tuple[int, int]:
    """Remove those items that meet a further condition; return how many items and ids went."""
    if not seqs:
        return 0, 0
    numbers = cursor.dialect.values("bigint")
    cursor.execute(ITEMS.format(seqs=numbers, also=also), (_text(seqs), *values))
    removed = [_RemovedItem(*row) for row in cursor.fetchall()]
    id_count = _remove_ids(cursor, [item for item in removed if item.id is not None])
    firsts = {item.acceptance for item in removed}
    cursor.execute(ACCEPTANCES.format(firsts=numbers), (_text(list(firsts)),))
    return len(removed), id_count


class _RemovedItem(NamedTuple):
    """A removed item, in the column order of ITEMS. `id` is the caller's own id, if any."""

    seq: int
    acceptance: int
    id: str | None


def _remove_ids(cursor: Cursor, removed: Sequence[_RemovedItem]) -> int:
    """Remove the ids of removed items, unless a later item has the id."""
    if not removed:
        return 0
    statement = IDS.format(
        seqs=cursor.dialect.values("bigint"),
        rows=cursor.dialect.rows(acceptance="bigint", id="text"),
    )
    seqs = _text([item.seq for item in removed])
    cursor.execute(statement, (seqs, _text([(item.acceptance, item.id) for item in removed])))
    return cursor.rowcount


class SweptQueue(Protocol):
    """The queue as the housekeeper uses it; `Outbox` is one."""

    async def recount_queued(self) -> None:
        """Count the waiting items again."""

    async def scrub(self) -> bool:
        """Remove erased content from the database's files; return whether that was needed."""

    async def index_block(self) -> bool:
        """Do a step of the search index; return whether there was something to do."""

    async def sweep(self, limits: RetentionLimits) -> int:
        """Remove some of what is past its time; return how much."""


class Housekeeper:
    """The loop that keeps the database from growing without end."""

    def __init__(
        self,
        outbox: SweptQueue,
        limits: RetentionLimits,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox, self._limits, self._ticks = outbox, limits, ticks
        # The start has counted no more than some (`Outbox.count_queued`).
        self._count_from, self._scrub_from = -math.inf, ticks() + COUNT_SECONDS

    async def run(self) -> None:
        """Run steps until cancelled."""
        while True:
            try:
                more = await self.step()
            except Exception as error:
                # The loop must go on: whatever is wrong now may be over at the next step.
                log.warning("housekeeping.paused", **explain(error))
                more = False
            await asyncio.sleep(STEP_SECONDS if more else COUNT_SECONDS)

    async def step(self) -> bool:
        """Do one step; return whether another should follow soon."""
        if self._ticks() >= self._count_from:
            self._count_from = self._ticks() + COUNT_SECONDS
            await self._outbox.recount_queued()
            began = self._ticks()
            if began >= self._scrub_from and await self._outbox.scrub():
                self._scrub_from = self._ticks() + SCRUB_REST * (self._ticks() - began)
        indexed = await self._outbox.index_block()
        return await self._outbox.sweep(self._limits) > 0 or indexed


def _text(values: Sequence[object]) -> str:
    return orjson.dumps(values).decode()
