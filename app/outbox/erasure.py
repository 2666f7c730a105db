"""Erasure: the items of an erased subject are removed, and new ones are refused for a while.

A deletion is accepted and the subject's items are removed in one transaction (`accept.Erase`).
Items in a deliverer's memory are refused when they are about to be sent (`settle.Begin`). An item
that is being sent is finished; Leanplum gets the deletion afterwards, since both are in one lane.
Other users' items that name the subject as `newUserId` are delivered before the deletion, or never
(`logins.erase`).

Leanplum uses a device's id as the user's id where it gets no other. So an id is erased both as a
user's and as a device's; the deletion joins the two lanes (`logins.join`).

The database keeps a keyed hash of each erased subject. A copy in memory is read again only when the
database's erasure version differs from the version of the copy.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection

from app import ids
from app.audit.row_macs import ERASURES, RowMacs, RowSelection
from app.clock import instant
from app.database.driver import DIALECTS, Cursor
from app.encryption import BodyCipher
from app.errors import Erased
from app.model import ERASES, NewItem, Removed
from app.outbox import logins, retention, run_choices, search_index

USER, DEVICE = "u", "d"
SELECT_VERSION = "SELECT erasures FROM sequence"
SELECT_ERASURES = "SELECT alias, until FROM erasures"
UPSERT_ERASURE = """
INSERT INTO erasures (alias, app, erased_at, until) VALUES (?, ?, ?, ?)
ON CONFLICT (alias) DO UPDATE SET erased_at = excluded.erased_at, until = excluded.until
"""
REDACTED = "Leanplum's text named the user, who was erased."
# The lane goes too: it is a hash without a key, so a list of ids would tell whose it is.
ANONYMIZE = "UPDATE items SET subject = ?, lane = 0, event = NULL, earlier = NULL WHERE seq = ?"
SELECT_SEQS = """
SELECT i.subject, i.seq FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
WHERE {which} AND a.app = ? AND i.subject IN {subjects}
"""
SELECT_STORED = """
SELECT i.seq, i.settled_at, CASE WHEN i.body IS NULL THEN 0 ELSE 1 END, i.action
FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
WHERE i.subject = ? AND a.app = ? AND {which}
"""
SELECT_IN_FLIGHT = "SELECT items FROM attempts"


class ActiveErasures:
    """The erasures in force, as a copy in memory. Times are milliseconds since the epoch.

    `least_now` returns the earliest time that it can be, however the clock was set.
    """

    def __init__(
        self, cipher: BodyCipher, least_now: Callable[[], float] = lambda: math.inf
    ) -> None:
        self._cipher, self._least_now = cipher, least_now
        self.version = -1  # of the database when the copy was read
        self.ends_by_alias: Mapping[bytes, int] = {}

    def check(
        self, cursor: Cursor, version: int, app: str, now: int, *, erasing: bool = False
    ) -> "ErasureCheck | None":
        """Return the check of one call's items; None if no item can be refused.

        `version` is the database's erasure version, read in the open transaction. `erasing`: the
        call's own erasures count.
        """
        if version != self.version:
            cursor.execute(SELECT_ERASURES)
            self._keep(version, cursor.fetchall())
        if erasing or self.ends_by_alias:
            return self._make_check(app, now)
        return None

    def refresh(self, connection: Connection) -> None:
        """Read the erasures again if the database has other ones."""
        version = connection.exec_driver_sql(SELECT_VERSION).scalar_one()
        if version != self.version:
            rows = connection.exec_driver_sql(SELECT_ERASURES)
            self._keep(version, [(alias, until) for alias, until in rows])

    def find_ends(self, app: str, subjects: Iterable[str], now: int) -> dict[str, int]:
        """Return the ends of subjects' erasures, by subject, according to the copy in memory.

        Subjects that are not erased are left out.
        """
        check = self._make_check(app, now)
        ends = {subject: check.find_end(subject) for subject in subjects}
        return {subject: end for subject, end in ends.items() if end is not None}

    def end_finder(self, app: str, now: int) -> Callable[[str], int | None] | None:
        """Return a function that finds the end of a subject's erasure; None if nobody is erased."""
        return self._make_check(app, now).find_end if self.ends_by_alias else None

    def _keep(self, version: int, rows: Iterable[tuple[bytes, int]]) -> None:
        self.ends_by_alias = {bytes(alias): until for alias, until in rows}
        self.version = version

    def _make_check(self, app: str, now: int) -> "ErasureCheck":
        ends_at = min(now, self._least_now())
        return ErasureCheck(self._cipher.aliases(app), self.ends_by_alias, ends_at)


class ErasureCheck:
    """The check of one call's items, in their order.

    Items after an erasure in the same call are refused too.
    """

    def __init__(
        self, alias: Callable[[str], bytes], ends_by_alias: Mapping[bytes, int], now: float
    ) -> None:
        self._alias, self._ends_by_alias, self._now = alias, ends_by_alias, now
        self._erased_by_call = set[str]()

    def refuses(self, subject: str, action: str, body: str = "") -> bool:
        """Return whether an item is of an erased subject, or would create one again."""
        if action == ERASES:
            self._erased_by_call.add(as_user(subject))
            return False
        return self.has(subject) or any(map(self.has, logins.named(body)))

    def has(self, subject: str) -> bool:
        """Return whether a subject is erased, as a user, as a device or by this call."""
        return self.find_end(subject) is not None or as_user(subject) in self._erased_by_call

    def find_end(self, subject: str) -> int | None:
        """Return until when items of an erased subject are refused; None if it is not erased.

        An erasure by this call is not stored yet, and not found.
        """
        end = self._ends_by_alias.get(self._alias(as_user(subject)), 0)
        return end if end > self._now else None


def refusal(ends: Iterable[int | None]) -> Erased:
    """Return the error for a call that names erased subjects, which names the last of the ends."""
    latest = max((end for end in ends if end is not None), default=None)
    return Erased(None if latest is None else instant(latest))


def subjects_of(item: NewItem) -> tuple[str, ...]:
    """Return the subjects for whose erasure an item is refused."""
    return item.subject, *logins.named(item.body)


def as_user(subject: str) -> str:
    """Return the subject that an id is as a user's, also if it was given as a device's."""
    return subject if subject[:1] == USER else f"{USER}{subject[1:]}"


def both_subjects(subject: str) -> tuple[str, str]:
    """Return a subject, and the subject of the other kind that has its id."""
    other_kind = DEVICE if subject[:1] == USER else USER
    return subject, f"{other_kind}{subject[1:]}"


def redact(said: Any, name: str) -> Any:
    """Return a copy of Leanplum's answer without the texts that contain an id."""
    if isinstance(said, str):
        return REDACTED if name.casefold() in said.casefold() else said
    if isinstance(said, dict):
        return {key: redact(inner, name) for key, inner in said.items()}
    if isinstance(said, list):
        return [redact(inner, name) for inner in said]
    return said


def alias_of(cipher: BodyCipher, app: str, subject: str) -> str:
    """Return the text that replaces a subject in the receipt of its erasure."""
    return "e" + cipher.alias(app, subject).hex()


def anonymize(cursor: Cursor, cipher: BodyCipher, app: str, seq: int, subject: str) -> None:
    """Remove the subject from a deletion that was delivered or given up."""
    cursor.execute(ANONYMIZE, (alias_of(cipher, app, subject), seq))
    search_index.forget_item(cursor, app, subject, seq)
    for each_subject in both_subjects(subject):
        logins.forget(cursor, app, each_subject)


@dataclass(frozen=True, slots=True)
class SubjectItems:
    """The sequence numbers of subjects' items, by subject, up to the number `upto`."""

    upto: int
    seqs: Mapping[str, Sequence[int]]


def find_items(connection: Connection, app: str, subjects: Sequence[str]) -> SubjectItems:
    """Find all items of the subjects, before the transaction that erases them.

    The transaction then only has to look at newer ones. The search index has those of its blocks;
    the items after them are read one by one.
    """
    dialect = DIALECTS[connection.dialect.name]
    upto = connection.exec_driver_sql("SELECT last FROM sequence").scalar_one()
    lanes = {ids.lane(app, subject) for subject in subjects}
    indexed = search_index.find_all(connection, lanes)
    numbers, texts = dialect.values("bigint"), dialect.values("text")
    seqs: dict[str, list[int]] = {}
    for which, value in ((f"i.seq IN {numbers}", _text(indexed.seqs)), ("i.seq >= ?", indexed.end)):
        statement = dialect.sql(SELECT_SEQS.format(which=which, subjects=texts))
        found = connection.exec_driver_sql(statement, (value, app, _text(subjects)))
        for subject, seq in found:
            seqs.setdefault(subject, []).append(seq)
    return SubjectItems(upto, seqs)


class _StoredItem(NamedTuple):
    """An item of an erased subject, in the column order of SELECT_STORED."""

    seq: int
    settled_at: int | None
    has_body: int
    action: str

    @property
    def is_open_deletion(self) -> bool:
        """True if the item is a deletion that is not finished."""
        return self.action == ERASES and self.settled_at is None


def remove_items(
    cursor: Cursor, cipher: BodyCipher, app: str, subject: str, found: SubjectItems
) -> Removed:
    """Remove a subject's items that precede its newest open deletion, which stays.

    `found` has the items that were found before the transaction; newer ones are read here.
    """
    subjects = both_subjects(subject)
    stored_by_subject = {each: _read_stored(cursor, app, each, found) for each in subjects}
    stored = [item for items in stored_by_subject.values() for item in items]
    last_deletion = max(item.seq for item in stored if item.is_open_deletion)
    removed = [item for item in stored if not item.is_open_deletion and item.seq < last_deletion]
    in_flight = _count_in_flight(cursor, {item.seq for item in removed})
    id_count = retention.remove(cursor, [item.seq for item in removed])
    search_index.forget_subjects(cursor, app, subjects)
    run_choices.forget_subjects(cursor, app, subjects)
    dead_logins = 0
    for each in subjects:
        dead_logins += logins.erase(cursor, cipher, app, each, last_deletion)
    for each, other in zip(subjects, reversed(subjects), strict=True):
        deletions = [item.seq for item in stored_by_subject[each] if item.is_open_deletion]
        logins.join(cursor, app, other, deletions)
    waiting = sum(item.settled_at is None for item in removed)
    dead = sum(item.settled_at is not None and item.has_body for item in removed)
    return Removed(
        waiting=waiting - in_flight,
        in_flight=in_flight,
        dead_letters=dead + dead_logins,
        receipts=len(removed) - waiting - dead,
        ids=id_count,
    )


def _read_stored(cursor: Cursor, app: str, subject: str, found: SubjectItems) -> list[_StoredItem]:
    """Read the items that were found before, and those that were accepted since."""
    numbers = cursor.dialect.values("bigint")
    seqs = _text(found.seqs.get(subject, ()))
    cursor.execute(SELECT_STORED.format(which=f"i.seq IN {numbers}"), (subject, app, seqs))
    rows = cursor.fetchall()
    cursor.execute(SELECT_STORED.format(which="i.seq > ?"), (subject, app, found.upto))
    return [_StoredItem(*row) for row in [*rows, *cursor.fetchall()]]


def _count_in_flight(cursor: Cursor, seqs: set[int]) -> int:
    """Return how many of the items are being sent."""
    cursor.execute(SELECT_IN_FLIGHT)
    return sum(len(seqs.intersection(orjson.loads(sent))) for (sent,) in cursor.fetchall())


def refuse_new_items(
    cursor: Cursor, macs: RowMacs, app: str, alias: bytes, *, erased_at: int, until: int
) -> None:
    """Refuse new items of the subject with this alias until a time (milliseconds)."""
    with macs.updating(cursor, RowSelection(ERASURES, "alias = ?", (alias,))):
        cursor.execute(UPSERT_ERASURE, (alias, app, erased_at, until))


def _text(values: Sequence[object]) -> str:
    return orjson.dumps(list(values)).decode()
