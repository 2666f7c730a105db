"""Caller keys in the gateway's form: a prefix, 30 random characters, 6 of checksum over these."""

import secrets
import string
import zlib

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
PREFIX = "lpgw_"


def base62(number: int, width: int) -> str:
    """Return `number` in base 62, padded with zeros to `width`."""
    digits = ""
    while number:
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits.rjust(width, ALPHABET[0])


def with_checksum(stem: str) -> str:
    """Add the checksum, by which the gateway refuses mistyped keys without a look-up."""
    return stem + base62(zlib.crc32(stem.encode()), 6)


def make_key() -> str:
    """Return a new caller key."""
    return with_checksum(PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(30)))
