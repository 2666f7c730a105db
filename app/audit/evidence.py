"""The evidence that a verification judges, and its reading from the database.

No stored value is trusted to have its column's type.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import floor
from typing import Any, NamedTuple

from sqlalchemy import Connection

from app.audit import merkle
from app.audit.tree import (
    BLOCK,
    LEVEL,
    REMOVED,
    Fetch,
    InvalidCheckpoint,
    PublicKey,
    StoredHashes,
    Tree,
    block_hash,
    bytes_of,
    count_of,
    fetcher,
    raw_of,
    read_tree,
    read_written,
    text_of,
)

RECORDS_PAGE = 2_000
RECORDS = (
    "SELECT seq, time, record, mark FROM audit_records WHERE seq BETWEEN ? AND ? ORDER BY seq "
    "LIMIT ?"
)
NODES_PAGE = 200
NODES = "SELECT place, hash, leaves FROM audit_nodes WHERE level = ? AND place >= ? AND place < ?"
NOTES = "SELECT size, note FROM audit_checkpoints ORDER BY size"
SINCE = "SELECT min(seq) FROM audit_records WHERE time >= ?"
UNTIL = "SELECT max(seq) FROM audit_records WHERE time < ?"
MIN_SEQ, MAX_SEQ = -(1 << 63), (1 << 63) - 1  # the numbers that a row can have
NO_HASH = bytes(merkle.SIZE)  # in place of a missing hash: equal to no other


class RecordRow(NamedTuple):
    """A record as it was found: its number, its bytes, and the columns beside it.

    `mac` is None where there is none, and in an export.
    """

    seq: int
    raw: bytes
    time: int
    mac: bytes | None = None


class Block(NamedTuple):
    """The leaves of 256 records, of fewer in the last block; empty where only the hash is known."""

    hash: bytes
    leaves: bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """The contents of an audit log or of an export that a verification judges.

    `written` counts the records, `note` is the newest checkpoint, `statement` is the one about what
    retention has removed. `first` and `last` bound the records (None: no bound). `peaks` are those
    of all blocks before `first_block`; `blocks` yields the others, in order, and `rows` yields the
    records, in the order of their numbers. `notes` are all checkpoints, oldest first, `misplaced`
    those stored under a size that is not theirs. `tree_size`, `tree_root` and `tree_removed` are
    from the tree's own row. `above` yields the hashes of a level over the blocks, from a place on;
    an export has no such hashes, and no `misplaced`, `tree_root` and `tree_removed`.
    """

    written: int
    note: str | None
    statement: str | None
    first: int | None
    last: int | None
    peaks: Sequence[bytes]
    first_block: int
    blocks: Callable[[], Iterable[Block]]
    rows: Callable[[], Iterable[RecordRow]]
    notes: Sequence[str] = ()
    misplaced: Collection[str] = ()
    tree_size: int | None = None
    tree_root: bytes | None = None
    tree_removed: int | None = None
    above: Callable[[int, int], Iterator[bytes]] | None = None


def read_evidence(
    connection: Connection, public: PublicKey, since: int | None = None, until: int | None = None
) -> Evidence:
    """Return what the database holds, during one snapshot.

    With `since` or `until` (ms) it is only the records of that time and what proves them. `public`
    tells which checkpoint is the newest valid one: so many hashes are read.
    """
    fetch = fetcher(connection)
    tree, written = read_tree(fetch), read_written(fetch)
    stored_notes = [(size, text_of(note)) for size, note in fetch(NOTES, ())]
    notes = [note for _, note in stored_notes]
    statements = [] if tree.statement is None else [tree.statement]
    sealed, removed = _signed_size(notes, public), _signed_size(statements, public, REMOVED)
    first = None if since is None else fetch(SINCE, (since,))[0][0] or written + 1
    last = None if until is None else fetch(UNTIL, (until,))[0][0] or 0
    last_seq = MAX_SEQ if last is None else last
    first_block = min(max(removed, (first or 1) - 1), sealed) // BLOCK
    return Evidence(
        written=written,
        note=notes[-1] if notes else None,
        statement=tree.statement,
        first=first,
        last=last,
        peaks=_peaks(fetch, tree, first_block),
        first_block=first_block,
        blocks=partial(_blocks, fetch, tree, range(first_block, sealed // BLOCK), last_seq, sealed),
        rows=partial(_rows, fetch, MIN_SEQ if first is None else first, last_seq),
        notes=notes,
        misplaced={note for size, note in stored_notes if note.split("\n")[1:2] != [str(size)]},
        tree_size=tree.size,
        tree_root=tree.root,
        tree_removed=tree.removed,
        above=partial(_hashes_above, fetch, sealed),
    )


def _signed_size(notes: Sequence[str], public: PublicKey, suffix: str = "") -> int:
    """Return the size in the newest note that is signed by the key; 0 where none is."""
    for note in reversed(notes):
        with suppress(InvalidCheckpoint):
            return public.verify(note, suffix).size
    return 0


def _peaks(fetch: Fetch, tree: Tree, blocks: int) -> list[bytes]:
    """Return the peaks of the first blocks, with `NO_HASH` for missing ones."""
    stored, peaks = StoredHashes(fetch, tree), list[bytes]()
    for level, place in merkle.peak_places(blocks):
        try:
            peaks.append(stored.node(LEVEL + level, place))
        except LookupError:
            peaks.append(NO_HASH)
    return peaks


def _blocks(fetch: Fetch, tree: Tree, places: range, last_seq: int, sealed: int) -> Iterator[Block]:
    """Yield the complete blocks of these places, and the incomplete one after them.

    Blocks after record `last_seq` come without leaves.
    """
    for place, node in zip(places, _nodes(fetch, LEVEL, places), strict=True):
        yield node if place * BLOCK < last_seq else Block(node.hash, b"")
    if sealed % BLOCK and tree.tail:
        yield Block(block_hash(tree.tail), tree.tail)


def _hashes_above(fetch: Fetch, sealed: int, level: int, place: int) -> Iterator[bytes]:
    """Yield the hashes of a level of the tree of `sealed` records, from a place on."""
    for node in _nodes(fetch, level, range(place, (sealed >> level) + 1)):
        yield node.hash


def _nodes(fetch: Fetch, level: int, places: range) -> Iterator[Block]:
    """Yield hash and leaves of each place of a level, with `NO_HASH` for missing ones."""
    for start in range(places.start, places.stop, NODES_PAGE):
        page = range(start, min(start + NODES_PAGE, places.stop))
        stored: dict[Any, Block] = {}
        for place, node_hash, leaves in fetch(NODES, (level, page.start, page.stop)):
            stored[place] = Block(bytes_of(node_hash), bytes_of(leaves))
        for place in page:
            node = stored.get(place, Block(NO_HASH, b""))
            has_hash = len(node.hash) == merkle.SIZE
            yield node if has_hash else Block(NO_HASH, node.leaves)


def _rows(fetch: Fetch, first_seq: int, last_seq: int) -> Iterator[RecordRow]:
    """Yield the records from number `first_seq` to `last_seq`."""
    while first_seq <= last_seq:
        rows = fetch(RECORDS, (first_seq, last_seq, RECORDS_PAGE))
        if not rows:
            return
        for seq, time, text, mac in rows:
            if type(seq) is int:
                stored_mac = None if mac is None else bytes_of(mac)
                yield RecordRow(seq, raw_of(text), count_of(time), stored_mac)
        first_seq = floor(rows[-1][0]) + 1
