"""Taking a request's body in, whole or within a limit as it comes."""

from collections.abc import Awaitable, Callable
from typing import Any

from app.api.context import Context
from app.errors import Malformed
from app.intake import bodies
from app.wiring import Gateway

Receive = Callable[[], Awaitable[Any]]


async def read_body(gateway: Gateway, context: Context, receive: Receive, limit: int | None = None) -> bytes:
    """The whole body, decompressed. Raises TooLarge as soon as it is over the limit."""
    limit = gateway.settings.gateway_max_body_bytes if limit is None else limit
    declared = context.headers.get(b"content-length")
    if declared is not None and int(declared) > limit:
        raise bodies.too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        body = await _rest(receive, body, limit)
    elif len(body) > limit:
        raise bodies.too_large(limit)
    encoding = context.headers.get(b"content-encoding")
    return body if encoding is None else bodies.decompress(body, encoding.decode("latin-1"), limit)


async def read_fields(gateway: Gateway, context: Context, receive: Receive, *, optional: bool) -> bytes:
    """A body of JSON; `optional`: none at all is an empty object. Raises UnsupportedMediaType beside what `read_body`
    raises."""
    kind = context.headers.get(b"content-type")
    if optional and kind is None:
        return await read_body(gateway, context, receive) or b"{}"
    bodies.media_type((kind or b"").decode("latin-1"), bodies.JSON)
    return await read_body(gateway, context, receive)


def limited(receive: Receive, limit: int) -> Receive:
    """The same body, which ends in TooLarge where it is over the limit."""
    seen = 0

    async def counted() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise bodies.too_large(limit)
        return message

    return counted


async def _rest(receive: Receive, first: bytes, limit: int) -> bytes:
    parts, size, more = [first], len(first), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Malformed("The connection was closed before the body was whole.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > limit:
            raise bodies.too_large(limit)
    return b"".join(parts)
