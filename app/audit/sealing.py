"""The sealer: each second puts what was recorded into the tree and signs how far it reaches;
removes what is old.

Every process has one. What is to be written is made first and then committed only where the tree is
still as it was read, so that one of them does it, and none waits for another.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import orjson
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.audit import merkle, records
from app.audit.checkpoints import REMOVED, BadNote, Signer, encoded
from app.audit.marking import Marker
from app.audit.record_macs import Marks
from app.audit.tree import (
    BLOCK,
    LEVEL,
    NEWEST,
    Fetch,
    Hashes,
    Node,
    Tree,
    bytes_of,
    count_of,
    fetcher,
    grown,
    raw_of,
    read,
    text_of,
    written_of,
)
from app.clock import now_ms
from app.database.driver import Cursor, in_background
from app.database.engine import reading, snapshot
from app.database.writer import Writer, insert_rows
from app.errors import StorageUnavailable

SEAL_SECONDS = 1.0
STEP = 4_096  # records sealed, or removed, at once
HOUR, DAY = 3_600_000, 86_400_000
UNSEALED = "SELECT seq, record, mark FROM audit_records WHERE seq > ? AND seq <= ? ORDER BY seq"
OLDEST = "SELECT seq, record FROM audit_records WHERE seq > ? AND seq <= ? ORDER BY seq"
GROW = "UPDATE audit_tree SET size = ?, peaks = ?, tail = ? WHERE size = ?"
SHRINK = "UPDATE audit_tree SET removed = ?, statement = ? WHERE removed = ?"
THIN = "DELETE FROM audit_checkpoints WHERE size < ? OR (lasting = 0 AND time < ? AND size < ?)"

MARK = "record {seq} is not what was recorded, its mark is wrong: run `audit verify`; docs/audit.md tells what then"
UNMARKED = "record {seq} has no mark: run `audit verify`; docs/audit.md tells what then"
ADOPTABLE = (
    "record {seq} has no mark: where it is from before there were marks, `audit adopt` takes it"
)

log = structlog.get_logger("audit")


class NotSealed(Exception):
    """The tree or a record is not as the gateway left it: somebody changed it. Sealing on would
    sign what they made of it.
    """


@dataclass(frozen=True, slots=True)
class Seal:
    """The tree as it is to be, where it still has `before` records."""

    before: int
    tree: Tree
    nodes: Sequence[Node]
    time: int
    note: str
    lasting: bool
    # Number, record and mark of what stands in for one that is gone
    missing: Sequence[tuple[int, str, bytes]]
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Seal"]) -> Sequence[bool]:
        """Whether each was the one that did it."""
        return [write._run(cursor) for write in writes]

    def _run(self, cursor: Cursor) -> bool:
        tree = self.tree
        cursor.execute(GROW, (tree.size, tree.peaks, tree.tail, self.before))
        if not cursor.rowcount:
            return False
        head = "INSERT INTO audit_nodes (level, place, hash, leaves)"
        insert_rows(cursor, head, self.nodes)
        insert = "INSERT INTO audit_checkpoints (size, time, note, lasting) VALUES (?, ?, ?, ?)"
        cursor.execute(insert, (tree.size, self.time, self.note, int(self.lasting)))
        rows = [(seq, self.time, text, mark) for seq, text, mark in self.missing]
        insert_rows(cursor, records.INSERT, rows)
        return True


@dataclass(frozen=True, slots=True)
class Trim:
    """Remove the first records, up to number `upto`, where `before` of them were removed before."""

    before: int
    upto: int
    statement: str
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Trim"]) -> Sequence[bool]:
        """Whether each was the one that did it."""
        return [write._run(cursor) for write in writes]

    def _run(self, cursor: Cursor) -> bool:
        cursor.execute(SHRINK, (self.upto, self.statement, self.before))
        if not cursor.rowcount:
            return False
        cursor.execute("DELETE FROM audit_records WHERE seq <= ?", (self.upto,))
        blocks = self.upto // BLOCK
        # A last one at its level is a peak, which proofs of later ones need
        for level in range(blocks.bit_length()):
            values = LEVEL + level, blocks >> level & ~1
            cursor.execute("DELETE FROM audit_nodes WHERE level = ? AND place < ?", values)
        return True


@dataclass(frozen=True, slots=True)
class Thin:
    """Remove checkpoints that nothing can be held against any more, and of old ones all but one an
    hour.
    """

    removed: int
    size: int
    now: int
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Thin"]) -> Sequence[None]:
        """Remove them; never the newest."""
        for write in writes:
            cursor.execute(THIN, (min(write.removed, write.size - 1), write.now - DAY, write.size))
        return [None] * len(writes)


class Sealer:
    """Seals what one database has; records are kept for `keep_ms`."""

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        signer: Signer,
        marks: Marks,
        keep_ms: int,
        clock: Callable[[], int] = now_ms,
        since: Callable[[int], int] | None = None,
    ) -> None:
        """`since`: the time below which everything stored is older than so many milliseconds,
        however the clock was set; without it that is the clock's time less these.
        """
        self._engine, self._writer, self._signer, self._marks = engine, writer, signer, marks
        self._keep_ms, self._clock = keep_ms, clock
        self._since = since or (lambda span: self._clock() - span)
        self._marker = Marker(engine, signer.public, marks)
        self._seen = 0, merkle.EMPTY
        self._thinned = 0
        self._misfit = self._outage = ""

    @property
    def misfit(self) -> bool:
        """Whether the log was found not to be as the gateway left it. It stays so until a whole
        step succeeds: that the database went away since then says nothing else.
        """
        return bool(self._misfit)

    @property
    def waiting(self) -> bool:
        """Whether the database could not be used at the last attempt. It says nothing of the
        log.
        """
        return bool(self._outage)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            more = await self.attempt()
            await asyncio.sleep(0 if more else SEAL_SECONDS)

    async def attempt(self) -> bool:
        """One step, whatever comes of it; whether another should follow at once."""
        try:
            more = await self.step()
        except NotSealed as error:
            self._tell_misfit(str(error))
        except StorageUnavailable as error:
            self._tell_outage(error.detail)
        except (SQLAlchemyError, OSError) as error:
            self._tell_outage(f"{type(error).__name__}: {error}")
        except Exception as error:  # the outermost place: what is read is not what the gateway writes; it is tried again
            self._tell_misfit(f"{type(error).__name__}: {error}")
        else:
            self._tell_going_on()
            return more
        return False

    def _tell_misfit(self, reason: str) -> None:
        self._outage = ""  # the database answered
        if reason != self._misfit:
            self._misfit = reason
            log.error("audit.not_sealed", reason=reason)

    def _tell_outage(self, reason: str) -> None:
        if not self._outage:  # the words differ from attempt to attempt
            log.warning(
                "audit.sealing_waits",
                reason=reason,
                advice="it goes on by itself when the database answers",
            )
        self._outage = reason

    def _tell_going_on(self) -> None:
        if self._misfit or self._outage:
            self._misfit = self._outage = ""
            log.info("audit.sealing_goes_on")

    async def step(self) -> bool:
        """Seal what there is, at most `STEP` records; mark some that are sealed and from before
        there were marks; then remove some of what is old. Raises NotSealed, StorageUnavailable.
        """
        seal = await in_background(self._prepare)
        if seal is not None and await self._writer.write(seal):
            self._seen = seal.tree.size, seal.tree.root
            log.info(
                "audit.sealed", size=seal.tree.size, root=encoded(seal.tree.root), note=seal.note
            )
            if seal.missing:
                log.error("audit.missing", records=[seq for seq, _, _ in seal.missing[:100]])
        if (
            not self._marker.done
            and (marking := await in_background(self._marker.step)) is not None
        ):
            await self._writer.write(marking)
        trim = await in_background(self._outdated)
        if trim is not None and await self._writer.write(trim):
            log.info("audit.removed", upto=trim.upto)
        await self._thin()
        return (seal is not None and seal.tree.size - seal.before == STEP) or trim is not None

    def _prepare(self) -> Seal | None:
        """What is to be sealed, up to the first record whose mark is wrong; None where all is.
        Raises NotSealed.
        """
        with snapshot(self._engine) as connection:
            fetch = fetcher(connection)
            tree = read(fetch)
            newest = fetch(NEWEST, ())
            self._trust(tree, newest)
            written = written_of(fetch)
            if written < tree.size:
                raise NotSealed(
                    f"{tree.size} records are sealed, and only {written} are said to have been written"
                )
            upto = min(written, tree.size + STEP)
            found = {
                seq: (raw_of(text), mark)
                for seq, text, mark in fetch(UNSEALED, (tree.size - 1, upto))
            }
        _, mark = found.pop(tree.size, (b"", None))
        # Behind one with a mark each has one
        unmarked = ADOPTABLE if tree.size and mark is None else UNMARKED
        now = self._clock()
        leaves, missing = self._leaves(tree.size, upto, found, now, unmarked)
        if not leaves:
            return None
        after, nodes = grown(tree, leaves)
        note = self._signer.sign(after.size, after.root)
        lasting = not newest or count_of(newest[0][1]) // HOUR != now // HOUR
        return Seal(tree.size, after, nodes, now, note, lasting, missing)

    def _leaves(
        self,
        before: int,
        upto: int,
        found: Mapping[int, tuple[bytes, object]],
        now: int,
        unmarked: str,
    ) -> tuple[list[bytes], list[tuple[int, str, bytes]]]:
        """The leaves of the records after number `before`, and what stands in for those that are
        gone. Raises NotSealed where the mark of the first is wrong; where that of a later one is,
        only what comes before it is told.
        """
        leaves, missing = list[bytes](), list[tuple[int, str, bytes]]()
        for seq in range(before + 1, upto + 1):
            if seq in found:
                raw, mark = found[seq]
                if not self._marks.fits(seq, raw, bytes_of(mark)):
                    if not leaves:
                        raise NotSealed((unmarked if mark is None else MARK).format(seq=seq))
                    break
            else:
                text = records.numbered(seq, records.missing(now))
                raw = text.encode()
                missing.append((seq, text, self._marks.of(seq, raw)))
            leaves.append(merkle.leaf_hash(raw))
        return leaves, missing

    def _trust(self, tree: Tree, newest: Sequence[tuple[int, int, str]]) -> None:
        """Raises NotSealed where the tree is not what the newest checkpoint says, or what this
        process has seen.
        """
        size, root = 0, merkle.EMPTY
        if newest:
            try:
                checkpoint = self._signer.public.open(text_of(newest[0][2]))
            except BadNote as error:
                raise NotSealed(f"the newest checkpoint can't be trusted: {error}") from None
            size, root = checkpoint.size, checkpoint.root
        if (tree.size, tree.root) != (size, root):
            raise NotSealed(
                f"the tree of {tree.size} records is not that of the newest checkpoint, of {size}"
            )
        if size < self._seen[0] or (size == self._seen[0] and root != self._seen[1]):
            raise NotSealed(
                f"{self._seen[0]} records were sealed, and the tree has {size} of them, or others"
            )
        self._seen = size, root

    def _outdated(self) -> Trim | None:
        """What is to be removed; None where nothing is. Raises NotSealed."""
        until = self._since(self._keep_ms)
        with snapshot(self._engine) as connection:
            fetch = fetcher(connection)
            tree = read(fetch)
            node, upto = Hashes(fetch, tree).node, tree.removed
            for most in (1, STEP):  # nearly always the first one is young already
                upto = _past(fetch, node, tree.removed, min(tree.size, tree.removed + most), until)
                if upto == tree.removed:
                    return None
            root = merkle.subtree(node, 0, upto)
        return Trim(tree.removed, upto, self._signer.sign(upto, root, REMOVED))

    async def _thin(self) -> None:
        now = self._clock()
        if not 0 <= now - self._thinned < HOUR // 60:  # negative: the clock was set back
            self._thinned = now
            tree = await in_background(self._tree)
            await self._writer.write(Thin(tree.removed, tree.size, now))

    def _tree(self) -> Tree:
        with reading(self._engine) as connection:
            return read(fetcher(connection))


def _past(
    fetch: Fetch, node: Callable[[int, int], bytes], after: int, most: int, until: int
) -> int:
    """The number of the last record, of those from `after` to `most`, that is past its time with
    all before it. Raises NotSealed where one is gone or is not as it was sealed: to sign that
    retention removed it would be to sign what somebody else did. A record's own time counts, not
    the one beside it, which nothing has signed.
    """
    upto = after
    for seq, text in fetch(OLDEST, (after, most)):
        if seq != upto + 1 or merkle.leaf_hash(raw_of(text)) != node(0, seq - 1):
            break
        if orjson.loads(text)["time"] >= until:
            return upto
        upto = seq
    if upto < most:
        raise NotSealed(
            f"record {upto + 1} is gone or changed, so nothing is removed any more: run `audit verify`"
        )
    return upto
