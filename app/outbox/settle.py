"""Writing down what is about to be sent, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from app.audit import records
from app.database.writer import Cursor
from app.model import Postponed, Settled, Status, Verdict

SETTLE = """
UPDATE items SET status = ?, settled_at = ?, attempts = attempts + 1, next_attempt_at = NULL, leanplum = ?,
       body = CASE WHEN ? THEN body END
WHERE seq = ?
"""
DELIVERED = """
UPDATE items SET status = 'delivered', settled_at = ?, attempts = attempts + 1, next_attempt_at = NULL, leanplum = NULL,
       body = NULL
WHERE seq IN (SELECT value FROM json_each(?))
"""
POSTPONE = "UPDATE items SET status = ?, next_attempt_at = ?, attempts = attempts + ?, leanplum = ? WHERE seq = ?"
DEAD_LETTERS = {Status.REJECTED, Status.EXPIRED}  # keep their body: an operator may send them again


@dataclass(frozen=True, slots=True)
class Begin:
    """An attempt, written down before it is sent: after a crash, what is open here was perhaps sent."""

    attempt: str
    app: str
    seqs: Sequence[int]
    started_at: int
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Begin"]) -> Sequence[None]:
        """Record the attempts as open."""
        cursor.executemany(
            "INSERT INTO attempts (id, app, items, started_at) VALUES (?, ?, ?, ?)",
            [(one.attempt, one.app, orjson.dumps(list(one.seqs)).decode(), one.started_at) for one in writes],
        )
        return [None] * len(writes)


@dataclass(frozen=True, slots=True)
class Settle:
    """What came of one attempt: a verdict for each of its items, and the audit record of the call."""

    attempt: str
    app: str
    verdicts: Sequence[tuple[int, Verdict]]
    finished_at: int
    status: int | None

    @property
    def rows(self) -> int:
        """Its weight in a group."""
        return len(self.verdicts) + 2

    @property
    def settled(self) -> int:
        """How many items leave the queue with it."""
        return sum(isinstance(verdict, Settled) for _, verdict in self.verdicts)

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Settle"]) -> Sequence[None]:
        """Bring the items to where their verdicts say, and close the attempts."""
        for write in writes:
            write._items(cursor)
            outcome = write._counts()
            cursor.execute(
                "UPDATE attempts SET finished_at = ?, outcome = ? WHERE id = ?",
                (write.finished_at, orjson.dumps(outcome).decode(), write.attempt),
            )
            record = records.leanplum_call(
                time=write.finished_at, app=write.app, attempt=write.attempt, status=write.status, outcome=outcome
            )
            records.insert(cursor, [(write.finished_at, record)])
        return [None] * len(writes)

    def _items(self, cursor: Cursor) -> None:
        delivered = []
        for seq, verdict in self.verdicts:
            match verdict:
                case Settled(Status.DELIVERED, None):
                    delivered.append(seq)
                case Settled(status, leanplum):
                    keeps = status in DEAD_LETTERS
                    cursor.execute(SETTLE, (status, self.finished_at, _text(leanplum), keeps, seq))
                case Postponed(status, wait, leanplum, counts):
                    due = self.finished_at + int(wait * 1000)
                    cursor.execute(POSTPONE, (status, due, int(counts), _text(leanplum), seq))
        if delivered:
            cursor.execute(DELIVERED, (self.finished_at, orjson.dumps(delivered).decode()))

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for _, verdict in self.verdicts:
            counts[verdict.status.value] = counts.get(verdict.status.value, 0) + 1
        return counts


def _text(leanplum: dict[str, object] | None) -> str | None:
    return None if leanplum is None else orjson.dumps(leanplum).decode()
