"""The audit's root key: 32 bytes from which every other key of the audit is derived (RFC 5869).

It is the setting `GATEWAY_AUDIT_KEY`. Where that is not set, a key is made once and kept in the
database. Then anyone who can change the database can also sign checkpoints for the change.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.database.driver import Cursor
from app.errors import StartRefused

KEY_BYTES = 32
NAME = "audit"
DELETE = "DELETE FROM own_secrets WHERE name = ? AND value = ?"
SELECT = "SELECT value FROM own_secrets WHERE name = ?"
INSERT = "INSERT INTO own_secrets (name, value) VALUES (?, ?)"
DAMAGED = (
    "GATEWAY_AUDIT_KEY: the key that the database keeps in its place is damaged; set it to the "
    "original key"
)


def stored_root_key(fetch: Callable[[str, tuple[Any, ...]], Sequence[Any]]) -> bytes | None:
    """Return the root key that is kept in the database; None where there is none.

    Raises StartRefused where the stored value cannot be a key.
    """
    rows = fetch(SELECT, (NAME,))
    if not rows:
        return None
    key = rows[0][0]
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise StartRefused(DAMAGED)
    return key


def make_root_key(cursor: Cursor) -> bytes:
    """Return the root key that is kept in the database, made now where there is none.

    Raises StartRefused where the stored value cannot be a key.
    """

    def fetch(statement: str, values: tuple[Any, ...]) -> Sequence[Any]:
        cursor.execute(statement, values)
        return cursor.fetchall()

    stored = stored_root_key(fetch)
    if stored is not None:
        return stored
    root_key = secrets.token_bytes(KEY_BYTES)
    cursor.execute(INSERT, (NAME, root_key))
    return root_key


def delete_root_key(cursor: Cursor, root_key: bytes) -> None:
    """Remove the root key from the database, where it still is this one."""
    cursor.execute(DELETE, (NAME, root_key))


def derive_key(root_key: bytes, purpose: bytes) -> bytes:
    """Return a 32-byte key for one purpose; it reveals neither the root key nor the other keys."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose).derive(root_key)
