"""The result of a verification: what is wrong, and over what it was looked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

from app.audit import merkle

GONE_UNSEALED = "it was gone before it was sealed"
Kind = Literal["changed", "removed", "inserted", "reordered", "cut off", "checkpoint", "row"]


class Finding(NamedTuple):
    """Something wrong with the records from number `first` to `last`.

    A finding of kind "checkpoint" is about the checkpoint of `last` records; one of kind "row" is
    about a row of caller keys or erasures, which `detail` names.
    """

    kind: Kind
    first: int
    last: int
    detail: str


@dataclass(slots=True)
class Report:
    """The findings of a verification, and what was verified.

    `records` were read, of which `unsealed` came after the newest checkpoint; `sealed` is how many
    it is about, `root` the hash of their tree, `removed` how many of these retention has removed.
    `part` bounds the numbers where not all records were verified (None: no bound). `macs_checked`
    tells whether MACs were verified, which takes the key. `unchecked` are the sizes of checkpoints
    kept outside that nothing left in the database reaches back to. `acknowledged` are findings that
    the operator knows of.
    """

    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    unsealed: int = 0
    part: tuple[int | None, int | None] = (None, None)
    sealed: int = 0
    removed: int = 0
    root: bytes = merkle.EMPTY
    macs_checked: bool = False
    unchecked: list[int] = field(default_factory=list)
    acknowledged: list[Finding] = field(default_factory=list)
    nothing_sealed: bool = False  # there are records, and no trace of a checkpoint
    nothing_recorded: bool = False  # there is no trace of a record either
    # By set of rows, the newest change that a record names
    set_changes: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of records read, unsealed, sealed and removed."""
        return {
            "records": self.records,
            "unsealed": self.unsealed,
            "sealed": self.sealed,
            "removed": self.removed,
        }

    def acknowledge(self, known: Sequence[range]) -> None:
        """Move findings about records of these numbers to `acknowledged`.

        Only records that were gone before they were sealed can be acknowledged.
        """
        findings, self.findings = self.findings, []
        for finding in findings:
            if finding.kind != "removed" or finding.detail != GONE_UNSEALED:
                self.findings.append(finding)
                continue
            for part in _split_at_edges(finding, known):
                is_known = any(part.first in numbers for numbers in known)
                (self.acknowledged if is_known else self.findings).append(part)

    def add(self, kind: Kind, first: int, last: int, detail: str) -> None:
        """Add a finding; one that continues the last finding is merged with it."""
        if self.findings and kind != "checkpoint":
            previous = self.findings[-1]
            is_same = (previous.kind, previous.detail) == (kind, detail)
            if is_same and first == previous.last + 1:
                self.findings[-1] = previous._replace(last=last)
                return
        self.findings.append(Finding(kind, first, last, detail))

    def add_checkpoint(self, size: int, detail: str) -> None:
        """Add a finding about the checkpoint of `size` records."""
        self.add("checkpoint", size, size, detail)


def _split_at_edges(finding: Finding, ranges: Sequence[range]) -> list[Finding]:
    """Return a finding in parts, each of which lies wholly inside or outside each range."""
    edges = {finding.first, finding.last + 1}
    for numbers in ranges:
        edges |= {
            edge for edge in (numbers.start, numbers.stop) if finding.first < edge <= finding.last
        }
    return [
        finding._replace(first=first, last=after - 1) for first, after in pairwise(sorted(edges))
    ]
