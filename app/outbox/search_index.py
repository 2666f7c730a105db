"""The index by which receipts are searched: where the items of a user or of a request are.

It is written in index blocks, once all sequence numbers of a block are used, by SQL alone. An
ordinary index by user would change a random page for each item that is accepted; blocks are
appended in the order of their keys. A search seeks once in each block of its time span, and walks
over the items that are in no block yet (docs/decisions/0036-receipt-search.md).

A key is the lane of an item, or a checksum of a request's id. Both are only hints: the searched
items themselves are compared. So entries of items that are gone do no harm, and stay until the
block has no items; but an erasure removes those of its subject.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson
from sqlalchemy import Connection

from app import ids
from app.database.driver import DIALECTS, Cursor, read_rows

BLOCK = 16_384  # sequence numbers of a block
REQUEST = 1 << 32  # added to the checksum of a request id; lanes are below it
QUIET_RATE = 1_000  # items accepted a second, up to which blocks are written as they complete
RATE_SECONDS = 1.0  # over which that rate is measured, at least
MOST_BEHIND = 500_000  # items in no block: a search walks over them in some 0.1 s
STEP = 4_000  # keys that are removed in one transaction
SEEKS = 64  # blocks that are looked up together
LISTED = 1_000  # numbers that a look-up returns, at most

NEXT = """
SELECT (SELECT max(block) FROM search_blocks), (SELECT min(seq) FROM items), last FROM sequence
"""
KEYS = f"""
INSERT INTO search_keys (block, key, seq)
SELECT ?, found.key, found.seq FROM (
    SELECT lane AS key, seq FROM items WHERE seq >= ? AND seq < ?
    UNION ALL
    SELECT {REQUEST} + request, first_seq FROM acceptances WHERE first_seq >= ? AND first_seq < ?
) AS found ORDER BY found.key, found.seq
"""
# The first items of a block may belong to an acceptance that began before it.
LIST = """
INSERT INTO search_blocks (block, earliest, latest)
SELECT ?, coalesce(min(accepted_at), 0), coalesce(max(accepted_at), 0) FROM acceptances
WHERE first_seq < ?
  AND first_seq >= coalesce((SELECT max(first_seq) FROM acceptances WHERE first_seq <= ?), 0)
"""
# The last block keeps its place in the list: it says up to which number there are blocks.
EMPTIED = """
SELECT b.block FROM search_blocks b
WHERE NOT EXISTS (SELECT 1 FROM items i WHERE i.seq >= b.block * ? AND i.seq < (b.block + 1) * ?)
  AND (b.block < (SELECT max(block) FROM search_blocks)
       OR (SELECT min(k.key) FROM search_keys k WHERE k.block = b.block) IS NOT NULL)
ORDER BY b.block LIMIT 1
"""
REMOVE_KEYS = """
DELETE FROM search_keys WHERE block = ? AND key <= coalesce(
    (SELECT k.key FROM search_keys k WHERE k.block = ? ORDER BY k.key LIMIT 1 OFFSET ?),
    9000000000000000000
)
"""
UNLIST = """
DELETE FROM search_blocks WHERE block = ? AND block < (SELECT max(block) FROM search_blocks)
"""
FORGET_GONE = """
DELETE FROM search_keys
WHERE block IN (SELECT block FROM search_blocks) AND key IN {lanes}
  AND NOT EXISTS (SELECT 1 FROM items i WHERE i.seq = search_keys.seq)
"""
FORGET_ITEM = "DELETE FROM search_keys WHERE block = ? AND key = ? AND seq = ?"
# Clocks may be set, so the times of blocks need not follow one another.
EXTENTS = """
SELECT (SELECT min(block) FROM search_blocks WHERE latest >= ?),
       (SELECT max(block) FROM search_blocks WHERE earliest < ?),
       (SELECT coalesce(max(block) + 1, 0) FROM search_blocks), last
FROM sequence
"""
MAX_TIME = 9_000_000_000_000_000_000
BLOCKS = "SELECT block FROM search_blocks WHERE block >= ? AND block <= ? ORDER BY block DESC"
FIND = """
SELECT seq FROM search_keys WHERE block IN {blocks} AND key = ? AND seq >= ? AND seq < ?
ORDER BY seq DESC LIMIT ?
"""


# --- writing -------------------------------------------------------------------------------------


class Progress(NamedTuple):
    """The next block to be written, and the last sequence number that is used."""

    block: int
    last: int

    @property
    def is_complete(self) -> bool:
        """True if all numbers of the block are used."""
        return self.last >= (self.block + 1) * BLOCK - 1

    @property
    def behind(self) -> int:
        """How many numbers are in no block."""
        return self.last - self.block * BLOCK


def progress(connection: Connection) -> Progress:
    """Return how far the index is."""
    newest, oldest_item, last = connection.exec_driver_sql(NEXT).one()
    block = -1 if newest is None else newest
    # Numbers below the first item need no block.
    oldest_block = (last + 1 if oldest_item is None else oldest_item) // BLOCK
    return Progress(max(block + 1, oldest_block), last)


class IndexPace:
    """The decision whether a block is written now, or once fewer items are accepted.

    A block costs a tenth of what accepting its items does. So it waits while many are accepted,
    until a search would have too many to walk over.
    """

    def __init__(self, ticks: Callable[[], float] = time.monotonic) -> None:
        self._ticks = ticks
        self._seen: tuple[float, int] | None = None  # when, and the last number then
        self._is_quiet = True

    def permits(self, found: Progress) -> bool:
        """Return whether the next block should be written now."""
        now = self._ticks()
        if self._seen is None:
            self._seen = now, found.last
        seen_at, last = self._seen
        if now - seen_at >= RATE_SECONDS:
            self._is_quiet = found.last - last <= QUIET_RATE * (now - seen_at)
            self._seen = now, found.last
        return found.is_complete and (self._is_quiet or found.behind >= MOST_BEHIND)


@dataclass(frozen=True, slots=True)
class IndexBlock:
    """The write that adds a block, unless another process has added it."""

    block: int
    rows: int = BLOCK

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["IndexBlock"]) -> Sequence[None]:
        """Write the blocks."""
        for write in writes:
            write._run(cursor)
        return [None] * len(writes)

    def _run(self, cursor: Cursor) -> None:
        # The last block is never removed, so what is listed stays below it.
        cursor.execute("SELECT max(block) FROM search_blocks")
        (newest,) = cursor.fetchone()
        if newest is not None and newest >= self.block:
            return
        first, end = self.block * BLOCK, (self.block + 1) * BLOCK
        cursor.execute(KEYS, (self.block, first, end, first, end))
        cursor.execute(LIST, (self.block, end, first))


def find_emptied(connection: Connection) -> int | None:
    """Return a block whose items are all gone, with something of it to remove."""
    statement = DIALECTS[connection.dialect.name].sql(EMPTIED)
    found: int | None = connection.exec_driver_sql(statement, (BLOCK, BLOCK)).scalar()
    return found


@dataclass(frozen=True, slots=True)
class RemoveKeys:
    """The write that removes some keys of an emptied block, and then the block."""

    block: int
    rows: int = STEP

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["RemoveKeys"]) -> Sequence[int]:
        """Return for each write how many keys it has removed."""
        return [write._run(cursor) for write in writes]

    def _run(self, cursor: Cursor) -> int:
        cursor.execute(REMOVE_KEYS, (self.block, self.block, STEP))
        removed = cursor.rowcount
        if removed <= STEP:
            cursor.execute(UNLIST, (self.block,))
        return removed


def forget_subjects(cursor: Cursor, app: str, subjects: Sequence[str]) -> None:
    """Remove the keys of subjects' items that are gone, also those that went long ago."""
    lanes = orjson.dumps([ids.lane(app, subject) for subject in subjects]).decode()
    cursor.execute(FORGET_GONE.format(lanes=cursor.dialect.values("bigint")), (lanes,))


def forget_item(cursor: Cursor, app: str, subject: str, seq: int) -> None:
    """Remove the key of one item of a subject."""
    cursor.execute(FORGET_ITEM, (seq // BLOCK, ids.lane(app, subject), seq))


# --- reading -------------------------------------------------------------------------------------


class Extent(NamedTuple):
    """A range of sequence numbers: `first`, and `end` behind the last; `indexed` if in blocks."""

    first: int
    end: int
    indexed: bool


def extents(
    connection: Connection, since: int | None, until: int | None, before: int | None
) -> list[Extent]:
    """Return where items are that were accepted within a time, newest first.

    Only blocks are skipped by their times. `before`: the number that all are below.
    """
    statement = DIALECTS[connection.dialect.name].sql(EXTENTS)
    values = (since or 0, MAX_TIME if until is None else until)
    oldest, newest, after, last = connection.exec_driver_sql(statement, values).one()
    indexed_end = after * BLOCK
    end = last + 1 if before is None else min(last + 1, before)
    found = [Extent(indexed_end, end, indexed=False)]
    if oldest is not None and newest is not None:
        found.append(Extent(oldest * BLOCK, min(end, (newest + 1) * BLOCK), indexed=True))
    return [extent for extent in found if extent.first < extent.end]


def find_blocks(connection: Connection, low: int, before: int) -> list[int]:
    """Return the blocks with numbers in a range, newest first."""
    statement = DIALECTS[connection.dialect.name].sql(BLOCKS)
    bounds = low // BLOCK, (before - 1) // BLOCK
    return list(connection.exec_driver_sql(statement, bounds).scalars())


def find_keys(
    connection: Connection, key: int, blocks: Sequence[int], low: int, before: int, limit: int
) -> list[int]:
    """Return the numbers in a range that some blocks have for a key, newest first."""
    statement = FIND.format(blocks=DIALECTS[connection.dialect.name].values("bigint"))
    values = (orjson.dumps(list(blocks)).decode(), key, low, before, limit)
    found = [seq for (seq,) in read_rows(connection, "seq", statement, values)]
    return sorted(found, reverse=True)


class IndexedItems(NamedTuple):
    """The numbers that the blocks have for some lanes, and the first number behind the blocks."""

    seqs: Sequence[int]
    end: int


def find_all(connection: Connection, lanes: Collection[int]) -> IndexedItems:
    """Return all numbers of some lanes in the index."""
    # First: a block that is added meanwhile has numbers that are read as those behind the blocks.
    after = connection.exec_driver_sql("SELECT max(block) FROM search_blocks").scalar()
    end = 0 if after is None else (after + 1) * BLOCK
    blocks = find_blocks(connection, 0, end)
    seqs = list[int]()
    for start in range(0, len(blocks), SEEKS):
        some = blocks[start : start + SEEKS]
        for lane in lanes:
            before = end
            while found := find_keys(connection, lane, some, 0, before, LISTED):
                seqs += found
                before = found[-1]
    return IndexedItems(seqs, end)
