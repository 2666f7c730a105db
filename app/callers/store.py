"""The store of caller keys: made, listed, revoked; a hash, the last four characters and what the key may do."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, insert, select, update

from app.audit.records import administrative_act
from app.callers import keys
from app.database.tables import audit_records, caller_keys
from app.errors import NotFound, Refusal
from app.model import Caller, Scope

ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A caller key as it is kept. Times are milliseconds since the epoch."""

    caller: Caller
    hash: bytes
    last_four: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None

    def usable(self, now: int) -> bool:
        """Whether it may be used at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class KeyStore:
    """Reads and writes keys. Changes are rare and made by people, so each is a plain transaction of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        name: str,
        scopes: Iterable[Scope],
        app: str,
        now: int,
        *,
        expires_at: int | None = None,
        key: str | None = None,
    ) -> tuple[str, StoredKey]:
        """Store a key (a new one, or `key`); returns it, for the only time, with what was stored.

        Raises Refusal where `key` hasn't the form of a caller key.
        """
        secret = key or keys.make()
        if not keys.well_formed(secret):
            raise Refusal(
                "the key hasn't the form of a caller key (lpgw_ + 30 base62 characters + a 6-character checksum)"
            )
        caller = Caller("key_" + secrets.token_hex(8), name, frozenset(scopes), app)
        stored = StoredKey(caller, keys.digest(secret), secret[-4:], now, expires_at, None)
        with self._engine.begin() as connection:
            connection.execute(insert(caller_keys).values(_row(stored)))
            _record(connection, "key.create", caller.key_id, now)
        return secret, stored

    def bootstrap(self, key: str, app: str, now: int) -> StoredKey | None:
        """Store the operator's own first key with every scope, if there is no key yet."""
        with self._engine.connect() as connection:
            if connection.execute(select(func.count()).select_from(caller_keys)).scalar_one():
                return None
        return self.create("bootstrap", ALL_SCOPES, app, now, key=key)[1]

    def all(self) -> list[StoredKey]:
        """Every key, oldest first, revoked ones too."""
        with self._engine.connect() as connection:
            found = connection.execute(select(caller_keys).order_by(caller_keys.c.created_at, caller_keys.c.id))
            return [
                StoredKey(
                    Caller(row.id, row.name, _scopes(row.scopes), row.app),
                    row.hash,
                    row.last_four,
                    row.created_at,
                    row.expires_at,
                    row.revoked_at,
                )
                for row in found
            ]

    def revoke(self, key_id: str, now: int) -> None:
        """Make a key unusable. Raises NotFound where there is none with that id, or it is revoked already."""
        with self._engine.begin() as connection:
            usable = (caller_keys.c.id == key_id) & caller_keys.c.revoked_at.is_(None)
            if not connection.execute(update(caller_keys).where(usable).values(revoked_at=now)).rowcount:
                raise NotFound(f"no key in use has the id {key_id}")
            _record(connection, "key.revoke", key_id, now)


def _scopes(stored: str) -> frozenset[Scope]:
    """Those that this version knows: a newer one may have made the key."""
    return ALL_SCOPES & frozenset(stored.split())


def _row(stored: StoredKey) -> dict[str, object]:
    return {
        "id": stored.caller.key_id,
        "name": stored.caller.name,
        "hash": stored.hash,
        "last_four": stored.last_four,
        "scopes": " ".join(sorted(stored.caller.scopes)),
        "app": stored.caller.app,
        "created_at": stored.created_at,
        "expires_at": stored.expires_at,
        "revoked_at": stored.revoked_at,
    }


def _record(connection: Connection, act: str, key_id: str, now: int) -> None:
    connection.execute(
        insert(audit_records).values(time=now, record=administrative_act(time=now, act=act, subject=key_id))
    )
