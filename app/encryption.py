"""Encryption of stored item bodies and of Leanplum's answers, and keyed hashes of their content.

An encrypted text is `~ID.BASE64`: the id of the data key, then a 96-bit random nonce followed by
the AES-256-GCM ciphertext (NIST SP 800-38D). No JSON text begins with `~`. Each text is bound to
its row by its context (the associated data): copied to another row, it no longer decrypts. Without
an encryption key texts are stored as they are; texts that are encrypted already still decrypt.
"""

import base64
import binascii
import hashlib
import os
import secrets
from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Engine

from app.database.driver import Cursor
from app.database.engine import transaction
from app.errors import StartRefused, StorageUnavailable
from app.model import ENCRYPTED_PREFIX

NONCE_BYTES = 12
HASH_KEY_BYTES = 32
TAMPERED = ENCRYPTED_PREFIX  # returned for a text that was changed on disk or moved to another row
FINGERPRINT = b"data key"
HASH_KEY_NAME, HASH_KEY_CONTEXT = "contents", "own secret"
FIND_USE = "SELECT 1 FROM items WHERE substr(body, 1, ?) = ? OR substr(leanplum, 1, ?) = ? LIMIT 1"
SELECT_HASH_KEY = "SELECT value FROM own_secrets WHERE name = ?"
INSERT_HASH_KEY = "INSERT INTO own_secrets (value, name) VALUES (?, ?)"
UPDATE_HASH_KEY = "UPDATE own_secrets SET value = ? WHERE name = ?"


def body_context(app: str, action: str, seq: int, subject: str) -> str:
    """Return the context that the body of an item is encrypted in."""
    return f"{app}\0{action}\0{seq}\0{subject}"


def answer_context(app: str, seq: int) -> str:
    """Return the context that Leanplum's answer about an item is encrypted in."""
    return f"{app}\0said\0{seq}"


def _prefix(key_id: str) -> str:
    return f"{ENCRYPTED_PREFIX}{key_id}."


class BodyCipher:
    """Encrypts with one data key, decrypts with several, and hashes content with a secret key.

    `keys` are the data keys by id, 32 bytes each. `active_key_id` names the key that encrypts; None
    stores texts as they are. `hash_key` keys the hashes.
    """

    def __init__(
        self, keys: Mapping[str, bytes], active_key_id: str | None, hash_key: bytes = b""
    ) -> None:
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self.fingerprints = {
            key_id: hashlib.blake2b(key, digest_size=16, person=FINGERPRINT).digest()
            for key_id, key in keys.items()
        }
        self.active_key_id = active_key_id
        self._prefix = _prefix(active_key_id or "")
        self._hash = hashlib.blake2b(key=hash_key, digest_size=16)

    @property
    def can_decrypt(self) -> bool:
        """True when the cipher has a data key."""
        return bool(self._ciphers)

    def encrypt(self, text: str, context: str) -> str:
        """Return the text as it is stored."""
        encrypt = self.encryptor(1)
        return text if encrypt is None else encrypt(text, context)

    def encryptor(self, max_texts: int) -> Callable[[str, str], str] | None:
        """Return a function that encrypts up to `max_texts` texts; None without an encryption key.

        All nonces come from one read of the system's random source: a read for each item of a batch
        would cost more than its encryption.
        """
        if self.active_key_id is None:
            return None
        encrypt_bytes = self._ciphers[self.active_key_id].encrypt
        prefix, to_base64 = self._prefix, binascii.b2a_base64
        random_bytes = os.urandom(max_texts * NONCE_BYTES)
        starts = range(0, len(random_bytes), NONCE_BYTES)
        nonces = iter([random_bytes[start : start + NONCE_BYTES] for start in starts])

        def encrypt(text: str, context: str) -> str:
            nonce = next(nonces)
            encrypted = nonce + encrypt_bytes(nonce, text.encode(), context.encode())
            return prefix + to_base64(encrypted, newline=False).decode()

        return encrypt

    def decrypt(self, stored: str, context: str) -> str:
        """Return the text that was stored in a context.

        Where its key is missing, return it as it is stored, so beginning with `~`; where it was
        changed or belongs to another context, return `TAMPERED`.
        """
        if stored[:1] != ENCRYPTED_PREFIX:
            return stored
        key_id, _, encoded = stored[1:].partition(".")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            return stored
        try:
            encrypted = binascii.a2b_base64(encoded)
            nonce, ciphertext = encrypted[:NONCE_BYTES], encrypted[NONCE_BYTES:]
            return cipher.decrypt(nonce, ciphertext, context.encode()).decode()
        except (InvalidTag, ValueError):
            return TAMPERED

    def decrypt_required(self, stored: str, context: str) -> str:
        """Return the text that was stored in a context.

        Raises StorageUnavailable where it cannot be decrypted.
        """
        text = self.decrypt(stored, context)
        if text[:1] == ENCRYPTED_PREFIX:
            raise StorageUnavailable(explain_undecryptable(text))
        return text

    def digest(self, action: str, subject: str, body: str) -> bytes:
        """Return a keyed hash of an item's content, to compare two items without keeping either."""
        content_hash = self._hash.copy()
        content_hash.update(f"{action}\0{subject}\0{body}".encode())
        return content_hash.digest()

    def alias(self, app: str, subject: str) -> bytes:
        """Return the keyed hash under which an erased subject of an app is remembered."""
        return self.aliases(app)(subject)

    def aliases(self, app: str) -> Callable[[str], bytes]:
        """Return the `alias` function of one app, which is faster for many subjects."""
        app_hash = self._hash.copy()
        app_hash.update(f"\0{app}\0".encode())
        copy = app_hash.copy

        def alias(subject: str) -> bytes:
            subject_hash = copy()
            subject_hash.update(subject.encode())
            return subject_hash.digest()

        return alias


NO_ENCRYPTION = BodyCipher({}, None)


def explain_undecryptable(stored: str) -> str:
    """Return why a text that `decrypt` returned could not be decrypted, for people."""
    if stored == TAMPERED:
        return "What the database has of this item was changed there, or belongs to another item."
    key_id = stored[1:].partition(".")[0]
    return (
        f'This item is encrypted with the data key "{key_id}", which this process does not have '
        "(GATEWAY_DATA_KEY)."
    )


def open_body_cipher(
    engine: Engine, keys: Mapping[str, bytes], active_key_id: str | None
) -> BodyCipher:
    """Return the cipher of a database.

    The database remembers a fingerprint of each key in use. Raises StartRefused, before anything is
    written, where a key that encrypted stored data is missing, or where its id now names another.
    """
    cipher = BodyCipher(keys, active_key_id)
    with transaction(engine) as cursor:
        _register_keys(cursor, cipher)
        return BodyCipher(keys, active_key_id, _load_hash_key(cursor, cipher))


def _register_keys(cursor: Cursor, cipher: BodyCipher) -> None:
    """Compare the keys with the fingerprints in the database, and update these."""
    cursor.execute("SELECT id, fingerprint FROM data_keys ORDER BY id")
    known = {key_id: bytes(fingerprint) for key_id, fingerprint in cursor.fetchall()}
    mismatched = [
        key_id
        for key_id, fingerprint in known.items()
        if cipher.fingerprints.get(key_id) != fingerprint
    ]
    refusals = [_refusal(key_id, cipher) for key_id in mismatched if _is_in_use(cursor, key_id)]
    if refusals:
        raise StartRefused(*refusals)
    for key_id in mismatched:
        cursor.execute("DELETE FROM data_keys WHERE id = ?", (key_id,))
    active_key_id = cipher.active_key_id
    if active_key_id is None:
        return
    if active_key_id not in known or active_key_id in mismatched:
        row = active_key_id, cipher.fingerprints[active_key_id]
        cursor.execute("INSERT INTO data_keys (id, fingerprint) VALUES (?, ?)", row)


def _refusal(key_id: str, cipher: BodyCipher) -> str:
    if key_id in cipher.fingerprints:
        return (
            f'GATEWAY_DATA_KEY: "{key_id}" is not the key that encrypted the stored data; give the '
            "new key another id"
        )
    return (
        f'GATEWAY_DATA_KEY: the key "{key_id}" is missing, and stored data is encrypted with it; '
        "add it after the first"
    )


def _is_in_use(cursor: Cursor, key_id: str) -> bool:
    """Return whether any stored text is encrypted with a key.

    Scans all items, so it is called only for keys that are gone.
    """
    prefix = _prefix(key_id)
    cursor.execute(FIND_USE, (len(prefix), prefix, len(prefix), prefix))
    if cursor.fetchone() is not None:
        return True
    return (_stored_hash_key(cursor) or "").startswith(prefix)


def _load_hash_key(cursor: Cursor, cipher: BodyCipher) -> bytes:
    """Return the key of the hashes, which is made once and kept in the database.

    When the encryption key changes it is encrypted again, so that the hashes stay the same.
    """
    stored = _stored_hash_key(cursor)
    if stored is None:
        text = base64.b64encode(secrets.token_bytes(HASH_KEY_BYTES)).decode()
        _write_hash_key(cursor, INSERT_HASH_KEY, cipher, text)
    else:
        text = cipher.decrypt_required(stored, HASH_KEY_CONTEXT)
        if not _is_current(stored, cipher):
            _write_hash_key(cursor, UPDATE_HASH_KEY, cipher, text)
    return base64.b64decode(text)


def _is_current(stored: str, cipher: BodyCipher) -> bool:
    """Return whether a stored text is encrypted, or not encrypted, as a new one would be."""
    if cipher.active_key_id is None:
        return stored[:1] != ENCRYPTED_PREFIX
    return stored.startswith(_prefix(cipher.active_key_id))


def _stored_hash_key(cursor: Cursor) -> str | None:
    cursor.execute(SELECT_HASH_KEY, (HASH_KEY_NAME,))
    row = cursor.fetchone()
    return None if row is None else bytes(row[0]).decode()


def _write_hash_key(cursor: Cursor, statement: str, cipher: BodyCipher, text: str) -> None:
    encrypted = cipher.encrypt(text, HASH_KEY_CONTEXT).encode()
    cursor.execute(statement, (encrypted, HASH_KEY_NAME))
