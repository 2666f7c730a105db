"""The 32 bytes that the audit's keys are made of: what hashes users' ids, and what signs (RFC 5869 derives each).

They are the setting `GATEWAY_AUDIT_KEY`, or where it is not set, made once and kept in the database: then who can
change the database can sign as well.
"""

import secrets

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Engine

from app.database.engine import transaction

SIZE = 32
NAME = "audit"


def kept(engine: Engine) -> bytes:
    """The seed that is kept in the database; made where there is none. Raises StorageUnavailable."""
    with transaction(engine) as cursor:
        cursor.execute("SELECT value FROM own_secrets WHERE name = ?", (NAME,))
        if (row := cursor.fetchone()) is not None:
            return bytes(row[0])
        seed = secrets.token_bytes(SIZE)
        cursor.execute("INSERT INTO own_secrets (name, value) VALUES (?, ?)", (NAME, seed))
        return seed


def derived(seed: bytes, purpose: bytes) -> bytes:
    """32 bytes for one purpose, of which neither the seed nor those of another purpose can be told."""
    return HKDF(SHA256(), SIZE, salt=None, info=purpose).derive(seed)
