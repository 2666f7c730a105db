"""Reading the body of a response within bounds, however it was compressed. Pure but for the pieces
that come in.

A compressed body is decompressed step by step, so that one that says three megabytes and means
three gigabytes is given up after the first few of them. Two encodings, one in the other, are not
read: nobody asked for them.
"""

import asyncio
import zlib
from collections.abc import AsyncIterable, AsyncIterator

MEBIBYTE = 1024 * 1024
MAX_RESPONSE_BYTES = 16 * MEBIBYTE
MAX_DOWNLOAD_BYTES = 1024 * MEBIBYTE
# Of JSON: each value takes up to a hundred bytes of memory, and time, however short it is written.
MAX_VALUES = 1_000_000
STEP = 64 * 1024  # what is decompressed at once
TURN = MEBIBYTE  # what is decompressed until others have their turn
ACCEPTED = "gzip, deflate"
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's word for each format


class UnreadableBody(Exception):
    """A body that is too large, or can't be decompressed. The text says which, in a few words."""


def too_large(most: int, setting: str) -> str:
    """Return the error text for a body with more bytes than a setting allows."""
    return f"the response is larger than {most:,} bytes ({setting})"


async def whole(pieces: AsyncIterable[bytes], encoding: str, most: int, setting: str) -> bytes:
    """The whole body, of at most so many bytes, which `setting` sets. Raises UnreadableBody."""
    body = bytearray()
    async for piece in decoded(pieces, encoding, most, setting):
        body += piece
    if len(body) > MAX_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise UnreadableBody(f"the response has more than {MAX_VALUES:,} values")
    return bytes(body)


async def decoded(
    pieces: AsyncIterable[bytes], encoding: str, most: int, setting: str
) -> AsyncIterator[bytes]:
    """The body's pieces, decompressed, each no larger than one that came or `STEP`. Raises
    UnreadableBody beyond `most` bytes, those that came and those that they mean counted apart.
    """
    told = encoding.strip().lower()
    steps = None if told in ("", "identity") else _Steps(told)
    came = meant = since = 0
    async for raw in pieces:
        came += len(raw)
        if came > most:
            raise UnreadableBody(too_large(most, setting))
        if steps is None:
            yield raw
            continue
        steps.feed(raw)
        while piece := steps.next():
            meant += len(piece)
            if meant > most:
                raise UnreadableBody(too_large(most, setting))
            yield piece
            since += len(piece)
            if since >= TURN:
                since = 0
                await asyncio.sleep(0)
    if steps is not None and came:
        steps.end()


class _Steps:
    """Decompression in small steps."""

    def __init__(self, encoding: str) -> None:
        if encoding not in _WINDOWS:
            raise UnreadableBody("the response has a Content-Encoding that was not asked for")
        self._zlib, self._waiting = zlib.decompressobj(_WINDOWS[encoding]), b""

    def feed(self, raw: bytes) -> None:
        """Take what came. All before it has been decompressed."""
        self._waiting = raw

    def next(self) -> bytes:
        """The next step's bytes; none where more has to come first."""
        if self._zlib.eof:  # whatever follows is not the body
            return b""
        try:
            piece = self._zlib.decompress(self._waiting, STEP)
        except zlib.error:
            raise UnreadableBody("DecodingError") from None
        self._waiting = self._zlib.unconsumed_tail
        return piece

    def end(self) -> None:
        """Raises UnreadableBody where the body was cut off."""
        if not self._zlib.eof:
            raise UnreadableBody("DecodingError")
