"""Erasure: a deletion is accepted and the subject's items are removed in one transaction.

Items in a deliverer's memory are refused when they are about to be sent (`settle.Begin`). An item
that is being sent is finished; Leanplum gets the deletion afterwards, since both are in one lane.
An id is erased as a user's and as a device's; the deletion joins the two lanes (`logins.join`).
Other users' items that name the subject as `newUserId` are delivered before the deletion, or never
(`logins.erase`).
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson
from sqlalchemy import Connection

from app.audit.row_macs import ERASED, ERASURES, RowSelection
from app.database.driver import DIALECTS, Cursor
from app.model import ERASES, Removed, Taken
from app.outbox import logins
from app.outbox.accept import Accept
from app.outbox.erased_subjects import as_user, both_subjects
from app.outbox.retention import remove

LOOK = """
SELECT i.subject, i.seq FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
WHERE a.app = ? AND i.subject IN {subjects}
"""
# What was found before, and what was accepted since; never what erases and is not done yet.
REST = """
SELECT i.seq, i.settled_at, CASE WHEN i.body IS NULL THEN 0 ELSE 1 END, i.action
FROM items i JOIN acceptances a ON a.first_seq = i.acceptance
WHERE i.subject = ? AND a.app = ? AND {which}
"""
ATTEMPTS = "SELECT items FROM attempts"
REFUSE = """
INSERT INTO erasures (alias, app, erased_at, until) VALUES (?, ?, ?, ?)
ON CONFLICT (alias) DO UPDATE SET erased_at = excluded.erased_at, until = excluded.until
"""


class Stored(NamedTuple):
    """The columns of a stored item that an erasure needs."""

    seq: int
    settled_at: int | None
    has_body: int
    action: str

    @property
    def erases(self) -> bool:
        """True if the item is an erasure that is not finished."""
        return self.action == ERASES and self.settled_at is None


@dataclass(frozen=True, slots=True)
class Known:
    """The sequence numbers of the subjects' items, up to a number."""

    upto: int
    seqs: Mapping[str, Sequence[int]]


def look(connection: Connection, app: str, subjects: Sequence[str]) -> Known:
    """Find all items of the subjects, before the transaction.

    The transaction then only has to look at newer ones. No index finds them: it would cost
    something for each accepted item.
    """
    dialect = DIALECTS[connection.dialect.name]
    upto = connection.exec_driver_sql("SELECT last FROM sequence").scalar_one()
    statement = dialect.sql(LOOK.format(subjects=dialect.values("text")))
    seqs: dict[str, list[int]] = {}
    for subject, seq in connection.exec_driver_sql(statement, (app, _text(subjects))):
        seqs.setdefault(subject, []).append(seq)
    return Known(upto, seqs)


@dataclass(frozen=True, slots=True)
class Erase:
    """The write that accepts items of which some erase their subjects.

    `until`: when items of the subjects are accepted again.
    """

    accept: Accept
    known: Known
    until: int

    @property
    def rows(self) -> int:
        """The number of rows written; counts against `GROUP_LIMIT`."""
        return self.accept.rows + sum(map(len, self.known.seqs.values()))

    @classmethod
    def run_all(
        cls, cursor: Cursor, writes: Sequence["Erase"]
    ) -> Sequence[tuple[list[Taken], dict[str, Removed]]]:
        """Return for each write the decisions on its items, and what was removed by subject."""
        return [write._run(cursor) for write in writes]

    def _run(self, cursor: Cursor) -> tuple[list[Taken], dict[str, Removed]]:
        if self.until > self.accept.acceptance.accepted_at:
            self.accept.change = self.accept.macs.rows.next_version(cursor, ERASED)
        (taken,) = Accept.run_all(cursor, [self.accept])
        told = zip(self.accept.acceptance.items, taken, strict=True)
        erased = {
            item.subject for item, (_, kind) in told if item.action == ERASES and kind == "accepted"
        }
        removed = {subject: self._erase(cursor, subject) for subject in sorted(erased)}
        if removed:  # whoever has them in memory, in every process, reads them anew
            cursor.execute("UPDATE sequence SET erasures = ?", (secrets.randbits(62),))
        return taken, removed

    def _erase(self, cursor: Cursor, subject: str) -> Removed:
        acceptance, subjects = self.accept.acceptance, both_subjects(subject)
        found_of = [self._stored(cursor, each) for each in subjects]
        found = [one for each in found_of for one in each]
        erasing = [one.seq for one in found if one.erases]
        gone = [one for one in found if not one.erases and one.seq < max(erasing)]
        flying = _in_flight(cursor, {one.seq for one in gone})
        ids = remove(cursor, [one.seq for one in gone])
        app, cipher = acceptance.app, self.accept.cipher
        named = sum(logins.erase(cursor, cipher, app, each, max(erasing)) for each in subjects)
        for each, other in zip(found_of, reversed(subjects), strict=True):
            logins.join(cursor, app, other, [one.seq for one in each if one.erases])
        if self.until > acceptance.accepted_at:
            alias = cipher.alias(app, as_user(subject))
            row = (alias, app, acceptance.accepted_at, self.until)
            with self.accept.macs.rows.updating(
                cursor, RowSelection(ERASURES, "alias = ?", (alias,))
            ):
                cursor.execute(REFUSE, row)
        waiting = sum(one.settled_at is None for one in gone)
        dead = sum(one.settled_at is not None and one.has_body for one in gone)
        return Removed(waiting - flying, flying, dead + named, len(gone) - waiting - dead, ids)

    def _stored(self, cursor: Cursor, subject: str) -> list[Stored]:
        of, numbers = (subject, self.accept.acceptance.app), cursor.dialect.values("bigint")
        cursor.execute(
            REST.format(which=f"i.seq IN {numbers}"), (*of, _text(self.known.seqs.get(subject, ())))
        )
        found = cursor.fetchall()
        cursor.execute(REST.format(which="i.seq > ?"), (*of, self.known.upto))
        return [Stored(*row) for row in [*found, *cursor.fetchall()]]


def _in_flight(cursor: Cursor, gone: set[int]) -> int:
    """Return how many of the items are being sent."""
    cursor.execute(ATTEMPTS)
    return sum(len(gone.intersection(orjson.loads(sent))) for (sent,) in cursor.fetchall())


def _text(values: Sequence[object]) -> str:
    return orjson.dumps(list(values)).decode()
