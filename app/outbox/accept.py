"""The write that accepts items: items, ids and audit record in one transaction, for many calls."""

import secrets
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from app import ids
from app.audit import records
from app.audit.row_macs import ERASED, change_detail
from app.clock import instant
from app.database.driver import Cursor
from app.database.writer import insert_rows, insert_values
from app.encryption import BodyCipher, body_context
from app.model import (
    ENCRYPTED_PREFIX,
    ERASES,
    ERASURE_RECORD,
    Acceptance,
    Erasure,
    Kind,
    NewItem,
    Removed,
    Taken,
)
from app.outbox import erasure, logins
from app.outbox.erasure import ActiveErasures, ErasureCheck, SubjectItems, alias_of

RESERVE = "UPDATE sequence SET last = last + ? RETURNING last, erasures"
INSERT_ACCEPTANCES = (
    "INSERT INTO acceptances "
    "(first_seq, prefix, app, key_id, request_id, accepted_at, request, traceparent)"
)
# Most items have neither an id of the caller's nor notes. Columns that are left out are not bound
# as NULL for each row, which saves 2 % of the processor time of a batch with ids.
INSERT_PLAIN_ITEMS = (
    "INSERT INTO items (seq, acceptance, subject, action, body, lane, caller, event)"
)
INSERT_OWN_ID_ITEMS = (
    "INSERT INTO items (seq, acceptance, subject, action, body, lane, caller, event, id)"
)
INSERT_ITEMS = (
    "INSERT INTO items (seq, acceptance, subject, action, body, lane, caller, event, id, notes)"
)
INSERT_IDS = "INSERT INTO item_ids (app, id, seq, digest, accepted_at)"
REPLACE_FORGOTTEN_ID = """ ON CONFLICT (app, id) DO UPDATE SET
seq = excluded.seq, digest = excluded.digest, accepted_at = excluded.accepted_at"""

NOTE_ERASURE = "UPDATE items SET notes = ? WHERE seq = ?"

SELECT_KNOWN = "SELECT id, digest FROM item_ids WHERE app = ? AND accepted_at >= ? AND id IN "
SELECT_GENERATED = """
SELECT i.seq, a.app, a.prefix, i.action, i.subject, i.body
FROM items i JOIN acceptances a ON a.first_seq = i.acceptance WHERE i.seq IN {seqs}
"""

ROW_BYTES = 1_000  # generous estimate of what an item's rows and index entries take
NO_BODY = ""  # stands for the body of a delivered item, which is gone; no real body is empty
# Digests of content by (app, item id)
KnownIds = dict[tuple[str, str], bytes]


class GeneratedId(NamedTuple):
    """An item id of the form that the gateway generates, taken apart."""

    seq: int
    app: str
    prefix: str


class _NewRows:
    """The rows that a transaction inserts, as flat lists of values in the order of the columns.

    The lists are extended by one row after the other. Compared with lists of rows that are
    flattened afterwards, that saves 4 % of the processor time of a batch.
    """

    __slots__ = (
        "acceptances",
        "audit_records",
        "ids",
        "items",
        "logins",
        "own_id_items",
        "plain_items",
    )

    def __init__(self) -> None:
        self.acceptances: list[Any] = []
        self.plain_items: list[Any] = []
        self.own_id_items: list[Any] = []
        self.items: list[Any] = []
        self.ids: list[Any] = []
        self.logins: list[tuple[int, int]] = []
        self.audit_records: list[tuple[int, str]] = []

    def insert(self, cursor: Cursor) -> None:
        """Insert all rows except the audit records."""
        insert_values(cursor, INSERT_ACCEPTANCES, 8, self.acceptances)
        insert_values(cursor, INSERT_PLAIN_ITEMS, 8, self.plain_items)
        if self.own_id_items:
            insert_values(cursor, INSERT_OWN_ID_ITEMS, 9, self.own_id_items)
        if self.items:
            insert_values(cursor, INSERT_ITEMS, 10, self.items)
        if self.ids:
            insert_values(cursor, INSERT_IDS, 5, self.ids, REPLACE_FORGOTTEN_ID)
        if self.logins:
            insert_rows(cursor, logins.INSERT, self.logins)


@dataclass(slots=True)
class Accept:
    """The write that makes the items of one call durable.

    `since`: ids accepted before that time are forgotten. `erasing`: items after one that erases
    their subject are refused. `change`: the number of the change to the erasures that the call
    makes, 0 if it makes none. `first_seq`: the number of its first new item, once they are
    inserted.
    """

    acceptance: Acceptance
    since: int
    cipher: BodyCipher
    erasures: ActiveErasures
    macs: records.AuditMacs
    erasing: bool = False
    change: int = 0
    first_seq: int = 0

    @property
    def rows(self) -> int:
        """The number of rows written; counts against `GROUP_LIMIT`."""
        return len(self.acceptance.items) + 2

    @property
    def size(self) -> int:
        """The bytes that the write needs on disk: bodies, rows and index entries."""
        items = self.acceptance.items
        return sum(len(item.body) for item in items) + ROW_BYTES * len(items)

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Accept"]) -> list[list[Taken]]:
        """Insert all new items. Duplicates and conflicts are reported and not stored."""
        results, audit_records = cls.insert_items(cursor, writes)
        records.insert(cursor, writes[0].macs, audit_records)
        return results

    @staticmethod
    def insert_items(
        cursor: Cursor, writes: Sequence["Accept"]
    ) -> tuple[list[list[Taken]], list[tuple[int, str]]]:
        """Insert all new items; return the decisions, and the audit records to be written."""
        count = sum(len(write.acceptance.items) for write in writes)
        # The first statement takes the write lock, so what is read after it stays true.
        cursor.execute(RESERVE, (count,))
        last, erasures_version = cursor.fetchone()
        seq = last - count + 1
        known_ids = _read_known_ids(cursor, writes, seq)
        rows = _NewRows()
        results = []
        for write in writes:
            check, erasures = None, write.erasures
            # Nearly always no erasure is in force, and no call is needed to know that.
            if write.erasing or erasures.ends_by_alias or erasures.version != erasures_version:
                check = erasures.check(
                    cursor,
                    erasures_version,
                    write.acceptance.app,
                    write.acceptance.accepted_at,
                    erasing=write.erasing,
                )
            taken, seq = write._take(seq, known_ids, rows, check)
            results.append(taken)
        rows.insert(cursor)
        return results, rows.audit_records

    def _take(
        self, seq: int, known_ids: KnownIds, rows: _NewRows, check: ErasureCheck | None
    ) -> tuple[list[Taken], int]:
        """Decide on each item, and add the rows of the call.

        New items are numbered from `seq`. Return the decisions, and the number that follows.
        """
        acceptance, encrypt = self.acceptance, None
        self.first_seq = first = seq
        prefix, app = acceptance.prefix, acceptance.app
        caller = ids.share(app, acceptance.key_id)
        if self.cipher.active_key_id is not None:
            encrypt = self.cipher.encryptor(len(acceptance.items))
        # The part of ids.lane() that is the same for all items of the call
        app_crc = zlib.crc32(app.encode())
        taken = list[Taken]()
        for item in acceptance.items:
            subject, action, body, item_id, notes, _, event = item
            if check is not None and check.refuses(subject, action, body):
                taken.append((item_id or "", "erased"))
                continue
            if item_id is not None:
                kind = self._claim_id(item_id, item, seq, known_ids, rows)
                if kind != "accepted":
                    taken.append((item_id, kind))
                    continue
            lane = zlib.crc32(subject.encode(), app_crc)
            if logins.MARK in body:
                rows.logins += logins.rows(app, body, subject, lane, seq)
            if encrypt is not None:
                body = encrypt(body, body_context(app, action, seq, subject))
            if item_id is None and notes is None:
                rows.plain_items += (seq, first, subject, action, body, lane, caller, event)
            elif notes is None:
                own = (seq, first, subject, action, body, lane, caller, event, item_id)
                rows.own_id_items += own
            else:
                noted = (seq, first, subject, action, body, lane, caller, event, item_id, notes)
                rows.items += noted
            taken.append((item_id or f"{prefix}{seq:012x}", "accepted"))
            seq += 1
        self._add_call(first, taken, seq - first, rows)
        return taken, seq

    def _claim_id(
        self, item_id: str, item: NewItem, seq: int, known_ids: KnownIds, rows: _NewRows
    ) -> Kind:
        """Compare a caller-given id with the known ones; remember a new one."""
        acceptance = self.acceptance
        key = acceptance.app, item_id
        digest = self.cipher.digest(item.action, item.subject, _content(item))
        known = known_ids.get(key)
        if known is None:
            known_ids[key] = digest
            rows.ids += (acceptance.app, item_id, seq, digest, acceptance.accepted_at)
            return "accepted"
        if known == digest or known in self._later_digests(item):
            return "duplicate"
        return "conflict"

    def _later_digests(self, item: NewItem) -> Iterator[bytes]:
        """Yield the digests by which the same content may be known later.

        A delivered item has lost its body, and a finished erasure its subject.
        """
        digest, app = self.cipher.digest, self.acceptance.app
        yield digest(item.action, item.subject, NO_BODY)
        yield digest(item.action, alias_of(self.cipher, app, item.subject), NO_BODY)

    def _add_call(self, first: int, taken: Sequence[Taken], accepted: int, rows: _NewRows) -> None:
        """Add the row of the acceptance, if it has new items, and the audit record of the call."""
        acceptance = self.acceptance
        if accepted:
            rows.acceptances += (
                first,
                acceptance.prefix,
                acceptance.app,
                acceptance.key_id,
                acceptance.request_id,
                acceptance.accepted_at,
                ids.request_checksum(acceptance.request_id),
                acceptance.traceparent,
            )
        record = _record(acceptance, taken, accepted)
        if self.change and self._erases(taken):
            record = records.add_detail(record, change_detail(ERASED, self.change))
        rows.audit_records.append((acceptance.accepted_at, record))

    def _erases(self, taken: Sequence[Taken]) -> bool:
        """Return whether an accepted item erases its subject."""
        decided = zip(self.acceptance.items, taken, strict=True)
        return any(item.action == ERASES and kind == "accepted" for item, (_, kind) in decided)


@dataclass(frozen=True, slots=True)
class Erase:
    """The write that accepts items of which some erase their subjects.

    `found`: the subjects' items that were found before. `until`: the time from which items of the
    subjects are accepted again.
    """

    accept: Accept
    found: SubjectItems
    until: int

    @property
    def rows(self) -> int:
        """The number of rows written; counts against `GROUP_LIMIT`."""
        return self.accept.rows + sum(map(len, self.found.seqs.values()))

    @classmethod
    def run_all(
        cls, cursor: Cursor, writes: Sequence["Erase"]
    ) -> Sequence[tuple[list[Taken], dict[str, Erasure]]]:
        """Return for each write the decisions on its items, and the erasures by subject."""
        return [write._run(cursor) for write in writes]

    def _run(self, cursor: Cursor) -> tuple[list[Taken], dict[str, Erasure]]:
        accept = self.accept
        if self.refuses:
            accept.change = accept.macs.rows.next_version(cursor, ERASED)
        (taken,), ((time, record),) = Accept.insert_items(cursor, [accept])
        deletions = self._accepted_deletions(taken)
        subjects = sorted({item.subject for item in deletions.values()})
        removed = {subject: self._erase(cursor, subject) for subject in subjects}
        if removed:  # every process that has the erasures in memory reads them again
            cursor.execute("UPDATE sequence SET erasures = ?", (secrets.randbits(62),))
            record = records.add_erasures(record, self._facts(deletions.values(), removed))
        record_id = records.insert(cursor, accept.macs, [(time, record)])
        for seq, item in deletions.items():
            notes = {**orjson.loads(item.notes or "{}"), ERASURE_RECORD: record_id}
            cursor.execute(NOTE_ERASURE, (orjson.dumps(notes).decode(), seq))
        return taken, {subject: Erasure(counts, record_id) for subject, counts in removed.items()}

    @property
    def refuses(self) -> bool:
        """True if items of the subjects are refused for a while."""
        return self.until > self.accept.acceptance.accepted_at

    def _accepted_deletions(self, taken: Sequence[Taken]) -> dict[int, NewItem]:
        """Return the accepted items that erase their subjects, by sequence number."""
        decided = zip(self.accept.acceptance.items, taken, strict=True)
        accepted = [item for item, (_, kind) in decided if kind == "accepted"]
        return {
            seq: item
            for seq, item in enumerate(accepted, self.accept.first_seq)
            if item.action == ERASES
        }

    def _facts(
        self, deletions: Iterable[NewItem], removed: Mapping[str, Removed]
    ) -> list[dict[str, Any]]:
        """Return the facts about each erased subject that the audit record states."""
        full = {
            item.subject for item in deletions if orjson.loads(item.body).get("fullErasure") is True
        }
        refused = {"refusedUntil": instant(self.until)} if self.refuses else {}
        user_hashes = self.accept.acceptance.erased_users
        return [
            {
                **records.about_users([user_hashes[subject]] if subject in user_hashes else []),
                "removed": counts.document(),
                "fullErasure": subject in full,
                **refused,
            }
            for subject, counts in removed.items()
        ]

    def _erase(self, cursor: Cursor, subject: str) -> Removed:
        acceptance, cipher = self.accept.acceptance, self.accept.cipher
        app, accepted_at = acceptance.app, acceptance.accepted_at
        removed = erasure.remove_items(cursor, cipher, app, subject, self.found)
        if self.refuses:
            erasure.refuse_new_items(
                cursor,
                self.accept.macs.rows,
                app,
                cipher.alias(app, erasure.as_user(subject)),
                erased_at=accepted_at,
                until=self.until,
            )
        return removed


def _read_known_ids(cursor: Cursor, writes: Sequence[Accept], first: int) -> KnownIds:
    """Read which of the caller-given ids are known. `first` is the lowest unused number."""
    known_ids: KnownIds = {}
    generated = set[GeneratedId]()
    for write in writes:
        app = write.acceptance.app
        given = [item.id for item in write.acceptance.items if item.id is not None]
        if not given:
            continue
        statement = SELECT_KNOWN + cursor.dialect.values("text")
        cursor.execute(statement, (app, write.since, orjson.dumps(given).decode()))
        for item_id, digest in cursor.fetchall():
            known_ids[app, item_id] = digest
        generated.update(_find_generated(app, given, first))
    if generated:
        known_ids.update(_read_generated(cursor, generated, writes[0].cipher))
    return known_ids


def _find_generated(app: str, given: Sequence[str], first: int) -> Iterator[GeneratedId]:
    """Yield the ids that the gateway may have generated.

    A UUIDv7 from elsewhere ends in 48 random bits, which are nearly always a number that was never
    used. So no query is made for it.
    """
    for item_id in given:
        parsed = ids.parse(item_id)
        if parsed is not None and parsed[1] < first:
            prefix, seq = parsed
            yield GeneratedId(seq, app, prefix)


def _read_generated(cursor: Cursor, generated: set[GeneratedId], cipher: BodyCipher) -> KnownIds:
    """Read the digests of items that callers send again under ids that the gateway generated."""
    known_ids: KnownIds = {}
    seqs = orjson.dumps([generated_id.seq for generated_id in generated]).decode()
    cursor.execute(SELECT_GENERATED.format(seqs=cursor.dialect.values("bigint")), (seqs,))
    for seq, app, prefix, action, subject, body in cursor.fetchall():
        # Another id may end in the number of one of our items by chance.
        if GeneratedId(seq, app, prefix) in generated:
            content = _stored_content(cipher, body, body_context(app, action, seq, subject))
            known_ids[app, ids.made(prefix, seq)] = cipher.digest(action, subject, content)
    return known_ids


def _stored_content(cipher: BodyCipher, body: str | None, context: str) -> str:
    """Return the content of a stored body as a caller would repeat it, with its keys sorted.

    Return NO_BODY if the body is gone or cannot be decrypted.
    """
    if body is None:
        return NO_BODY
    text = cipher.decrypt(body, context)
    if text[:1] == ENCRYPTED_PREFIX:
        return NO_BODY
    return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS).decode()


def _content(item: NewItem) -> str:
    """Return the text that is the same whenever a caller repeats the item."""
    return item.body if item.content is None else item.content


def _record(acceptance: Acceptance, taken: Sequence[Taken], accepted: int) -> str:
    """Return the audit record of a call."""
    duplicates = 0
    if accepted < len(taken):
        duplicates = [kind for _, kind in taken].count("duplicate")
    refused = acceptance.refused + len(taken) - accepted - duplicates
    details = {
        **records.counts(accepted, duplicates, refused),
        "actions": dict(Counter([item.action for item in acceptance.items])),
        "itemsHash": records.items_hash([item_id for item_id, _ in taken]),
        **records.about_users(acceptance.users),
        **records.refused_actions(acceptance.refused_actions),
    }
    return records.api_call(
        time=acceptance.accepted_at,
        operation=acceptance.operation,
        key_id=acceptance.key_id,
        app=acceptance.app,
        address=acceptance.address,
        request_id=acceptance.request_id,
        status=_status(acceptance.batch, taken, accepted, duplicates),
        details=details,
    )


def _status(batch: bool, taken: Sequence[Taken], accepted: int, duplicates: int) -> int:
    """Return the HTTP status that the call is answered with."""
    if batch:
        return 202 if accepted or duplicates else 422
    if accepted:
        return 202
    if duplicates:
        return 200
    is_erased = [kind for _, kind in taken] == ["erased"]
    return 403 if is_erased else 409
