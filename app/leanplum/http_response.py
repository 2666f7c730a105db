"""Parts of an HTTP response: its body, read within bounds, and `Retry-After`.

A compressed body is decompressed step by step, so that one that holds three gigabytes in three
megabytes is given up after the first few of them. A body with several encodings is refused: the
gateway asks for none of those. Pure but for the chunks that come in.
"""

import asyncio
import re
import zlib
from collections.abc import AsyncIterable, AsyncIterator
from datetime import UTC
from email.utils import parsedate_to_datetime

MEBIBYTE = 1024 * 1024
MAX_RESPONSE_BYTES = 16 * MEBIBYTE
MAX_DOWNLOAD_BYTES = 1024 * MEBIBYTE
# Of JSON: each value takes up to a hundred bytes of memory, and time, however short its text is
MAX_VALUES = 1_000_000
STEP_BYTES = 64 * 1024  # decompressed at once
SLICE_BYTES = MEBIBYTE  # decompressed before the event loop runs other tasks
ACCEPT_ENCODING = "gzip, deflate"
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's code of each format

MAX_RETRY_AFTER_SECONDS = 3600.0
NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)


class UnreadableBody(Exception):
    """A body that is too large, or cannot be decompressed. The text says which, in a few words."""


def too_large(max_bytes: int, setting: str) -> str:
    """Return the error text for a body with more bytes than a setting allows."""
    return f"the response is larger than {max_bytes:,} bytes ({setting})"


async def read_body(
    chunks: AsyncIterable[bytes], encoding: str, max_bytes: int, setting: str
) -> bytes:
    """Return the whole body, decompressed. Raises UnreadableBody.

    `setting` is the name of the setting that `max_bytes` comes from, for the error's text.
    """
    body = bytearray()
    async for chunk in decompress(chunks, encoding, max_bytes, setting):
        body += chunk
    if len(body) > MAX_VALUES and sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise UnreadableBody(f"the response has more than {MAX_VALUES:,} values")
    return bytes(body)


async def decompress(
    chunks: AsyncIterable[bytes], encoding: str, max_bytes: int, setting: str
) -> AsyncIterator[bytes]:
    """Yield the body's chunks, decompressed.

    Each is no larger than the largest chunk that came in or `STEP_BYTES`. Raises UnreadableBody
    beyond `max_bytes`, a limit of the bytes that come in and of the decompressed ones.
    """
    coding = encoding.strip().lower()
    decompressor = None if coding in ("", "identity") else _Decompressor(coding)
    bytes_in = bytes_out = in_slice = 0
    async for raw in chunks:
        bytes_in += len(raw)
        if bytes_in > max_bytes:
            raise UnreadableBody(too_large(max_bytes, setting))
        if decompressor is None:
            yield raw
            continue
        decompressor.feed(raw)
        while chunk := decompressor.next():
            bytes_out += len(chunk)
            if bytes_out > max_bytes:
                raise UnreadableBody(too_large(max_bytes, setting))
            yield chunk
            in_slice += len(chunk)
            if in_slice >= SLICE_BYTES:
                in_slice = 0
                await asyncio.sleep(0)
    if decompressor is not None and bytes_in:
        decompressor.end()


class _Decompressor:
    """Decompression in small steps."""

    def __init__(self, coding: str) -> None:
        if coding not in _WINDOW_BITS:
            raise UnreadableBody("the response has a Content-Encoding that was not asked for")
        self._zlib, self._waiting = zlib.decompressobj(_WINDOW_BITS[coding]), b""

    def feed(self, raw: bytes) -> None:
        """Take the next compressed bytes, once all before them are decompressed."""
        self._waiting = raw

    def next(self) -> bytes:
        """Return the bytes of the next step; none where more compressed bytes are needed."""
        if self._zlib.eof:  # whatever follows is not the body
            return b""
        try:
            chunk = self._zlib.decompress(self._waiting, STEP_BYTES)
        except zlib.error:
            raise UnreadableBody("DecodingError") from None
        self._waiting = self._zlib.unconsumed_tail
        return chunk

    def end(self) -> None:
        """Check that the body is complete. Raises UnreadableBody."""
        if not self._zlib.eof:
            raise UnreadableBody("DecodingError")


def resolve_retry_after(header: str | None, *, date: str | None, now: float) -> str | None:
    """Return a `Retry-After` with a date replaced by the seconds until it (RFC 9110 §10.2.3).

    Any other header is returned unchanged. The date counts from the response's own `date`, since
    both are by the sender's clock; from `now` (epoch seconds) where the response has none.
    """
    until = _epoch(header)
    if until is None:
        return header
    since = _epoch(date)
    return f"{max(0.0, until - (now if since is None else since)):.3f}"


def retry_after_seconds(header: str | None) -> float:
    """Return the seconds to wait, fractions too, at most an hour; 0 for what is no number."""
    text = (header or "").strip()
    return min(float(text), MAX_RETRY_AFTER_SECONDS) if NUMBER.fullmatch(text) else 0.0


def _epoch(text: str | None) -> float | None:
    """Return the time that an HTTP-date names, in any of its three forms (RFC 9110 §5.6.7)."""
    if not text:
        return None
    try:
        time = parsedate_to_datetime(text.strip())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
