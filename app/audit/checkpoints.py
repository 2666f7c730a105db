"""Checkpoints: how many records there were, and the hash of their tree, signed. Pure.

Source: C2SP tlog-checkpoint and signed-note, with Ed25519 (algorithm 1). A public key is written as
`name+id+key`, as Go's `note` package does; our name, which is the log's origin as well, is made of
the key.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.audit.key_derivation import derived

ED25519 = b"\1"
PURPOSE = b"leanplum-gateway audit checkpoints"
REMOVED = "/removed"  # behind the origin: what of the log's beginning retention has removed
DASH = "\N{EM DASH}"
# As many as there may be; int() itself refuses, or takes long for, more
COUNT = re.compile(r"0|[1-9][0-9]{0,17}")


class BadNote(ValueError):
    """It is no checkpoint, or not one of this key's."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a note says: the first `size` records have the tree whose hash is `root`."""

    size: int
    root: bytes
    note: str


def encoded(value: bytes) -> str:
    """Bytes in base64."""
    return base64.b64encode(value).decode()


def decoded(text: str) -> bytes:
    """Bytes from base64. Raises BadNote."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadNote("it is not base64") from None


def count(text: str) -> int | None:
    """The number that stands there as a checkpoint has it; None where it is none."""
    return int(text) if COUNT.fullmatch(text) else None


class PublicKey:
    """What checkpoints are verified with."""

    def __init__(self, name: str, key: bytes) -> None:
        self.name = name
        self._key = Ed25519PublicKey.from_public_bytes(key)
        self.id = hashlib.sha256(name.encode() + b"\n" + ED25519 + key).digest()[:4]
        self.text = f"{name}+{self.id.hex()}+{encoded(ED25519 + key)}"

    @classmethod
    def parse(cls, text: str) -> "PublicKey":
        """From its text. Raises BadNote."""
        name, _, rest = text.strip().partition("+")
        _, _, key = rest.partition("+")
        raw = decoded(key)
        plain = text.isascii() and raw[:1] == ED25519 and len(raw) == 33
        if not plain or (found := cls(name, raw[1:])).text != text.strip():
            raise BadNote("it is no public key of an audit")
        return found

    def open(self, note: str, behind: str = "") -> Checkpoint:
        """What the note says, of the log itself or what has `behind` its origin. Raises BadNote."""
        text, _, signatures = note.partition("\n\n")
        lines = text.split("\n")
        if len(lines) != 3 or lines[0] != self.name + behind or (size := count(lines[1])) is None:
            raise BadNote("it is no checkpoint of this log")
        for line in signatures.splitlines():
            dash, _, rest = line.partition(" ")
            name, _, signature = rest.partition(" ")
            if (
                dash == DASH
                and name == self.name
                and self._signed(f"{text}\n".encode(errors="surrogateescape"), decoded(signature))
            ):
                return Checkpoint(size, decoded(lines[2]), note)
        raise BadNote("it is not signed by this key")

    def _signed(self, text: bytes, signature: bytes) -> bool:
        if signature[:4] != self.id:
            return False
        try:
            self._key.verify(signature[4:], text)
        except InvalidSignature:
            return False
        return True


class Signer:
    """Signs the checkpoints of one gateway: the same for the same seed."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(derived(seed, PURPOSE))
        key = self._key.public_key().public_bytes_raw()
        self.public = PublicKey(f"leanplum-gateway/{hashlib.sha256(key).hexdigest()[:16]}", key)

    def sign(self, size: int, root: bytes, behind: str = "") -> str:
        """The note of a checkpoint."""
        text = f"{self.public.name}{behind}\n{size}\n{encoded(root)}\n"
        signature = encoded(self.public.id + self._key.sign(text.encode()))
        return f"{text}\n{DASH} {self.public.name} {signature}\n"
