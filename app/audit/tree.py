"""The Merkle tree over the audit records as the database stores it: its growth, its hashes.

The leaves of a complete subtree of 256 records, a *block*, are stored in one row with the block's
hash; the leaves after the last block are in the tree's own row. So neither growth nor proofs read
the records.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from app.audit import merkle
from app.database.driver import DIALECTS

LEVEL = 8
BLOCK = 1 << LEVEL  # records
# The largest count: the sum of any two still fits into a column of the database
MAX_COUNT = 1 << 62
TREE = "SELECT size, peaks, tail, removed, statement FROM audit_tree"
NODE = "SELECT hash, leaves FROM audit_nodes WHERE level = ? AND place = ?"
WRITTEN = "SELECT records FROM sequence"
NEWEST = "SELECT size, time, note FROM audit_checkpoints ORDER BY size DESC LIMIT 1"
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
