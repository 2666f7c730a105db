"""Reading bodies: media type, compression, size, JSON. Pure but for the stream that the caller hands in."""

import json
import zlib
from collections.abc import Callable
from typing import Any

import orjson
import zstandard

from app.errors import Fault, Invalid, Malformed, TooLarge, UnsupportedMediaType
from app.leanplum.values import deeper

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
MAX_MEMBERS = 100  # of one gzip or zstd body; each costs the same, however empty
ZSTD_STEP = 256
MAX_DEPTH = 64  # levels of JSON; deeper ones take parsers, and what walks through what they made, to their limits
MANY = 2_000  # members of a body that is one thing: far more than anything here has fields
MAX_CONTAINERS = 500_000  # objects and lists of one body, or commas; a batch of 10,000 SDK actions has some 30,000


def media_type(content_type: str, *allowed: str) -> str:
    """The media type, one of `allowed`. Raises UnsupportedMediaType."""
    found = content_type.partition(";")[0].strip().lower()
    if found in allowed:
        return found
    raise UnsupportedMediaType(f"The Content-Type must be {' or '.join(allowed)}.")


def has_rows(csv: bytes) -> bool:
    """Whether a CSV text has a row beside the one that names the columns."""
    text = csv.strip()
    return b"\n" in text or b"\r" in text


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was before Content-Encoding, of at most `limit` bytes.

    Raises TooLarge as soon as more comes out (a bomb is never unpacked whole), Malformed where it can't be unpacked,
    UnsupportedMediaType for another encoding than gzip, zstd or identity.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return body
    if name not in _DECODERS:
        raise UnsupportedMediaType("The Content-Encoding must be gzip or zstd.")
    try:
        unpacked = _DECODERS[name](body, limit + 1)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise Malformed(f"The body is not {name}.") from error
    if len(unpacked) > limit:
        raise too_large(limit)
    return unpacked


def too_large(limit: int) -> TooLarge:
    """The refusal of a body over the limit."""
    return TooLarge(f"The body has more than {limit} bytes (after decompression).")


def _gunzip(body: bytes, limit: int) -> bytes:
    """RFC 1952: one member or several, one after the other."""
    out = b""
    for _ in range(MAX_MEMBERS):
        member = zlib.decompressobj(wbits=31)
        out += member.decompress(body, limit - len(out))
        body = member.unused_data
        if len(out) >= limit or (member.eof and not body):
            return out
        if not member.eof:
            break
    raise EOFError


def _unzstd(body: bytes, limit: int) -> bytes:
    """RFC 8878. A window over 8 MiB is refused: it is memory that the sender chooses. Few bytes go in at a time, since
    a block of four may come out as 128 KiB."""
    out, size, frames = [], 0, 0
    frame = None
    for start in range(0, len(body), ZSTD_STEP):
        rest = body[start : start + ZSTD_STEP]
        while rest:
            if frame is None:
                frame, frames = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024).decompressobj(), frames + 1
            out.append(frame.decompress(rest))
            size += len(out[-1])
            if size >= limit or frames > MAX_MEMBERS:
                break
            rest, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        if size >= limit or frames > MAX_MEMBERS:
            break
    if size < limit and (frame is not None or not body):
        raise EOFError
    return b"".join(out)[:limit]


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {"gzip": _gunzip, "x-gzip": _gunzip, "zstd": _unzstd}


def parse(body: bytes) -> Any:
    """The body's JSON, read as kindly as can be: NaN, huge numbers and lone surrogates come through, so that the rules
    can say where they stand. Raises Malformed, saying where, for what is not JSON or is too deep; TooLarge for too
    much of it."""
    try:
        return strict(body)
    except orjson.JSONDecodeError:
        pass
    try:
        found = json.loads(body.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise Malformed(f"The body is not JSON: line {error.lineno}, column {error.colno}.") from None
    except UnicodeDecodeError as error:
        raise Malformed(f"The body is not UTF-8: byte {error.start}.") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise Malformed("The body has a number with too many digits.") from None
    return _shallow(found)


def strict(body: bytes) -> Any:
    """The body's JSON, where it is just that. Raises orjson.JSONDecodeError where it is not, Malformed where it is too
    deep, and TooLarge where it has so many objects, lists or members that making them would keep others waiting: they
    cost memory and time that no other byte does, so what makes them is counted first."""
    brackets = body.count(b"[") + body.count(b"{")
    if max(brackets, body.count(b",")) > MAX_CONTAINERS:
        raise TooLarge(f"The body has more than {MAX_CONTAINERS} objects and lists, or commas.")
    found = orjson.loads(body)
    return found if brackets <= MAX_DEPTH else _shallow(found)


def refuse_crowded(body: bytes, most: int, *, lines: bool = False) -> None:
    """Raise TooLarge where the objects and lists of a body of JSON, or of `lines` of it, have more than `most` members
    together: to say of each what is wrong with it takes a hundred times as long as to read it, and others wait. Where
    there are not even so many commas, which is nearly always, nothing is read."""
    if body.count(b",") >= most and sum(map(_members, body.split(b"\n") if lines else [body])) > most:
        raise TooLarge(f"The body has more than {most} fields and values.")


def crowded(found: Any, base: str = "") -> Invalid | None:
    """Why one item of a batch is refused that has too many members by itself; None where it has not."""
    if _count(found) <= MANY:
        return None
    return Invalid((Fault(base, f"has more than {MANY} fields and values", "count"),))


def _members(text: bytes) -> int:
    """How many a text of JSON has; of what is no JSON, as many as there are commas."""
    try:
        return _count(strict(text))
    except (orjson.JSONDecodeError, Malformed):
        return text.count(b",")


def _count(found: Any) -> int:
    count, left = 0, [found]
    while left:
        one = left.pop()
        if isinstance(one, dict | list):
            count += len(one)
            left.extend(one.values() if isinstance(one, dict) else one)
    return count


def _shallow(found: Any) -> Any:
    if deeper([found], MAX_DEPTH + 1):
        raise _too_deep()
    return found


def _too_deep() -> Malformed:
    return Malformed(f"The body is nested too deeply: at most {MAX_DEPTH} levels are taken.")
