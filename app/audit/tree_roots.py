"""The roots that the hashes lead to, which lie beside the records: to be held against those that
are signed. Pure.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from app.audit import merkle
from app.audit.checkpoints import Checkpoint
from app.audit.findings import Evidence
from app.audit.tree import BLOCK, LEVEL, block_hash, hashes


class Roots:
    """The roots that the leaves make at certain sizes, and the root that the blocks' own hashes
    make.
    """

    def __init__(self, evidence: Evidence, sealed: int, checkpoints: Sequence[Checkpoint]) -> None:
        self.at: dict[int, bytes] = {}
        self.of_hashes = merkle.EMPTY
        # Hashes that are not what the leaves make: up to record, over so many
        self.other: list[tuple[int, int]] = []
        self._wanted = sorted({sealed, *(one.size for one in checkpoints)} - {0})
        self._above = evidence.above
        self._of_level: dict[int, Iterator[bytes]] = {}
        leaves, blocks = list(evidence.peaks), list(evidence.peaks)
        blocks_before = evidence.first_block
        self._note(leaves, blocks_before * BLOCK)
        tail: list[bytes] = []
        for block in evidence.blocks():
            self._inside(leaves, blocks_before, block.leaves)
            if block.leaves and len(block.leaves) != BLOCK * merkle.SIZE:
                tail = merkle.peaks_of(hashes(block.leaves))
                break
            made = block_hash(block.leaves) if block.leaves else block.hash
            merkle.push(blocks, blocks_before, block.hash)
            self._compare(block.hash, merkle.push(leaves, blocks_before, made), blocks_before)
            blocks_before += 1
            self._note(leaves, blocks_before * BLOCK)
        self.of_hashes = merkle.root(blocks + tail)

    def _compare(self, block: bytes, made: Sequence[bytes], place: int) -> None:
        """Hold the hashes that lie there against those that a block, and the subtrees it completes,
        have.
        """
        for up, hash_ in enumerate(made):
            if (block if up == 0 else self._stored(up, place)) not in {hash_, None}:
                self.other.append(((place + 1) * BLOCK, BLOCK << up))

    def _stored(self, up: int, place: int) -> bytes | None:
        """The hash that lies there of the subtree, so many levels above the blocks, that block
        `place` completes.
        """
        if self._above is None:
            return None
        if up not in self._of_level:
            self._of_level[up] = self._above(LEVEL + up, place >> up)
        return next(self._of_level[up], b"")

    def _note(self, peaks: Sequence[bytes], size: int) -> None:
        if size in self._wanted[(at := bisect_left(self._wanted, size)) : at + 1]:
            self.at[size] = merkle.root(peaks)

    def _inside(self, peaks: Sequence[bytes], blocks: int, leaves: bytes) -> None:
        """The roots at the sizes that are wanted within a block."""
        begin, single = blocks * BLOCK, hashes(leaves)
        last = begin + min(len(single), BLOCK - 1)
        for size in self._wanted[
            bisect_left(self._wanted, begin + 1) : bisect_right(self._wanted, last)
        ]:
            self.at[size] = merkle.root([*peaks, *merkle.peaks_of(single[: size - begin])])
