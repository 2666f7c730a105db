"""Retention: what is past its time is removed, a little at a time, so that the database stops growing."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection

from app.database.dialect import DIALECTS, Cursor

STEP = 500  # rows looked at, and so at most removed, in one transaction
LOOK = """
SELECT i.seq, a.accepted_at, i.settled_at, CASE WHEN i.body IS NULL THEN 0 ELSE 1 END
FROM items i JOIN acceptances a ON a.first_seq = i.acceptance WHERE i.seq > ? ORDER BY i.seq LIMIT ?
"""
IDS = """
DELETE FROM item_ids WHERE seq IN {seqs} AND (app, id) IN (
    SELECT a.app, i.id FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
    WHERE i.id IS NOT NULL AND i.seq IN {seqs}
)
"""
ITEMS = "DELETE FROM items WHERE seq IN {seqs} RETURNING acceptance"
ACCEPTANCES = """
DELETE FROM acceptances WHERE first_seq IN {firsts} AND NOT EXISTS (
    SELECT 1 FROM items i WHERE i.acceptance = acceptances.first_seq AND i.seq >= acceptances.first_seq AND i.seq <
    coalesce((SELECT min(b.first_seq) FROM acceptances b WHERE b.first_seq > acceptances.first_seq),
             9000000000000000000)
)
"""
ERASURES = "DELETE FROM erasures WHERE until <= ?"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things are kept, in milliseconds: receipts after the item settled, ids after it was accepted, dead
    letters. (The audit's records: `audit/sealing.py`.)"""

    receipts: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """One step over the items: which may go, and where the next begins; None where all that follows is too young."""

    seqs: list[int]
    after: int | None


def look(connection: Connection, after: int, now: int, limits: Limits) -> Sweep:
    """Look at the items that follow sequence number `after`, oldest first."""
    statement = DIALECTS[connection.dialect.name].sql(LOOK)
    rows = connection.exec_driver_sql(statement, (after, STEP)).all()
    gone: list[int] = []
    for seq, accepted_at, settled_at, dead in rows:
        if accepted_at > now - limits.receipts:
            return Sweep(gone, None)
        after = seq
        if settled_at is not None and settled_at <= now - (limits.dead_letters if dead else limits.receipts):
            gone.append(seq)
    return Sweep(gone, after if len(rows) == STEP else None)


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove settled items with their ids, and erasures that are over."""

    seqs: Sequence[int]
    now: int
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Remove"]) -> Sequence[int]:
        """Tells of each how many items went."""
        return [write._run(cursor) for write in writes]

    def _run(self, cursor: Cursor) -> int:
        remove(cursor, self.seqs)
        cursor.execute(ERASURES, (self.now,))
        return len(self.seqs)


def remove(cursor: Cursor, seqs: Sequence[int]) -> int:
    """Remove items, their ids, and the acceptances that have no other; how many ids there were."""
    if not seqs:
        return 0
    text, numbers = orjson.dumps(list(seqs)).decode(), cursor.dialect.values("bigint")
    cursor.execute(IDS.format(seqs=numbers), (text, text))
    ids = cursor.rowcount
    cursor.execute(ITEMS.format(seqs=numbers), (text,))
    firsts = {first for (first,) in cursor.fetchall()}
    cursor.execute(ACCEPTANCES.format(firsts=numbers), (orjson.dumps(list(firsts)).decode(),))
    return ids
