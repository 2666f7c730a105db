"""The 32 bytes that the audit's keys are made of: what hashes users' ids, what marks records, and
what signs (RFC 5869 derives each).

They are the setting `GATEWAY_AUDIT_KEY`, or where it is not set, made once and kept in the
database: then who can change the database can sign as well.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Engine

from app.database.engine import transaction
from app.errors import StartRefused

SIZE = 32
NAME = "audit"
REMOVE = "DELETE FROM own_secrets WHERE name = ? AND value = ?"
KEPT = "SELECT value FROM own_secrets WHERE name = ?"
DAMAGED = "GATEWAY_AUDIT_KEY: the key that the database keeps instead of it was damaged; set the one it was"


def kept(fetch: Callable[[str, tuple[Any, ...]], Sequence[Any]]) -> bytes | None:
    """The seed that is kept in the database, where one is. Raises StartRefused where it can't be
    one any more.
    """
    found = fetch(KEPT, (NAME,))
    if not found:
        return None
    if not isinstance(found[0][0], bytes) or len(found[0][0]) != SIZE:
        raise StartRefused(DAMAGED)
    return found[0][0]


def made(engine: Engine) -> bytes:
    """The seed that is kept in the database, made now where there is none: of two that make one at
    once both get the same. Raises StorageUnavailable, StartRefused.
    """
    with transaction(engine) as cursor:

        def fetch(statement: str, values: tuple[Any, ...]) -> Sequence[Any]:
            cursor.execute(statement, values)
            return cursor.fetchall()

        if (found := kept(fetch)) is not None:
            return found
        seed = secrets.token_bytes(SIZE)
        cursor.execute("INSERT INTO own_secrets (name, value) VALUES (?, ?)", (NAME, seed))
        return seed


def derived(seed: bytes, purpose: bytes) -> bytes:
    """32 bytes for one purpose, of which neither the seed nor those of another purpose can be
    told.
    """
    return HKDF(SHA256(), SIZE, salt=None, info=purpose).derive(seed)
