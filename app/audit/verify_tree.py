"""Verification of checkpoints and of the tree's hashes, which says which hashes can be trusted.

The hashes stored with the records must lead to the roots that are signed. Pure.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.audit import merkle
from app.audit.evidence import Evidence
from app.audit.findings import Report
from app.audit.tree import (
    BLOCK,
    LEVEL,
    REMOVED,
    Checkpoint,
    InvalidCheckpoint,
    PublicKey,
    block_hash,
    parse_count,
    split_hashes,
)

OTHER_TREE = "the tree that is to grow has other hashes than those that are signed"
TOGETHER = "one or more of these were changed, and the hashes with them"
PROOF_HASH = (
    "the hash of the last {count}, which proofs use, was changed; the records are as they were "
    "sealed"
)
NOT_REACHED = (
    "nothing here leads to it: hashes are gone, or it is older than the records that were exported"
)


@dataclass(frozen=True, slots=True)
class TreeTrust:
    """How far the hashes lead to the signed root.

    `leaves` is true when all leaves do. Otherwise `blocks` is true when the hashes of the blocks
    do, and records `doubtful[0]` to `doubtful[1]` cannot be told apart.
    """

    leaves: bool
    blocks: bool = False
    doubtful: tuple[int, int] = (0, 0)


def verify_tree(
    evidence: Evidence, key: PublicKey, kept: Sequence[str], report: Report
) -> TreeTrust:
    """Verify all checkpoints and the tree; add sizes and findings to the report.

    `kept` are checkpoints from outside of the database.
    """
    known = _verify_notes(evidence.notes, key, report, "in the database")
    newest = _newest(evidence, key, known, report)
    if newest is not None:
        report.sealed, report.root = newest.size, newest.root
    report.removed = _verify_removed(evidence, key, report)
    outside = _verify_notes(kept, key, report, "that was kept")
    sizes = {report.sealed, *(checkpoint.size for checkpoint in [*known, *outside])}
    roots = TreeRoots(evidence, sizes)
    trust = _verify_roots(report, roots, known)
    for checkpoint in outside:
        _compare_with_kept(checkpoint, report, roots)
    return trust


def _verify_notes(
    notes: Iterable[str], key: PublicKey, report: Report, origin: str
) -> list[Checkpoint]:
    """Return the valid checkpoints; `origin` says in findings where the others come from."""
    checkpoints = []
    for note in notes:
        try:
            checkpoints.append(key.verify(note))
        except InvalidCheckpoint as error:
            size = parse_count("".join(note.split("\n")[1:2])) or 0
            report.add_checkpoint(size, f"the checkpoint {origin} is not valid: {error}")
    return checkpoints


def _newest(
    evidence: Evidence, key: PublicKey, known: Sequence[Checkpoint], report: Report
) -> Checkpoint | None:
    """Return the newest valid checkpoint, and hold what is stored of the tree against it."""
    candidates = [*known]
    if evidence.note is not None and evidence.note not in evidence.notes[-1:]:
        candidates += _verify_notes([evidence.note], key, report, "stored as the newest")
    newest = max(candidates, key=lambda checkpoint: checkpoint.size, default=None)
    for checkpoint in known:
        if checkpoint.note in evidence.misplaced:
            report.add_checkpoint(checkpoint.size, "it is stored under a size that is not its own")
    size, root = (0, merkle.EMPTY) if newest is None else (newest.size, newest.root)
    if newest is not None and newest.note != evidence.note:
        report.add_checkpoint(size, "another one is stored as the newest")
    if evidence.tree_size not in {None, size}:
        detail = f"the tree claims {evidence.tree_size} records, and {size} are signed"
        report.add_checkpoint(size, detail)
    elif evidence.tree_root not in {None, root}:
        report.add_checkpoint(size, OTHER_TREE)
    if evidence.written < size:
        report.add_checkpoint(size, f"only {evidence.written} records are counted as written")
    return newest


def _verify_removed(evidence: Evidence, key: PublicKey, report: Report) -> int:
    """Return how many of the first records retention has removed, as far as that is signed."""
    removed = 0
    if evidence.statement is not None:
        try:
            removed = key.verify(evidence.statement, REMOVED).size
        except InvalidCheckpoint as error:
            report.add_checkpoint(
                0, f"the statement of what retention removed is not valid: {error}"
            )
    if evidence.tree_removed not in {None, removed}:
        detail = (
            f"retention is said to have removed {evidence.tree_removed} records, and {removed} are "
            "signed"
        )
        report.add_checkpoint(removed, detail)
    return removed


def _verify_roots(report: Report, roots: "TreeRoots", known: Sequence[Checkpoint]) -> TreeTrust:
    """Hold the roots that the hashes lead to against the checkpoints in the database."""
    if report.sealed and roots.by_size.get(report.sealed) != report.root:
        return _limited_trust(report, roots, known)
    for checkpoint in known:
        if roots.by_size.get(checkpoint.size, checkpoint.root) != checkpoint.root:
            report.add_checkpoint(checkpoint.size, "it is signed, and not about these records")
    for changed in roots.changed:
        report.add_checkpoint(changed.last, PROOF_HASH.format(count=changed.records))
    return TreeTrust(leaves=True)


def _limited_trust(report: Report, roots: "TreeRoots", known: Sequence[Checkpoint]) -> TreeTrust:
    """Return what can be trusted where the leaves do not lead to the signed root.

    The doubtful records are enclosed by the last checkpoint that fits and the first that does not.
    """
    good, bad = list[int](), [report.sealed]
    for checkpoint in known:
        root = roots.by_size.get(checkpoint.size)
        if root == checkpoint.root:
            good.append(checkpoint.size)
        elif root is not None:
            bad.append(checkpoint.size)
    begin = max(good, default=report.removed)
    end = min((size for size in bad if size > begin), default=report.sealed)
    blocks_fit = roots.of_blocks == report.root
    return TreeTrust(leaves=False, blocks=blocks_fit, doubtful=(begin + 1, end))


def _compare_with_kept(kept: Checkpoint, report: Report, roots: "TreeRoots") -> None:
    """Hold the tree against a checkpoint from outside."""
    if kept.size > report.sealed:
        detail = f"a checkpoint that was kept says that {kept.size} records were sealed"
        report.add("cut off", report.sealed + 1, kept.size, detail)
    elif kept.size in roots.by_size:
        if roots.by_size[kept.size] != kept.root:
            detail = f"{TOGETHER}: a checkpoint that was kept says otherwise"
            report.add("changed", report.removed + 1, kept.size, detail)
    elif kept.size <= report.removed:
        report.unchecked.append(kept.size)
    else:
        report.add_checkpoint(kept.size, NOT_REACHED)


class ChangedHash(NamedTuple):
    """A stored hash over so many records up to number `last` that is not what the leaves make."""

    last: int
    records: int


class TreeRoots:
    """The roots that the stored hashes lead to.

    `by_size` are those that the leaves make, at the sizes asked for; `of_blocks` is the root that
    the hashes of the blocks make; `changed` are hashes that the leaves do not make.
    """

    def __init__(self, evidence: Evidence, sizes: Iterable[int]) -> None:
        self.by_size: dict[int, bytes] = {}
        self.changed: list[ChangedHash] = []
        self._sizes = sorted({*sizes} - {0})
        self._above = evidence.above
        self._stored_of_level: dict[int, Iterator[bytes]] = {}
        made_peaks, stored_peaks = list(evidence.peaks), list(evidence.peaks)
        place = evidence.first_block
        self._add_root(made_peaks, place * BLOCK)
        tail_peaks: list[bytes] = []
        for block in evidence.blocks():
            self._add_roots_inside(made_peaks, place, block.leaves)
            if block.leaves and len(block.leaves) != BLOCK * merkle.SIZE:
                tail_peaks = merkle.peaks_of(split_hashes(block.leaves))
                break
            made = block_hash(block.leaves) if block.leaves else block.hash
            merkle.push(stored_peaks, place, block.hash)
            self._compare(block.hash, merkle.push(made_peaks, place, made), place)
            place += 1
            self._add_root(made_peaks, place * BLOCK)
        self.of_blocks = merkle.root(stored_peaks + tail_peaks)

    def _compare(self, stored_block: bytes, made: Sequence[bytes], place: int) -> None:
        """Compare the stored hashes of a block and of the subtrees it completes with those made."""
        for height, made_hash in enumerate(made):
            stored = stored_block if height == 0 else self._stored(height, place)
            if stored is not None and stored != made_hash:
                self.changed.append(ChangedHash((place + 1) * BLOCK, BLOCK << height))

    def _stored(self, height: int, place: int) -> bytes | None:
        """Return the stored hash of the subtree that block `place` completes.

        The subtree's root is `height` levels above the blocks. None for an export, which has none.
        """
        if self._above is None:
            return None
        if height not in self._stored_of_level:
            self._stored_of_level[height] = self._above(LEVEL + height, place >> height)
        return next(self._stored_of_level[height], b"")

    def _add_root(self, peaks: Sequence[bytes], size: int) -> None:
        index = bisect_left(self._sizes, size)
        if self._sizes[index : index + 1] == [size]:
            self.by_size[size] = merkle.root(peaks)

    def _add_roots_inside(self, peaks: Sequence[bytes], place: int, leaves: bytes) -> None:
        """Add the roots at the sizes within a block."""
        begin, block_leaves = place * BLOCK, split_hashes(leaves)
        last = begin + min(len(block_leaves), BLOCK - 1)
        start, stop = bisect_left(self._sizes, begin + 1), bisect_right(self._sizes, last)
        for size in self._sizes[start:stop]:
            inside = merkle.peaks_of(block_leaves[: size - begin])
            self.by_size[size] = merkle.root([*peaks, *inside])
