"""The format of a caller key: `lpgw_`, 30 random base62 characters, 6 of CRC-32 over these.

The checksum tells a mistyped key from an unknown one before any look-up. Only a hash of a key is
kept: it has 178 bits of chance, so a plain SHA-256 cannot be searched.
"""

import hashlib
import secrets
import zlib

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX = "lpgw_"
CHANCE = 30
CHECK = 6
MALFORMED = (
    "the key hasn't the form of a caller key "
    "(lpgw_ + 30 base62 characters + a 6-character checksum)"
)
LENGTH = len(PREFIX) + CHANCE + CHECK


def make() -> str:
    """Return a new key, which is shown to its owner once and never stored."""
    body = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(CHANCE))
    return body + checksum(body)


def checksum(body: str) -> str:
    """Six base62 digits of the CRC-32 of `body`, most significant first, zero-padded."""
    value = zlib.crc32(body.encode())
    digits = ""
    for _ in range(CHECK):
        value, digit = divmod(value, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def well_formed(key: str) -> bool:
    """Return whether a key has the right format and checksum."""
    body, check = key[:-CHECK], key[-CHECK:]
    alphabet = key.isascii() and key[len(PREFIX) :].isalnum()
    return (
        len(key) == LENGTH
        and key.startswith(PREFIX)
        and alphabet
        and secrets.compare_digest(checksum(body), check)
    )


def digest(key: str) -> bytes:
    """Return the hash of a key, which is stored in its place."""
    return hashlib.sha256(key.encode()).digest()
