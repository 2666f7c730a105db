"""The store of caller keys.

Of a key itself only a hash and the last four characters are stored.
"""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

import orjson
from sqlalchemy import Engine

from app.audit import records
from app.audit.row_macs import CALLER_KEYS, CALLER_SECRETS, RowSelection, SetChange
from app.callers import key_format
from app.clock import now_ms
from app.database.driver import Cursor
from app.database.engine import dialect, reading, transaction
from app.errors import NotFound, Refusal
from app.model import Caller, Scope

ALL_SCOPES = frozenset(Scope)
SHOWN_SECONDS = 600.0  # how long a rotation that is asked for again shows the same key
MOST_SHOWN = 1_000
# Keys that a rotation has ended: a late repeat of it must not cut off those who have a newer one,
# and the audit names whose it was.
ENDED_KEPT_MS = 30 * 86_400_000
Standing = Literal["usable", "ended", "unknown"]
# The audit record of a change: of which key (its id), when (ms), and what it was.
ChangeRecord = Callable[[str, int, Mapping[str, Any]], str]

# Each change has a number of its own. Transactions that write take turns, so the numbers are in the
# order of commits.
NEXT = "(SELECT coalesce(max(changed), 0) + 1 FROM caller_keys)"
NEWEST = "SELECT coalesce(max(changed), 0) FROM caller_keys"
INSERT = f"""
INSERT INTO caller_keys (id, name, scopes, apps, rate_per_second, rate_burst, created_at,
    expires_at, changed)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, {NEXT})
"""
CHANGE = f"""
UPDATE caller_keys SET name = ?, scopes = ?, apps = ?, rate_per_second = ?, rate_burst = ?,
    expires_at = ?, changed = {NEXT}
WHERE id = ?
"""
TOUCH = f"UPDATE caller_keys SET changed = {NEXT} WHERE id = ?"
ADD = """
INSERT INTO caller_secrets (hash, key_id, last_four, created_at, rotation) VALUES (?, ?, ?, ?, ?)
"""
OVERLAP = """
UPDATE caller_secrets SET expires_at = ?
WHERE key_id = ? AND (expires_at IS NULL OR expires_at > ?)
"""
FORGET = "DELETE FROM caller_secrets WHERE expires_at <= ?"
REVOKE = (
    f"UPDATE caller_keys SET revoked_at = ?, changed = {NEXT} WHERE id = ? AND revoked_at IS NULL"
)
KEYS = """
SELECT id, name, scopes, apps, rate_per_second, rate_burst, created_at, expires_at, revoked_at,
    last_used_at
FROM caller_keys
"""
LIVING = "caller_secrets WHERE (expires_at IS NULL OR expires_at > ?)"
SECRETS = f"SELECT key_id, hash, last_four, expires_at, rotation FROM {LIVING}"
# The LIMIT makes PostgreSQL's planner use the index on `changed` even if its statistics are stale.
# The query for the secrets of one key uses its index in any case.
CHANGED = f"{KEYS} WHERE changed > ? ORDER BY changed LIMIT ?"
HASHES = "SELECT key_id, hash, last_four, expires_at, rotation FROM caller_secrets"
FEW = 100  # changed keys that are read one by one; where there are more, all are read at once
PAGE = 1_001  # what a page of the API needs: one more than it shows
BEFORE_ALL = (-(2**63), "")
CREATED_AT = 6  # its place in `KEYS`
STANDING = """
SELECT k.revoked_at, k.expires_at, s.expires_at
FROM caller_secrets s JOIN caller_keys k ON k.id = s.key_id
WHERE s.hash = ?
"""


CALLER = {
    "name": "name",
    "scopes": "scopes",
    "apps": "apps",
    "rate_per_second": "ratePerSecond",
    "rate_burst": "rateBurst",
}
# Whether a change may be made of a key as it is then; raises what is to be said where it may not.
Guard = Callable[["StoredKey"], None]
WORDS = {**CALLER, "expires_at": "expiresAtMs"}  # what a key may be given, in the words of the API


class Keep(Enum):
    """Marker for a value that stays as it is, where None is a value of its own."""

    KEEP = "keep"


KEEP = Keep.KEEP


@dataclass(frozen=True, slots=True)
class Secret:
    """One key that works for a caller, as it is kept: two of them while a rotation overlaps."""

    hash: bytes
    last_four: str
    expires_at: int | None = None
    rotation: bytes | None = None  # what tells a rotation that is asked for again


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A caller's key as it is stored, with its secrets, newest first.

    Times are milliseconds since the epoch.
    """

    caller: Caller
    secrets: tuple[Secret, ...]
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None

    def usable(self, now: int) -> bool:
        """Return whether the key may be used at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def last_four(self) -> str:
        """The last four characters of the newest secret."""
        return self.secrets[0].last_four


def by_operator(act: str) -> ChangeRecord:
    """Return the function that composes the audit record of an operator's command."""
    return lambda key_id, now, what: records.administrative_act(
        time=now, act=act, subject=key_id, details=what
    )


def _told(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the new values of a key, as the audit names them."""
    return {
        WORDS[name]: sorted(value) if isinstance(value, frozenset) else value
        for name, value in fields.items()
        if value is not KEEP
    }


def _anybody(stored: StoredKey) -> None:
    """Let every key be changed: commands may."""


class KeyStore:
    """Reads and writes keys.

    Changes are rare and made by people, so each is a transaction of its own. `guard` checks the key
    within that transaction.
    """

    def __init__(self, engine: Engine, macs: records.AuditMacs) -> None:
        self._engine, self._macs = engine, macs
        # In memory alone
        self._shown: OrderedDict[tuple[str, bytes], tuple[float, str]] = OrderedDict()

    def create(
        self,
        name: str,
        scopes: Iterable[Scope],
        apps: Iterable[str] | None,
        now: int,
        *,
        expires_at: int | None = None,
        key: str | None = None,
        rate_per_second: int | None = None,
        rate_burst: int | None = None,
        record: ChangeRecord | None = None,
    ) -> tuple[str, StoredKey]:
        """Store a key, a new one or `key`, and return it, for the only time, with its record.

        `apps` are those that the key is for; None means every app. Raises Refusal where `key` does
        not have the form of a caller key, or is one already.
        """
        of = None if apps is None else frozenset(apps)
        caller = Caller(
            "key_" + secrets.token_hex(8), name, frozenset(scopes), of, rate_per_second, rate_burst
        )
        with transaction(self._engine) as cursor:
            return self._create(
                cursor, caller, now, expires_at, key, record or by_operator("key.create")
            )

    def _create(
        self,
        cursor: Cursor,
        caller: Caller,
        now: int,
        expires_at: int | None,
        key: str | None,
        record: ChangeRecord,
    ) -> tuple[str, StoredKey]:
        told = key or key_format.make()
        if not key_format.well_formed(told):
            raise Refusal(key_format.MALFORMED)
        cursor.execute("SELECT 1 FROM caller_secrets WHERE hash = ?", (key_format.digest(told),))
        if cursor.fetchone():
            raise Refusal("the key is a caller's already")
        stored = StoredKey(caller, (Secret(key_format.digest(told), told[-4:]),), now, expires_at)
        with self._changing(cursor, caller.key_id) as noted:
            cursor.execute(INSERT, (caller.key_id, *_values(caller), now, expires_at))
            _add_secret(cursor, caller.key_id, stored.secrets[0], now)
        given = _told(
            {**{name: getattr(caller, name) for name in CALLER}, "expires_at": expires_at}
        )
        self._record(cursor, now, record(caller.key_id, now, given), noted)
        return told, stored

    def _changing(
        self, cursor: Cursor, key_id: str, ended: int | None = None
    ) -> AbstractContextManager[SetChange]:
        """Update the MACs of a key's rows after the rows change in the context.

        With `ended` (ms), the rows of secrets that had ended by then are included.
        """
        selections = [
            RowSelection(CALLER_KEYS, "id = ?", (key_id,)),
            RowSelection(CALLER_SECRETS, "key_id = ?", (key_id,)),
        ]
        if ended is not None:
            selections.append(RowSelection(CALLER_SECRETS, "expires_at <= ?", (ended,)))
        return self._macs.rows.updating(cursor, *selections)

    def _record(self, cursor: Cursor, now: int, text: str, noted: SetChange) -> None:
        records.insert(cursor, self._macs, [(now, records.add_detail(text, noted.detail))])

    def bootstrap(self, key: str, now: int) -> StoredKey | None:
        """Store the operator's own first key, with every scope for every app.

        Stores nothing and returns None when there is a key already.
        """
        caller = Caller("key_" + secrets.token_hex(8), "bootstrap", ALL_SCOPES)
        with transaction(self._engine) as cursor:
            cursor.execute("SELECT 1 FROM caller_keys LIMIT 1")
            if cursor.fetchone():
                return None
            return self._create(cursor, caller, now, None, key, by_operator("key.create"))[1]

    def standing(self, key: str, now: int) -> Standing:
        """Return whether a key is usable, has ended (revoked, rotated, expired), or is unknown."""
        with _reading(self._engine) as cursor:
            cursor.execute(STANDING, (key_format.digest(key),))
            row = cursor.fetchone()
        if row is None:
            return "unknown"
        revoked_at, *expiries = row
        ended = revoked_at is not None or any(
            expiry is not None and expiry <= now for expiry in expiries
        )
        return "ended" if ended else "usable"

    def all(self) -> list[StoredKey]:
        """Return every key, as `every_key` does."""
        return every_key(self._engine)

    def page(
        self,
        after: tuple[int, str] | None,
        limit: int,
        sees: Callable[[StoredKey], bool] = lambda stored: True,
    ) -> list[StoredKey]:
        """Return up to `limit` keys for which `sees` is true, oldest first, revoked ones included.

        `after` is the creation time and the id of the last key of the previous page.
        """
        found = list[StoredKey]()
        at: tuple[int, str] | None = BEFORE_ALL if after is None else after
        with _reading(self._engine) as cursor:
            while at is not None and len(found) < limit:
                page, at = _page(cursor, at)
                found += filter(sees, page)
        return found[:limit]

    def newest_change(self) -> int:
        """Return the number of the last change of any key; 0 where there was none."""
        with _reading(self._engine) as cursor:
            cursor.execute(NEWEST)
            return int(cursor.fetchone()[0])

    def changed(self, after: int) -> list[StoredKey]:
        """Return the keys whose last change has a greater number than `after`, or all keys.

        Revoked keys and ended secrets are included.
        """
        with _reading(self._engine) as cursor:
            cursor.execute(CHANGED, (after, FEW))
            rows = cursor.fetchall()
            if len(rows) < FEW:
                return list(_with_secrets(cursor, rows))
            # Secrets first, as in `_read`.
            cursor.execute(f"{HASHES} ORDER BY created_at DESC")
            of = _by_key(cursor.fetchall())
            cursor.execute(KEYS)
            return [_stored(row, of[row[0]]) for row in cursor.fetchall() if row[0] in of]

    def get(self, key_id: str) -> StoredKey:
        """Return one key. Raises NotFound."""
        with _reading(self._engine) as cursor:
            return _one(cursor, key_id)

    def change(
        self,
        key_id: str,
        now: int,
        changes: Mapping[str, Any],
        record: ChangeRecord | None = None,
        expires_at: int | Keep | None = KEEP,
        *,
        guard: Guard = _anybody,
    ) -> StoredKey:
        """Replace fields of the caller and the expiry of the key (KEEP: leave it as it is).

        Raises NotFound for a key that is unknown or revoked.
        """
        with transaction(self._engine) as cursor:
            stored = _in_use(cursor, key_id, guard)  # read while nobody else can change it
            caller = replace(stored.caller, **changes)
            given, expires_at = expires_at, stored.expires_at if expires_at is KEEP else expires_at
            with self._changing(cursor, key_id) as noted:
                cursor.execute(CHANGE, (*_values(caller), expires_at, key_id))
            told = _told({**changes, "expires_at": given})
            record = record or by_operator("key.change")
            self._record(cursor, now, record(key_id, now, told), noted)
        return replace(stored, caller=caller, expires_at=expires_at)

    def rotate(
        self,
        key_id: str,
        now: int,
        overlap_ms: int,
        *,
        once: str | None = None,
        record: ChangeRecord | None = None,
        guard: Guard = _anybody,
    ) -> tuple[str | None, StoredKey]:
        """Give a caller a new key; its present ones stay valid for `overlap_ms`.

        A repeat with the same `once` makes no second key: for ten minutes, the process that made
        the key returns it again; afterwards, and in other processes, None is returned for it.
        Raises NotFound for a key that is unknown or revoked.
        """
        rotation = None if once is None else hashlib.sha256(f"{key_id}\0{once}".encode()).digest()
        made = key_format.make()
        with transaction(self._engine) as cursor:
            _in_use(cursor, key_id, guard)
            if rotation is not None:
                cursor.execute(
                    "SELECT 1 FROM caller_secrets WHERE key_id = ? AND rotation = ?",
                    (key_id, rotation),
                )
                if cursor.fetchone():
                    return self._shown_before(key_id, rotation), _one(cursor, key_id)
            ended = now - ENDED_KEPT_MS
            with self._changing(cursor, key_id, ended) as noted:
                cursor.execute(FORGET, (ended,))
                cursor.execute(OVERLAP, (now + overlap_ms, key_id, now + overlap_ms))
                _add_secret(
                    cursor, key_id, Secret(key_format.digest(made), made[-4:], None, rotation), now
                )
                cursor.execute(TOUCH, (key_id,))
            told = {"overlapSeconds": overlap_ms // 1000}
            self._record(
                cursor, now, (record or by_operator("key.rotate"))(key_id, now, told), noted
            )
            stored = _one(cursor, key_id)
            if rotation is not None:  # before the commit: from then on others ask for it
                self._shown[key_id, rotation] = time.monotonic(), made
                while len(self._shown) > MOST_SHOWN:
                    self._shown.popitem(last=False)
        return made, stored

    def _shown_before(self, key_id: str, rotation: bytes) -> str | None:
        at, made = self._shown.get((key_id, rotation), (0.0, ""))
        return made if made and time.monotonic() - at < SHOWN_SECONDS else None

    def revoke(
        self, key_id: str, now: int, record: ChangeRecord | None = None, *, guard: Guard = _anybody
    ) -> None:
        """Revoke a key. Raises NotFound for a key that is unknown or revoked already."""
        with transaction(self._engine) as cursor:
            if guard is not _anybody:
                guard(_one(cursor, key_id))
            with self._changing(cursor, key_id) as noted:
                cursor.execute(REVOKE, (now, key_id))
                if not cursor.rowcount:
                    raise NotFound(f"no active key has the id {key_id}")
            self._record(cursor, now, (record or by_operator("key.revoke"))(key_id, now, {}), noted)


@dataclass(frozen=True, slots=True)
class Used:
    """The times (ms) when keys were last used, by their ids."""

    at: Mapping[str, int]
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Used"]) -> Sequence[None]:
        """Store the times, unless another process has stored a later one."""
        for write in writes:
            rows = cursor.dialect.rows(key_id="text", used_at="bigint")
            cursor.execute(
                f"UPDATE caller_keys SET last_used_at = u.used_at FROM {rows} AS u "
                "WHERE caller_keys.id = u.key_id AND coalesce(last_used_at, 0) < u.used_at",
                (orjson.dumps(list(write.at.items())).decode(),),
            )
        return [None] * len(writes)


def every_key(engine: Engine) -> list[StoredKey]:
    """Return every key, oldest first, revoked ones included, with the secrets not yet ended."""
    with _reading(engine) as cursor:
        return _read(cursor)


@contextmanager
def _reading(engine: Engine) -> Iterator[Cursor]:
    with reading(engine) as connection:
        yield Cursor(connection.connection.cursor(), dialect(engine))


def _newest(secret: Secret) -> tuple[bool, int]:
    return secret.expires_at is not None, -(secret.expires_at or 0)


def _read(cursor: Cursor, key_id: str | None = None) -> list[StoredKey]:
    """Return every key, or the one with `key_id`, with the secrets that have not ended."""
    one, and_one, which = (
        ("", "", ()) if key_id is None else (" WHERE id = ?", " AND key_id = ?", (key_id,))
    )
    # Secrets first: of a key that is made between the two nothing is known then, not half of it.
    cursor.execute(f"{SECRETS}{and_one} ORDER BY created_at DESC", (now_ms(), *which))
    of = _by_key(cursor.fetchall())
    cursor.execute(f"{KEYS}{one} ORDER BY created_at, id", which)
    return [_stored(row, of[row[0]]) for row in cursor.fetchall() if row[0] in of]


def _page(cursor: Cursor, after: tuple[int, str]) -> tuple[list[StoredKey], tuple[int, str] | None]:
    """Return up to `PAGE` keys after this creation time and id, and where the next page begins."""
    cursor.execute(
        f"{KEYS} WHERE (created_at, id) > (?, ?) ORDER BY created_at, id LIMIT ?", (*after, PAGE)
    )
    rows = cursor.fetchall()
    ids = orjson.dumps([row[0] for row in rows]).decode()
    of_rows = f"{SECRETS} AND key_id IN {cursor.dialect.values('text')}"
    cursor.execute(f"{of_rows} ORDER BY created_at DESC", (now_ms(), ids))
    of = _by_key(cursor.fetchall())
    last = (rows[-1][CREATED_AT], rows[-1][0]) if len(rows) == PAGE else None
    return [_stored(row, of[row[0]]) for row in rows if row[0] in of], last


def _with_secrets(cursor: Cursor, rows: Iterable[Sequence[Any]]) -> Iterator[StoredKey]:
    """Yield the keys of these rows with all of their secrets."""
    for row in rows:
        cursor.execute(f"{HASHES} WHERE key_id = ? ORDER BY created_at DESC", (row[0],))
        if (of := _by_key(cursor.fetchall())).get(row[0]):
            yield _stored(row, of[row[0]])


def _by_key(rows: Iterable[Sequence[Any]]) -> dict[str, list[Secret]]:
    """Return the secrets of each key, newest first, from rows in that order."""
    of: dict[str, list[Secret]] = {}
    for owner, hash_, *rest in rows:
        of.setdefault(owner, []).append(Secret(bytes(hash_), *rest))
    return {owner: sorted(secrets_, key=_newest) for owner, secrets_ in of.items()}


def _one(cursor: Cursor, key_id: str) -> StoredKey:
    # PostgreSQL takes no NUL, and neither takes half a character
    found = _read(cursor, key_id) if key_id.isascii() and key_id.isprintable() else []
    if not found:
        raise NotFound("No key has this id.")
    return found[0]


def _in_use(cursor: Cursor, key_id: str, guard: Guard = _anybody) -> StoredKey:
    stored = _one(cursor, key_id)
    guard(stored)
    if stored.revoked_at is not None:
        raise NotFound("The key with this id is revoked.")
    return stored


def _stored(row: Sequence[Any], secrets_: Sequence[Secret]) -> StoredKey:
    key_id, name, scopes, apps, rate, burst, *times = row
    of = None if apps is None else frozenset(apps.split())
    return StoredKey(
        Caller(key_id, name, _scopes(scopes), of, rate, burst), tuple(secrets_), *times
    )


def _scopes(stored: str) -> frozenset[Scope]:
    """Return the scopes that this version knows: a newer one may have made the key."""
    return ALL_SCOPES & frozenset(stored.split())


def _values(caller: Caller) -> tuple[str, str, str | None, int | None, int | None]:
    apps = None if caller.apps is None else " ".join(sorted(caller.apps))
    return (
        caller.name,
        " ".join(sorted(caller.scopes)),
        apps,
        caller.rate_per_second,
        caller.rate_burst,
    )


def _add_secret(cursor: Cursor, key_id: str, secret: Secret, now: int) -> None:
    cursor.execute(ADD, (secret.hash, key_id, secret.last_four, now, secret.rotation))
