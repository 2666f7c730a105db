"""Request bodies: read them within limits of size and memory, and parse their JSON."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from app.errors import (
    Fault,
    Invalid,
    Malformed,
    Overloaded,
    TooLarge,
    TooSlow,
    UnsupportedMediaType,
)
from app.http.decompression import body_too_large, decompress_in_thread
from app.http.request import RequestContext
from app.leanplum.values import deeper

SMALL_BODY_BYTES = 64 * 1024  # bytes of a body that may be parsed before the caller is known
# The share of GATEWAY_MAX_HELD_BYTES beyond which nothing more is decompressed.
DECOMPRESSED_SHARE = 3
USUAL_STARTS = frozenset({b"{", b"[", b""})  # of nearly every body; they exclude a byte-order mark
BOM = b"\xef\xbb\xbf"
UTF_16_BOMS = (b"\xff\xfe", b"\xfe\xff")  # in either byte order; UTF-32 begins like UTF-16
JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"

LONG_NUMBER = b"0" * 19  # as many digits as the largest accepted integer has
_DIGITS_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
# Python refuses to parse very long integers: above this length any value out of range will do.
MAX_DIGITS, OUT_OF_RANGE = 40, 10**40
MAX_DEPTH = 64  # levels of JSON; deeper nesting could exhaust the stack of a parser or of a walk
MEMBERS_PER_ITEM = 50  # members that the items of a batch may have on average
MAX_ITEM_MEMBERS = 2_000  # members of a single item: far more than any item has fields
# Objects, arrays or commas of one body; a batch of 10,000 SDK actions has about 30,000.
MAX_CONTAINERS = 500_000
Receive = Callable[[], Awaitable[Any]]


class BodyReader:
    """The reader of bodies; it counts the bytes of them that this process holds.

    Bodies that arrive in several pieces count, and the output of compressed ones: an SDK sends its
    key in the body, so anybody can send such bodies.
    """

    def __init__(self, *, max_body_bytes: int, max_held_bytes: int) -> None:
        self._max_body_bytes, self._max_held_bytes = max_body_bytes, max_held_bytes
        self.held_bytes = 0

    def hold(self, context: RequestContext, size: int, most: int) -> None:
        """Count bytes until `release`. Raises Overloaded if more than `most` would be held."""
        if self.held_bytes + size > most:
            context.overloaded = True
            raise Overloaded("The limit of bytes being read at once is reached.")
        self.held_bytes += size
        context.held += size

    def release(self, context: RequestContext) -> None:
        """Stop counting the bytes of this request."""
        self.held_bytes -= context.held
        context.held = 0

    async def read(
        self, context: RequestContext, receive: Receive, limit: int | None = None
    ) -> bytes:
        """Return the whole body, decompressed, without a byte-order mark.

        Raises TooLarge as soon as the body exceeds the limit, and what `limited` raises.
        """
        limit = self._max_body_bytes if limit is None else limit
        refuse_declared(context, limit)
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            body = await _rest(self.limited(context, receive, limit, seen=len(body)), body)
        elif len(body) > limit:
            raise body_too_large(limit)
        if b"content-encoding" in context.headers:
            body = await self._decompressed(context, body, limit)
        return body if body[:1] in USUAL_STARTS else without_bom(body)

    async def read_json(
        self,
        context: RequestContext,
        receive: Receive,
        *,
        optional: bool,
        most_members: int = MAX_ITEM_MEMBERS,
    ) -> bytes:
        """Return a body of JSON that has at most `most_members` members.

        If it is `optional`, a missing body is an empty object, whatever the Content-Type. Raises
        UnsupportedMediaType, and what `read` raises.
        """
        media_type = context.headers.get(b"content-type")
        may_lack_type = optional and (media_type is None or _may_be_empty(context))
        if not may_lack_type:
            require_media_type((media_type or b"").decode("latin-1"), JSON)
        body = await self.read(context, receive)
        if body and optional and media_type is not None:
            require_media_type(media_type.decode("latin-1"), JSON)
        refuse_crowded(body, most_members)
        if optional and not body:
            return b"{}"
        return body

    def limited(
        self,
        context: RequestContext,
        receive: Receive,
        limit: int,
        *,
        seen: int = 0,
        counts: bool = True,
    ) -> Receive:
        """Return a `receive` for this body that raises as soon as reading must stop.

        `seen` is the number of bytes read before; `counts` is False if the caller of this method
        counts them as held. It raises TooLarge over the limit, TooSlow, Overloaded, and Malformed
        if the body ends early.
        """

        async def limited_receive() -> Any:
            nonlocal seen
            message = await receive()
            more = message.get("more_body")
            if message["type"] == "http.disconnect" or (context.cut_off and more):
                context.cut_off = True
                raise Malformed("The connection was closed before the body was complete.")
            if context.too_slow and more:
                raise TooSlow("The body arrived too slowly.")
            size = len(message.get("body", b""))
            if counts:
                self.hold(context, size, self._max_held_bytes)
            seen += size
            if seen > limit:
                raise body_too_large(limit)
            return message

        return limited_receive

    async def _decompressed(self, context: RequestContext, body: bytes, limit: int) -> bytes:
        held = self._max_held_bytes
        most = max(held // DECOMPRESSED_SHARE, min(limit, held))
        try:
            return await decompress_in_thread(
                body,
                context.header(b"content-encoding"),
                limit,
                lambda size: self.hold(context, size, most),
            )
        except Overloaded:  # also if too many bodies wait to be decompressed
            context.overloaded = True
            raise


def refuse_declared(context: RequestContext, limit: int) -> None:
    """Raise TooLarge if Content-Length exceeds the limit."""
    declared = context.headers.get(b"content-length")
    if declared is not None and int(declared) > limit:
        raise body_too_large(limit)


def is_small(context: RequestContext) -> bool:
    """Tell whether the headers promise no body or a small one."""
    if b"content-encoding" in context.headers or b"transfer-encoding" in context.headers:
        return False
    return int(context.headers.get(b"content-length", b"0")) <= SMALL_BODY_BYTES


def _may_be_empty(context: RequestContext) -> bool:
    """Tell whether the headers allow an empty body."""
    return context.headers.get(b"content-length", b"0").strip(b"0") == b""


async def _rest(receive: Receive, first: bytes) -> bytes:
    """Return a body whose first part has been received."""
    parts, more = [first], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def require_media_type(content_type: str, *allowed: str) -> str:
    """Return the media type, one of `allowed`. Raises UnsupportedMediaType."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in allowed:
        return media_type
    raise UnsupportedMediaType(f"The Content-Type must be {' or '.join(allowed)}.").at_header(
        "Content-Type"
    )


def without_bom(text: bytes) -> bytes:
    """Return a text without its byte-order mark. Raises Malformed if the mark is that of UTF-16."""
    if text.startswith(UTF_16_BOMS):
        raise Malformed("The body is UTF-16 or UTF-32 by its byte-order mark; send it in UTF-8.")
    return text.removeprefix(BOM)


def has_rows(csv: bytes) -> bool:
    """Tell whether a CSV text has a row besides the one that names the columns."""
    text = csv.strip()
    return b"\n" in text or b"\r" in text


def parse_json(body: bytes) -> Any:
    """Return the JSON of a body, with NaN, huge integers and lone surrogates as they were sent.

    Validation can then report where those are. Raises Malformed for text that is not JSON or is
    nested too deeply, and TooLarge for too many objects, arrays or members.
    """
    try:
        value = parse_strictly(body)
        if not has_long_number(body):
            return value
    except orjson.JSONDecodeError:
        pass
    return require_shallow(parse_leniently(body))


def parse_leniently(body: bytes, **hooks: Any) -> Any:
    """Return the JSON of a body with exact integers, and with NaN, infinities and lone surrogates.

    `hooks` are passed to `json.loads`. Raises Malformed.
    """
    try:
        return json.loads(body.decode("utf-8"), parse_int=_integer, **hooks)
    except json.JSONDecodeError as error:
        raise Malformed(
            f"The body is not valid JSON: line {error.lineno}, column {error.colno}."
        ) from None
    except UnicodeDecodeError as error:
        raise Malformed(f"The body is not valid UTF-8: byte {error.start}.") from None
    except RecursionError:
        raise _too_deep() from None


def parse_strictly(body: bytes) -> Any:
    """Return the JSON of a body that is strictly JSON.

    Raises orjson.JSONDecodeError for anything else, Malformed for nesting that is too deep, and
    TooLarge for too many objects, arrays or members.
    """
    # Building containers costs memory and time that no other byte does, so they are counted first.
    brackets = body.count(b"[") + body.count(b"{")
    if max(brackets, body.count(b",")) > MAX_CONTAINERS:
        raise TooLarge(f"The body has more than {MAX_CONTAINERS} objects, arrays or commas.")
    value = orjson.loads(body)
    return value if brackets <= MAX_DEPTH else require_shallow(value)


def has_long_number(body: bytes) -> bool:
    """Tell whether a text may have an integer of more than 64 bits, which fast parsers round.

    Digits in a string, such as a long id, count as well.
    """
    # Translating and searching costs a tenth of a regular expression.
    return LONG_NUMBER in body.translate(_DIGITS_TO_ZEROS)


def require_shallow(value: Any) -> Any:
    """Return parsed JSON unchanged. Raises Malformed if it is nested too deeply."""
    if deeper([value], MAX_DEPTH + 1):
        raise _too_deep()
    return value


def refuse_crowded(body: bytes, most: int, *, lines: bool = False) -> None:
    """Raise TooLarge if the objects and arrays of a JSON body have more than `most` members.

    With `lines`, the body is NDJSON. Reporting an error for each member takes a hundred times as
    long as reading the body, and other callers would wait for it.
    """
    # A body with fewer commas, as nearly every one, is not parsed here.
    if body.count(b",") < most:
        return
    texts = body.split(b"\n") if lines else [body]
    if sum(map(_members, texts)) > most:
        raise TooLarge(f"The body has more than {most} fields and values.")


def crowded_error(item: Any, base: str = "") -> Invalid | None:
    """Return the error for an item of a batch, at `base`, that has too many members by itself."""
    if _count_members(item, MAX_ITEM_MEMBERS) <= MAX_ITEM_MEMBERS:
        return None
    return Invalid((Fault(base, f"has more than {MAX_ITEM_MEMBERS} fields and values", "count"),))


def _members(text: bytes) -> int:
    """Return the number of members in a text of JSON; for other texts, the number of commas."""
    try:
        return _count_members(parse_strictly(text))
    except (orjson.JSONDecodeError, Malformed):
        return text.count(b",")


def _count_members(value: Any, most: int | None = None) -> int:
    """Return the number of members; if it exceeds `most`, any number above `most`."""
    count, remaining = 0, [value]
    while remaining and (most is None or count <= most):
        container = remaining.pop()
        if isinstance(container, dict):
            count += len(container)
            remaining.extend(container.values())
        elif isinstance(container, list):
            count += len(container)
            remaining.extend(container)
    return count


def _integer(digits: str) -> int:
    return int(digits) if len(digits) < MAX_DIGITS else OUT_OF_RANGE


def _too_deep() -> Malformed:
    return Malformed(f"The body is nested more than {MAX_DEPTH} levels deep.")
