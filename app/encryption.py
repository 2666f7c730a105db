"""The vault: seals what callers sent before it rests on the disk, and opens it again when it is
needed.

A sealed text is `~ID.BASE64`, which no JSON begins with: the id of the data key, then a nonce of 96
random bits and what AES-256-GCM (NIST SP 800-38D) makes of the text. It is bound to its place:
elsewhere it can't be opened. Without a key for sealing a text stays as it is; what was sealed
before is opened all the same.
"""

import base64
import binascii
import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Engine

from app.database.dialect import Cursor
from app.database.engine import transaction
from app.errors import StartRefused, StorageUnavailable
from app.model import SEALED

NONCE_BYTES = 12
SECRET_BYTES = 32
SPOILED = SEALED  # instead of a text that was changed on the disk, or moved
FINGERPRINT = b"data key"
SECRET, SECRET_PLACE = "contents", "own secret"
USES = "SELECT 1 FROM items WHERE substr(body, 1, ?) = ? OR substr(leanplum, 1, ?) = ? LIMIT 1"


def place(app: str, action: str, seq: int, subject: str) -> str:
    """Where the body of an item stands."""
    return f"{app}\0{action}\0{seq}\0{subject}"


def said_place(app: str, seq: int) -> str:
    """Where stands what Leanplum said of an item."""
    return f"{app}\0said\0{seq}"


class Vault:
    """Seals with one key, opens with several; and makes the keyed hashes of what is not kept.
    `keys` are 32 bytes each, by their id; `sealing` is the id of the one that seals, None where
    texts stay in clear.
    """

    def __init__(self, keys: Mapping[str, bytes], sealing: str | None, secret: bytes = b"") -> None:
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self.fingerprints = {
            key_id: hashlib.blake2b(key, digest_size=16, person=FINGERPRINT).digest()
            for key_id, key in keys.items()
        }
        self.sealing = sealing
        self._head = "" if sealing is None else f"{SEALED}{sealing}."
        self._hash = hashlib.blake2b(key=secret, digest_size=16)

    @property
    def opens(self) -> bool:
        """Whether there is any key."""
        return bool(self._ciphers)

    def seal(self, text: str, where: str) -> str:
        """The text as it is to rest at its place."""
        sealer = self.sealer(1)
        return text if sealer is None else sealer(text, where)

    def sealer(self, most: int) -> Callable[[str, str], str] | None:
        """What seals at most so many texts, for which chance is asked once; None where texts stay
        as they are.
        """
        if self.sealing is None:
            return None
        encrypt, head, encoded = (
            self._ciphers[self.sealing].encrypt,
            self._head,
            binascii.b2a_base64,
        )
        chance = os.urandom(most * NONCE_BYTES)
        nonces = iter([chance[at : at + NONCE_BYTES] for at in range(0, len(chance), NONCE_BYTES)])

        def seal(text: str, where: str) -> str:
            nonce = next(nonces)
            return (
                head
                + encoded(
                    nonce + encrypt(nonce, text.encode(), where.encode()), newline=False
                ).decode()
            )

        return seal

    def open(self, stored: str, where: str) -> str:
        """The text that rests at the place. What was sealed by a key that isn't here is given as it
        is, so it begins with `~`; what was changed since, or belongs elsewhere, as `~` alone.
        """
        if stored[:1] != SEALED:
            return stored
        key_id, _, sealed = stored[1:].partition(".")
        if (cipher := self._ciphers.get(key_id)) is None:
            return stored
        try:
            raw = binascii.a2b_base64(sealed)
            return cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], where.encode()).decode()
        except (InvalidTag, ValueError):
            return SPOILED

    def read(self, stored: str, where: str) -> str:
        """The same, for whoever can't do without. Raises StorageUnavailable where it can't be
        opened.
        """
        if (text := self.open(stored, where))[:1] == SEALED:
            raise StorageUnavailable(unopened(text))
        return text

    def digest(self, action: str, subject: str, body: str) -> bytes:
        """What tells two contents under one caller-given id apart, without keeping them."""
        return self._hashed(f"{action}\0{subject}\0{body}")

    def alias(self, app: str, subject: str) -> bytes:
        """What a subject that was erased is known by."""
        return self.aliases(app)(subject)

    def aliases(self, app: str) -> Callable[[str], bytes]:
        """The same, for many subjects of one app."""
        start = self._hash.copy()
        start.update(f"\0{app}\0".encode())
        copy = start.copy

        def alias(subject: str) -> bytes:
            made = copy()
            made.update(subject.encode())
            return made.digest()

        return alias

    def _hashed(self, text: str) -> bytes:
        made = self._hash.copy()
        made.update(text.encode())
        return made.digest()


CLEAR = Vault({}, None)


def unopened(stored: str) -> str:
    """Why a text can't be opened, for people."""
    if stored == SPOILED:
        return "What the database has of this item was changed there, or belongs elsewhere."
    key_id = stored[1:].partition(".")[0]
    return f'This item is sealed by the data key "{key_id}", which this process does not have (GATEWAY_DATA_KEY).'


def opened(engine: Engine, keys: Mapping[str, bytes], sealing: str | None) -> Vault:
    """The vault of a database. Which keys it was used with is known there by a fingerprint of each,
    until nothing is sealed by them any more. Raises StartRefused, before anything is written, where
    a key is missing or is another one than before under the same id.
    """
    vault = Vault(keys, sealing)
    with transaction(engine) as cursor:
        _admit(cursor, vault)
        return Vault(keys, sealing, _secret(cursor, vault))


def _admit(cursor: Cursor, vault: Vault) -> None:
    cursor.execute("SELECT id, fingerprint FROM data_keys ORDER BY id")
    known = {key_id: bytes(fingerprint) for key_id, fingerprint in cursor.fetchall()}
    foreign = [
        key_id
        for key_id, fingerprint in known.items()
        if vault.fingerprints.get(key_id) != fingerprint
    ]
    if refused := [_refusal(key_id, vault) for key_id in foreign if _used(cursor, key_id)]:
        raise StartRefused(*refused)
    for key_id in foreign:
        cursor.execute("DELETE FROM data_keys WHERE id = ?", (key_id,))
    if vault.sealing is not None and (vault.sealing not in known or vault.sealing in foreign):
        row = vault.sealing, vault.fingerprints[vault.sealing]
        cursor.execute("INSERT INTO data_keys (id, fingerprint) VALUES (?, ?)", row)


def _refusal(key_id: str, vault: Vault) -> str:
    if key_id in vault.fingerprints:
        return f'GATEWAY_DATA_KEY: "{key_id}" is another key than the one that sealed what is stored; give it a new id'
    return f'GATEWAY_DATA_KEY: the key "{key_id}" is missing, and what is stored is sealed by it; add it after the first'


def _used(cursor: Cursor, key_id: str) -> bool:
    """Whether anything is sealed by the key. Looks through all items, so only where a key is
    gone.
    """
    head = f"{SEALED}{key_id}."
    cursor.execute(USES, (len(head), head, len(head), head))
    if cursor.fetchone() is not None:
        return True
    return (_stored_secret(cursor) or "").startswith(head)


def _secret(cursor: Cursor, vault: Vault) -> bytes:
    """What the hashes are keyed by: made once, and sealed anew where another key seals now, so that
    no change of keys changes a hash.
    """
    stored = _stored_secret(cursor)
    text = (
        base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode() if stored is None else stored
    )
    text = vault.read(text, SECRET_PLACE)
    if stored is None:
        values: tuple[Any, ...] = (vault.seal(text, SECRET_PLACE).encode(), SECRET)
        cursor.execute("INSERT INTO own_secrets (value, name) VALUES (?, ?)", values)
    elif (
        not stored.startswith(f"{SEALED}{vault.sealing}.")
        if vault.sealing
        else stored[:1] == SEALED
    ):
        values = (vault.seal(text, SECRET_PLACE).encode(), SECRET)
        cursor.execute("UPDATE own_secrets SET value = ? WHERE name = ?", values)
    return base64.b64decode(text)


def _stored_secret(cursor: Cursor) -> str | None:
    cursor.execute("SELECT value FROM own_secrets WHERE name = ?", (SECRET,))
    row = cursor.fetchone()
    return None if row is None else bytes(row[0]).decode()
