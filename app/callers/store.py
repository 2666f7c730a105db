"""The store of caller keys: made, listed, changed, rotated, revoked. Of a key itself only a hash and the last four
characters are kept."""

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import orjson
from sqlalchemy import Engine, or_, select

from app.audit import records
from app.callers import keys
from app.clock import now_ms
from app.database.dialect import Cursor
from app.database.engine import reading, transaction
from app.database.tables import caller_keys, caller_secrets
from app.errors import NotFound, Refusal
from app.model import Caller, Scope

ALL_SCOPES = frozenset(Scope)
SHOWN_SECONDS = 600.0  # how long a rotation that is asked for again shows the same key
MOST_SHOWN = 1_000
ROTATIONS_KEPT_MS = (
    30 * 86_400_000
)  # after its key has ended: a late repeat must not cut off those who have a newer one
Recorder = Callable[[str, int], str]  # the audit record of a change: of which key (its id), when (ms)

INSERT = """
INSERT INTO caller_keys (id, name, scopes, apps, rate_per_second, rate_burst, created_at, expires_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
CHANGE = """
UPDATE caller_keys SET name = ?, scopes = ?, apps = ?, rate_per_second = ?, rate_burst = ?, expires_at = ? WHERE id = ?
"""
ADD = "INSERT INTO caller_secrets (hash, key_id, last_four, created_at, rotation) VALUES (?, ?, ?, ?, ?)"
OVERLAP = "UPDATE caller_secrets SET expires_at = ? WHERE key_id = ? AND (expires_at IS NULL OR expires_at > ?)"
FORGET = "DELETE FROM caller_secrets WHERE expires_at <= ? AND (rotation IS NULL OR expires_at <= ?)"
REVOKE = "UPDATE caller_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"


class Keep(Enum):
    """What stands for a value that stays as it is, where None is one to be set."""

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
    """A caller's key as it is kept, its secrets newest first. Times are milliseconds since the epoch."""

    caller: Caller
    secrets: tuple[Secret, ...]
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None

    def usable(self, now: int) -> bool:
        """Whether it may be used at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def last_four(self) -> str:
        """Of its newest secret."""
        return self.secrets[0].last_four


def by_operator(act: str) -> Recorder:
    """What makes the audit record of an operator's command."""
    return lambda key_id, now: records.administrative_act(time=now, act=act, subject=key_id)


class KeyStore:
    """Reads and writes keys. Changes are rare and made by people, so each is a plain transaction of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shown: OrderedDict[tuple[str, bytes], tuple[float, str]] = OrderedDict()  # in memory alone

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
        record: Recorder | None = None,
    ) -> tuple[str, StoredKey]:
        """Store a key (a new one, or `key`) for these apps (None: for every one); returns it, for the only time, with
        what was stored.

        Raises Refusal where `key` hasn't the form of a caller key, or is one already.
        """
        of = None if apps is None else frozenset(apps)
        caller = Caller("key_" + secrets.token_hex(8), name, frozenset(scopes), of, rate_per_second, rate_burst)
        with transaction(self._engine) as cursor:
            return self._create(cursor, caller, now, expires_at, key, record or by_operator("key.create"))

    def _create(
        self, cursor: Cursor, caller: Caller, now: int, expires_at: int | None, key: str | None, record: Recorder
    ) -> tuple[str, StoredKey]:
        told = key or keys.make()
        if not keys.well_formed(told):
            raise Refusal(
                "the key hasn't the form of a caller key (lpgw_ + 30 base62 characters + a 6-character checksum)"
            )
        cursor.execute("SELECT 1 FROM caller_secrets WHERE hash = ?", (keys.digest(told),))
        if cursor.fetchone():
            raise Refusal("the key is a caller's already")
        stored = StoredKey(caller, (Secret(keys.digest(told), told[-4:]),), now, expires_at)
        cursor.execute(INSERT, (caller.key_id, *_values(caller), now, expires_at))
        _add_secret(cursor, caller.key_id, stored.secrets[0], now)
        records.insert(cursor, [(now, record(caller.key_id, now))])
        return told, stored

    def bootstrap(self, key: str, now: int) -> StoredKey | None:
        """Store the operator's own first key with every scope for every app, if there is no key yet."""
        caller = Caller("key_" + secrets.token_hex(8), "bootstrap", ALL_SCOPES)
        with transaction(self._engine) as cursor:
            cursor.execute("SELECT count(*) FROM caller_keys")
            if cursor.fetchone()[0]:
                return None
            return self._create(cursor, caller, now, None, key, by_operator("key.create"))[1]

    def all(self) -> list[StoredKey]:
        """Every key, oldest first, revoked ones too; of its secrets those that have not ended."""
        with reading(self._engine) as connection:
            # Secrets first: of a key that is made between the two nothing is known then, not half of it.
            ends = caller_secrets.c.expires_at
            living = select(caller_secrets).where(or_(ends.is_(None), ends > now_ms()))
            secrets_ = connection.execute(living.order_by(caller_secrets.c.created_at.desc())).all()
            found = connection.execute(select(caller_keys).order_by(caller_keys.c.created_at, caller_keys.c.id)).all()
        of: dict[str, list[Secret]] = {}
        for row in secrets_:
            of.setdefault(row.key_id, []).append(Secret(row.hash, row.last_four, row.expires_at, row.rotation))
        return [_stored(row, sorted(of[row.id], key=_newest)) for row in found if row.id in of]

    def get(self, key_id: str) -> StoredKey:
        """One key. Raises NotFound."""
        found = next((one for one in self.all() if one.caller.key_id == key_id), None)
        if found is None:
            raise NotFound("No key has this id.")
        return found

    def change(
        self, key_id: str, now: int, changes: Mapping[str, Any], record: Recorder, expires_at: int | Keep | None = KEEP
    ) -> StoredKey:
        """Replace fields of the caller, and when the key expires (KEEP: as it is). Raises NotFound where it is not in
        use."""
        with transaction(self._engine) as cursor:
            stored = self._in_use(key_id)  # read while nobody else can change it
            caller = replace(stored.caller, **changes)
            expires_at = stored.expires_at if expires_at is KEEP else expires_at
            cursor.execute(CHANGE, (*_values(caller), expires_at, key_id))
            records.insert(cursor, [(now, record(key_id, now))])
        return replace(stored, caller=caller, expires_at=expires_at)

    def rotate(
        self, key_id: str, now: int, overlap_ms: int, *, once: str | None = None, record: Recorder | None = None
    ) -> tuple[str | None, StoredKey]:
        """Give a caller a new key; those that it has go on for `overlap_ms`. With the same `once` it is done once: the
        key is shown again for ten minutes by the process that made it, and is None afterwards or elsewhere. Raises
        NotFound where the key is not in use."""
        rotation = None if once is None else hashlib.sha256(f"{key_id}\0{once}".encode()).digest()
        made = keys.make()
        with transaction(self._engine) as cursor:
            self._in_use(key_id)
            if rotation is not None:
                cursor.execute("SELECT 1 FROM caller_secrets WHERE rotation = ?", (rotation,))
                if cursor.fetchone():
                    return self._shown_before(key_id, rotation), self.get(key_id)
            cursor.execute(FORGET, (now, now - ROTATIONS_KEPT_MS))
            cursor.execute(OVERLAP, (now + overlap_ms, key_id, now + overlap_ms))
            _add_secret(cursor, key_id, Secret(keys.digest(made), made[-4:], None, rotation), now)
            records.insert(cursor, [(now, (record or by_operator("key.rotate"))(key_id, now))])
        if rotation is not None:
            self._shown[key_id, rotation] = time.monotonic(), made
            while len(self._shown) > MOST_SHOWN:
                self._shown.popitem(last=False)
        return made, self.get(key_id)

    def _shown_before(self, key_id: str, rotation: bytes) -> str | None:
        at, made = self._shown.get((key_id, rotation), (0.0, ""))
        return made if made and time.monotonic() - at < SHOWN_SECONDS else None

    def revoke(self, key_id: str, now: int, record: Recorder | None = None) -> None:
        """Make a key unusable. Raises NotFound where there is none with that id, or it is revoked already."""
        with transaction(self._engine) as cursor:
            cursor.execute(REVOKE, (now, key_id))
            if not cursor.rowcount:
                raise NotFound(f"no key in use has the id {key_id}")
            records.insert(cursor, [(now, (record or by_operator("key.revoke"))(key_id, now))])

    def _in_use(self, key_id: str) -> StoredKey:
        stored = self.get(key_id)
        if stored.revoked_at is not None:
            raise NotFound("The key with this id is revoked.")
        return stored


@dataclass(frozen=True, slots=True)
class Used:
    """When keys were last used, by their ids."""

    at: Mapping[str, int]
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Used"]) -> Sequence[None]:
        """Write it down; another process may know of a later time."""
        for write in writes:
            rows = cursor.dialect.rows(key_id="text", used_at="bigint")
            cursor.execute(
                f"UPDATE caller_keys SET last_used_at = u.used_at FROM {rows} AS u "
                "WHERE caller_keys.id = u.key_id AND coalesce(last_used_at, 0) < u.used_at",
                (orjson.dumps(list(write.at.items())).decode(),),
            )
        return [None] * len(writes)


def _newest(secret: Secret) -> tuple[bool, int]:
    return secret.expires_at is not None, -(secret.expires_at or 0)


def _stored(row: Any, secrets_: Sequence[Secret]) -> StoredKey:
    apps = None if row.apps is None else frozenset(row.apps.split())
    caller = Caller(row.id, row.name, _scopes(row.scopes), apps, row.rate_per_second, row.rate_burst)
    return StoredKey(caller, tuple(secrets_), row.created_at, row.expires_at, row.revoked_at, row.last_used_at)


def _scopes(stored: str) -> frozenset[Scope]:
    """Those that this version knows: a newer one may have made the key."""
    return ALL_SCOPES & frozenset(stored.split())


def _values(caller: Caller) -> tuple[str, str, str | None, int | None, int | None]:
    apps = None if caller.apps is None else " ".join(sorted(caller.apps))
    return caller.name, " ".join(sorted(caller.scopes)), apps, caller.rate_per_second, caller.rate_burst


def _add_secret(cursor: Cursor, key_id: str, secret: Secret, now: int) -> None:
    cursor.execute(ADD, (secret.hash, key_id, secret.last_four, now, secret.rotation))
