"""Is the audit as it was sealed? Finds what was changed, removed, inserted, reordered or cut off,
and names it. Pure.

Only a checkpoint's signature is believed, and where the key is at hand, each record's mark. The
hashes that lie beside the records lead from the root to each record, and are believed as far as
they do. Where somebody has changed hashes as well, what can't be told apart is named together.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from app.audit import merkle
from app.audit.checkpoints import REMOVED, BadNote, Checkpoint, PublicKey, count
from app.audit.findings import GONE_UNSEALED, Block, Evidence, Report, Row
from app.audit.record_macs import Marks
from app.audit.records import MISSING, is_served, told_of
from app.audit.tree import BLOCK, block_hash, hashes
from app.audit.tree_roots import Roots

CHANGED = "it is not what was recorded"
GONE = "it is gone"
INSERTED = "it was never recorded"
ELSEWHERE = "another record stands here"
OTHER_TREE = "the tree that is to grow has other hashes than those that are signed for"
TOGETHER = "one or more of these were changed, and the hashes with them"
HASHES = "their hashes were changed, so that nothing tells whether they were as well"
NOTHING = "nothing that can be believed is signed, so nothing speaks for any record (a new gateway signs each second)"
PROVES = "the hash of the last {count}, of which proofs are made, was changed; the records are as they were sealed"
UNMARKED = "it has no mark: it was put there, or is from before there were marks"
SEAL_MS = 60_000  # a gateway seals each second while it runs
UNSEALED = (
    "nothing is sealed, although record {seq}, of a gateway that ran, is more than a minute old, and a gateway "
    "seals each second: the checkpoints and the tree were taken away; or the gateway was killed in its first "
    "second: then start it, and verify again"
)
NOTHING_THERE = Block(b"", b"")
BESIDE = "the record is as it was sealed, what stands beside it in its row is not"


def verify(
    evidence: Evidence,
    key: PublicKey,
    kept: Sequence[str] = (),
    marks: Marks | None = None,
    now: int | None = None,
) -> Report:
    """Hold everything against the newest checkpoint, and that against the `kept` ones: notes from
    outside; and each record against its mark, where `marks` are given. At the time `now` (ms)
    something must have been sealed of what a gateway recorded more than a minute ago.
    """
    report = Report(marked=marks is not None)
    known = _opened(evidence.notes, key, report, "in the database")
    newest = _newest(evidence, key, known, report)
    if newest is not None:
        report.sealed, report.root = newest.size, newest.root
    report.removed = _removed(evidence, key, report)
    outside = _opened(kept, key, report, "that was kept")
    roots = Roots(evidence, report.sealed, [*known, *outside])
    trusted = _trust(report, roots, known)
    for checkpoint in outside:
        _compare(checkpoint, report, roots)
    _judge(evidence, report, trusted, marks)
    if report.records and not report.sealed:
        unsealed = marks is not None and not _was_sealed(evidence)
        overdue = _overdue(evidence, now) if unsealed and now is not None else None
        report.nothing_sealed = unsealed and overdue is None
        if overdue is not None:
            report.tell("checkpoint", 0, 0, UNSEALED.format(seq=overdue))
        elif not unsealed:
            report.tell("checkpoint", 0, 0, NOTHING)
    report.part = evidence.first, evidence.last
    report.findings.sort(key=lambda found: (found.kind == "checkpoint", found.first, found.last))
    return report


def _was_sealed(evidence: Evidence) -> bool:
    """Whether anything is left of a checkpoint or of the tree."""
    return bool(evidence.note or evidence.notes or evidence.statement or evidence.tree_size)


def _overdue(evidence: Evidence, now: int) -> int | None:
    """Return the first record of a gateway that ran, where it is so old that it must have been
    sealed.
    """
    for row in evidence.rows():
        told = told_of(row.raw)
        if is_served(told.operation) and isinstance(told.time, int):
            return row.seq if now - told.time > SEAL_MS else None
    return None


# --- checkpoints ------------------------------------------------------------------------------------------------------


def _newest(
    evidence: Evidence, key: PublicKey, known: Sequence[Checkpoint], report: Report
) -> Checkpoint | None:
    """The newest checkpoint that can be believed, of those that are `known` and the one that stands
    as the newest.
    """
    all_ = [*known]
    if evidence.note is not None and evidence.note not in evidence.notes[-1:]:
        all_ += _opened([evidence.note], key, report, "that stands as the newest")
    found = max(all_, key=lambda one: one.size, default=None)
    for one in known:
        if one.note in evidence.misplaced:
            report.tell(
                "checkpoint", one.size, one.size, "it stands under another number than its own"
            )
    size, root = (0, merkle.EMPTY) if found is None else (found.size, found.root)
    if found is not None and found.note != evidence.note:
        report.tell("checkpoint", size, size, "another one stands in the newest's place")
    if evidence.tree_size not in {None, size}:
        told = f"the tree is said to have {evidence.tree_size} records, and {size} are signed for"
        report.tell("checkpoint", size, size, told)
    elif evidence.tree_root not in {None, root}:
        report.tell("checkpoint", size, size, OTHER_TREE)
    if evidence.written < size:
        report.tell(
            "checkpoint",
            size,
            size,
            f"only {evidence.written} records are said to have been written",
        )
    return found


def _opened(notes: Iterable[str], key: PublicKey, report: Report, where: str) -> list[Checkpoint]:
    found = []
    for note in notes:
        try:
            found.append(key.open(note))
        except BadNote as error:
            size = count("".join(note.split("\n")[1:2])) or 0
            report.tell("checkpoint", size, size, f"the one {where} can't be believed: {error}")
    return found


def _removed(evidence: Evidence, key: PublicKey, report: Report) -> int:
    """How many of the first records retention has removed, as far as that is signed."""
    removed = 0
    try:
        removed = 0 if evidence.statement is None else key.open(evidence.statement, REMOVED).size
    except BadNote as error:
        report.tell("checkpoint", 0, 0, f"what was removed by retention can't be believed: {error}")
    if evidence.tree_removed not in {None, removed}:
        told = f"retention is said to have removed {evidence.tree_removed} records, and {removed} are signed for"
        report.tell("checkpoint", removed, removed, told)
    return removed


class _Trust(NamedTuple):
    """Whether the leaves lead to the signed root; else whether the blocks' hashes do; else what
    can't be told apart.
    """

    leaves: bool
    blocks: bool = False
    doubtful: tuple[int, int] = (0, 0)


def _trust(report: Report, roots: Roots, known: Sequence[Checkpoint]) -> _Trust:
    if not report.sealed or roots.at.get(report.sealed) == report.root:
        for one in known:
            if one.size in roots.at and roots.at[one.size] != one.root:
                report.tell(
                    "checkpoint", one.size, one.size, "it is signed, and not about these records"
                )
        for size, count_ in roots.other:
            report.tell("checkpoint", size, size, PROVES.format(count=count_))
        return _Trust(leaves=True)
    good = [one.size for one in known if roots.at.get(one.size) == one.root]
    bad = [one.size for one in known if one.size in roots.at and roots.at[one.size] != one.root]
    begin = max(good, default=report.removed)
    end = min((size for size in [*bad, report.sealed] if size > begin), default=report.sealed)
    return _Trust(leaves=False, blocks=roots.of_hashes == report.root, doubtful=(begin + 1, end))


def _compare(kept: Checkpoint, report: Report, roots: Roots) -> None:
    """Hold what there is against a checkpoint from outside."""
    if kept.size > report.sealed:
        told = f"a checkpoint that was kept says that {kept.size} records were sealed"
        report.tell("cut off", report.sealed + 1, kept.size, told)
    elif kept.size not in roots.at and kept.size <= report.removed:
        report.unchecked.append(kept.size)
    elif kept.size not in roots.at:
        told = "nothing here leads to it: hashes are gone, or it is older than the records that were exported"
        report.tell("checkpoint", kept.size, kept.size, told)
    elif roots.at[kept.size] != kept.root:
        report.tell(
            "changed",
            report.removed + 1,
            kept.size,
            f"{TOGETHER}: a checkpoint that was kept says otherwise",
        )


# --- records ----------------------------------------------------------------------------------------------------------


class _Wrong(NamedTuple):
    """A row that is not what belongs at its place: its hash, the one that belongs there, the number
    that it says.
    """

    seq: int
    hash: bytes
    leaf: bytes | None
    says: object


def _judge(evidence: Evidence, report: Report, trust: _Trust, marks: Marks | None) -> None:
    """Hold every row against its leaf and its mark."""
    leaves = _Leaves(evidence, report, trust)
    wrong, missing = list[_Wrong](), dict[int, bytes | None]()
    after = max(report.removed, (evidence.first or 1) - 1)
    end = max(evidence.written, report.sealed) if evidence.last is None else evidence.last
    for row in evidence.rows():
        report.records += 1
        report.unsealed += row.seq > report.sealed
        if row.seq <= after or row.seq > end:
            report.tell("inserted", row.seq, row.seq, INSERTED)
            continue
        missing.update(
            (seq, leaves.at(seq)) for seq in range(after + 1, min(row.seq, report.sealed + 1))
        )
        # Not one by one: no signature bounds these numbers
        if (first := max(after, report.sealed) + 1) < row.seq:
            report.tell("removed", first, row.seq - 1, GONE)
        after = row.seq
        if (found := _wrong(row, leaves.at(row.seq), report, marks)) is not None:
            wrong.append(found)
    _name(report, wrong, missing)
    if after < end:
        report.tell("cut off", after + 1, end, GONE)
    if not trust.leaves and not trust.blocks:
        report.tell("changed", *trust.doubtful, TOGETHER)


def _wrong(row: Row, leaf: bytes | None, report: Report, marks: Marks | None) -> _Wrong | None:
    """What is wrong with a row, where something is. `leaf`: its hash in the tree, None where that
    is not known.
    """
    found, told = merkle.leaf_hash(row.raw), told_of(row.raw)
    # what is sealed may be from before there were marks
    marked = marks is None or (row.mark is None and row.seq <= report.sealed) or _fits(row, marks)
    as_written = marked and row.time == told.time
    if as_written and (change := told.change) is not None:
        report.changes[change[0]] = max(change[1], report.changes.get(change[0], 0))
    if (
        leaf is None
        and row.mark is None
        and not marked
        and (told.seq, told.time) == (row.seq, row.time)
    ):
        report.tell("inserted", row.seq, row.seq, UNMARKED)
        return None
    if leaf is None:
        return (
            None if as_written and told.seq == row.seq else _Wrong(row.seq, found, None, told.seq)
        )
    if found != leaf:
        return _Wrong(row.seq, found, leaf, told.seq)
    if not as_written:
        report.tell("changed", row.seq, row.seq, BESIDE)
    if told.operation == MISSING:
        report.tell("removed", row.seq, row.seq, GONE_UNSEALED)
    return None


def _fits(row: Row, marks: Marks) -> bool:
    return row.mark is not None and marks.fits(row.seq, row.raw, row.mark)


def _name(report: Report, wrong: Sequence[_Wrong], missing: dict[int, bytes | None]) -> None:
    """Tell of each place that has the wrong record, or none, what was done."""
    there = {one.hash for one in wrong}
    homes = {one.leaf for one in wrong} | set(missing.values())
    for one in wrong:
        if one.hash in homes or (one.leaf is None and one.says not in (None, one.seq)):
            report.tell("reordered", one.seq, one.seq, ELSEWHERE)
        elif one.leaf is not None and one.leaf in there:
            report.tell("inserted", one.seq, one.seq, INSERTED)
        else:
            report.tell("changed", one.seq, one.seq, CHANGED)
    for one in wrong:
        if one.hash in homes and one.leaf not in there:
            report.tell("removed", one.seq, one.seq, GONE)
    for seq, leaf in missing.items():
        report.tell(
            "reordered" if leaf in there else "removed",
            seq,
            seq,
            ELSEWHERE if leaf in there else GONE,
        )


class _Leaves:
    """The hash that the tree has of each record, read along with the rows; None where nothing
    believable tells it, which is told where it should be known.
    """

    def __init__(self, evidence: Evidence, report: Report, trust: _Trust) -> None:
        self._blocks: Iterator[Block] = iter(evidence.blocks())
        self._report, self._trust = report, trust
        self._place, self._leaves = evidence.first_block - 1, list[bytes]()

    def at(self, seq: int) -> bytes | None:
        """Of record `seq`; they are asked for in their order."""
        if seq > self._report.sealed:
            return None
        while self._place < (seq - 1) // BLOCK:
            self._place += 1
            self._leaves = self._believable(next(self._blocks, NOTHING_THERE))
        inside = seq - 1 - self._place * BLOCK
        if 0 <= inside < len(self._leaves):
            return self._leaves[inside]
        self._report.tell("changed", seq, seq, HASHES)
        return None

    def _believable(self, block: Block) -> list[bytes]:
        trusted = self._trust.leaves or block_hash(block.leaves) == block.hash
        return hashes(block.leaves) if trusted else []
