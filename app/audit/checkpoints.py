"""Checkpoints: signed statements of how many records there are and what the hash of their tree is.

A checkpoint is a C2SP tlog-checkpoint in a signed note, with Ed25519 (algorithm 1). A public key is
written as `name+id+key`, as Go's `note` package does. The name is derived from the key and is the
log's origin as well. Pure.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.audit.key_derivation import derive_key

ED25519 = b"\1"
SIGNING_KEY = b"leanplum-gateway audit checkpoints"  # name of the derived key: never change it
REMOVED = "/removed"  # suffix of the origin in a statement of what retention has removed
DASH = "\N{EM DASH}"
# At most 18 digits: int() refuses very long texts, or takes long for them
COUNT = re.compile(r"0|[1-9][0-9]{0,17}")


class InvalidCheckpoint(ValueError):
    """A text that is no checkpoint, or none signed by this key."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The statement that the first `size` records have the tree hash `root`; `note` is its text."""

    size: int
    root: bytes
    note: str


def to_base64(value: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(value).decode()


def from_base64(text: str) -> bytes:
    """Return the bytes of a base64 text. Raises InvalidCheckpoint."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidCheckpoint("it is not base64") from None


def parse_count(text: str) -> int | None:
    """Return a number of records as a checkpoint writes it; None for any other text."""
    return int(text) if COUNT.fullmatch(text) else None


class PublicKey:
    """A public key that verifies checkpoints."""

    def __init__(self, name: str, key: bytes) -> None:
        self.name = name
        self._key = Ed25519PublicKey.from_public_bytes(key)
        self.id = hashlib.sha256(name.encode() + b"\n" + ED25519 + key).digest()[:4]
        self.text = f"{name}+{self.id.hex()}+{to_base64(ED25519 + key)}"

    @classmethod
    def parse(cls, text: str) -> "PublicKey":
        """Return the key that a text `name+id+key` describes. Raises InvalidCheckpoint."""
        text = text.strip()
        name, _, rest = text.partition("+")
        _, _, encoded = rest.partition("+")
        raw = from_base64(encoded)
        if text.isascii() and raw[:1] == ED25519 and len(raw) == 33:
            key = cls(name, raw[1:])
            if key.text == text:
                return key
        raise InvalidCheckpoint("it is not the public key of an audit log")

    def verify(self, note: str, suffix: str = "") -> Checkpoint:
        """Return the checkpoint in a note, after verifying its signature.

        Its origin must be the key's name with `suffix`. Raises InvalidCheckpoint.
        """
        body, _, signatures = note.partition("\n\n")
        lines = body.split("\n")
        if len(lines) != 3 or lines[0] != self.name + suffix:
            raise InvalidCheckpoint("it is not a checkpoint of this log")
        size = parse_count(lines[1])
        if size is None:
            raise InvalidCheckpoint("it is not a checkpoint of this log")
        signed = f"{body}\n".encode(errors="surrogateescape")
        if not any(self._signed(signed, line) for line in signatures.splitlines()):
            raise InvalidCheckpoint("it is not signed by this key")
        return Checkpoint(size, from_base64(lines[2]), note)

    def _signed(self, signed: bytes, line: str) -> bool:
        """Return whether a line of a note holds this key's signature. Raises InvalidCheckpoint."""
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        if dash != DASH or name != self.name:
            return False
        signature = from_base64(encoded)
        if signature[:4] != self.id:
            return False
        try:
            self._key.verify(signature[4:], signed)
        except InvalidSignature:
            return False
        return True


class CheckpointSigner:
    """Signs the checkpoints of one gateway; the same key for the same root key."""

    def __init__(self, root_key: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(derive_key(root_key, SIGNING_KEY))
        key = self._key.public_key().public_bytes_raw()
        self.public = PublicKey(f"leanplum-gateway/{hashlib.sha256(key).hexdigest()[:16]}", key)

    def sign(self, size: int, root: bytes, suffix: str = "") -> str:
        """Return the note of a checkpoint, whose origin is the key's name with `suffix`."""
        body = f"{self.public.name}{suffix}\n{size}\n{to_base64(root)}\n"
        signature = to_base64(self.public.id + self._key.sign(body.encode()))
        return f"{body}\n{DASH} {self.public.name} {signature}\n"
