"""The tree of the audit's records as the database has it, how it grows, and its hashes for proofs.

The leaves of a complete subtree of 256 records, a *block*, lie together in one row beside the
block's hash; those behind the last block are in the tree's own row. So neither growing nor proving
reads the records.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from app.audit import merkle
from app.database.driver import DIALECTS

LEVEL = 8
BLOCK = 1 << LEVEL  # records
MOST = 1 << 62  # of any count: what is reckoned with it is still a number that a column can have
TREE = "SELECT size, peaks, tail, removed, statement FROM audit_tree"
NODE = "SELECT hash, leaves FROM audit_nodes WHERE level = ? AND place = ?"
WRITTEN = "SELECT records FROM sequence"
NEWEST = "SELECT size, time, note FROM audit_checkpoints ORDER BY size DESC LIMIT 1"
Fetch = Callable[[str, tuple[Any, ...]], Sequence[Any]]
Node = tuple[int, int, bytes, bytes | None]  # level, place, hash, leaves of a block


@dataclass(frozen=True, slots=True)
class Tree:
    """How far the records are sealed. `removed`: how many of the first ones retention has removed,
    and `statement` the signed note that says so.
    """

    size: int = 0
    peaks: bytes = b""
    tail: bytes = b""
    removed: int = 0
    statement: str | None = None

    @property
    def root(self) -> bytes:
        """Its hash."""
        return merkle.root(hashes(self.peaks) + merkle.peaks_of(hashes(self.tail)))


def hashes(joined: bytes) -> list[bytes]:
    """The single hashes of what lies together."""
    return [joined[at : at + merkle.SIZE] for at in range(0, len(joined), merkle.SIZE)]


def block_hash(leaves: bytes) -> bytes:
    """The hash of a block, or of what there is of one."""
    return merkle.root(merkle.peaks_of(hashes(leaves)))


def grown(tree: Tree, leaves: Sequence[bytes]) -> tuple[Tree, list[Node]]:
    """The tree with more leaves, and the subtrees that are complete now."""
    blocks, tail = tree.size // BLOCK, tree.tail + b"".join(leaves)
    peaks, nodes = hashes(tree.peaks), list[Node]()
    while len(tail) >= BLOCK * merkle.SIZE:
        block, tail = tail[: BLOCK * merkle.SIZE], tail[BLOCK * merkle.SIZE :]
        made = merkle.push(peaks, blocks, block_hash(block))
        nodes += [
            (LEVEL + up, blocks >> up, one, None if up else block) for up, one in enumerate(made)
        ]
        blocks += 1
    return replace(tree, size=tree.size + len(leaves), peaks=b"".join(peaks), tail=tail), nodes


def count_of(value: object) -> int:
    """What a column of counts has: SQLite's take anything, so what is no count is told as -1, which
    is no count.
    """
    return value if type(value) is int and 0 <= value <= MOST else -1


def bytes_of(value: object) -> bytes:
    """What a column of hashes has; nothing where it is of another type, which no hash is."""
    return bytes(value) if isinstance(value, bytes | memoryview) else b""


def text_of(value: object) -> str:
    """What a column of texts has; nothing where it is of another type."""
    return value if isinstance(value, str) else ""


def raw_of(value: object) -> bytes:
    """The bytes of a text as the database has them, whether or not they are UTF-8."""
    return text_of(value).encode(errors="surrogateescape")


def fetcher(connection: Connection) -> Fetch:
    """Reads rows by our statements."""
    dialect = DIALECTS[connection.dialect.name]
    return lambda statement, values: connection.exec_driver_sql(
        dialect.sql(statement), values
    ).all()


def read(fetch: Fetch) -> Tree:
    """The tree, as it is now. Where its row is gone, or isn't the only one, it is an empty one."""
    found = fetch(TREE, ())
    if len(found) != 1:
        return Tree()
    size, peaks, tail, removed, statement = found[0]
    told = None if statement is None else text_of(statement)
    return Tree(count_of(size), bytes_of(peaks), bytes_of(tail), count_of(removed), told)


def written_of(fetch: Fetch) -> int:
    """How many records are said to have been written; none where the row that says it is gone or
    not alone.
    """
    found = fetch(WRITTEN, ())
    return max(count_of(found[0][0]), 0) if len(found) == 1 else 0


class Hashes:
    """The hashes of complete subtrees of what is sealed; each row is read once."""

    def __init__(self, fetch: Fetch, tree: Tree) -> None:
        self._fetch, self._tree = fetch, tree
        self._rows: dict[tuple[int, int], tuple[bytes, bytes | None]] = {}

    def node(self, level: int, place: int) -> bytes:
        """One hash. Raises LookupError where retention has removed it."""
        if level >= LEVEL:
            return self._row(level, place)[0]
        first = place << level
        leaves = hashes(self.leaves(first // BLOCK))[first % BLOCK : first % BLOCK + (1 << level)]
        if len(leaves) < 1 << level:
            raise LookupError(level, place)
        return merkle.root(merkle.peaks_of(leaves))

    def leaves(self, block: int) -> bytes:
        """The leaves of a block, or of what there is of the last one. Raises LookupError
        likewise.
        """
        if block == self._tree.size // BLOCK:
            return self._tree.tail
        leaves = self._row(LEVEL, block)[1]
        if leaves is None:
            raise LookupError(LEVEL, block)
        return leaves

    def _row(self, level: int, place: int) -> tuple[bytes, bytes | None]:
        if (level, place) not in self._rows:
            found = self._fetch(NODE, (level, place))
            if not found:
                raise LookupError(level, place)
            hash_, leaves = found[0]
            self._rows[level, place] = bytes_of(hash_), None if leaves is None else bytes_of(leaves)
        return self._rows[level, place]
