"""Who was erased: whose items are refused for a while. A keyed hash of each is kept, and in memory
as well: it is read anew only where the database's number of the last erasure is another one than it
was at the last reading.

Leanplum takes a device's id for that of its user where it is told no other, so one id is erased as
both.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from app.database.dialect import Cursor
from app.encryption import BodyCipher
from app.model import ERASES
from app.outbox import logins
from app.outbox.logins import named

USER, DEVICE = "u", "d"
VERSION = "SELECT erasures FROM sequence"
NAMELESS = "Leanplum's text named the user, who was erased."
ALL = "SELECT alias, until FROM erasures"
# The lane is a hash without a key: whoever has a list of ids could tell by it who was erased.
ANONYMOUS = "UPDATE items SET subject = ?, lane = 0 WHERE seq = ?"


class ActiveErasures:
    """The erasures that are in force. Times are milliseconds since the epoch.

    `least_now`: the time that has come for certain, however the clock was set.
    """

    def __init__(
        self, cipher: BodyCipher, least_now: Callable[[], float] = lambda: math.inf
    ) -> None:
        self._cipher, self._least_now = cipher, least_now
        # Of which erasure, until when each is refused
        self._read: tuple[int, Mapping[bytes, int]] = (-1, {})

    def refuse(
        self, cursor: Cursor, version: int, app: str, now: int, *, erasing: bool = False
    ) -> "ErasureCheck | None":
        """What tells which items of a call are refused; None where none is. `version` is the
        database's number of the last erasure, read in the transaction that is open.
        """
        if version != self._read[0]:
            cursor.execute(ALL)
            self._read = version, {bytes(alias): until for alias, until in cursor.fetchall()}
        until = self._read[1]
        return (
            ErasureCheck(self._cipher.aliases(app), until, self._now(now))
            if erasing or until
            else None
        )

    def look(self, connection: Connection) -> None:
        """Bring the memory up to date."""
        version = connection.exec_driver_sql(VERSION).scalar_one()
        if version != self._read[0]:
            found = connection.exec_driver_sql(ALL)
            self._read = version, {bytes(alias): until for alias, until in found}

    def has(self, app: str, subject: str, now: int) -> bool:
        """Whether the subject's items are refused, as far as the memory knows."""
        has = self.tells(app, now)
        return has is not None and has(subject)

    def tells(self, app: str, now: int) -> Callable[[str], bool] | None:
        """Return a function that tells `has` of many subjects; None where nobody is refused."""
        until = self._read[1]
        return ErasureCheck(self._cipher.aliases(app), until, self._now(now)).has if until else None

    def _now(self, now: int) -> float:
        """The time that erasures end by."""
        return min(now, self._least_now())


class ErasureCheck:
    """Tells the items of one call, in their order: what follows a subject's erasure in the same
    call is refused too.
    """

    def __init__(
        self, alias: Callable[[str], bytes], until: Mapping[bytes, int], now: float
    ) -> None:
        self._alias, self._until, self._now = alias, until, now
        self._here = set[str]()

    def __call__(self, subject: str, action: str, body: str = "") -> bool:
        """Whether this item is refused: it is about somebody who was erased, or would make them
        anew.
        """
        if action == ERASES:
            self._here.add(as_user(subject))
            return False
        return self.has(subject) or any(map(self.has, named(body)))

    def has(self, subject: str) -> bool:
        """Whether a subject was erased: as a user, as a device, or in this call."""
        user = as_user(subject)
        if self._is_in_force(user) or user in self._here:
            return True
        # A gateway of before kept a device's own
        return user != subject and self._is_in_force(subject)

    def _is_in_force(self, subject: str) -> bool:
        return self._until.get(self._alias(subject), 0) > self._now


def as_user(subject: str) -> str:
    """Return the user that an id is, whether it was given as a user's or as a device's."""
    return subject if subject[:1] == USER else f"{USER}{subject[1:]}"


def both(subject: str) -> tuple[str, str]:
    """Return a subject, and the other one that its id may be."""
    user = as_user(subject)
    return (subject, f"{DEVICE}{subject[1:]}") if user == subject else (subject, user)


def nameless(said: Any, name: str) -> Any:
    """Return what Leanplum said, less each text in which an id stands."""
    if isinstance(said, str):
        return NAMELESS if name.casefold() in said.casefold() else said
    if isinstance(said, dict):
        return {key: nameless(inner, name) for key, inner in said.items()}
    if isinstance(said, list):
        return [nameless(inner, name) for inner in said]
    return said


def alias_of(cipher: BodyCipher, app: str, subject: str) -> str:
    """What stands for the subject in the receipt of its erasure, once that is done."""
    return "e" + cipher.alias(app, subject).hex()


def end(cursor: Cursor, cipher: BodyCipher, app: str, seq: int, subject: str) -> None:
    """Let nothing that is left of a deletion tell whom it was of, once it is done or given up."""
    cursor.execute(ANONYMOUS, (alias_of(cipher, app, subject), seq))
    for one in both(subject):
        logins.forget(cursor, app, one)
