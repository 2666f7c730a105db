"""Retention: content past its time is removed in small steps, so the database stops growing.

Candidates are read outside the transaction that removes them, since reading may take long. They may
change in between (a replay, an erasure), so the removal checks the conditions again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection

from app.audit.records import AuditMacs
from app.audit.row_macs import ERASURES as ERASURE_ROWS
from app.audit.row_macs import RowSelection
from app.database.driver import DIALECTS, Cursor
from app.outbox import logins

STEP = 500  # items removed in one transaction, at most

# A settled item is old enough once `settled_at` is; the times of its acceptance count as well,
# since ids are remembered from then on. Two clocks are in play where one was set, so neither time
# follows from the other.
ACCEPTED = "(SELECT a.accepted_at FROM acceptances a WHERE a.first_seq = items.acceptance) <= ?"
# Each is found by an index of its own (`database/tables.py`): what is too young is not even looked
# at.
RECEIPTS = f"""
SELECT seq FROM items WHERE settled_at IS NOT NULL AND body IS NULL AND settled_at <= ? AND {ACCEPTED}
ORDER BY settled_at LIMIT ?
"""
DEAD_LETTERS = f"""
SELECT seq FROM items WHERE settled_at IS NOT NULL AND body IS NOT NULL AND settled_at <= ? AND {ACCEPTED}
ORDER BY seq LIMIT ?
"""
# Never of what waits: NULL
OLD_ENOUGH = f"settled_at <= CASE WHEN body IS NULL THEN ? ELSE ? END AND {ACCEPTED}"
ITEMS = "DELETE FROM items WHERE seq IN {seqs}{also} RETURNING seq, acceptance, id"
IDS = """
DELETE FROM item_ids WHERE seq IN {seqs} AND (app, id) IN (
    SELECT a.app, v.id FROM {rows} AS v JOIN acceptances a ON a.first_seq = v.acceptance
)
"""
ACCEPTANCES = """
DELETE FROM acceptances WHERE first_seq IN {firsts} AND NOT EXISTS (
    SELECT 1 FROM items i WHERE i.acceptance = acceptances.first_seq AND i.seq >= acceptances.first_seq AND i.seq <
    coalesce((SELECT min(b.first_seq) FROM acceptances b WHERE b.first_seq > acceptances.first_seq),
             9000000000000000000)
)
"""
ERASURES = "DELETE FROM erasures WHERE until <= ?"
ANY_OVER = "SELECT 1 FROM erasures WHERE until <= ? LIMIT 1"


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """Retention times in milliseconds.

    `receipts` are kept after the item settled, ids after it was accepted. `audit/sealer.py` has
    the limits of audit records.
    """

    receipts: int
    dead_letters: int


def look(connection: Connection, now: int, limits: RetentionLimits) -> list[int]:
    """Return items that are past their time, at most `STEP`."""
    dialect = DIALECTS[connection.dialect.name]
    accepted = now - limits.receipts
    found: list[int] = []
    for statement, settled in (
        (RECEIPTS, now - limits.receipts),
        (DEAD_LETTERS, now - limits.dead_letters),
    ):
        values = (settled, accepted, STEP - len(found))
        found += connection.exec_driver_sql(dialect.sql(statement), values).scalars()
    return found


@dataclass(frozen=True, slots=True)
class RemoveExpired:
    """The write that removes settled items past their time, with their ids.

    `over`: rows of logins that can't wait any more.
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
        receipts, dead_letters = (
            self.now - self.limits.receipts,
            self.now - self.limits.dead_letters,
        )
        items, _ = _remove(
            cursor, self.seqs, f" AND {OLD_ENOUGH}", (receipts, dead_letters, receipts)
        )
        logins.remove(cursor, self.over)
        return items


def any_over(connection: Connection, now: int) -> bool:
    """Return whether an erasure is over."""
    statement = DIALECTS[connection.dialect.name].sql(ANY_OVER)
    return connection.exec_driver_sql(statement, (now,)).first() is not None


@dataclass(frozen=True, slots=True)
class EndErasures:
    """Remove erasures that are over, and take them out of the digest of their set."""

    now: int
    macs: AuditMacs
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["EndErasures"]) -> Sequence[None]:
        """Remove them."""
        for write in writes:
            with write.macs.rows.updating(
                cursor, RowSelection(ERASURE_ROWS, "until <= ?", (write.now,))
            ):
                cursor.execute(ERASURES, (write.now,))
        return [None] * len(writes)


def remove(cursor: Cursor, seqs: Sequence[int]) -> int:
    """Remove items that were chosen in the open transaction; return how many ids went.

    Their ids, and acceptances without other items, are removed as well.
    """
    _, ids = _remove(cursor, seqs)
    return ids


def _remove(
    cursor: Cursor, seqs: Sequence[int], also: str = "", values: tuple[int, ...] = ()
) -> tuple[int, int]:
    """Remove those items that meet a further condition; return how many items and ids went."""
    if not seqs:
        return 0, 0
    numbers = cursor.dialect.values("bigint")
    cursor.execute(ITEMS.format(seqs=numbers, also=also), (_text(seqs), *values))
    gone = cursor.fetchall()
    named = [(seq, acceptance, item_id) for seq, acceptance, item_id in gone if item_id is not None]
    ids = _remove_ids(cursor, named)
    firsts = {acceptance for _, acceptance, _ in gone}
    cursor.execute(ACCEPTANCES.format(firsts=numbers), (_text(list(firsts)),))
    return len(gone), ids


def _remove_ids(cursor: Cursor, named: Sequence[tuple[int, int, str]]) -> int:
    """Remove the ids of removed items, unless a later item has the id."""
    if not named:
        return 0
    numbers, rows = (
        cursor.dialect.values("bigint"),
        cursor.dialect.rows(acceptance="bigint", id="text"),
    )
    of_items = [(acceptance, item_id) for _, acceptance, item_id in named]
    cursor.execute(
        IDS.format(seqs=numbers, rows=rows), (_text([seq for seq, _, _ in named]), _text(of_items))
    )
    return cursor.rowcount


def _text(values: Sequence[object]) -> str:
    return orjson.dumps(values).decode()
