"""Verification of the audit: finds records that were changed, removed, inserted, moved or cut off.

Only signed checkpoints are trusted and, where the key is at hand, MACs. The hashes stored with the
records lead from the signed root to each record, and are trusted as far as they do. Where hashes
were changed as well, records that cannot be told apart are named together. Pure.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson

from app.audit import merkle
from app.audit.evidence import Block, Evidence, RecordRow
from app.audit.findings import GONE_UNSEALED, Report
from app.audit.records import MISSING, AuditMacs
from app.audit.tree import BLOCK, PublicKey, block_hash, split_hashes
from app.audit.verify_tree import TOGETHER, TreeTrust, verify_tree

CHANGED = "it is not what was recorded"
GONE = "it is gone"
INSERTED = "it was never recorded"
MOVED = "another record is in its place"
NO_MAC = "it has no MAC: it was inserted by hand"
HASHES_CHANGED = "their hashes were changed, so that nothing tells whether they were as well"
COLUMNS_CHANGED = "the record is as it was sealed, other columns of its row are not"
NOTHING_SIGNED = (
    "no valid checkpoint is left, so nothing vouches for any record (a new gateway signs every "
    "second)"
)
SEAL_MS = 60_000  # in which a running gateway has sealed a record for certain
NOT_SEALED = (
    "nothing is sealed, although record {seq}, of a running gateway, is more than a minute old, "
    "and a gateway seals every second: checkpoints and tree were removed; or the gateway was "
    "killed in its first second: then start it, and verify again"
)
SET_DETAIL = re.compile(r"([a-z]{1,20}) ([0-9]{1,18})")
NO_BLOCK = Block(b"", b"")


class SetVersion(NamedTuple):
    """The number of a change of a set of rows."""

    set_name: str
    version: int


class ParsedRecord(NamedTuple):
    """The fields of a record that verification compares; None where nothing can be read."""

    seq: object = None
    time: object = None
    operation: object = None
    detail: object = None

    @property
    def set_version(self) -> SetVersion | None:
        """The change of a set of rows that the record is about."""
        if not isinstance(self.detail, str):
            return None
        match = SET_DETAIL.fullmatch(self.detail)
        return None if match is None else SetVersion(match.group(1), int(match.group(2)))

    @property
    def is_of_running_gateway(self) -> bool:
        """True for a record of an API call or a Leanplum call, which only a running gateway writes.

        The operations of commands are names without a space.
        """
        return isinstance(self.operation, str) and " " in self.operation


def parse_record(raw: bytes) -> ParsedRecord:
    """Return what any bytes, a record's or not, say of themselves."""
    try:
        fields = orjson.loads(raw)
        return ParsedRecord(
            fields["metadata"]["sequence"],
            fields["time"],
            fields["api"]["operation"],
            fields.get("status_detail"),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ParsedRecord()


def verify(
    evidence: Evidence,
    key: PublicKey,
    kept: Sequence[str] = (),
    macs: AuditMacs | None = None,
    now: int | None = None,
) -> Report:
    """Return the report on the evidence.

    Everything is held against the newest checkpoint, that against the `kept` ones, which come from
    outside, and each record against its MAC, where `macs` are given. At the time `now` (ms) records
    of a running gateway that are older than a minute must be sealed.
    """
    report = Report(macs_checked=macs is not None)
    trust = verify_tree(evidence, key, kept, report)
    _verify_records(evidence, report, trust, macs)
    if report.records and not report.sealed:
        _verify_nothing_sealed(evidence, report, now)
    report.part = evidence.first, evidence.last
    report.findings.sort(
        key=lambda finding: (finding.kind == "checkpoint", finding.first, finding.last)
    )
    return report


def _verify_nothing_sealed(evidence: Evidence, report: Report, now: int | None) -> None:
    """Add a finding where records are not sealed that should be.

    Without MACs nothing vouches for such records.
    """
    if not report.macs_checked or _has_trace_of_sealing(evidence):
        report.add_checkpoint(0, NOTHING_SIGNED)
        return
    overdue = None if now is None else _overdue(evidence, now)
    if overdue is None:
        report.nothing_sealed = True
    else:
        report.add_checkpoint(0, NOT_SEALED.format(seq=overdue))


def _has_trace_of_sealing(evidence: Evidence) -> bool:
    """Return whether anything is left of a checkpoint or of the tree."""
    return bool(evidence.note or evidence.notes or evidence.statement or evidence.tree_size)


def _overdue(evidence: Evidence, now: int) -> int | None:
    """Return the number of the first record of a running gateway, where it should be sealed."""
    for row in evidence.rows():
        record = parse_record(row.raw)
        if record.is_of_running_gateway and isinstance(record.time, int):
            return row.seq if now - record.time > SEAL_MS else None
    return None


class _WrongRecord(NamedTuple):
    """A record that does not belong in its place.

    `hash` is that of the record, `leaf` that of the record which belongs there (None: unknown),
    `says` the number in the record.
    """

    seq: int
    hash: bytes
    leaf: bytes | None
    says: object


def _verify_records(
    evidence: Evidence, report: Report, trust: TreeTrust, macs: AuditMacs | None
) -> None:
    """Hold every record against its leaf and its MAC."""
    leaves = _Leaves(evidence, report, trust)
    wrong, missing = list[_WrongRecord](), dict[int, bytes | None]()
    after = max(report.removed, (evidence.first or 1) - 1)
    end = max(evidence.written, report.sealed) if evidence.last is None else evidence.last
    for row in evidence.rows():
        report.records += 1
        report.unsealed += row.seq > report.sealed
        if row.seq <= after or row.seq > end:
            report.add("inserted", row.seq, row.seq, INSERTED)
            continue
        for seq in range(after + 1, min(row.seq, report.sealed + 1)):
            missing[seq] = leaves.at(seq)
        # Unsealed ones in one finding: no signature bounds their numbers
        first_unsealed = max(after, report.sealed) + 1
        if first_unsealed < row.seq:
            report.add("removed", first_unsealed, row.seq - 1, GONE)
        after = row.seq
        wrong_record = _verify_record(row, leaves.at(row.seq), report, macs)
        if wrong_record is not None:
            wrong.append(wrong_record)
    _explain(report, wrong, missing)
    if after < end:
        report.add("cut off", after + 1, end, GONE)
    if not trust.leaves and not trust.blocks:
        report.add("changed", *trust.doubtful, TOGETHER)


def _verify_record(
    row: RecordRow, leaf: bytes | None, report: Report, macs: AuditMacs | None
) -> _WrongRecord | None:
    """Verify one record; return it where it does not belong in its place.

    `leaf` is its hash in the tree, None where that is not known.
    """
    record, record_hash = parse_record(row.raw), merkle.leaf_hash(row.raw)
    has_valid_mac = macs is None or _has_valid_mac(row, macs)
    is_as_written = has_valid_mac and row.time == record.time
    if is_as_written and record.set_version is not None:
        set_name, version = record.set_version
        report.set_changes[set_name] = max(version, report.set_changes.get(set_name, 0))
    if leaf is None:
        if is_as_written and record.seq == row.seq:
            return None
        is_consistent = (record.seq, record.time) == (row.seq, row.time)
        if row.mac is None and macs is not None and is_consistent:
            report.add("inserted", row.seq, row.seq, NO_MAC)
            return None
        return _WrongRecord(row.seq, record_hash, None, record.seq)
    if record_hash != leaf:
        return _WrongRecord(row.seq, record_hash, leaf, record.seq)
    if not is_as_written:
        report.add("changed", row.seq, row.seq, COLUMNS_CHANGED)
    if record.operation == MISSING:
        report.add("removed", row.seq, row.seq, GONE_UNSEALED)
    return None


def _has_valid_mac(row: RecordRow, macs: AuditMacs) -> bool:
    return row.mac is not None and macs.is_valid(row.seq, row.raw, row.mac)


def _explain(
    report: Report, wrong: Sequence[_WrongRecord], missing: dict[int, bytes | None]
) -> None:
    """Add findings that say what was done to places with a wrong record, or with none."""
    hashes_found = {record.hash for record in wrong}
    leaves_lost = {record.leaf for record in wrong} | set(missing.values())
    for record in wrong:
        if record.hash in leaves_lost or _says_other_number(record):
            report.add("reordered", record.seq, record.seq, MOVED)
        elif record.leaf is not None and record.leaf in hashes_found:
            report.add("inserted", record.seq, record.seq, INSERTED)
        else:
            report.add("changed", record.seq, record.seq, CHANGED)
    for record in wrong:
        if record.hash in leaves_lost and record.leaf not in hashes_found:
            report.add("removed", record.seq, record.seq, GONE)
    for seq, leaf in missing.items():
        if leaf in hashes_found:
            report.add("reordered", seq, seq, MOVED)
        else:
            report.add("removed", seq, seq, GONE)


def _says_other_number(record: _WrongRecord) -> bool:
    return record.leaf is None and record.says not in (None, record.seq)


class _Leaves:
    """The hash that the tree has of each record, read along with the records."""

    def __init__(self, evidence: Evidence, report: Report, trust: TreeTrust) -> None:
        self._blocks: Iterator[Block] = iter(evidence.blocks())
        self._report, self._trust = report, trust
        self._place, self._leaves = evidence.first_block - 1, list[bytes]()

    def at(self, seq: int) -> bytes | None:
        """Return the leaf of record `seq`; numbers must ascend from call to call.

        None where no trusted hash tells it; a finding says so where one should.
        """
        if seq > self._report.sealed:
            return None
        while self._place < (seq - 1) // BLOCK:
            self._place += 1
            self._leaves = self._trusted(next(self._blocks, NO_BLOCK))
        index = seq - 1 - self._place * BLOCK
        if 0 <= index < len(self._leaves):
            return self._leaves[index]
        self._report.add("changed", seq, seq, HASHES_CHANGED)
        return None

    def _trusted(self, block: Block) -> list[bytes]:
        if self._trust.leaves or block_hash(block.leaves) == block.hash:
            return split_hashes(block.leaves)
        return []
