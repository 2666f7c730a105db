"""The Merkle tree over the audit records as the database stores it, and its signed checkpoints.

The leaves of a complete subtree of 256 records, a *block*, are stored in one row with the block's
hash; the leaves after the last block are in the tree's own row. So neither growth nor proofs read
the records.

A checkpoint states how many records there are and what the hash of their tree is. It is a C2SP
tlog-checkpoint in a signed note, with Ed25519 (algorithm 1). A public key is written as
`name+id+key`, as Go's `note` package does. The name is derived from the key and is the log's origin
as well.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection

from app.audit import merkle
from app.audit.key_derivation import derive_key
from app.database.driver import DIALECTS

LEVEL = 8
BLOCK = 1 << LEVEL  # records
# The largest count: the sum of any two still fits into a column of the database
MAX_COUNT = 1 << 62
TREE = "SELECT size, peaks, tail, removed, statement FROM audit_tree"
NODE = "SELECT hash, leaves FROM audit_nodes WHERE level = ? AND place = ?"
WRITTEN = "SELECT records FROM sequence"
NEWEST = "SELECT size, time, note FROM audit_checkpoints ORDER BY size DESC LIMIT 1"
ED25519 = b"\1"
SIGNING_KEY = b"leanplum-gateway audit checkpoints"  # name of the derived key: never change it
REMOVED = "/removed"  # suffix of the origin in a statement of what retention has removed
DASH = "\N{EM DASH}"
# At most 18 digits: int() refuses very long texts, or takes long for them
COUNT = re.compile(r"0|[1-9][0-9]{0,17}")
Fetch = Callable[[str, tuple[Any, ...]], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Tree:
    """The row of the tree: how many records are sealed, and the hashes it grows from.

    `peaks` are those of the complete blocks, `tail` the leaves after them. `removed` counts the
    first records, which retention has removed, and `statement` is the signed note about these.
    """

    size: int = 0
    peaks: bytes = b""
    tail: bytes = b""
    removed: int = 0
    statement: str | None = None

    @property
    def root(self) -> bytes:
        """The hash of the whole tree."""
        return merkle.root(split_hashes(self.peaks) + merkle.peaks_of(split_hashes(self.tail)))


@dataclass(frozen=True, slots=True)
class TreeNode:
    """A complete subtree of 2^`level` records; a block has its leaves."""

    level: int
    place: int
    hash: bytes
    leaves: bytes | None


def split_hashes(joined: bytes) -> list[bytes]:
    """Return the single hashes that are stored one after the other."""
    return [joined[start : start + merkle.SIZE] for start in range(0, len(joined), merkle.SIZE)]


def block_hash(leaves: bytes) -> bytes:
    """Return the hash of a block, or of its first leaves."""
    return merkle.root(merkle.peaks_of(split_hashes(leaves)))


def grow(tree: Tree, leaves: Sequence[bytes]) -> tuple[Tree, list[TreeNode]]:
    """Return the tree with more leaves, and the subtrees that they complete."""
    blocks, tail = tree.size // BLOCK, tree.tail + b"".join(leaves)
    peaks, nodes = split_hashes(tree.peaks), list[TreeNode]()
    while len(tail) >= BLOCK * merkle.SIZE:
        block, tail = tail[: BLOCK * merkle.SIZE], tail[BLOCK * merkle.SIZE :]
        completed = merkle.push(peaks, blocks, block_hash(block))
        for height, node_hash in enumerate(completed):
            block_leaves = block if height == 0 else None
            nodes.append(TreeNode(LEVEL + height, blocks >> height, node_hash, block_leaves))
        blocks += 1
    return replace(tree, size=tree.size + len(leaves), peaks=b"".join(peaks), tail=tail), nodes


def count_of(value: object) -> int:
    """Return a stored count, or -1 for a value that is none: SQLite's columns take any type."""
    return value if type(value) is int and 0 <= value <= MAX_COUNT else -1


def bytes_of(value: object) -> bytes:
    """Return stored bytes, or none for a value of another type."""
    return bytes(value) if isinstance(value, bytes | memoryview) else b""


def text_of(value: object) -> str:
    """Return a stored text, or an empty one for a value of another type."""
    return value if isinstance(value, str) else ""


def raw_of(value: object) -> bytes:
    """Return the bytes of a stored text, even where they are not UTF-8."""
    return text_of(value).encode(errors="surrogateescape")


def fetcher(connection: Connection) -> Fetch:
    """Return a function that reads rows by a statement and its values."""
    dialect = DIALECTS[connection.dialect.name]

    def fetch(statement: str, values: tuple[Any, ...]) -> Sequence[Any]:
        return connection.exec_driver_sql(dialect.sql(statement), values).all()

    return fetch


def read_tree(fetch: Fetch) -> Tree:
    """Return the tree; an empty one where its row is missing or is not the only one."""
    rows = fetch(TREE, ())
    if len(rows) != 1:
        return Tree()
    size, peaks, tail, removed, statement = rows[0]
    return Tree(
        count_of(size),
        bytes_of(peaks),
        bytes_of(tail),
        count_of(removed),
        None if statement is None else text_of(statement),
    )


def read_written(fetch: Fetch) -> int:
    """Return the stored count of records written; 0 unless exactly one row holds it."""
    rows = fetch(WRITTEN, ())
    return max(count_of(rows[0][0]), 0) if len(rows) == 1 else 0


class StoredHashes:
    """The hashes of complete subtrees of the sealed records; each row is read once."""

    def __init__(self, fetch: Fetch, tree: Tree) -> None:
        self._fetch, self._tree = fetch, tree
        self._rows: dict[tuple[int, int], tuple[bytes, bytes | None]] = {}

    def node(self, level: int, place: int) -> bytes:
        """Return the hash of a subtree. Raises LookupError where retention has removed it."""
        if level >= LEVEL:
            return self._row(level, place)[0]
        begin = place << level
        start = begin % BLOCK
        leaves = split_hashes(self.leaves(begin // BLOCK))[start : start + (1 << level)]
        if len(leaves) < 1 << level:
            raise LookupError(level, place)
        return merkle.root(merkle.peaks_of(leaves))

    def leaves(self, block: int) -> bytes:
        """Return the leaves of a block. Raises LookupError where retention has removed them."""
        if block == self._tree.size // BLOCK:
            return self._tree.tail
        leaves = self._row(LEVEL, block)[1]
        if leaves is None:
            raise LookupError(LEVEL, block)
        return leaves

    def _row(self, level: int, place: int) -> tuple[bytes, bytes | None]:
        if (level, place) not in self._rows:
            rows = self._fetch(NODE, (level, place))
            if not rows:
                raise LookupError(level, place)
            node_hash, leaves = rows[0]
            block_leaves = None if leaves is None else bytes_of(leaves)
            self._rows[level, place] = bytes_of(node_hash), block_leaves
        return self._rows[level, place]


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
