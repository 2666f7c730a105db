"""Dead letters: items that were refused, given up or perhaps delivered.

An operator lists them, and replays or discards them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Select, select

from app import ids
from app.audit import records
from app.audit.records import AuditMacs
from app.database.driver import Cursor
from app.database.tables import acceptances, items
from app.database.tables import item_ids as given_ids
from app.encryption import BodyCipher, answer_context
from app.model import ENCRYPTED_PREFIX, ERASES, Receipt, Status
from app.outbox import erased_subjects
from app.outbox.receipts import receipt, receipts_of

STEP = 1_000  # items in one transaction
DEAD = frozenset({Status.REJECTED, Status.EXPIRED, Status.UNKNOWN})  # they keep their body
# Makes the audit record (its time, its text) of a step over so many items; called in the
# transaction that does it. The items are named by what is added to it.
MakeRecord = Callable[[int], tuple[int, str]]
IS_DEAD = "settled_at IS NOT NULL AND body IS NOT NULL"
REPLAY = f"""
UPDATE items SET status = 'accepted', attempts = 0, settled_at = NULL, next_attempt_at = NULL, leanplum = NULL,
       replayed_at = ?, replay = (SELECT replays + 1 FROM sequence)
WHERE {IS_DEAD} AND seq IN {{seqs}}{{also}} RETURNING seq
"""
DISCARD = f"UPDATE items SET body = NULL WHERE {IS_DEAD} AND seq IN {{seqs}}{{also}} RETURNING seq"
DELETIONS = f"""
SELECT i.seq, i.subject, i.leanplum, a.app FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
WHERE i.seq IN {{seqs}} AND i.action = '{ERASES}' AND i.settled_at IS NOT NULL AND i.body IS NULL
"""
SAY = "UPDATE items SET leanplum = ? WHERE seq = ?"
NAMES = """
SELECT i.seq, i.id, a.prefix FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
WHERE i.seq IN {seqs} ORDER BY i.seq
"""


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """A choice of dead letters; None takes all.

    `since` and `until` (milliseconds) bound the time at which an item became one. `item_ids`: only
    these.
    """

    action: str | None = None
    status: Status | None = None
    since: int | None = None
    until: int | None = None
    item_ids: tuple[str, ...] | None = None


EVERY = DeadLetterFilter()


def find(
    connection: Connection,
    app: str,
    which: DeadLetterFilter,
    after: int,
    limit: int,
    cipher: BodyCipher,
) -> list[Receipt]:
    """Return at most `limit` dead letters of `app` above a number, in the order of acceptance."""
    rows = _chosen(receipts_of(app), connection, app, which, after, limit)
    return [receipt(row, cipher) for row in connection.execute(rows)]


def numbers(
    connection: Connection, app: str, which: DeadLetterFilter, after: int, limit: int
) -> list[int]:
    """Return the sequence numbers of the dead letters that `find` returns.

    Nothing is decrypted, so it works without the data keys.
    """
    of_app = select(items.c.seq).join(acceptances, acceptances.c.first_seq == items.c.acceptance)
    rows = _chosen(of_app.where(acceptances.c.app == app), connection, app, which, after, limit)
    return list(connection.execute(rows).scalars())


def count(connection: Connection, app: str, which: DeadLetterFilter) -> int:
    """Count the dead letters that `find` finds."""
    total = after = 0
    while seqs := numbers(connection, app, which, after, STEP):
        total += len(seqs)
        after = seqs[-1]
    return total


def _chosen(
    rows: Select[Any],
    connection: Connection,
    app: str,
    which: DeadLetterFilter,
    after: int,
    limit: int,
) -> Select[Any]:
    """Restrict a query for items of `app` to chosen dead letters, in the order of acceptance."""
    rows = rows.where(items.c.settled_at.isnot(None), items.c.body.isnot(None), items.c.seq > after)
    for condition in _conditions(connection, app, which):
        rows = rows.where(condition)
    return rows.order_by(items.c.seq).limit(limit)


def apps(connection: Connection) -> list[str]:
    """Return the apps that have dead letters."""
    dead = select(acceptances.c.app).join(items, items.c.acceptance == acceptances.c.first_seq)
    dead = dead.where(items.c.settled_at.isnot(None), items.c.body.isnot(None))
    return sorted(connection.execute(dead.distinct()).scalars())


def _conditions(
    connection: Connection, app: str, which: DeadLetterFilter
) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if which.action is not None:
        found.append(items.c.action == which.action)
    if which.status is not None:
        found.append(items.c.status == which.status)
    if which.since is not None:
        found.append(items.c.settled_at >= which.since)
    if which.until is not None:
        found.append(items.c.settled_at < which.until)
    if which.item_ids is not None:
        found.append(items.c.seq.in_(_numbers(connection, app, which.item_ids)))
    return found


def _numbers(connection: Connection, app: str, wanted: Sequence[str]) -> list[int]:
    """Return the sequence numbers of items by their ids, given by callers or generated."""
    own = select(given_ids.c.id, given_ids.c.seq).where(
        given_ids.c.app == app, given_ids.c.id.in_(wanted)
    )
    found = {row.id: row.seq for row in connection.execute(own)}
    parsed = {
        seq: prefix
        for one in wanted
        if one not in found and (made := ids.parse(one))
        for prefix, seq in [made]
    }
    made_here = (
        select(items.c.seq, acceptances.c.prefix)
        .join(acceptances, acceptances.c.first_seq == items.c.acceptance)
        .where(items.c.seq.in_(list(parsed)), acceptances.c.app == app)
    )
    return [
        *found.values(),
        *(seq for seq, prefix in connection.execute(made_here) if parsed[seq] == prefix),
    ]


def _still(which: DeadLetterFilter) -> tuple[str, list[Any]]:
    """Return the filter as SQL with its values, to be checked again.

    Since an item was found, others may have replayed it and it may have become another dead letter.
    Ids don't change, so they are not checked.
    """
    conditions = [
        ("action = ?", which.action),
        ("status = ?", None if which.status is None else which.status.value),
        ("settled_at >= ?", which.since),
        ("settled_at < ?", which.until),
    ]
    asked = [(condition, value) for condition, value in conditions if value is not None]
    return "".join(f" AND {condition}" for condition, _ in asked), [value for _, value in asked]


def _change(
    cursor: Cursor,
    statement: str,
    values: Sequence[Any],
    seqs: Sequence[int],
    which: DeadLetterFilter,
) -> list[str]:
    """Run a statement on those items that are still dead letters of the filter.

    Return their ids, in the order of acceptance.
    """
    also, again = _still(which)
    text = orjson.dumps(list(seqs)).decode()
    cursor.execute(
        statement.format(seqs=cursor.dialect.values("bigint"), also=also), (*values, text, *again)
    )
    changed = orjson.dumps([seq for (seq,) in cursor.fetchall()]).decode()
    cursor.execute(NAMES.format(seqs=cursor.dialect.values("bigint")), (changed,))
    return [item_id or ids.made(prefix, seq) for seq, item_id, prefix in cursor.fetchall()]


def _end_deletions(cursor: Cursor, cipher: BodyCipher, seqs: Sequence[int]) -> None:
    """Remove the subjects of those items that are deletions and were given up."""
    cursor.execute(
        DELETIONS.format(seqs=cursor.dialect.values("bigint")), (orjson.dumps(list(seqs)).decode(),)
    )
    for seq, subject, said, app in cursor.fetchall():
        if subject[0] not in {erased_subjects.USER, erased_subjects.DEVICE}:
            continue  # it is over since long
        erased_subjects.anonymize(cursor, cipher, app, seq, subject)
        text = None if said is None else cipher.decrypt(said, answer_context(app, seq))
        if text is not None and text[:1] != ENCRYPTED_PREFIX:
            left = erased_subjects.redact(orjson.loads(text), subject[1:])
            cursor.execute(
                SAY, (cipher.encrypt(orjson.dumps(left).decode(), answer_context(app, seq)), seq)
            )


def _told(
    writes: Sequence["Replay | Discard"], changed: Sequence[Sequence[str]]
) -> list[tuple[int, str]]:
    """Return the record of each write, which names the items that it has changed."""
    told = list[tuple[int, str]]()
    for write, item_ids in zip(writes, changed, strict=True):
        time, text = write.record(len(item_ids))
        told.append((time, records.add_items(text, item_ids)))
    return told


@dataclass(frozen=True, slots=True)
class Replay:
    """The write that puts dead letters back into the queue.

    `which`: the filter that they were found by, and must still match.
    """

    seqs: Sequence[int]
    now: int
    record: MakeRecord
    macs: AuditMacs
    which: DeadLetterFilter = EVERY
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Replay"]) -> Sequence[list[str]]:
        """Return for each write how many items went back; fewer if another process was faster.

        Deliverers notice it by the count of replays, since these items lie behind their position.
        """
        changed = [
            _change(cursor, REPLAY, (write.now,), write.seqs, write.which) for write in writes
        ]
        records.insert(cursor, writes[0].macs, _told(writes, changed))
        cursor.execute("UPDATE sequence SET replays = replays + 1")
        return changed


@dataclass(frozen=True, slots=True)
class Discard:
    """The write that gives dead letters up for good.

    Their receipts stay, their bodies are removed, and deletions lose their subject. `which`: the
    filter that they were found by, and must still match.
    """

    seqs: Sequence[int]
    record: MakeRecord
    macs: AuditMacs
    cipher: BodyCipher
    which: DeadLetterFilter = EVERY
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Discard"]) -> Sequence[list[str]]:
        """Return for each write how many were discarded; fewer if another process was faster."""
        changed = [_change(cursor, DISCARD, (), write.seqs, write.which) for write in writes]
        for write in writes:
            _end_deletions(cursor, write.cipher, write.seqs)
        records.insert(cursor, writes[0].macs, _told(writes, changed))
        return changed
