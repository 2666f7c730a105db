"""What there is to be verified: read from the database, written to an export, and read from that again.

An export is JSON Lines. The first line has the newest checkpoint, the public key and what else is not said by a record;
then, block by block, the hashes that the tree has of 256 records, and these records, a line each.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection

from app.audit import merkle
from app.audit.findings import Block, Evidence, Row
from app.audit.notes import BadNote, PublicKey, decoded, encoded
from app.audit.tree import BLOCK, LEVEL, NEWEST, Fetch, Hashes, Tree, block_hash, fetcher, read
from app.errors import StartRefused

PAGE = 2_000
ROWS = "SELECT seq, time, record, leaf FROM audit_records WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?"
BLOCKS = "SELECT place, hash, leaves FROM audit_nodes WHERE level = 8 AND place >= ? ORDER BY place LIMIT ?"
NOTES = "SELECT note FROM audit_checkpoints ORDER BY size"
SINCE = "SELECT min(seq) FROM audit_records WHERE time >= ?"
UNTIL = "SELECT max(seq) FROM audit_records WHERE time < ?"
LEAST, MOST = -(1 << 63), (1 << 63) - 1  # numbers that a row may have
T = TypeVar("T")


def of_database(connection: Connection, since: int | None = None, until: int | None = None) -> Evidence:
    """What the database has, as it is during one snapshot; with `since` or `until` (ms) only the records of that time
    and what proves them."""
    fetch = fetcher(connection)
    tree, newest = read(fetch), fetch(NEWEST, ())
    written = fetch("SELECT records FROM sequence", ())[0][0]
    first = None if since is None else fetch(SINCE, (since,))[0][0] or written + 1
    last = None if until is None else fetch(UNTIL, (until,))[0][0] or 0
    begin = max(tree.removed, (first or 1) - 1) // BLOCK
    upto = MOST if last is None else last
    return Evidence(
        written,
        newest[0][2] if newest else None,
        tree.statement,
        first,
        last,
        _peaks(fetch, tree, begin),
        begin,
        lambda: _blocks(fetch, tree, begin, upto),
        lambda: _rows(fetch, LEAST if first is None else first, upto),
        [note for (note,) in fetch(NOTES, ())],
        tree.size,
    )


def _peaks(fetch: Fetch, tree: Tree, blocks: int) -> list[bytes]:
    """The peaks of the first blocks; what is not there any more is a hash that fits nothing."""
    node, found = Hashes(fetch, tree).node, list[bytes]()
    for level, place in merkle.peak_places(blocks):
        try:
            found.append(node(LEVEL + level, place))
        except LookupError:
            found.append(bytes(merkle.SIZE))
    return found


def _blocks(fetch: Fetch, tree: Tree, begin: int, upto: int) -> Iterator[Block]:
    """Those from `begin` on; one behind record `upto` without its leaves."""
    place, last = begin, tree.size // BLOCK
    while place < last and (found := fetch(BLOCKS, (place, PAGE // 10))):
        for at, hash_, leaves in found:
            while place < min(at, last):  # its row is gone: a block that no record is in
                yield Block(place, bytes(merkle.SIZE), bytes(merkle.SIZE) * BLOCK)
                place += 1
            if place < last:
                yield Block(place, bytes(hash_), b"" if at * BLOCK >= upto else bytes(leaves or b""))
                place += 1
    while place < last:
        yield Block(place, bytes(merkle.SIZE), bytes(merkle.SIZE) * BLOCK)
        place += 1
    if tree.tail:
        yield Block(last, block_hash(tree.tail), tree.tail)


def _rows(fetch: Fetch, begin: int, upto: int) -> Iterator[Row]:
    while begin <= upto and (found := fetch(ROWS, (begin, upto, PAGE))):
        for seq, time, text, leaf in found:
            yield Row(seq, text, bytes(leaf), time)
        begin = found[-1][0] + 1


# --- exports ----------------------------------------------------------------------------------------------------------


def exported(evidence: Evidence, key: PublicKey) -> Iterator[bytes]:
    """The lines of an export."""
    yield _line(
        {
            "checkpoint": evidence.note,
            "publicKey": key.text,
            "written": evidence.written,
            "removed": evidence.statement,
            "first": evidence.first,
            "last": evidence.last,
            "peaks": [encoded(peak) for peak in evidence.peaks],
            "firstBlock": evidence.first_block,
            "treeSize": evidence.tree_size,
        }
    )
    for note in evidence.notes:
        yield _line({"note": note})
    rows = iter(evidence.rows())
    row = next(rows, None)
    for block in evidence.blocks():
        yield _line({"block": block.place, "hash": encoded(block.hash), "leaves": encoded(block.leaves)})
        while row is not None and row.seq <= (block.place + 1) * BLOCK and row.seq <= (evidence.tree_size or 0):
            yield _record(row)
            row = next(rows, None)
    while row is not None:
        yield _record(row)
        row = next(rows, None)


def _line(told: dict[str, Any]) -> bytes:
    return orjson.dumps(told) + b"\n"


def _record(row: Row) -> bytes:
    """The record stands as it is in its line, so that its bytes can be hashed again; one that somebody has made into
    something else than a line of JSON stands there as text."""
    beside = {"seq": row.seq, "leaf": encoded(row.leaf or b""), "time": row.time}
    head = orjson.dumps(beside)[:-1] + b',"record":'
    raw = row.text.encode()
    return head + (raw if _is_object(raw) else orjson.dumps(row.text)) + b"}\n"


def _is_object(raw: bytes) -> bool:
    try:
        return raw[:1] == b"{" and b"\n" not in raw and b"\r" not in raw and isinstance(orjson.loads(raw), dict)
    except orjson.JSONDecodeError:
        return False


def of_export(path: Path) -> tuple[Evidence, str]:
    """What an export has, and the public key that it says is its own. Raises StartRefused where it is none."""
    try:
        with path.open("rb") as file:
            head = orjson.loads(file.readline())
        evidence = Evidence(
            head["written"],
            head["checkpoint"],
            head["removed"],
            head["first"],
            head["last"],
            [decoded(peak) for peak in head["peaks"]],
            head["firstBlock"],
            lambda: _read(path, _block),
            lambda: _read(path, _row),
            list(_read(path, _note)),
            head["treeSize"],
        )
        return evidence, str(head["publicKey"])
    except OSError as error:
        raise StartRefused(f"{path}: can't be read: {error.strerror}") from None
    except (orjson.JSONDecodeError, KeyError, TypeError, BadNote):
        raise StartRefused(f"{path}: is no export of the audit") from None


def _read(path: Path, reader: Callable[[bytes], T | None]) -> Iterable[T]:
    with path.open("rb") as file:
        file.readline()
        for number, line in enumerate(file, 2):
            try:
                found = reader(line)
            except (orjson.JSONDecodeError, KeyError, TypeError, BadNote):
                raise StartRefused(f"{path}: line {number} is none of an export") from None
            if found is not None:
                yield found


def _note(line: bytes) -> str | None:
    return str(orjson.loads(line)["note"]) if line.startswith(b'{"note":') else None


def _block(line: bytes) -> Block | None:
    if not line.startswith(b'{"block":'):
        return None
    told = orjson.loads(line)
    return Block(told["block"], decoded(told["hash"]), decoded(told["leaves"]))


def _row(line: bytes) -> Row | None:
    if not line.startswith(b'{"seq":'):
        return None
    told = orjson.loads(line)
    record = told["record"]
    raw = line.partition(b'"record":')[2].rstrip(b"\r\n")[:-1].decode()
    return Row(told["seq"], record if isinstance(record, str) else raw, decoded(told["leaf"]), told["time"])
