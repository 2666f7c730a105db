"""Exports of the audit, which can be verified with the public key and nothing else.

An export is JSON Lines. The first line holds the newest checkpoint, the public key and the facts
that are in no record. Each older checkpoint has a line. Then follows, block by block, a line with
the hashes that the tree has of 256 records, and a line for each of these records.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson

from app.audit.evidence import Block, Evidence, RecordRow
from app.audit.tree import BLOCK, InvalidCheckpoint, PublicKey, from_base64, to_base64
from app.errors import StartRefused

T = TypeVar("T")
Fields = dict[str, Any]

HEAD: Fields = {
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
NOTE_FIELDS: Fields = {"note": str}
BLOCK_FIELDS: Fields = {"block": int, "hash": str, "leaves": str}
RECORD_FIELDS: Fields = {"seq": int, "time": int}
NOTE_START, BLOCK_START, RECORD_START = b'{"note":', b'{"block":', b'{"seq":'
STARTS = NOTE_START, BLOCK_START, RECORD_START
BAD_LINE = (orjson.JSONDecodeError, KeyError, TypeError, InvalidCheckpoint)
BAD_LINE_TEXT = "{path}: line {number} is not that of an audit export"


def write_export(evidence: Evidence, key: PublicKey) -> Iterator[bytes]:
    """Yield the lines of an export."""
    yield _line(
        {
            "checkpoint": _valid_utf8(evidence.note),
            "publicKey": key.text,
            "written": evidence.written,
            "removed": _valid_utf8(evidence.statement),
            "first": evidence.first,
            "last": evidence.last,
            "peaks": [to_base64(peak) for peak in evidence.peaks],
            "firstBlock": evidence.first_block,
            "treeSize": evidence.tree_size,
        }
    )
    for note in evidence.notes:
        yield _line({"note": _valid_utf8(note)})
    rows = iter(evidence.rows())
    row = next(rows, None)
    for place, block in enumerate(evidence.blocks(), evidence.first_block):
        yield _line(
            {"block": place, "hash": to_base64(block.hash), "leaves": to_base64(block.leaves)}
        )
        last_of_block = min((place + 1) * BLOCK, evidence.tree_size or 0)
        while row is not None and row.seq <= last_of_block:
            yield _record_line(row)
            row = next(rows, None)
    while row is not None:
        yield _record_line(row)
        row = next(rows, None)


def _valid_utf8(text: str | None) -> str | None:
    """Return a text that JSON can hold; characters that it cannot hold are in no checkpoint."""
    return None if text is None else text.encode(errors="replace").decode()


def _line(fields: Fields) -> bytes:
    return orjson.dumps(fields) + b"\n"


def _record_line(row: RecordRow) -> bytes:
    """Return the line of a record, with its bytes as they are, so that they can be hashed again.

    One that was changed into something else than an object on one line is written as a text. MACs
    are left out: without the key they are of no use.
    """
    head = orjson.dumps({"seq": row.seq, "time": row.time})[:-1] + b',"record":'
    record = row.raw if _is_object(row.raw) else orjson.dumps(row.raw.decode(errors="replace"))
    return head + record + b"}\n"


def _is_object(raw: bytes) -> bool:
    """Return whether bytes are a JSON object on one line."""
    if raw[:1] != b"{" or b"\n" in raw or b"\r" in raw:
        return False
    try:
        return isinstance(orjson.loads(raw), dict)
    except orjson.JSONDecodeError:
        return False


def read_export(path: Path) -> Evidence:
    """Return the evidence in an export.

    Raises StartRefused where the file is none, with the first line that is wrong. Lines after the
    first are read, and refused, when the evidence is iterated.
    """
    try:
        with path.open("rb") as file:
            head = _parse(file.readline(), HEAD)
        peaks = [from_base64(_checked(str, peak)) for peak in head["peaks"]]
        if head["firstBlock"] < 0 or len(peaks) != head["firstBlock"].bit_count():
            raise InvalidCheckpoint("these are not the peaks of so many blocks")
    except OSError as error:
        raise StartRefused(f"{path}: can't be read: {error.strerror}") from None
    except BAD_LINE:
        raise StartRefused(BAD_LINE_TEXT.format(path=path, number=1)) from None
    return Evidence(
        written=head["written"],
        note=head["checkpoint"],
        statement=head["removed"],
        first=head["first"],
        last=head["last"],
        peaks=peaks,
        first_block=head["firstBlock"],
        blocks=partial(_read_lines, path, _parse_block),
        rows=partial(_read_lines, path, _parse_record),
        notes=list(_read_lines(path, _parse_note)),
        tree_size=head["treeSize"],
    )


def _parse(line: bytes, fields: Fields) -> Fields:
    """Return a line that has these fields, of these types. Raises one of BAD_LINE."""
    parsed: Fields = _checked(dict, orjson.loads(line))
    for name, kind in fields.items():
        _checked(kind, parsed[name])
    return parsed


def _checked(kind: Any, value: Any) -> Any:
    """Return a value of this type. Raises TypeError."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(kind)
    return value


def _read_lines(path: Path, parse: Callable[[bytes], T | None]) -> Iterable[T]:
    """Yield what `parse` returns for the lines after the first; it returns None for other kinds."""
    with path.open("rb") as file:
        file.readline()
        for number, line in enumerate(file, 2):
            try:
                parsed = parse(line)
                if parsed is None and not line.startswith(STARTS):
                    raise InvalidCheckpoint("a line of no kind")
            except BAD_LINE:
                raise StartRefused(BAD_LINE_TEXT.format(path=path, number=number)) from None
            if parsed is not None:
                yield parsed


def _parse_note(line: bytes) -> str | None:
    if not line.startswith(NOTE_START):
        return None
    note: str = _parse(line, NOTE_FIELDS)["note"]
    return note


def _parse_block(line: bytes) -> Block | None:
    if not line.startswith(BLOCK_START):
        return None
    parsed = _parse(line, BLOCK_FIELDS)
    return Block(from_base64(parsed["hash"]), from_base64(parsed["leaves"]))


def _parse_record(line: bytes) -> RecordRow | None:
    if not line.startswith(RECORD_START):
        return None
    parsed = _parse(line, RECORD_FIELDS)
    record = _checked(str | dict, parsed["record"])
    raw = line.partition(b'"record":')[2].rstrip(b"\r\n")[:-1]
    if isinstance(record, str):
        raw = record.encode()
    return RecordRow(parsed["seq"], raw, parsed["time"])
