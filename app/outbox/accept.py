"""Accepting: items, their ids and the audit record in one transaction, for many callers at once."""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import orjson

from app import ids
from app.audit import records
from app.audit.record_macs import Marks
from app.audit.row_macs import ERASED, detail_of
from app.database.dialect import Cursor
from app.database.writer import insert_rows
from app.encryption import BodyCipher, body_context
from app.model import ENCRYPTED_PREFIX, ERASES, Acceptance, Kind, NewItem, Taken
from app.outbox import logins
from app.outbox.erased_subjects import ActiveErasures, ErasureCheck, alias_of

ACCEPTANCES = "INSERT INTO acceptances (first_seq, prefix, app, key_id, request_id, accepted_at)"
ITEMS = "INSERT INTO items (seq, acceptance, subject, action, body, lane, caller)"
NAMED_ITEMS = "INSERT INTO items (seq, acceptance, subject, action, body, lane, caller, id)"
NOTED_ITEMS = "INSERT INTO items (seq, acceptance, subject, action, body, lane, caller, id, notes)"
ITEM_IDS = "INSERT INTO item_ids (app, id, seq, digest, accepted_at)"
ANEW = """ ON CONFLICT (app, id) DO UPDATE SET
seq = excluded.seq, digest = excluded.digest, accepted_at = excluded.accepted_at"""

KNOWN = "SELECT id, seq, digest FROM item_ids WHERE app = ? AND accepted_at >= ? AND id IN "
MADE_HERE = """
SELECT i.seq, a.app, a.prefix, i.action, i.subject, i.body
FROM items i JOIN acceptances a ON a.first_seq = i.acceptance WHERE i.seq IN {seqs}
"""

ROW_BYTES = 1_000  # of an item beside its content, generously
NO_BODY = ""  # of a delivered item: who and what are still known, and no body is ever empty
Known = dict[tuple[str, str], tuple[int, bytes]]  # (app, id) -> (seq, digest)
# Sequence number, app and prefix, as an id that the gateway makes tells them
MadeId = tuple[int, str, str]


@dataclass(slots=True)
class Accept:
    """One call's items, to be made durable. `since`: ids accepted before that time are forgotten;
    `erasing`: what follows an item that erases its subject, of the same subject, is refused;
    `change`: the number of the change of erasures that it makes, 0 where it makes none.
    """

    acceptance: Acceptance
    since: int
    cipher: BodyCipher
    erased: ActiveErasures
    marks: Marks
    erasing: bool = False
    change: int = 0

    @property
    def rows(self) -> int:
        """Its weight in a group."""
        return len(self.acceptance.items) + 2

    @property
    def size(self) -> int:
        """The bytes that it brings: contents, and for each item some rows and entries of
        indexes.
        """
        items = self.acceptance.items
        return sum(len(item.body) for item in items) + ROW_BYTES * len(items)

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Accept"]) -> list[list[Taken]]:
        """Commit all items that are new; what is a duplicate or in conflict is told and not
        stored.
        """
        wanted = sum(len(write.acceptance.items) for write in writes)
        # First: it makes writers take turns, so that what is looked up next stays true.
        seq, version = _reserve(cursor, wanted)
        known = _known(cursor, writes, seq)
        rows = _Rows([], [], [], [], [], [], [])
        taken = []
        for write in writes:
            app, now = write.acceptance.app, write.acceptance.accepted_at
            refuse = write.erased.refuse(cursor, version, app, now, erasing=write.erasing)
            results, seq = _take(write.acceptance, seq, known, rows, write.cipher, refuse)
            if write.change:
                _tell_change(write, results, rows)
            taken.append(results)
        insert_rows(cursor, ACCEPTANCES, 6, rows.acceptances)
        insert_rows(cursor, ITEMS, 7, rows.items)
        insert_rows(cursor, NAMED_ITEMS, 8, rows.named_items)
        insert_rows(cursor, NOTED_ITEMS, 9, rows.noted_items)
        insert_rows(cursor, ITEM_IDS, 5, rows.ids, ANEW)
        insert_rows(cursor, logins.ROWS, 2, rows.logins)
        records.insert(cursor, writes[0].marks, rows.records)
        return taken


@dataclass(slots=True)
class _Rows:
    """What will be inserted, as flat lists of values."""

    acceptances: list[Any]
    items: list[Any]
    named_items: list[Any]
    noted_items: list[Any]
    ids: list[Any]
    logins: list[int]
    records: list[tuple[int, str]]


def _reserve(cursor: Cursor, count: int) -> tuple[int, int]:
    """Take `count` sequence numbers; the first of them, and the number of the last erasure."""
    cursor.execute("UPDATE sequence SET last = last + ? RETURNING last, erasures", (count,))
    last, erasures = cursor.fetchone()
    return last - count + 1, erasures


def _known(cursor: Cursor, writes: Sequence[Accept], first: int) -> Known:
    """Which of the caller-given ids are remembered; `first` is the first sequence number that is
    not in use yet.
    """
    known: Known = {}
    made = set[MadeId]()
    for write in writes:
        app = write.acceptance.app
        given = [item.id for item in write.acceptance.items if item.id is not None]
        if given:
            cursor.execute(
                KNOWN + cursor.dialect.values("text"),
                (app, write.since, orjson.dumps(given).decode()),
            )
            known.update(
                ((app, item_id), (seq, digest)) for item_id, seq, digest in cursor.fetchall()
            )
            made.update(_perhaps_made_here(app, given, first))
    if made:
        known.update(_made_here(cursor, made, writes[0].cipher))
    return known


def _perhaps_made_here(app: str, given: Sequence[str], first: int) -> Iterator[MadeId]:
    """The ids that the gateway may have made. A UUIDv7 of somebody else's ends in 48 bits of
    chance, so it nearly always stands for a sequence number that was never given out, and nothing
    has to be looked up for it.
    """
    for item_id in given:
        parsed = ids.parse(item_id)
        if parsed is not None and parsed[1] < first:
            yield parsed[1], app, parsed[0]


def _made_here(cursor: Cursor, made: Set[MadeId], cipher: BodyCipher) -> Known:
    """What stands under ids that a caller sends again and that the gateway made the first time: one
    statement for all of a group.
    """
    known: Known = {}
    seqs = orjson.dumps([seq for seq, _, _ in made]).decode()
    cursor.execute(MADE_HERE.format(seqs=cursor.dialect.values("bigint")), (seqs,))
    for seq, app, prefix, action, subject, body in cursor.fetchall():
        if (seq, app, prefix) not in made:  # another's id that ends in a number of ours, by chance
            continue
        text = (
            None if body is None else cipher.decrypt(body, body_context(app, action, seq, subject))
        )
        # It can't be decrypted here: as if it were delivered
        if text is not None and text[:1] == ENCRYPTED_PREFIX:
            text = None
        known[app, ids.made(prefix, seq)] = (seq, cipher.digest(action, subject, _sorted(text)))
    return known


def _sorted(body: str | None) -> str:
    """The text that a body has under a caller's own id: the order of its keys is no part of the
    content.
    """
    return (
        NO_BODY
        if body is None
        else orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS).decode()
    )


def _take(
    acceptance: Acceptance,
    seq: int,
    known: Known,
    rows: _Rows,
    cipher: BodyCipher,
    refuse: ErasureCheck | None,
) -> tuple[list[Taken], int]:
    """Sort one call's items into new, duplicate, conflict and refused; collect the rows of the new
    ones.
    """
    first, prefix, app = seq, acceptance.prefix, acceptance.app
    new, taken, caller = rows.items, list[Taken](), ids.share(app, acceptance.key_id)
    encrypt = None if cipher.active_key_id is None else cipher.encryptor(len(acceptance.items))
    of_app = zlib.crc32(acceptance.app.encode())
    for item in acceptance.items:
        subject, action, body, item_id, notes, _ = item
        if refuse is not None and refuse(subject, action, body):
            taken.append((item_id or "", "erased"))
            continue
        if (
            item_id is not None
            and (kind := _recognise(item_id, item, acceptance, seq, known, rows, cipher))
            != "accepted"
        ):
            taken.append((item_id, kind))
            continue
        lane = zlib.crc32(subject.encode(), of_app)  # ids.lane, less what is the same for all
        stored = body if encrypt is None else encrypt(body, body_context(app, action, seq, subject))
        if notes is not None:
            rows.noted_items += (seq, first, subject, action, stored, lane, caller, item_id, notes)
        elif item_id is None:
            new += (seq, first, subject, action, stored, lane, caller)
        else:
            rows.named_items += (seq, first, subject, action, stored, lane, caller, item_id)
        if logins.MARK in body:
            rows.logins += logins.rows(app, body, subject, lane, seq)
        taken.append((item_id or f"{prefix}{seq:012x}", "accepted"))
        seq += 1
    if seq > first:
        rows.acceptances += (
            first,
            prefix,
            app,
            acceptance.key_id,
            acceptance.request_id,
            acceptance.accepted_at,
        )
    rows.records.append((acceptance.accepted_at, _record(acceptance, taken, seq - first)))
    return taken, seq


def _tell_change(write: Accept, taken: Sequence[Taken], rows: "_Rows") -> None:
    """Let the record of a call say which change of erasures it makes, where it makes one."""
    items = zip(write.acceptance.items, taken, strict=True)
    if any(item.action == ERASES and kind == "accepted" for item, (_, kind) in items):
        time, text = rows.records[-1]
        rows.records[-1] = time, records.detailed(text, detail_of(ERASED, write.change))


def _recognise(
    item_id: str,
    item: NewItem,
    acceptance: Acceptance,
    seq: int,
    known: Known,
    rows: _Rows,
    cipher: BodyCipher,
) -> Kind:
    """Whether a caller-given id is new; a new one is remembered from now on."""
    key = (acceptance.app, item_id)
    content = cipher.digest(item.action, item.subject, _content(item))
    if (earlier := known.get(key)) is not None:
        same = earlier[1] == content or earlier[1] in _otherwise(item, acceptance.app, cipher)
        return "duplicate" if same else "conflict"
    known[key] = (seq, content)
    rows.ids += (acceptance.app, item_id, seq, content, acceptance.accepted_at)
    return "accepted"


def _otherwise(item: NewItem, app: str, cipher: BodyCipher) -> Iterator[bytes]:
    """How else the same content may be remembered: without its body, since it was delivered;
    without its subject, since that was erased by it; unkeyed, by a gateway of before.
    """
    yield cipher.digest(item.action, item.subject, NO_BODY)
    yield cipher.digest(item.action, alias_of(cipher, app, item.subject), NO_BODY)
    yield ids.digest(item.action, item.subject, _content(item))


def _content(item: NewItem) -> str:
    """What a repeat says again."""
    return item.body if item.content is None else item.content


def _record(acceptance: Acceptance, taken: Sequence[Taken], new: int) -> str:
    duplicates = sum(kind == "duplicate" for _, kind in taken) if new < len(taken) else 0
    details = {
        **records.counts(new, duplicates, acceptance.refused + len(taken) - new - duplicates),
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
        status=_status(acceptance.batch, taken, new, duplicates),
        details=details,
    )


def _status(batch: bool, taken: Sequence[Taken], new: int, duplicates: int) -> int:
    """What is answered (contract §4)."""
    if batch:
        return 202 if new or duplicates else 422
    return (
        202
        if new
        else 200
        if duplicates
        else 403
        if [kind for _, kind in taken] == ["erased"]
        else 409
    )
