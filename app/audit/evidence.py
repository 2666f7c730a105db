"""What there is to be verified: read from the database, written to an export, and read from that
again.

An export is JSON Lines. The first line has the newest checkpoint, the public key and what else is
not said by a record; then, block by block, the hashes that the tree has of 256 records, and these
records, a line each.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from math import floor
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection

from app.audit import merkle
from app.audit.checkpoints import REMOVED, BadNote, PublicKey, decoded, encoded
from app.audit.findings import Block, Evidence, Row
from app.audit.tree import (
    BLOCK,
    LEVEL,
    Fetch,
    Hashes,
    Tree,
    block_hash,
    bytes_of,
    count_of,
    fetcher,
    raw_of,
    read,
    text_of,
    written_of,
)
from app.errors import StartRefused

PAGE = 2_000
ROWS = "SELECT seq, time, record, mark FROM audit_records WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?"
NODES = "SELECT place, hash, leaves FROM audit_nodes WHERE level = ? AND place >= ? AND place < ?"
NODE_PAGE = 200
NOTES = "SELECT size, note FROM audit_checkpoints ORDER BY size"
SINCE = "SELECT min(seq) FROM audit_records WHERE time >= ?"
UNTIL = "SELECT max(seq) FROM audit_records WHERE time < ?"
LEAST, MOST = -(1 << 63), (1 << 63) - 1  # numbers that a row may have
NO_HASH = bytes(merkle.SIZE)  # in the place of one that is gone: it fits nothing
T = TypeVar("T")


def of_database(
    connection: Connection, public: PublicKey, since: int | None = None, until: int | None = None
) -> Evidence:
    """What the database has, as it is during one snapshot; with `since` or `until` (ms) only the
    records of that time and what proves them. Nothing in it is believed to be of its column's type;
    how many hashes are read, the newest checkpoint of the key `public` says.
    """
    fetch = fetcher(connection)
    tree, written = read(fetch), written_of(fetch)
    numbered = [(size, text_of(note)) for size, note in fetch(NOTES, ())]
    notes = [note for _, note in numbered]
    sealed = _sealed(notes, public)
    first = None if since is None else fetch(SINCE, (since,))[0][0] or written + 1
    last = None if until is None else fetch(UNTIL, (until,))[0][0] or 0
    removed = _sealed([] if tree.statement is None else [tree.statement], public, REMOVED)
    begin = min(max(removed, (first or 1) - 1), sealed) // BLOCK
    upto = MOST if last is None else last
    return Evidence(
        written,
        notes[-1] if notes else None,
        tree.statement,
        first,
        last,
        _peaks(fetch, tree, begin),
        begin,
        lambda: _blocks(fetch, tree, begin, sealed, upto),
        lambda: _rows(fetch, LEAST if first is None else first, upto),
        notes,
        {note for size, note in numbered if note.split("\n")[1:2] != [str(size)]},
        tree.size,
        tree.root,
        tree.removed,
        lambda level, place: (
            hash_ for hash_, _ in _nodes(fetch, level, place, (sealed >> level) + 1)
        ),
    )


def _sealed(notes: Sequence[str], public: PublicKey, behind: str = "") -> int:
    """How many records are sealed (or removed), as the newest checkpoint says that can be
    believed.
    """
    for note in reversed(notes):
        with suppress(BadNote):
            return public.open(note, behind).size
    return 0


def _peaks(fetch: Fetch, tree: Tree, blocks: int) -> list[bytes]:
    """The peaks of the first blocks; what is not there any more is a hash that fits nothing."""
    node, found = Hashes(fetch, tree).node, list[bytes]()
    for level, place in merkle.peak_places(blocks):
        try:
            found.append(node(LEVEL + level, place))
        except LookupError:
            found.append(NO_HASH)
    return found


def _blocks(fetch: Fetch, tree: Tree, begin: int, sealed: int, upto: int) -> Iterator[Block]:
    """Those from `begin` on; one behind record `upto` without its leaves."""
    last = sealed // BLOCK
    for place, (hash_, leaves) in enumerate(_nodes(fetch, LEVEL, begin, last), begin):
        yield Block(hash_, b"" if place * BLOCK >= upto else leaves)
    if sealed % BLOCK and tree.tail:
        yield Block(block_hash(tree.tail), tree.tail)


def _nodes(fetch: Fetch, level: int, begin: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Hash and leaves of each place from `begin` to before `end`; of one that isn't there, a hash
    that fits nothing.
    """
    for first in range(begin, end, NODE_PAGE):
        page = range(first, min(first + NODE_PAGE, end))
        found = {
            place: (bytes_of(hash_), bytes_of(leaves))
            for place, hash_, leaves in _page(fetch, level, page)
        }
        for place in page:
            hash_, leaves = found.get(place, (NO_HASH, b""))
            yield (hash_ if len(hash_) == merkle.SIZE else NO_HASH), leaves


def _page(fetch: Fetch, level: int, page: range) -> Sequence[Any]:
    return fetch(NODES, (level, page.start, page.stop))


def _rows(fetch: Fetch, begin: int, upto: int) -> Iterator[Row]:
    while begin <= upto and (found := fetch(ROWS, (begin, upto, PAGE))):
        for seq, time, text, mark in found:
            if type(seq) is int:
                yield Row(
                    seq, raw_of(text), count_of(time), None if mark is None else bytes_of(mark)
                )
        begin = floor(found[-1][0]) + 1


# --- exports ----------------------------------------------------------------------------------------------------------


def exported(evidence: Evidence, key: PublicKey) -> Iterator[bytes]:
    """The lines of an export."""
    yield _line(
        {
            "checkpoint": _plain(evidence.note),
            "publicKey": key.text,
            "written": evidence.written,
            "removed": _plain(evidence.statement),
            "first": evidence.first,
            "last": evidence.last,
            "peaks": [encoded(peak) for peak in evidence.peaks],
            "firstBlock": evidence.first_block,
            "treeSize": evidence.tree_size,
        }
    )
    for note in evidence.notes:
        yield _line({"note": _plain(note)})
    rows = iter(evidence.rows())
    row = next(rows, None)
    for place, block in enumerate(evidence.blocks(), evidence.first_block):
        yield _line({"block": place, "hash": encoded(block.hash), "leaves": encoded(block.leaves)})
        while (
            row is not None
            and row.seq <= (place + 1) * BLOCK
            and row.seq <= (evidence.tree_size or 0)
        ):
            yield _record(row)
            row = next(rows, None)
    while row is not None:
        yield _record(row)
        row = next(rows, None)


def _plain(text: str | None) -> str | None:
    """As JSON can have it; what it can't have is in no checkpoint."""
    return None if text is None else text.encode(errors="replace").decode()


def _line(told: dict[str, Any]) -> bytes:
    return orjson.dumps(told) + b"\n"


def _record(row: Row) -> bytes:
    """The record stands as it is in its line, so that its bytes can be hashed again; one that
    somebody has made into something else than a line of JSON stands there as text. Its mark is of
    no use without the key.
    """
    head = orjson.dumps({"seq": row.seq, "time": row.time})[:-1] + b',"record":'
    return (
        head
        + (row.raw if _is_object(row.raw) else orjson.dumps(row.raw.decode(errors="replace")))
        + b"}\n"
    )


def _is_object(raw: bytes) -> bool:
    try:
        return (
            raw[:1] == b"{"
            and b"\n" not in raw
            and b"\r" not in raw
            and isinstance(orjson.loads(raw), dict)
        )
    except orjson.JSONDecodeError:
        return False


WRONG = (orjson.JSONDecodeError, KeyError, TypeError, BadNote)
HEAD = {
    "checkpoint": str | None,
    "publicKey": str,
    "written": int,
    "removed": str | None,
    "first": int | None,
    "last": int | None,
    "peaks": list,
    "firstBlock": int,
    "treeSize": int,
}
NOTE, BLOCK_LINE, RECORD = (
    {"note": str},
    {"block": int, "hash": str, "leaves": str},
    {"seq": int, "time": int},
)
OF_NOTE, OF_BLOCK, OF_ROW = KINDS = (b'{"note":', b'{"block":', b'{"seq":')


def of_export(path: Path) -> tuple[Evidence, str]:
    """What an export has, and the public key that it says is its own. Raises StartRefused, where it
    is none, with the first line that isn't.
    """
    try:
        with path.open("rb") as file:
            head = _told(file.readline(), HEAD)
        peaks = [decoded(_is(str, peak)) for peak in head["peaks"]]
        if head["firstBlock"] < 0 or len(peaks) != head["firstBlock"].bit_count():
            raise BadNote("these are not the peaks of so many blocks")
    except OSError as error:
        raise StartRefused(f"{path}: can't be read: {error.strerror}") from None
    except WRONG:
        raise StartRefused(f"{path}: line 1 is none of an export of the audit") from None
    evidence = Evidence(
        head["written"],
        head["checkpoint"],
        head["removed"],
        head["first"],
        head["last"],
        peaks,
        head["firstBlock"],
        lambda: _read(path, _block),
        lambda: _read(path, _row),
        list(_read(path, _note)),
        tree_size=head["treeSize"],
    )
    return evidence, head["publicKey"]


def _told(line: bytes, fields: dict[str, Any]) -> dict[str, Any]:
    """A line that has these fields, of these types. Raises one of WRONG."""
    told: dict[str, Any] = _is(dict, orjson.loads(line))
    for name, kind in fields.items():
        _is(kind, told[name])
    return told


def _is(kind: Any, value: Any) -> Any:
    """The value, where it is of that type. Raises TypeError."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(kind)
    return value


def _read(path: Path, reader: Callable[[bytes], T | None]) -> Iterable[T]:
    """What `reader` makes of the lines behind the first; it makes None of those of other kinds."""
    with path.open("rb") as file:
        file.readline()
        for number, line in enumerate(file, 2):
            try:
                found = reader(line)
                if found is None and not line.startswith(KINDS):
                    raise BadNote("it is of no kind")
            except WRONG:
                raise StartRefused(
                    f"{path}: line {number} is none of an export of the audit"
                ) from None
            if found is not None:
                yield found


def _note(line: bytes) -> str | None:
    if not line.startswith(OF_NOTE):
        return None
    note: str = _told(line, NOTE)["note"]
    return note


def _block(line: bytes) -> Block | None:
    if not line.startswith(OF_BLOCK):
        return None
    told = _told(line, BLOCK_LINE)
    return Block(decoded(told["hash"]), decoded(told["leaves"]))


def _row(line: bytes) -> Row | None:
    if not line.startswith(OF_ROW):
        return None
    told = _told(line, RECORD)
    record = _is(str | dict, told["record"])
    raw = line.partition(b'"record":')[2].rstrip(b"\r\n")[:-1]
    return Row(told["seq"], record.encode() if isinstance(record, str) else raw, told["time"])
