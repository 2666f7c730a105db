"""Taking a request's body in, whole or within a limit as it comes."""

from collections.abc import Awaitable, Callable
from typing import Any

from app.bootstrap import Gateway
from app.errors import Malformed, Overloaded, TooSlow
from app.http import decompression, json_body
from app.http.request import Context

SMALL = 64 * 1024  # bytes of a body that may be parsed before it is known who calls
UNPACKED_SHARE = 3  # of what may be held, a third, beyond which nothing more is decompressed
NO_MARKS = frozenset({b"{", b"[", b""})  # how nearly every body begins
Receive = Callable[[], Awaitable[Any]]


class Room:
    """Counts the bytes of bodies that this process holds: of those that come in several pieces, and
    what comes out of compressed ones. An SDK's key is in its body, so anybody may send one of
    those.
    """

    def __init__(self) -> None:
        self._held = 0

    def take(self, context: Context, size: int, most: int) -> None:
        """Count them until `give`. Raises Overloaded where they would be more than `most`."""
        if self._held + size > most:
            context.overloaded = True
            raise Overloaded("As much is being read as may be held at once.")
        self._held += size
        context.held += size

    def give(self, context: Context) -> None:
        """Count those of this request no longer."""
        self._held -= context.held
        context.held = 0


ROOM = Room()


async def read_body(
    gateway: Gateway, context: Context, receive: Receive, limit: int | None = None
) -> bytes:
    """The whole body, decompressed, without a byte-order mark. Raises TooLarge as soon as it is
    over the limit.
    """
    limit = gateway.settings.gateway_max_body_bytes if limit is None else limit
    refuse_declared(context, limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        body = await _rest(limited(gateway, context, receive, limit, len(body)), body)
    elif len(body) > limit:
        raise json_body.too_large(limit)
    encoding = context.headers.get(b"content-encoding")
    if encoding is not None:
        held = gateway.settings.gateway_max_held_bytes
        most = max(held // UNPACKED_SHARE, min(limit, held))
        try:
            body = await decompression.decompressed(
                body, encoding.decode("latin-1"), limit, lambda size: ROOM.take(context, size, most)
            )
        except Overloaded:  # the queue is full, too
            context.overloaded = True
            raise
    return body if body[:1] in NO_MARKS else json_body.without_bom(body)


def refuse_declared(context: Context, limit: int) -> None:
    """Raises TooLarge where the body is said to be over the limit."""
    declared = context.headers.get(b"content-length")
    if declared is not None and int(declared) > limit:
        raise json_body.too_large(limit)


def is_small(context: Context) -> bool:
    """Whether a request has no body, or one that is known to be small before it is read."""
    if b"content-encoding" in context.headers or b"transfer-encoding" in context.headers:
        return False
    return int(context.headers.get(b"content-length", b"0")) <= SMALL


async def read_fields(
    gateway: Gateway,
    context: Context,
    receive: Receive,
    *,
    optional: bool,
    most: int = json_body.MANY,
) -> bytes:
    """A body of JSON that has at most `most` members; `optional`: none at all is an empty object,
    whatever its media type is said to be. Raises UnsupportedMediaType beside what `read_body`
    raises.
    """
    kind = context.headers.get(b"content-type")
    untyped = optional and kind is None
    if not untyped and not (optional and _may_be_empty(context)):
        json_body.media_type((kind or b"").decode("latin-1"), json_body.JSON)
    body = await read_body(gateway, context, receive)
    if body and optional and kind is not None:
        json_body.media_type(kind.decode("latin-1"), json_body.JSON)
    json_body.refuse_crowded(body, most)
    return body or (b"{}" if optional else b"")


def _may_be_empty(context: Context) -> bool:
    """Return whether the head of the request does not say that there is a body."""
    return context.headers.get(b"content-length", b"0").strip(b"0") == b""


def limited(
    gateway: Gateway,
    context: Context,
    receive: Receive,
    limit: int,
    seen: int = 0,
    room: Room | None = ROOM,
) -> Receive:
    """The same body, which ends in TooLarge where it is over the limit, TooSlow where it comes too
    slowly, Malformed where it is never whole, Overloaded where too many are being read. `seen`: the
    bytes that came before; `room`: None where they are counted elsewhere.
    """
    most = gateway.settings.gateway_max_held_bytes

    async def counted() -> Any:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.disconnect" or (context.cut_off and message.get("more_body")):
            context.cut_off = True
            raise Malformed("The connection was closed before the body was whole.")
        if context.too_slow and message.get("more_body"):
            raise TooSlow("The body came too slowly.")
        size = len(message.get("body", b""))
        if room is not None:
            room.take(context, size, most)
        seen += size
        if seen > limit:
            raise json_body.too_large(limit)
        return message

    return counted


async def _rest(receive: Receive, first: bytes) -> bytes:
    parts, more = [first], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)
