"""Content that is computed once and sent often: compressed, and not sent again if it is known."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from hashlib import sha256

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.datastructures import Headers

CHUNK_BYTES = 65_536
# Content that compression shortens by less is sent as it is.
MOST_OF_ORIGINAL = 0.9


class Content:
    """A body with its media type and a hash, as it is and compressed."""

    def __init__(self, body: bytes, media_type: str) -> None:
        self.media_type, self._body = media_type, body
        self.version = sha256(body).hexdigest()[:16]

    @cached_property
    def _compressed(self) -> bytes | None:
        """The body as gzip has it; None if that is not worth it."""
        compressed = gzip.compress(self._body, mtime=0)
        return compressed if len(compressed) < len(self._body) * MOST_OF_ORIGINAL else None

    async def response(self, request: Request, headers: Mapping[str, str]) -> Response:
        """Return the response to a request; 304 without a body if the client has the content.

        `headers` are further headers; a `Vary` among them is kept.
        """
        body, etag = self._body, f'"{self.version}"'
        vary = ", ".join(filter(None, (headers.get("Vary"), "Accept-Encoding")))
        sent = {**headers, "Vary": vary}
        if accepts_gzip(request.headers):
            # On a thread: to compress a megabyte takes a tenth of a second.
            compressed = await asyncio.to_thread(lambda: self._compressed)
            if compressed is not None:
                body, etag = compressed, f'"{self.version}-gzip"'
                sent["Content-Encoding"] = "gzip"
        sent["ETag"] = etag
        if _is_known(etag, request.headers):
            sent.pop("Content-Encoding", None)
            return Response(status_code=304, headers=sent)
        sent["Content-Length"] = str(len(body))
        # In parts: a slow client must not keep all of it in the connection's buffer.
        return StreamingResponse(_parts(body), headers=sent, media_type=self.media_type)


async def _parts(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), CHUNK_BYTES):
        yield body[start : start + CHUNK_BYTES]


def accepts_gzip(headers: Headers) -> bool:
    """Tell whether a client accepts gzip (RFC 9110 §12.5.3)."""
    weights: dict[str, float] = {}
    for member in ",".join(headers.getlist("accept-encoding")).split(","):
        coding, _, parameter = member.partition(";")
        weights[coding.strip().lower()] = _weight(parameter)
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _weight(parameter: str) -> float:
    """Return the weight in `q=0.5`; 1 if there is none, 0 if it is not a number."""
    name, _, value = parameter.partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def _is_known(etag: str, headers: Headers) -> bool:
    """Tell whether If-None-Match names an entity tag, or `*` (RFC 9110 §13.1.2)."""
    given = ",".join(headers.getlist("if-none-match"))
    tags = {tag.strip().removeprefix("W/") for tag in given.split(",")}
    return etag in tags or "*" in tags
