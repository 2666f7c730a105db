"""The writes that record an attempt before it is sent, and its outcome afterwards."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from app import ids
from app.audit import records
from app.database.driver import Cursor
from app.database.writer import insert_rows
from app.encryption import BodyCipher, answer_context
from app.model import DEAD, CallRecord, Postponed, Settled, Status, Verdict, count_by_status
from app.outbox import earlier_answers, logins, user_lock_rows
from app.outbox.erasure import anonymize, redact
from app.outbox.liveness_lock import KnownProcess

# One statement for all items of all calls that settle together, whatever their number: each
# statement gives the interpreter's lock up and has to wait for it again.
DELIVERED = """
UPDATE items SET status = 'delivered', settled_at = ?, attempts = attempts + 1,
       next_attempt_at = NULL, leanplum = NULL, body = NULL
WHERE seq IN {seqs}
"""
OTHERWISE = """
UPDATE items SET status = v.status, settled_at = v.settled_at, next_attempt_at = v.due,
       attempts = attempts + v.counts, leanplum = v.leanplum,
       body = CASE WHEN v.keeps = 1 THEN body END, earlier = {earlier}
FROM {rows} AS v WHERE items.seq = v.seq
"""
CLOSE = "DELETE FROM attempts WHERE id IN {ids} RETURNING id"
ATTEMPTS = "INSERT INTO attempts (id, owner, items, lanes, started_at)"
FORGET = "DELETE FROM attempts WHERE id IN {ids}"
HELD = """
SELECT l.shard FROM leases l JOIN deliverers d ON d.id = l.owner
WHERE l.owner = ? AND d.expires_at >= ? AND coalesce(d.lock, '') = ?
"""
COUNT, THERE = (f"SELECT {what} FROM items WHERE seq IN {{seqs}}" for what in ("count(*)", "seq"))
AS_IT_IS = "SELECT seq, status, settled_at IS NULL FROM items WHERE seq IN {seqs}"
Counts = Mapping[str, int]  # of items that have settled, by status


class ItemChange(NamedTuple):
    """The new state of an item that is not simply delivered, in the column order of OTHERWISE."""

    seq: int
    status: Status
    settled_at: int | None
    next_attempt_at: int | None
    attempts: int  # to add
    leanplum: str | None  # what Leanplum said, as it is stored
    keeps_body: bool
    # The answer to an attempt that is not the last, as it is kept; None removes all earlier ones
    earlier: str | None = ""


@dataclass(frozen=True, slots=True)
class Begin:
    """The write that records an attempt before it is sent.

    After a crash, recovery treats an open attempt as possibly sent. The write is refused if the
    deliverer's leases on the lanes of all items do not last for as long as a call may take
    (`call_ms`), or name another liveness lock, or if an item is gone because its subject was
    erased. It leaves out items of locked users, items behind a waiting item with `newUserId`, and
    the deletion of a user while a call for the device of the same id is in flight. `liveness`: the
    identity of the deliverer's liveness lock. `forget`: attempts that may be recorded and were not
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
        """Record the attempts as open.

        Return for each by lane after which number its items are left out; None if it was refused.
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
        held: dict[KnownProcess, set[int]] = {}
        for write in writes:
            if write.process not in held:
                cursor.execute(HELD, (write.owner, now + write.call_ms, write.liveness or ""))
                held[write.process] = {shard for (shard,) in cursor.fetchall()}
        gone = _gone(cursor, {seq for one in writes for seq, _ in one.items})
        rows: list[tuple[object, ...]] = []
        told: list[dict[int, int] | None] = []
        for one in writes:
            if not one._may_begin(held[one.process], gone):
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

    @property
    def process(self) -> KnownProcess:
        """The deliverer, as its leases must name it."""
        return KnownProcess(self.owner, self.liveness)

    def _may_begin(self, held: set[int], gone: set[int]) -> bool:
        return {ids.shard(lane) for _, lane in self.items} <= held and gone.isdisjoint(
            seq for seq, _ in self.items
        )

    def _row(self, after: Mapping[int, int], joined: Mapping[int, Set[int]]) -> tuple[object, ...]:
        """Return the attempt as a row without left-out items; empty if nothing remains.

        `after`: by lane, the number after which items are left out. `joined`: the other lanes of
        deletions.
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
    """Remove attempts that may be recorded and were not sent."""
    if attempts:
        cursor.execute(FORGET.format(ids=cursor.dialect.values("text")), (_text(list(attempts)),))


def _gone(cursor: Cursor, seqs: set[int]) -> set[int]:
    """Return which items no longer exist.

    They are counted first, since rows come one by one.
    """
    numbers, text = cursor.dialect.values("bigint"), _text(list(seqs))
    cursor.execute(COUNT.format(seqs=numbers), (text,))
    if cursor.fetchone()[0] == len(seqs):
        return set()
    cursor.execute(THERE.format(seqs=numbers), (text,))
    return seqs - {seq for (seq,) in cursor.fetchall()}


@dataclass(frozen=True, slots=True)
class Settle:
    """The write that records the outcome of an attempt: a verdict per item, a record per call.

    No item is changed if the attempt is no longer open: another deliverer has taken it for lost,
    with its items. `erased`: items that have erased their subjects, whose receipts lose the
    subject. `again`: whether it was tried before.
    """

    attempt: str
    app: str
    verdicts: Sequence[tuple[int, Verdict]]
    finished_at: int
    calls: Sequence[CallRecord]
    cipher: BodyCipher
    macs: records.AuditMacs
    erased: Sequence[tuple[int, str]] = ()
    again: bool = False

    @property
    def rows(self) -> int:
        """The number of rows written; counts against `GROUP_LIMIT`."""
        return len(self.verdicts) + 2

    @property
    def settled(self) -> int:
        """The number of items that leave the queue."""
        return sum([isinstance(verdict, Settled) for _, verdict in self.verdicts])

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Settle"]) -> Sequence[Counts | None]:
        """Apply the verdicts to the items, and close the attempts.

        Return for each write how many items have settled, by status; None if its attempt was not
        open and no earlier try of the same write had closed it.
        """
        cursor.execute(
            CLOSE.format(ids=cursor.dialect.values("text")),
            (_text([write.attempt for write in writes]),),
        )
        open_ = {attempt for (attempt,) in cursor.fetchall()}
        delivered: list[int] = []
        otherwise: list[ItemChange] = []
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
        changed += apply_changes(cursor, otherwise)
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
        """Return how many items have settled, by status, without those erased meanwhile."""
        ended = [
            verdict.status
            for seq, verdict in self.verdicts
            if isinstance(verdict, Settled) and seq not in gone
        ]
        return count_by_status(ended)

    def _is_done(self, cursor: Cursor) -> bool:
        """Return whether an earlier try, whose response was lost, has done all of it."""
        if not self.again:
            return False
        numbers = _text([seq for seq, _ in self.verdicts])
        cursor.execute(AS_IT_IS.format(seqs=cursor.dialect.values("bigint")), (numbers,))
        found = {seq: (status, bool(waits)) for seq, status, waits in cursor.fetchall()}
        return all(
            found.get(seq) == (verdict.status.value, isinstance(verdict, Postponed))
            for seq, verdict in self.verdicts
        )

    def _sort(self, delivered: list[int]) -> list[ItemChange]:
        """Add items that are simply delivered to the list; return the changes of the others."""
        at, subjects, otherwise = self.finished_at, dict(self.erased), list[ItemChange]()
        for seq, verdict in self.verdicts:
            match verdict:
                case Settled(Status.DELIVERED, None):
                    delivered.append(seq)
                case Settled(status, said):
                    if seq in subjects:
                        said = redact(said, subjects[seq][1:])
                    stored = self._encrypted(seq, said)
                    keeps_body = status in DEAD
                    otherwise.append(ItemChange(seq, status, at, None, 1, stored, keeps_body))
                case Postponed(status, wait, said, counts):
                    due = at + int(wait * 1000)
                    stored = self._encrypted(seq, said)
                    kept = earlier_answers.line(at, stored)
                    change = ItemChange(seq, status, None, due, int(counts), stored, True, kept)
                    otherwise.append(change)
        return otherwise

    def _less_last_tries(self, cursor: Cursor, changes: list[ItemChange]) -> list[ItemChange]:
        """Return the changes, where dead letters that name an erased user keep no content."""
        dead = [
            change.seq for change in changes if change.settled_at is not None and change.keeps_body
        ]
        ended = logins.marked(cursor, dead)
        if not ended:
            return changes
        final = []
        for change in changes:
            if change.seq in ended:
                stored = self._encrypted(change.seq, logins.GIVEN_UP)
                change = change._replace(leanplum=stored, keeps_body=False, earlier=None)
            final.append(change)
        return final

    def _encrypted(self, seq: int, said: object) -> str | None:
        """Return Leanplum's answer as it is stored: it may repeat what it was sent."""
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


def apply_changes(cursor: Cursor, changes: Sequence[ItemChange]) -> int:
    """Apply changes to items; return how many items were changed."""
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
        earlier="text",
    )
    # No database casts a JSON boolean to an integer.
    values = [(*change[:-2], int(change.keeps_body), change.earlier) for change in changes]
    cursor.execute(OTHERWISE.format(rows=rows, earlier=earlier_answers.APPENDED), (_text(values),))
    return cursor.rowcount


def _text(value: object) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
