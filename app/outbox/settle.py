"""Writing down what is about to be sent, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from app.audit import records
from app.database.writer import Cursor, insert_rows
from app.model import Postponed, Settled, Status, Verdict

# One statement for all items of all calls that settle together, whatever their number: each statement gives the
# interpreter's lock up and has to wait for it again.
DELIVERED = """
UPDATE items SET status = 'delivered', settled_at = ?, attempts = attempts + 1, next_attempt_at = NULL, leanplum = NULL,
       body = NULL
WHERE seq IN (SELECT value FROM json_each(?))
"""
OTHERWISE = """
UPDATE items SET status = v.status, settled_at = v.settled_at, next_attempt_at = v.due, attempts = attempts + v.counts,
       leanplum = v.leanplum, body = CASE WHEN v.keeps THEN body END
FROM (
    SELECT json_extract(value, '$[0]') AS seq, json_extract(value, '$[1]') AS status,
           json_extract(value, '$[2]') AS settled_at, json_extract(value, '$[3]') AS due,
           json_extract(value, '$[4]') AS counts, json_extract(value, '$[5]') AS leanplum,
           json_extract(value, '$[6]') AS keeps
    FROM json_each(?)
) AS v WHERE items.seq = v.seq
"""
CLOSE = """
UPDATE attempts SET finished_at = v.finished_at, outcome = v.outcome
FROM (
    SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS finished_at,
           json_extract(value, '$[2]') AS outcome
    FROM json_each(?)
) AS v WHERE attempts.id = v.id
"""
ATTEMPTS = "INSERT INTO attempts (id, app, items, started_at)"
# seq, status, settled_at, next_attempt_at, attempts to add, leanplum, whether the body is kept
Change = tuple[int, str, int | None, int | None, int, str | None, bool]
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
        rows = [(one.attempt, one.app, _text(list(one.seqs)), one.started_at) for one in writes]
        insert_rows(cursor, ATTEMPTS, 4, [value for row in rows for value in row])
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
        delivered: list[int] = []
        otherwise: list[Change] = []
        for write in writes:
            write._sort(delivered, otherwise)
        if delivered:
            cursor.execute(DELIVERED, (max(write.finished_at for write in writes), _text(delivered)))
        if otherwise:
            cursor.execute(OTHERWISE, (_text(otherwise),))
        outcomes = [write._counts() for write in writes]
        closed = [
            (write.attempt, write.finished_at, _text(counts)) for write, counts in zip(writes, outcomes, strict=True)
        ]
        cursor.execute(CLOSE, (_text(closed),))
        records.insert(
            cursor,
            [(write.finished_at, write._record(counts)) for write, counts in zip(writes, outcomes, strict=True)],
        )
        return [None] * len(writes)

    def _sort(self, delivered: list[int], otherwise: list[Change]) -> None:
        """Put the items that are simply delivered into the one list, and what becomes of the others into the other."""
        at = self.finished_at
        for seq, verdict in self.verdicts:
            match verdict:
                case Settled(Status.DELIVERED, None):
                    delivered.append(seq)
                case Settled(status, leanplum):
                    otherwise.append((seq, status, at, None, 1, _text(leanplum), status in DEAD_LETTERS))
                case Postponed(status, wait, leanplum, counts):
                    otherwise.append((seq, status, None, at + int(wait * 1000), int(counts), _text(leanplum), True))

    def _record(self, counts: dict[str, int]) -> str:
        return records.leanplum_call(
            time=self.finished_at, app=self.app, attempt=self.attempt, status=self.status, outcome=counts
        )

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for _, verdict in self.verdicts:
            counts[verdict.status.value] = counts.get(verdict.status.value, 0) + 1
        return counts


def _text(value: object) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
