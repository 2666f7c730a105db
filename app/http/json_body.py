"""Reading bodies: media type, compression, size, JSON. Pure but for the stream that the caller
hands in.
"""

import json
import zlib
from collections.abc import Iterator
from typing import Any

import orjson
import zstandard

from app.errors import Fault, Invalid, Malformed, TooLarge, UnsupportedMediaType
from app.leanplum.values import deeper

LONG = b"0" * 19  # digits of the largest whole number that is taken
_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
MAX_DIGITS, FAR_OUT = 40, 10**40
BOM = b"\xef\xbb\xbf"
OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16, either way round, and so of UTF-32
JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
MAX_MEMBERS = 100  # of one gzip or zstd body; each costs the same, however empty
PACKED_STEP, UNPACKED_STEP = 64 * 1024, 256 * 1024  # bytes that go in, or come out, at a time
ZSTD_STEP = 64
# Levels of JSON; deeper ones take parsers, and what walks through what they made, to their limits
MAX_DEPTH = 64
# Members that an item of a batch may have, all items taken together
MEMBERS_PER_ITEM = 50
MANY = 2_000  # members of a body that is one thing: far more than anything here has fields
# Objects and lists of one body, or commas; a batch of 10,000 SDK actions has some 30,000
MAX_CONTAINERS = 500_000


def media_type(content_type: str, *allowed: str) -> str:
    """The media type, one of `allowed`. Raises UnsupportedMediaType."""
    found = content_type.partition(";")[0].strip().lower()
    if found in allowed:
        return found
    raise UnsupportedMediaType(f"The Content-Type must be {' or '.join(allowed)}.").at_header(
        "Content-Type"
    )


def without_bom(text: bytes) -> bytes:
    """Return a text without the byte-order mark at its start. Raises Malformed for a mark of
    UTF-16.
    """
    if text.startswith(OTHER_BOMS):
        raise Malformed("The body is UTF-16 or UTF-32 by its byte-order mark; send it in UTF-8.")
    return text.removeprefix(BOM)


def has_rows(csv: bytes) -> bool:
    """Whether a CSV text has a row beside the one that names the columns."""
    text = csv.strip()
    return b"\n" in text or b"\r" in text


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was before Content-Encoding, of at most `limit` bytes.

    Raises TooLarge as soon as more comes out (a bomb is never unpacked whole), Malformed where it
    can't be unpacked, UnsupportedMediaType for another encoding than gzip, zstd or identity.
    """
    unpacker = unpacker_of(encoding)
    if unpacker is None:
        return body
    out, size = list[bytes](), 0
    for at in range(0, len(body), PACKED_STEP):
        for piece in unpacker.feed(body[at : at + PACKED_STEP]):
            out.append(piece)
            size += len(piece)
            if size > limit:
                raise too_large(limit)
    unpacker.end()
    return b"".join(out)


def too_large(limit: int) -> TooLarge:
    """The refusal of a body over the limit."""
    return TooLarge(f"The body exceeds {limit} bytes (after decompression).")


class _Gzip:
    """One member of a gzip body (RFC 1952)."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield what comes out, a little at a time."""
        full = True
        while (piece or full) and not self._decoder.eof:
            out = self._decoder.decompress(piece, UNPACKED_STEP)
            piece, full = self._decoder.unconsumed_tail, len(out) == UNPACKED_STEP
            yield out

    @property
    def rest(self) -> bytes | None:
        """What follows the end; None before it."""
        return self._decoder.unused_data if self._decoder.eof else None


class _Zstd:
    """One frame of a zstd body (RFC 8878). A window over 8 MiB is refused: it is memory that the
    sender chooses.
    """

    def __init__(self) -> None:
        self._decoder = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024).decompressobj()
        self.rest: bytes | None = None

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield what comes out. Few bytes go in at a time, since a block of four may come out as
        128 KiB.
        """
        for at in range(0, len(piece), ZSTD_STEP):
            yield self._decoder.decompress(piece[at : at + ZSTD_STEP])
            if self._decoder.eof:
                self.rest = self._decoder.unused_data + piece[at + ZSTD_STEP :]
                return


class Unpacker:
    """Takes a compressed body piece by piece: one member (frame), or several, one after the
    other.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._member: _Gzip | _Zstd | None = None
        self._members = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield what comes out of a piece. Raises Malformed."""
        try:
            while piece:
                if self._member is None:
                    self._begin()
                assert self._member is not None
                yield from self._member.feed(piece)
                if (rest := self._member.rest) is None:
                    return
                piece, self._member = rest, None
        except (zlib.error, zstandard.ZstdError):
            raise self._malformed() from None

    def end(self) -> None:
        """Raises Malformed where the body is cut off."""
        if self._member is not None or not self._members:
            raise self._malformed()

    def _begin(self) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise self._malformed()
        self._member = _DECODERS[self._name]()

    def _malformed(self) -> Malformed:
        return Malformed(f"The body is not valid {self._name}.")


_DECODERS: dict[str, type[_Gzip | _Zstd]] = {"gzip": _Gzip, "x-gzip": _Gzip, "zstd": _Zstd}


def is_zstd(encoding: str) -> bool:
    """Tell whether a Content-Encoding is zstd, of which few bytes may become very many."""
    return encoding.strip().lower() == "zstd"


def unpacker_of(encoding: str) -> Unpacker | None:
    """What unpacks a Content-Encoding; None where nothing is packed. Raises
    UnsupportedMediaType.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return None
    if name not in _DECODERS:
        refusal = UnsupportedMediaType("The Content-Encoding must be gzip or zstd.")
        raise refusal.at_header("Content-Encoding")
    return Unpacker(name)


def parse(body: bytes) -> Any:
    """The body's JSON, read as kindly as can be: NaN, huge numbers and lone surrogates come
    through, so that the rules can say where they stand. Raises Malformed, saying where, for what is
    not JSON or is too deep; TooLarge for too much of it.
    """
    try:
        found = strict(body)
        if not has_long_number(body):
            return found
    except orjson.JSONDecodeError:
        pass
    return shallow(kindly(body))


def kindly(body: bytes, **hooks: Any) -> Any:
    """The body's JSON with every whole number as it was sent, and with NaN, infinities and lone
    surrogates. `hooks` are json.loads's own. Raises Malformed.
    """
    try:
        return json.loads(body.decode("utf-8"), parse_int=_whole, **hooks)
    except json.JSONDecodeError as error:
        raise Malformed(
            f"The body is not valid JSON: line {error.lineno}, column {error.colno}."
        ) from None
    except UnicodeDecodeError as error:
        raise Malformed(f"The body is not valid UTF-8: byte {error.start}.") from None
    except RecursionError:
        raise _too_deep() from None


def has_long_number(body: bytes) -> bool:
    """Return whether a text may have a whole number of more than 64 bits, which fast parsers round.
    What only looks like one, as a long id in a text, counts as well. (Translating and searching
    costs a tenth of a regular expression.)
    """
    return LONG in body.translate(_AS_ZEROS)


def _whole(digits: str) -> int:
    """Return a whole number, or one that is out of range like it: Python refuses to read very long
    ones.
    """
    return int(digits) if len(digits) < MAX_DIGITS else FAR_OUT


def strict(body: bytes) -> Any:
    """The body's JSON, where it is just that. Raises orjson.JSONDecodeError where it is not,
    Malformed where it is too deep, and TooLarge where it has so many objects, lists or members that
    making them would keep others waiting: they cost memory and time that no other byte does, so
    what makes them is counted first.
    """
    brackets = body.count(b"[") + body.count(b"{")
    if max(brackets, body.count(b",")) > MAX_CONTAINERS:
        raise TooLarge(f"The body has more than {MAX_CONTAINERS} objects, arrays or commas.")
    found = orjson.loads(body)
    return found if brackets <= MAX_DEPTH else shallow(found)


def refuse_crowded(body: bytes, most: int, *, lines: bool = False) -> None:
    """Raise TooLarge where the objects and lists of a body of JSON, or of `lines` of it, have more
    than `most` members together: to say of each what is wrong with it takes a hundred times as long
    as to read it, and others wait. Where there are not even so many commas, which is nearly always,
    nothing is read.
    """
    if (
        body.count(b",") >= most
        and sum(map(_members, body.split(b"\n") if lines else [body])) > most
    ):
        raise TooLarge(f"The body has more than {most} fields and values.")


def crowded(found: Any, base: str = "") -> Invalid | None:
    """Why one item of a batch is refused that has too many members by itself; None where it has
    not.
    """
    if _count(found, MANY) <= MANY:
        return None
    return Invalid((Fault(base, f"has more than {MANY} fields and values", "count"),))


def _members(text: bytes) -> int:
    """How many a text of JSON has; of what is no JSON, as many as there are commas."""
    try:
        return _count(strict(text))
    except (orjson.JSONDecodeError, Malformed):
        return text.count(b",")


def _count(found: Any, most: int | None = None) -> int:
    """Return how many members there are; above `most`, where that is given, any number above it."""
    count, left = 0, [found]
    while left and (most is None or count <= most):
        one = left.pop()
        if isinstance(one, dict | list):
            count += len(one)
            left.extend(one.values() if isinstance(one, dict) else one)
    return count


def shallow(found: Any) -> Any:
    """Return parsed JSON as it is. Raises Malformed where it is nested too deeply."""
    if deeper([found], MAX_DEPTH + 1):
        raise _too_deep()
    return found


def _too_deep() -> Malformed:
    return Malformed(f"The body is nested more than {MAX_DEPTH} levels deep.")
