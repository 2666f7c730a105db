"""Read the bodies of requests, whole or piece by piece, within limits of size and memory."""

from collections.abc import Awaitable, Callable
from typing import Any

from app.errors import Malformed, Overloaded, TooSlow
from app.http import decompression, json_body
from app.http.request import RequestContext

SMALL_BODY_BYTES = 64 * 1024  # bytes of a body that may be parsed before the caller is known
# Of GATEWAY_MAX_HELD_BYTES, the share beyond which nothing more is decompressed.
DECOMPRESSED_SHARE = 3
USUAL_STARTS = frozenset({b"{", b"[", b""})  # of nearly every body: it has no byte-order mark
Receive = Callable[[], Awaitable[Any]]


class BodyReader:
    """Read bodies, and count the bytes of them that this process holds.

    Bodies that come in several pieces count, and what comes out of compressed ones: an SDK sends
    its key in the body, so anybody may send one of those.
    """

    def __init__(self, *, max_body_bytes: int, max_held_bytes: int) -> None:
        self._max_body_bytes, self._max_held_bytes = max_body_bytes, max_held_bytes
        self.held_bytes = 0

    def hold(self, context: RequestContext, size: int, most: int) -> None:
        """Count bytes until `release`. Raises Overloaded when more than `most` would be held."""
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

        Raises TooLarge as soon as it is over the limit, and what `limited` raises.
        """
        limit = self._max_body_bytes if limit is None else limit
        refuse_declared(context, limit)
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            body = await _rest(self.limited(context, receive, limit, seen=len(body)), body)
        elif len(body) > limit:
            raise json_body.too_large(limit)
        if b"content-encoding" in context.headers:
            body = await self._decompressed(context, body, limit)
        return body if body[:1] in USUAL_STARTS else json_body.without_bom(body)

    async def read_json(
        self,
        context: RequestContext,
        receive: Receive,
        *,
        optional: bool,
        most_members: int = json_body.MANY,
    ) -> bytes:
        """Return a body of JSON that has at most `most_members` members.

        `optional`: a missing body is an empty object, whatever its media type is said to be. Raises
        UnsupportedMediaType beside what `read` raises.
        """
        media_type = context.headers.get(b"content-type")
        may_lack_type = optional and (media_type is None or _may_be_empty(context))
        if not may_lack_type:
            json_body.media_type((media_type or b"").decode("latin-1"), json_body.JSON)
        body = await self.read(context, receive)
        if body and optional and media_type is not None:
            json_body.media_type(media_type.decode("latin-1"), json_body.JSON)
        json_body.refuse_crowded(body, most_members)
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
        """Return a `receive` for this body that raises where the body must not be read on.

        `seen`: bytes that came before; `counts`: False when somebody else counts them as held.
        Raises TooLarge over the limit, TooSlow, Malformed when the body ends early, Overloaded.
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
                raise json_body.too_large(limit)
            return message

        return limited_receive

    async def _decompressed(self, context: RequestContext, body: bytes, limit: int) -> bytes:
        held = self._max_held_bytes
        most = max(held // DECOMPRESSED_SHARE, min(limit, held))
        try:
            return await decompression.decompressed(
                body,
                context.header(b"content-encoding"),
                limit,
                lambda size: self.hold(context, size, most),
            )
        except Overloaded:  # also when too many wait to be decompressed
            context.overloaded = True
            raise


def refuse_declared(context: RequestContext, limit: int) -> None:
    """Raise TooLarge when Content-Length is over the limit."""
    declared = context.headers.get(b"content-length")
    if declared is not None and int(declared) > limit:
        raise json_body.too_large(limit)


def is_small(context: RequestContext) -> bool:
    """Tell whether a request has no body, or one that is known to be small before it is read."""
    if b"content-encoding" in context.headers or b"transfer-encoding" in context.headers:
        return False
    return int(context.headers.get(b"content-length", b"0")) <= SMALL_BODY_BYTES


def _may_be_empty(context: RequestContext) -> bool:
    """Tell whether the headers do not promise a body."""
    return context.headers.get(b"content-length", b"0").strip(b"0") == b""


async def _rest(receive: Receive, first: bytes) -> bytes:
    parts, more = [first], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)
