"""Dead letters: items that were refused, given up or perhaps delivered.

Operators list, replay and discard them, by HTTP and by command alike (`DeadLetterService`).
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import orjson
from sqlalchemy import ColumnElement, Connection, Engine, Select, select

from app import ids
from app.audit import records
from app.clock import now_ms
from app.database.driver import Cursor, in_time
from app.database.engine import reading
from app.database.tables import acceptances, items
from app.database.tables import item_ids as given_ids
from app.database.writer import Writer
from app.encryption import BodyCipher, answer_context
from app.model import ENCRYPTED_PREFIX, ERASES, Receipt, Status
from app.outbox import earlier_answers, erasure
from app.outbox.dead_letter_groups import (
    SCANNED,
    DeadLetterGroups,
    find_groups,
    reason_of_receipt,
)
from app.outbox.earlier_answers import LINE_END
from app.outbox.receipts import receipt, receipts_of

T = TypeVar("T")
STEP = 1_000  # items in one transaction
# Makes the audit record (its time, its text) of a step over so many items; called in the
# transaction that does it. The items are named by what is added to it.
MakeRecord = Callable[[int], tuple[int, str]]
IS_DEAD = "settled_at IS NOT NULL AND body IS NOT NULL"
REPLAY = f"""
UPDATE items SET status = 'accepted', attempts = 0, settled_at = NULL, next_attempt_at = NULL,
       leanplum = NULL, earlier = {earlier_answers.REPLAYED}, replayed_at = ?,
       replay = (SELECT replays + 1 FROM sequence)
WHERE {IS_DEAD} AND seq IN {{seqs}}{{also}} RETURNING seq
"""
DISCARD = f"UPDATE items SET body = NULL WHERE {IS_DEAD} AND seq IN {{seqs}}{{also}} RETURNING seq"
DELETIONS = f"""
SELECT i.seq, i.subject, i.leanplum, a.app
FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
WHERE i.seq IN {{seqs}} AND i.action = '{ERASES}' AND i.settled_at IS NOT NULL AND i.body IS NULL
"""
UPDATE_ANSWER = "UPDATE items SET leanplum = ? WHERE seq = ?"
NAMES = """
SELECT i.seq, i.id, a.prefix FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
WHERE i.seq IN {seqs} ORDER BY i.seq
"""


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """A choice of dead letters; None takes all.

    `subject` is a user or device, as items have it; `event` the name of an event or state.
    `since` and `until` (milliseconds) bound the time at which an item became one. `item_ids`: only
    these. `reason`: only those of a group (`dead_letter_groups.py`); steps of replays and discards
    heed it, lists do not.
    """

    subject: str | None = None
    event: str | None = None
    action: str | None = None
    status: Status | None = None
    since: int | None = None
    until: int | None = None
    item_ids: tuple[str, ...] | None = None
    reason: str | None = None


EVERY = DeadLetterFilter()


class NewestDeadLetters(NamedTuple):
    """The newest dead letters of a filter; `total` match, or more if it was `truncated`."""

    receipts: list[Receipt]
    total: int
    truncated: bool


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
    return [receipt(row._mapping, cipher) for row in connection.execute(rows)]


def find_newest(
    connection: Connection, app: str, which: DeadLetterFilter, limit: int, cipher: BodyCipher
) -> NewestDeadLetters:
    """Return the newest dead letters of a filter, and how many match.

    Only the newest `SCANNED` of all apps are looked at, unless the filter names items.
    """
    floor = 0 if which.item_ids is not None else _floor(connection)
    rows = _chosen(receipts_of(app), connection, app, which, floor, SCANNED).order_by(None)
    rows = rows.order_by(items.c.seq.desc())
    if which.reason is None:
        shown = connection.execute(rows.limit(limit))
        found = [receipt(row._mapping, cipher) for row in shown]
        total = len(numbers(connection, app, which, floor, SCANNED))
    else:
        found = [receipt(row._mapping, cipher) for row in connection.execute(rows)]
        found = [each for each in found if _has_reason(each, which)]
        total = len(found)
    return NewestDeadLetters(found[:limit], total, floor > 0)


def _floor(connection: Connection) -> int:
    """Return the number of the newest dead letter that is not looked at; 0 if all are."""
    dead = select(items.c.seq).where(items.c.settled_at.isnot(None), items.c.body.isnot(None))
    beyond = dead.order_by(items.c.seq.desc()).offset(SCANNED).limit(1)
    return connection.execute(beyond).scalar() or 0


def _has_reason(found: Receipt, which: DeadLetterFilter) -> bool:
    return which.reason is None or reason_of_receipt(found) == which.reason


def next_step(
    connection: Connection, app: str, which: DeadLetterFilter, after: int, cipher: BodyCipher
) -> tuple[list[int], int | None]:
    """Return the numbers of the next dead letters to change, and after which number to go on.

    None instead of that: there are no more. Only a filter with a reason needs the data keys.
    """
    if which.reason is None:
        seqs = numbers(connection, app, which, after, STEP)
        return seqs, seqs[-1] if seqs else None
    found = find(connection, app, which, after, STEP, cipher)
    seqs = [each.seq for each in found if _has_reason(each, which)]
    return seqs, found[-1].seq if found else None


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
    conditions: list[ColumnElement[bool]] = []
    if which.subject is not None:
        conditions.append(items.c.lane == ids.lane(app, which.subject))  # the index has it
        conditions.append(items.c.subject == which.subject)
    if which.event is not None:
        conditions.append(items.c.event == which.event)
    if which.action is not None:
        conditions.append(items.c.action == which.action)
    if which.status is not None:
        conditions.append(items.c.status == which.status)
    if which.since is not None:
        conditions.append(items.c.settled_at >= which.since)
    if which.until is not None:
        conditions.append(items.c.settled_at < which.until)
    if which.item_ids is not None:
        conditions.append(items.c.seq.in_(_seqs_of(connection, app, which.item_ids)))
    return conditions


def _seqs_of(connection: Connection, app: str, item_ids: Sequence[str]) -> list[int]:
    """Return the sequence numbers of items by their ids, given by callers or generated."""
    own = select(given_ids.c.id, given_ids.c.seq).where(
        given_ids.c.app == app, given_ids.c.id.in_(item_ids)
    )
    seqs_by_id = {row.id: row.seq for row in connection.execute(own)}
    prefixes = dict[int, str]()
    for item_id in item_ids:
        parsed = ids.parse(item_id)
        if item_id not in seqs_by_id and parsed is not None:
            prefix, seq = parsed
            prefixes[seq] = prefix
    generated = (
        select(items.c.seq, acceptances.c.prefix)
        .join(acceptances, acceptances.c.first_seq == items.c.acceptance)
        .where(items.c.seq.in_(list(prefixes)), acceptances.c.app == app)
    )
    rows = connection.execute(generated)
    return [*seqs_by_id.values(), *(seq for seq, prefix in rows if prefixes[seq] == prefix)]


def _still(which: DeadLetterFilter) -> tuple[str, list[Any]]:
    """Return the filter as SQL with its values, to be checked again.

    Since an item was found, others may have replayed it and it may have become another dead letter.
    Ids don't change, so they are not checked.
    """
    conditions = [
        ("subject = ?", which.subject),
        ("event = ?", which.event),
        ("action = ?", which.action),
        ("status = ?", None if which.status is None else which.status.value),
        ("settled_at >= ?", which.since),
        ("settled_at < ?", which.until),
    ]
    chosen = [(condition, value) for condition, value in conditions if value is not None]
    sql = "".join(f" AND {condition}" for condition, _ in chosen)
    return sql, [value for _, value in chosen]


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
    also, filter_values = _still(which)
    numbers = cursor.dialect.values("bigint")
    cursor.execute(
        statement.format(seqs=numbers, also=also), (*values, _text(list(seqs)), *filter_values)
    )
    changed = [seq for (seq,) in cursor.fetchall()]
    cursor.execute(NAMES.format(seqs=numbers), (_text(changed),))
    return [item_id or ids.made(prefix, seq) for seq, item_id, prefix in cursor.fetchall()]


def _end_deletions(cursor: Cursor, cipher: BodyCipher, seqs: Sequence[int]) -> None:
    """Remove the subjects of those items that are deletions and were given up."""
    statement = DELETIONS.format(seqs=cursor.dialect.values("bigint"))
    cursor.execute(statement, (_text(list(seqs)),))
    for seq, subject, answer, app in cursor.fetchall():
        if subject[0] not in {erasure.USER, erasure.DEVICE}:
            continue  # the subject was removed before
        erasure.anonymize(cursor, cipher, app, seq, subject)
        if answer is None:
            continue
        context = answer_context(app, seq)
        text = cipher.decrypt(answer, context)
        if text[:1] != ENCRYPTED_PREFIX:
            redacted = erasure.redact(orjson.loads(text), subject[1:])
            cursor.execute(UPDATE_ANSWER, (cipher.encrypt(_text(redacted), context), seq))


def _records(
    writes: Sequence["Replay | Discard"], changed: Sequence[Sequence[str]]
) -> Iterator[tuple[int, str]]:
    """Yield the record of each write, which names the items that it has changed."""
    for write, item_ids in zip(writes, changed, strict=True):
        time, text = write.record(len(item_ids))
        yield time, records.add_items(text, item_ids)


@dataclass(frozen=True, slots=True)
class Replay:
    """The write that puts dead letters back into the queue.

    `which`: the filter that they were found by, and must still match.
    """

    seqs: Sequence[int]
    now: int
    record: MakeRecord
    macs: records.AuditMacs
    which: DeadLetterFilter = EVERY
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Replay"]) -> Sequence[list[str]]:
        """Return for each write the ids of items that went back; another process may be faster.

        Deliverers notice it by the count of replays, since these items lie behind their position.
        """
        changed = [
            _change(cursor, REPLAY, (LINE_END, write.now), write.seqs, write.which)
            for write in writes
        ]
        records.insert(cursor, writes[0].macs, list(_records(writes, changed)))
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
    macs: records.AuditMacs
    cipher: BodyCipher
    which: DeadLetterFilter = EVERY
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Discard"]) -> Sequence[list[str]]:
        """Return for each write the ids of discarded items; another process may be faster."""
        changed = [_change(cursor, DISCARD, (), write.seqs, write.which) for write in writes]
        for write in writes:
            _end_deletions(cursor, write.cipher, write.seqs)
        records.insert(cursor, writes[0].macs, list(_records(writes, changed)))
        return changed


Notify = Callable[[Sequence[str]], None]
# Called after each step with how many have matched and were changed so far
OnStep = Callable[[int, int], Awaitable[None]]


async def _go_on(matched: int, changed: int) -> None:
    """Do nothing after a step."""


def _ignore(item_ids: Sequence[str]) -> None:
    """Do nothing."""


class DeadLetterService:
    """List, replay and discard dead letters; each change commits together with its audit record.

    `on_replayed` and `on_discarded` are called with the ids of the items after each commit.
    """

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        *,
        macs: records.AuditMacs,
        cipher: BodyCipher,
        clock: Callable[[], int] = now_ms,
        on_replayed: Notify = _ignore,
        on_discarded: Notify = _ignore,
    ) -> None:
        self._engine, self._writer, self._clock = engine, writer, clock
        self._macs, self._cipher = macs, cipher
        self._on_replayed, self._on_discarded = on_replayed, on_discarded

    async def find(
        self, app: str, which: DeadLetterFilter, after: int = 0, limit: int = 100
    ) -> list[Receipt]:
        """Return at most `limit` dead letters of `app` in the order of acceptance.

        They have sequence numbers above `after`. Raises StorageUnavailable.
        """
        query = partial(find, app=app, which=which, after=after, limit=limit, cipher=self._cipher)
        return await self._read(query)

    async def find_newest(self, app: str, which: DeadLetterFilter, limit: int) -> NewestDeadLetters:
        """Return the newest that match, and how many match. Raises StorageUnavailable."""
        query = partial(find_newest, app=app, which=which, limit=limit, cipher=self._cipher)
        return await self._read(query)

    async def groups(self, apps: Collection[str]) -> DeadLetterGroups:
        """Return the newest dead letters of these apps in groups. Raises StorageUnavailable."""
        return await self._read(partial(find_groups, apps=apps, cipher=self._cipher))

    async def apps(self) -> list[str]:
        """Return the names of the apps that have dead letters. Raises StorageUnavailable."""
        return await self._read(apps)

    async def replay(
        self,
        app: str,
        which: DeadLetterFilter,
        record: MakeRecord,
        *,
        dry_run: bool = False,
        before: Callable[[], object] = lambda: None,
        on_step: OnStep = _go_on,
    ) -> tuple[int, int]:
        """Put dead letters back into the queue; return how many matched, and how many went back.

        `record` makes the audit record of each step. `before` is called before each step; an error
        that it raises ends the replay. `on_step` is called after each.
        """

        async def step(seqs: list[int]) -> int:
            write = Replay(seqs, self._clock(), record, self._macs, which)
            item_ids = await self._writer.write(write)
            self._on_replayed(item_ids)
            return len(item_ids)

        return await self._in_steps(app, which, step, before, on_step, dry_run=dry_run)

    async def discard(
        self,
        app: str,
        which: DeadLetterFilter,
        record: MakeRecord,
        *,
        dry_run: bool = False,
        before: Callable[[], object] = lambda: None,
        on_step: OnStep = _go_on,
    ) -> tuple[int, int]:
        """Give dead letters up for good; return how many matched, and how many were discarded.

        `record`, `before` and `on_step` are as in `replay`.
        """

        async def step(seqs: list[int]) -> int:
            write = Discard(seqs, record, self._macs, self._cipher, which)
            item_ids = await self._writer.write(write)
            self._on_discarded(item_ids)
            return len(item_ids)

        return await self._in_steps(app, which, step, before, on_step, dry_run=dry_run)

    async def _in_steps(
        self,
        app: str,
        which: DeadLetterFilter,
        step: Callable[[list[int]], Awaitable[int]],
        before: Callable[[], object],
        on_step: OnStep,
        *,
        dry_run: bool,
    ) -> tuple[int, int]:
        """Change the matching items in steps, oldest first; return how many matched and changed.

        Each step is a short transaction, so that no other write waits long for the database.
        """
        matched = changed = after = 0
        while True:
            read_step = partial(next_step, app=app, which=which, after=after, cipher=self._cipher)
            seqs, last = await self._read(read_step)
            if last is None:
                return matched, changed
            after = last
            before()
            matched += len(seqs)
            if seqs and not dry_run:
                changed += await step(seqs)
            await on_step(matched, changed)

    async def _read(self, query: Callable[[Connection], T]) -> T:
        def run() -> T:
            with reading(self._engine) as connection:
                return query(connection)

        return await in_time(run)


def _text(value: object) -> str:
    return orjson.dumps(value).decode()
