"""What there is to be verified, and what is found by it: the shapes that `verifying` takes and
gives.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

from app.audit import merkle

GONE_UNSEALED = "it was gone before it was sealed"
Kind = Literal["changed", "removed", "inserted", "reordered", "cut off", "checkpoint", "row"]


class Finding(NamedTuple):
    """What is wrong with the records from number `first` to `last`; for "checkpoint" with one of so
    many records; for "row" with a row of caller keys or erasures, which `detail` names.
    """

    kind: Kind
    first: int
    last: int
    detail: str


class Row(NamedTuple):
    """A record as it was found, in its bytes; and what was kept beside it: its time, and its mark
    (None: no mark).
    """

    seq: int
    raw: bytes
    time: int
    mark: bytes | None = None


class Block(NamedTuple):
    """256 leaves of the tree, the last block fewer. `leaves` is empty where only the hash was
    handed over.
    """

    hash: bytes
    leaves: bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """What there is to be verified. `peaks` are those of all that lies before the first block;
    blocks come one after the other. Rows come in the order of their numbers; those between `first`
    and `last` are all that there should be (None: of all that was written). `above`: the hashes
    over 2^level records, from a place on, for levels over that of blocks; an export has none.
    """

    written: int
    note: str | None
    statement: str | None
    first: int | None
    last: int | None
    peaks: Sequence[bytes]
    first_block: int
    blocks: Callable[[], Iterable[Block]]
    rows: Callable[[], Iterable[Row]]
    notes: Sequence[str] = ()  # older checkpoints, oldest first
    misplaced: Collection[str] = ()  # those of them that stand under another number than their own
    tree_size: int | None = None  # as the tree's own row has it
    tree_root: bytes | None = None  # likewise: what its hashes make
    tree_removed: int | None = None
    above: Callable[[int, int], Iterator[bytes]] | None = None


@dataclass(slots=True)
class Report:
    """What was found, and over what it was looked for: so many `records`, of which `unsealed` came
    after the newest checkpoint, and those between `part` alone where they are not all (None: no
    bound). `marked`: whether marks were looked at, which takes the key. `unchecked`: of how many
    records checkpoints that were kept are, which reach back to nothing that is left.
    `acknowledged`: what would be findings, had the operator not said that they know of it.
    """

    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    unsealed: int = 0
    part: tuple[int | None, int | None] = (None, None)
    sealed: int = 0
    removed: int = 0
    root: bytes = merkle.EMPTY
    marked: bool = False
    unchecked: list[int] = field(default_factory=list)
    acknowledged: list[Finding] = field(default_factory=list)
    nothing_sealed: bool = False  # there are records, and no trace of a checkpoint
    nothing_recorded: bool = False  # there is no trace of a record either
    # Of each set of rows the newest change that a record tells
    changes: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many records were looked at, how many of them nothing is signed for yet, how many are
        sealed altogether, and how many of these retention has removed.
        """
        told = {"records": self.records, "unsealed": self.unsealed, "sealed": self.sealed}
        return told | {"removed": self.removed}

    def acknowledge(self, known: Sequence[range]) -> None:
        """Take records of these numbers out of the findings, where they were gone before they were
        sealed: nothing else can be known to be in order.
        """
        findings, self.findings = self.findings, []
        for one in findings:
            if one.kind != "removed" or one.detail != GONE_UNSEALED:
                self.findings.append(one)
                continue
            inside = {
                edge for of in known for edge in (of.start, of.stop) if one.first < edge <= one.last
            }
            for first, after in pairwise(sorted({one.first, *inside, one.last + 1})):
                to = self.acknowledged if any(first in of for of in known) else self.findings
                to.append(one._replace(first=first, last=after - 1))

    def tell(self, kind: Kind, first: int, last: int, detail: str) -> None:
        """Add a finding; one that goes on where the last of its kind ended is one with it."""
        if self.findings:
            before = self.findings[-1]
            if (
                before.kind == kind != "checkpoint"
                and before.detail == detail
                and first == before.last + 1
            ):
                self.findings[-1] = before._replace(last=last)
                return
        self.findings.append(Finding(kind, first, last, detail))
