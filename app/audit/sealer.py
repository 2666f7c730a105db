"""The sealer: puts new records into the Merkle tree every second and signs it; removes old records.

Every process has one. Each step prepares its writes first and commits them only where the tree is
still as it was read, so that one process seals and none waits for another.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.audit import merkle, records
from app.audit.records import AuditMacs
from app.audit.tree import (
    BLOCK,
    LEVEL,
    NEWEST,
    REMOVED,
    CheckpointSigner,
    Fetch,
    InvalidCheckpoint,
    StoredHashes,
    Tree,
    TreeNode,
    bytes_of,
    count_of,
    fetcher,
    grow,
    raw_of,
    read_tree,
    read_written,
    text_of,
    to_base64,
)
from app.clock import now_ms
from app.database.driver import Cursor, in_background
from app.database.engine import reading, snapshot
from app.database.writer import Writer, insert_rows
from app.errors import StorageUnavailable
from app.telemetry.logs import log_always

SEAL_SECONDS = 1.0
STEP = 4_096  # records sealed, or removed, in one step
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
UNSEALED = "SELECT seq, record, mark FROM audit_records WHERE seq > ? AND seq <= ? ORDER BY seq"
OLDEST = "SELECT seq, record FROM audit_records WHERE seq > ? AND seq <= ? ORDER BY seq"
GROW = "UPDATE audit_tree SET size = ?, peaks = ?, tail = ? WHERE size = ?"
SHRINK = "UPDATE audit_tree SET removed = ?, statement = ? WHERE removed = ?"
INSERT_NODES = "INSERT INTO audit_nodes (level, place, hash, leaves)"
INSERT_CHECKPOINT = "INSERT INTO audit_checkpoints (size, time, note, lasting) VALUES (?, ?, ?, ?)"
THIN = "DELETE FROM audit_checkpoints WHERE size < ? OR (lasting = 0 AND time < ? AND size < ?)"

WRONG_MAC = (
    "record {seq} is not what was recorded, its MAC is wrong: run `audit verify` and see "
    "docs/audit.md"
)
GONE_OR_CHANGED = (
    "record {seq} is gone or changed, so nothing is removed any more: run `audit verify`"
)

log = structlog.get_logger("audit")


class NotSealed(Exception):
    """The tree or a record was changed by hand; to seal on would sign the changes."""


class NumberedRecord(NamedTuple):
    """A record that replaces a missing one, with its number and its MAC."""

    seq: int
    text: str
    mac: bytes


@dataclass(frozen=True, slots=True)
class SealRecords:
    """A write that grows the tree, where it still has `size_before` records."""

    size_before: int
    tree: Tree
    nodes: Sequence[TreeNode]
    time: int
    note: str
    lasting: bool  # whether the checkpoint is kept for longer than a day
    missing: Sequence[NumberedRecord]
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["SealRecords"]) -> Sequence[bool]:
        """Return for each write whether it won the race to extend the tree."""
        return [write._run(cursor) for write in writes]

    def _run(self, cursor: Cursor) -> bool:
        tree = self.tree
        cursor.execute(GROW, (tree.size, tree.peaks, tree.tail, self.size_before))
        if not cursor.rowcount:
            return False
        nodes = [(node.level, node.place, node.hash, node.leaves) for node in self.nodes]
        insert_rows(cursor, INSERT_NODES, nodes)
        cursor.execute(INSERT_CHECKPOINT, (tree.size, self.time, self.note, int(self.lasting)))
        rows = [(record.seq, self.time, record.text, record.mac) for record in self.missing]
        insert_rows(cursor, records.INSERT, rows)
        return True


@dataclass(frozen=True, slots=True)
class TrimRecords:
    """A write that removes the records up to number `upto`, where `removed_before` were removed."""

    removed_before: int
    upto: int
    statement: str
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["TrimRecords"]) -> Sequence[bool]:
        """Return for each write whether it won the race to shorten the log."""
        return [write._run(cursor) for write in writes]

    def _run(self, cursor: Cursor) -> bool:
        cursor.execute(SHRINK, (self.upto, self.statement, self.removed_before))
        if not cursor.rowcount:
            return False
        cursor.execute("DELETE FROM audit_records WHERE seq <= ?", (self.upto,))
        blocks = self.upto // BLOCK
        # The last node of a level is kept: it is a peak, which proofs of later records need
        for level in range(blocks.bit_length()):
            values = LEVEL + level, blocks >> level & ~1
            cursor.execute("DELETE FROM audit_nodes WHERE level = ? AND place < ?", values)
        return True


@dataclass(frozen=True, slots=True)
class ThinCheckpoints:
    """A write that removes checkpoints of removed records, and of old ones all but one an hour."""

    removed: int
    size: int
    now: int
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["ThinCheckpoints"]) -> Sequence[None]:
        """Remove the checkpoints; never the newest."""
        for write in writes:
            cursor.execute(THIN, (min(write.removed, write.size - 1), write.now - DAY, write.size))
        return [None] * len(writes)


class _Unsealed(NamedTuple):
    """The tree, the numbers to seal after it, and the records found under them.

    `records` maps a number to text and MAC as stored. `checkpoint_time` is that of the newest
    checkpoint (ms), None where there is none.
    """

    tree: Tree
    upto: int
    records: Mapping[int, tuple[bytes, bytes]]
    checkpoint_time: int | None


class Sealer:
    """Seals the records of one database, and keeps them for `keep_ms`."""

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        signer: CheckpointSigner,
        macs: AuditMacs,
        keep_ms: int,
        clock: Callable[[], int] = now_ms,
        since: Callable[[int], int] | None = None,
        checkpoint_seconds: float = 0.0,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a sealer.

        `checkpoint_seconds`: the shortest time between two checkpoints that are logged, by `ticks`.
        `since` returns the time before which everything stored is older than so many milliseconds,
        even where the clock was set; the default trusts the clock.
        """
        self._engine, self._writer, self._signer, self._macs = engine, writer, signer, macs
        self._keep_ms, self._clock = keep_ms, clock
        self._since = since or (lambda span: self._clock() - span)
        self._seen_size, self._seen_root = 0, merkle.EMPTY
        self._thinned_at = 0
        self._tampering = self._outage = ""
        self._checkpoint_seconds, self._ticks = checkpoint_seconds, ticks
        self._checkpoint: SealRecords | None = None  # the last one, until it is logged
        self._logged_at = -math.inf

    @property
    def tampered(self) -> bool:
        """True from when the log is found changed by hand until a whole step succeeds.

        An outage of the database in between does not clear it.
        """
        return bool(self._tampering)

    @property
    def waiting(self) -> bool:
        """True when the database could not be used in the last attempt; says nothing of the log."""
        return bool(self._outage)

    async def run(self) -> None:
        """Seal every second, until cancelled."""
        while True:
            has_more = await self.attempt()
            await asyncio.sleep(0 if has_more else SEAL_SECONDS)

    async def attempt(self) -> bool:
        """Try one step, and report how it went; return whether another should follow at once."""
        try:
            has_more = await self.step()
            if self._ticks() >= self._logged_at + self._checkpoint_seconds:
                self.log_checkpoint()
        except NotSealed as error:
            self._report_tampering(str(error))
        except StorageUnavailable as error:
            self._report_outage(error.detail)
        except (SQLAlchemyError, OSError) as error:
            self._report_outage(f"{type(error).__name__}: {error}")
        except Exception as error:
            # The outermost place. What was read is not what the gateway writes; it is tried again.
            self._report_tampering(f"{type(error).__name__}: {error}")
        else:
            self._report_success()
            return has_more
        return False

    def _report_tampering(self, reason: str) -> None:
        self._outage = ""  # the database answered
        if reason != self._tampering:
            self._tampering = reason
            log.error("audit.not_sealed", reason=reason)

    def _report_outage(self, reason: str) -> None:
        if not self._outage:  # the words differ from attempt to attempt
            advice = "sealing resumes by itself when the database answers"
            log.warning("audit.sealing_waits", reason=reason, advice=advice)
        self._outage = reason

    def _report_success(self) -> None:
        if self._tampering or self._outage:
            self._tampering = self._outage = ""
            log.info("audit.sealing_goes_on")

    def log_checkpoint(self) -> None:
        """Log the last checkpoint, unless that is done.

        No level silences these lines: kept elsewhere, they show if the log is cut or replaced.
        """
        seal, self._checkpoint = self._checkpoint, None
        if seal is not None:
            self._logged_at = self._ticks()
            root = to_base64(seal.tree.root)
            log_always("audit.checkpoint", size=seal.tree.size, root=root, note=seal.note)

    async def step(self) -> bool:
        """Seal and remove records, at most `STEP` each; return whether there may be more.

        Raises NotSealed, StorageUnavailable.
        """
        seal = await in_background(self._prepare_seal)
        if seal is not None and await self._writer.write(seal):
            self._seen_size, self._seen_root = seal.tree.size, seal.tree.root
            self._checkpoint = seal
            if seal.missing:
                log.error("audit.missing", records=[record.seq for record in seal.missing[:100]])
        trim = await in_background(self._prepare_trim)
        if trim is not None and await self._writer.write(trim):
            log.info("audit.removed", upto=trim.upto)
        await self._thin()
        sealed_full_step = seal is not None and seal.tree.size - seal.size_before == STEP
        return sealed_full_step or trim is not None

    # --- Sealing ---

    def _prepare_seal(self) -> SealRecords | None:
        """Return the write that seals all up to the first record with a wrong MAC.

        Returns None where nothing is to be sealed. Raises NotSealed.
        """
        unsealed = self._read_unsealed()
        now = self._clock()
        leaves, missing = self._verify(unsealed, now)
        if not leaves:
            return None
        tree, nodes = grow(unsealed.tree, leaves)
        last = unsealed.checkpoint_time
        return SealRecords(
            size_before=unsealed.tree.size,
            tree=tree,
            nodes=nodes,
            time=now,
            note=self._signer.sign(tree.size, tree.root),
            lasting=last is None or last // HOUR != now // HOUR,
            missing=missing,
        )

    def _read_unsealed(self) -> _Unsealed:
        """Read the tree and the records that come after it. Raises NotSealed."""
        with snapshot(self._engine) as connection:
            fetch = fetcher(connection)
            tree = read_tree(fetch)
            newest = fetch(NEWEST, ())
            self._compare_with_checkpoint(tree, text_of(newest[0][2]) if newest else None)
            written = read_written(fetch)
            if written < tree.size:
                raise NotSealed(
                    f"{tree.size} records are sealed, but only {written} are counted as written"
                )
            upto = min(written, tree.size + STEP)
            rows = fetch(UNSEALED, (tree.size, upto))
        found = {seq: (raw_of(text), bytes_of(mac)) for seq, text, mac in rows}
        return _Unsealed(tree, upto, found, count_of(newest[0][1]) if newest else None)

    def _verify(self, unsealed: _Unsealed, now: int) -> tuple[list[bytes], list[NumberedRecord]]:
        """Return the leaves of the records to seal, and the records that replace missing ones.

        They end before the first record with a wrong MAC. Raises NotSealed where that is the first
        of all.
        """
        leaves, missing = list[bytes](), list[NumberedRecord]()
        for seq in range(unsealed.tree.size + 1, unsealed.upto + 1):
            record = unsealed.records.get(seq)
            if record is None:
                text = records.add_number(seq, records.missing(now))
                raw = text.encode()
                missing.append(NumberedRecord(seq, text, self._macs.of_record(seq, raw)))
            else:
                raw, mac = record
                if not self._macs.is_valid(seq, raw, mac):
                    if not leaves:
                        raise NotSealed(WRONG_MAC.format(seq=seq))
                    break
            leaves.append(merkle.leaf_hash(raw))
        return leaves, missing

    def _compare_with_checkpoint(self, tree: Tree, note: str | None) -> None:
        """Raise NotSealed where the tree is not that of the newest checkpoint.

        Raises it as well where the tree does not continue the one that this process saw last.
        """
        size, root = 0, merkle.EMPTY
        if note is not None:
            try:
                checkpoint = self._signer.public.verify(note)
            except InvalidCheckpoint as error:
                raise NotSealed(f"the newest checkpoint is not valid: {error}") from None
            size, root = checkpoint.size, checkpoint.root
        if (tree.size, tree.root) != (size, root):
            raise NotSealed(
                f"the tree of {tree.size} records is not that of the newest checkpoint, of {size}"
            )
        is_older = size < self._seen_size
        if is_older or (size == self._seen_size and root != self._seen_root):
            raise NotSealed(
                f"{self._seen_size} records were sealed, but the tree has {size}, or other ones"
            )
        self._seen_size, self._seen_root = size, root

    # --- Retention ---

    def _prepare_trim(self) -> TrimRecords | None:
        """Return the write that removes old records; None if there are none. Raises NotSealed."""
        until = self._since(self._keep_ms)
        with snapshot(self._engine) as connection:
            fetch = fetcher(connection)
            tree = read_tree(fetch)
            node, upto = StoredHashes(fetch, tree).node, tree.removed
            for step in (1, STEP):  # nearly always the first record is too young already
                last = min(tree.size, tree.removed + step)
                upto = _last_outdated(fetch, node, _Span(tree.removed, last), until)
                if upto == tree.removed:
                    return None
            root = merkle.subtree(node, 0, upto)
        return TrimRecords(tree.removed, upto, self._signer.sign(upto, root, REMOVED))

    async def _thin(self) -> None:
        """Thin out the checkpoints once a minute."""
        now = self._clock()
        if 0 <= now - self._thinned_at < MINUTE:  # negative: the clock was set back
            return
        self._thinned_at = now
        tree = await in_background(self._read_tree)
        await self._writer.write(ThinCheckpoints(tree.removed, tree.size, now))

    def _read_tree(self) -> Tree:
        with reading(self._engine) as connection:
            return read_tree(fetcher(connection))


class _Span(NamedTuple):
    """The records after number `after`, up to number `last`."""

    after: int
    last: int


def _last_outdated(fetch: Fetch, node: merkle.NodeLookup, span: _Span, until: int) -> int:
    """Return the last number in a span up to which all records are from before the time `until`.

    Raises NotSealed where one is gone or is not as it was sealed: to sign that retention removed it
    would hide who did. The time in the record counts; the time column is signed by nothing.
    """
    upto = span.after
    for seq, text in fetch(OLDEST, (span.after, span.last)):
        if seq != upto + 1 or merkle.leaf_hash(raw_of(text)) != node(0, seq - 1):
            break
        if orjson.loads(text)["time"] >= until:
            return upto
        upto = seq
    if upto < span.last:
        raise NotSealed(GONE_OR_CHANGED.format(seq=upto + 1))
    return upto
