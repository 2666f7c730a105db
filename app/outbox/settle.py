"""Writing down what is about to be sent, and what came of it."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import orjson

from app import ids
from app.audit import records
from app.audit.records import AuditMacs
from app.database.driver import Cursor
from app.database.writer import insert_rows
from app.encryption import BodyCipher, answer_context
from app.model import CallRecord, Postponed, Settled, Status, Verdict, count_by_status
from app.outbox import logins, user_lock_rows
from app.outbox.dead_letters import DEAD
from app.outbox.erased_subjects import anonymize, redact

# One statement for all items of all calls that settle together, whatever their number: each
# statement gives the interpreter's lock up and has to wait for it again.
DELIVERED = """
UPDATE items SET status = 'delivered', settled_at = ?, attempts = attempts + 1, next_attempt_at = NULL, leanplum = NULL,
       body = NULL
WHERE seq IN {seqs}
"""
OTHERWISE = """
UPDATE items SET status = v.status, settled_at = v.settled_at, next_attempt_at = v.due, attempts = attempts + v.counts,
       leanplum = v.leanplum, body = CASE WHEN v.keeps = 1 THEN body END
FROM {rows} AS v WHERE items.seq = v.seq
"""
CLOSE = "DELETE FROM attempts WHERE id IN {ids} RETURNING id"
ATTEMPTS = "INSERT INTO attempts (id, owner, items, lanes, started_at)"
FORGET = "DELETE FROM attempts WHERE id IN {ids}"
HELD = """
SELECT l.shard FROM leases l JOIN deliverers d ON d.id = l.owner WHERE l.owner = ? AND d.expires_at >= ?
"""
COUNT, THERE = (f"SELECT {what} FROM items WHERE seq IN {{seqs}}" for what in ("count(*)", "seq"))
AS_IT_IS = "SELECT seq, status, settled_at IS NULL FROM items WHERE seq IN {seqs}"
# seq, status, settled_at, next_attempt_at, attempts to add, leanplum, whether the body is kept
Counts = Mapping[str, int]  # of items that have settled, by status
Change = tuple[int, str, int | None, int | None, int, str | None, bool]


@dataclass(frozen=True, slots=True)
class Begin:
    """An attempt, written down before it is sent: after a crash, what is open here was perhaps
    sent. It is refused where the deliverer doesn't hold the lanes of all items for as long as a
    call may take (`call_ms`), and where one of the items is no longer there: its subject was
    erased. Items of users who are locked are left out, and what follows a login that waits, and a
    deletion while a call is at work for its id as a device's. `liveness`: the identity of the
    deliverer's liveness lock. `forget`: attempts that may have been written down, and were not
    sent.
    """

    attempt: str
    owner: str
    items: Sequence[tuple[int, int]]  # sequence number and lane of each
    started_at: int
    call_ms: int
    liveness: str | None = None
    forget: Sequence[str] = ()
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Begin"]) -> Sequence[dict[int, int] | None]:
        """Record the attempts as open. Returns for each the lanes of which items are left out, and
        after which sequence number they are; None where it was refused.
        """
        forget(cursor, [attempt for one in writes for attempt in one.forget])
        now = cursor.dialect.now(cursor, writes[0].started_at)
        lanes = {lane for one in writes for _, lane in one.items}
        locked, some_log_in = user_lock_rows.locked(
            cursor, now, writes[0].liveness, lanes, writes[0].owner
        )
        after = dict.fromkeys(locked, 0)
        joined = dict[int, set[int]]()
        if some_log_in:
            after = logins.first(cursor, lanes) | after
            joined = logins.deletions(cursor, [seq for one in writes for seq, _ in one.items])
        if joined:
            others = set[int]().union(*joined.values())
            busy = user_lock_rows.busy(cursor, now, writes[0].liveness, others, writes[0].owner)
            after |= dict.fromkeys(
                [lane for lane in joined if not busy.isdisjoint(joined[lane])], 0
            )
        held: dict[str, set[int]] = {}
        for write in writes:
            if write.owner not in held:
                cursor.execute(HELD, (write.owner, now + write.call_ms))
                held[write.owner] = {shard for (shard,) in cursor.fetchall()}
        gone = _gone(cursor, {seq for one in writes for seq, _ in one.items})
        rows: list[tuple[object, ...]] = []
        told: list[dict[int, int] | None] = []
        for one in writes:
            if not one._may_begin(held[one.owner], gone):
                told.append(None)
                continue
            row = one._row(after, joined)
            if row:
                rows.append(row)
            told.append(
                {lane: after[lane] for seq, lane in one.items if seq > after.get(lane, seq)}
            )
        insert_rows(cursor, ATTEMPTS, rows)
        return told

    def _may_begin(self, held: set[int], gone: set[int]) -> bool:
        return {ids.shard(lane) for _, lane in self.items} <= held and gone.isdisjoint(
            seq for seq, _ in self.items
        )

    def _row(self, after: Mapping[int, int], joined: Mapping[int, Set[int]]) -> tuple[object, ...]:
        """The attempt as a row, less what comes after these numbers in its lane; empty where
        nothing is left. `joined`: the lanes that deletions have beside their own.
        """
        sent = (
            [(seq, lane) for seq, lane in self.items if seq <= after.get(lane, seq)]
            if after
            else self.items
        )
        if not sent:
            return ()
        lanes = list(dict.fromkeys(lane for _, lane in sent))
        if joined:
            lanes += sorted(
                set[int]().union(*(joined.get(lane, ()) for lane in lanes)) - set(lanes)
            )
        return (
            self.attempt,
            self.owner,
            _text([seq for seq, _ in sent]),
            _text(lanes),
            self.started_at,
        )


def forget(cursor: Cursor, attempts: Sequence[str]) -> None:
    """Remove attempts that may have been written down, and were not sent."""
    if attempts:
        cursor.execute(FORGET.format(ids=cursor.dialect.values("text")), (_text(list(attempts)),))


def _gone(cursor: Cursor, seqs: set[int]) -> set[int]:
    """Which items are no longer there. They are counted first, since rows come one by one."""
    numbers, text = cursor.dialect.values("bigint"), _text(list(seqs))
    cursor.execute(COUNT.format(seqs=numbers), (text,))
    if cursor.fetchone()[0] == len(seqs):
        return set()
    cursor.execute(THERE.format(seqs=numbers), (text,))
    return seqs - {seq for (seq,) in cursor.fetchall()}


@dataclass(frozen=True, slots=True)
class Settle:
    """What came of one attempt: a verdict for each of its items, and an audit record of each call.
    No item is changed where the attempt is no longer open: another deliverer has taken it for lost,
    and the items with it. `erased`: which of its items have erased their subjects, whose receipts
    keep no subject from now on. `again`: whether it was tried before.
    """

    attempt: str
    app: str
    verdicts: Sequence[tuple[int, Verdict]]
    finished_at: int
    calls: Sequence[CallRecord]
    cipher: BodyCipher
    macs: AuditMacs
    erased: Sequence[tuple[int, str]] = ()
    again: bool = False

    @property
    def rows(self) -> int:
        """Its weight in a group."""
        return len(self.verdicts) + 2

    @property
    def settled(self) -> int:
        """How many items leave the queue with it."""
        return sum(isinstance(verdict, Settled) for _, verdict in self.verdicts)

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Settle"]) -> Sequence[Counts | None]:
        """Bring the items to where their verdicts say, and close the attempts. Return for each how
        many items have settled; None where it was no longer open, and not by this write's own first
        try.
        """
        cursor.execute(
            CLOSE.format(ids=cursor.dialect.values("text")),
            (_text([write.attempt for write in writes]),),
        )
        open_ = {attempt for (attempt,) in cursor.fetchall()}
        delivered: list[int] = []
        otherwise: list[Change] = []
        for write in writes:
            if write.attempt in open_:
                changes = write._sort(delivered)
                otherwise += write._less_last_tries(cursor, changes)
        if delivered:
            statement = DELIVERED.format(seqs=cursor.dialect.values("bigint"))
            cursor.execute(
                statement, (max(write.finished_at for write in writes), _text(delivered))
            )
        changed = cursor.rowcount if delivered else 0
        changed += change(cursor, otherwise)
        whole = changed == len(delivered) + len(otherwise)
        gone = set[int]() if whole else _gone(cursor, {*delivered, *(seq for seq, *_ in otherwise)})
        for write in writes:
            for seq, subject in write.erased if write.attempt in open_ else ():
                anonymize(cursor, write.cipher, write.app, seq, subject)
        # Asked for again, it may be that only the answer to the first commit was lost.
        new = [write for write in writes if write.attempt in open_ or not write.again]
        told = [(write.finished_at, record) for write in new for record in write._records()]
        records.insert(cursor, writes[0].macs, told)
        return [
            write._counts(gone) if write.attempt in open_ or write._is_done(cursor) else None
            for write in writes
        ]

    def _counts(self, gone: Set[int]) -> Counts:
        """How many items have settled, by status; those that were erased meanwhile have not."""
        ended = [
            verdict.status
            for seq, verdict in self.verdicts
            if isinstance(verdict, Settled) and seq not in gone
        ]
        return count_by_status(ended)

    def _is_done(self, cursor: Cursor) -> bool:
        """Whether an earlier try, whose answer was lost, has done all of it."""
        if not self.again:
            return False
        numbers = _text([seq for seq, _ in self.verdicts])
        cursor.execute(AS_IT_IS.format(seqs=cursor.dialect.values("bigint")), (numbers,))
        found = {seq: (status, bool(waits)) for seq, status, waits in cursor.fetchall()}
        return all(
            found.get(seq) == (verdict.status.value, isinstance(verdict, Postponed))
            for seq, verdict in self.verdicts
        )

    def _sort(self, delivered: list[int]) -> list[Change]:
        """Put the items that are simply delivered into the list; return what becomes of the
        others.
        """
        at, subjects, otherwise = self.finished_at, dict(self.erased), list[Change]()
        for seq, verdict in self.verdicts:
            match verdict:
                case Settled(Status.DELIVERED, None):
                    delivered.append(seq)
                case Settled(status, said):
                    if seq in subjects:
                        said = redact(said, subjects[seq][1:])
                    otherwise.append(
                        (seq, status, at, None, 1, self._encrypted(seq, said), status in DEAD)
                    )
                case Postponed(status, wait, said, counts):
                    due = at + int(wait * 1000)
                    otherwise.append(
                        (seq, status, None, due, int(counts), self._encrypted(seq, said), True)
                    )
        return otherwise

    def _less_last_tries(self, cursor: Cursor, changes: list[Change]) -> list[Change]:
        """Return the changes; of new dead letters that name somebody who was erased, nothing is
        kept.
        """
        dead = [
            seq for seq, _, settled_at, *_, keeps in changes if settled_at is not None and keeps
        ]
        ended = logins.marked(cursor, dead)
        if not ended:
            return changes
        return [
            (*change[:5], self._encrypted(change[0], logins.GIVEN_UP), False)
            if change[0] in ended
            else change
            for change in changes
        ]

    def _encrypted(self, seq: int, said: object) -> str | None:
        """What Leanplum said, which may repeat what it was sent."""
        text = _text(said)
        return None if text is None else self.cipher.encrypt(text, answer_context(self.app, seq))

    def _records(self) -> Iterator[str]:
        verdicts = dict(self.verdicts)
        for call in self.calls:
            if call.split:  # what is sent again has no verdict of this call
                outcome = {"split": len(call.seqs)}
            else:
                outcome = count_by_status([verdicts[seq].status for seq in call.seqs])
            yield records.leanplum_call(
                time=self.finished_at,
                app=self.app,
                attempt=self.attempt,
                status=call.status,
                outcome=outcome,
                about=call.about,
            )


def change(cursor: Cursor, changes: Sequence[Change]) -> int:
    """Bring items to where the changes say; return how many there were."""
    if not changes:
        return 0
    rows = cursor.dialect.rows(
        seq="bigint",
        status="text",
        settled_at="bigint",
        due="bigint",
        counts="bigint",
        leanplum="text",
        keeps="bigint",
    )
    cursor.execute(
        OTHERWISE.format(rows=rows), (_text([[*one[:-1], int(one[-1])] for one in changes]),)
    )
    return cursor.rowcount


def _text(value: object) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
