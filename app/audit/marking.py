"""Marks for records from before there were marks: those that are sealed get theirs while the
gateway runs, in steps.

Until then only the tree speaks for such a record: whoever empties it can change the record, and
nothing shows that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from app.audit import merkle, proofs
from app.audit.checkpoints import PublicKey
from app.audit.record_macs import Marks
from app.audit.tree import BLOCK, LEVEL, Hashes, Tree, block_hash, fetcher, hashes, raw_of
from app.database.driver import Cursor
from app.database.engine import snapshot
from app.errors import AuditBroken, NotFound

BLOCKS = 16  # looked at in one step
UNMARKED = (
    "SELECT seq, record FROM audit_records WHERE mark IS NULL AND seq > ? AND seq <= ? ORDER BY seq"
)
AT_ONCE = 256
COLUMNS = "SET mark = v.column2 FROM (VALUES {}) AS v"  # these names both databases give them


@dataclass(frozen=True, slots=True)
class Marking:
    """Give records their marks, (number, mark) each, where they still have none."""

    marks: Sequence[tuple[int, bytes]]

    @property
    def rows(self) -> int:
        """Its weight in a group."""
        return len(self.marks)

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Marking"]) -> Sequence[None]:
        """Write them."""
        for write in writes:
            write.run(cursor)
        return [None] * len(writes)

    def run(self, cursor: Cursor) -> None:
        """Write them, in the transaction that is open."""
        for at in range(0, len(self.marks), AT_ONCE):
            some = self.marks[at : at + AT_ONCE]
            head = f"UPDATE audit_records {COLUMNS.format(', '.join(['(?, ?)'] * len(some)))}"
            where = "WHERE audit_records.seq = v.column1 AND audit_records.mark IS NULL"
            cursor.execute(f"{head} {where}", [value for one in some for value in one])


class Marker:
    """Looks once at each block that was sealed when it began: later records all have marks before
    they are sealed.
    """

    def __init__(self, engine: Engine, public: PublicKey, marks: Marks) -> None:
        self._engine, self._public, self._marks = engine, public, marks
        self._next, self._end = 0, -1  # blocks; -1: not known yet

    @property
    def done(self) -> bool:
        """Whether nothing is left to look at."""
        return 0 <= self._end <= self._next

    def step(self) -> Marking | None:
        """Marks for records of the next few blocks, whose texts the newest checkpoint speaks for;
        None where none lacks one. Blocks that had some are looked at again, in case these could not
        be written.
        """
        found = list[tuple[int, bytes]]()
        with snapshot(self._engine) as connection:
            fetch = fetcher(connection)
            try:
                _, signed, tree = proofs.newest(fetch, self._public)
            except NotFound:
                self._end = 0
                return None
            except AuditBroken:  # the sealer tells that
                return None
            if self._end < 0:
                self._next, self._end = max(tree.removed, 0) // BLOCK, -(-tree.size // BLOCK)
            stored, end = Hashes(fetch, tree), min(self._next + BLOCKS, self._end)
            for block in range(self._next, end):
                if rows := fetch(UNMARKED, (block * BLOCK, min((block + 1) * BLOCK, tree.size))):
                    leaves = _proven(stored, tree, block, signed.root)
                    found += [
                        (seq, self._marks.of(seq, raw))
                        for seq, raw in ((seq, raw_of(text)) for seq, text in rows)
                        if leaves[(at := seq - 1 - block * BLOCK) : at + 1]
                        == [merkle.leaf_hash(raw)]
                    ]
        if not found:
            self._next = end
        return Marking(found) if found else None


def _proven(stored: Hashes, tree: Tree, block: int, root: bytes) -> list[bytes]:
    """The leaves of a block where they lead to the root, which is that of `tree`; else none."""
    try:
        leaves = stored.leaves(block)
        # They are in the tree's own row, and the root is made of them
        if block == tree.size // BLOCK:
            return hashes(leaves)
        path = merkle.inclusion(stored.node, block * BLOCK, tree.size)[LEVEL:]
    except LookupError:
        return []
    blocks = -(-tree.size // BLOCK)
    return hashes(leaves) if merkle.included(block_hash(leaves), block, blocks, path, root) else []
