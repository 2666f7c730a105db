"""The erasures in force: items of erased subjects are refused for a while.

The database keeps a keyed hash of each erased subject. A copy in memory is read again only when the
database's erasure version differs from the version of the copy.

Leanplum uses a device's id as the user's id where it gets no other. So an id is erased both as a
user's and as a device's.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection

from app.database.driver import Cursor
from app.encryption import BodyCipher
from app.model import ERASES
from app.outbox import logins
from app.outbox.logins import named

USER, DEVICE = "u", "d"
SELECT_VERSION = "SELECT erasures FROM sequence"
SELECT_ERASURES = "SELECT alias, until FROM erasures"
REDACTED = "Leanplum's text named the user, who was erased."
# The lane goes too: it is a hash without a key, so a list of ids would tell whose it is.
ANONYMIZE = "UPDATE items SET subject = ?, lane = 0 WHERE seq = ?"


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

    def has(self, app: str, subject: str, now: int) -> bool:
        """Return whether a subject is erased, according to the copy in memory."""
        return self._make_check(app, now).has(subject)

    def predicate(self, app: str, now: int) -> Callable[[str], bool] | None:
        """Return a function that tells whether a subject is erased; None if nobody is."""
        return self._make_check(app, now).has if self.ends_by_alias else None

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
        return self.has(subject) or any(map(self.has, named(body)))

    def has(self, subject: str) -> bool:
        """Return whether a subject is erased, as a user, as a device or by this call."""
        user = as_user(subject)
        ends_at = self._ends_by_alias.get(self._alias(user), 0)
        return ends_at > self._now or user in self._erased_by_call


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
    for each_subject in both_subjects(subject):
        logins.forget(cursor, app, each_subject)
