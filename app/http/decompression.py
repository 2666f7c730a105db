"""Decompress bodies within limits, off the event loop: in one thread, slice by slice in rotation.

A body of a few kilobytes may decompress to thousands of times its size, so the output counts
against `GATEWAY_MAX_HELD_BYTES` as it is produced.
"""

import asyncio
import math
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

import zstandard

from app.errors import Malformed, Overloaded, TooLarge, UnsupportedMediaType
from app.ingest.time_slices import RestingThread

AT_ONCE = 2  # more would not be faster: there is one thread
MAX_WAITING, WAITING_SECONDS = 1_000, 5.0
SLICE = 256 * 1024  # bytes of output before the next body is continued
WITHOUT_A_PLACE = 1024 * 1024  # bytes of output before a body must wait for a place
IN_PLACE = 512  # bytes of a gzip body that is decompressed on the event loop: at most 512 KiB
FULL = "Too many compressed bodies are waiting to be decompressed."
MAX_FRAMES = 100  # gzip members or zstd frames of one body; each has a cost, however empty
INPUT_STEP, OUTPUT_STEP = 64 * 1024, 256 * 1024  # bytes that go in, or come out, at a time
ZSTD_INPUT_STEP = 64  # bytes; a block of four may come out as 128 KiB
ZSTD_WINDOW = 8 * 1024 * 1024  # bytes; the window is memory whose size the sender chooses
_Result = TypeVar("_Result")
_thread = RestingThread("decompression")


class PlaceQueue:
    """A queue for a small number of places, bounded in length and in waiting time."""

    def __init__(self, places: int, most_waiting: int, seconds: float = WAITING_SECONDS) -> None:
        self._places, self._most, self._seconds = places, most_waiting, seconds
        self._waiting = 0
        self._free = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place, and hold it for as long as the context lasts.

        Raises Overloaded if too many wait, or if no place becomes free in time.
        """
        if self._waiting >= self._most:
            raise Overloaded(FULL)
        loop = asyncio.get_running_loop()
        free = self._free.setdefault(loop, asyncio.Semaphore(self._places))
        self._waiting += 1
        try:
            async with asyncio.timeout(self._seconds):
                await free.acquire()
        except TimeoutError:
            raise Overloaded(FULL) from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            free.release()


KNOWN_CALLERS = PlaceQueue(AT_ONCE, MAX_WAITING)


class _GzipMember:
    """One member of a gzip body (RFC 1952)."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the output in small pieces."""
        full = True
        while (data or full) and not self._decoder.eof:
            output = self._decoder.decompress(data, OUTPUT_STEP)
            data, full = self._decoder.unconsumed_tail, len(output) == OUTPUT_STEP
            yield output

    @property
    def rest(self) -> bytes | None:
        """The input after the end of the member; None before the end."""
        return self._decoder.unused_data if self._decoder.eof else None


class _ZstdFrame:
    """One frame of a zstd body (RFC 8878)."""

    def __init__(self) -> None:
        self._decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
        self.rest: bytes | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the output in small pieces."""
        for start in range(0, len(data), ZSTD_INPUT_STEP):
            end = start + ZSTD_INPUT_STEP
            yield self._decoder.decompress(data[start:end])
            if self._decoder.eof:
                self.rest = self._decoder.unused_data + data[end:]
                return


class Decompressor:
    """A decompressor that takes a body piece by piece: one gzip member or zstd frame, or several.

    `name` is a key of `_FRAMES`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._frame: _GzipMember | _ZstdFrame | None = None
        self._frames = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the output of a piece of input. Raises Malformed."""
        try:
            while data:
                if self._frame is None:
                    self._frame = self._next_frame()
                yield from self._frame.feed(data)
                rest = self._frame.rest
                if rest is None:
                    return
                data, self._frame = rest, None
        except (zlib.error, zstandard.ZstdError):
            raise self._malformed() from None

    def feed_whole(self, body: bytes) -> Iterator[bytes]:
        """Yield the output of a whole body, of which little goes in at a time. Raises Malformed."""
        for start in range(0, len(body), INPUT_STEP):
            yield from self.feed(body[start : start + INPUT_STEP])

    def end(self) -> None:
        """Raise Malformed if the body is cut off."""
        if self._frame is not None or not self._frames:
            raise self._malformed()

    def _next_frame(self) -> _GzipMember | _ZstdFrame:
        self._frames += 1
        if self._frames > MAX_FRAMES:
            raise self._malformed()
        return _FRAMES[self._name]()

    def _malformed(self) -> Malformed:
        return Malformed(f"The body is not valid {self._name}.")


_FRAMES: dict[str, type[_GzipMember | _ZstdFrame]] = {
    "gzip": _GzipMember,
    "x-gzip": _GzipMember,
    "zstd": _ZstdFrame,
}


def decompressor_of(encoding: str) -> Decompressor | None:
    """Return a decompressor for a Content-Encoding; None for identity.

    Raises UnsupportedMediaType for any other encoding than gzip and zstd.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return None
    if name not in _FRAMES:
        refusal = UnsupportedMediaType("The Content-Encoding must be gzip or zstd.")
        raise refusal.at_header("Content-Encoding")
    return Decompressor(name)


def body_too_large(limit: int) -> TooLarge:
    """Return the error for a body over the limit."""
    return TooLarge(f"The body exceeds {limit} bytes (after decompression).")


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Return the body as it was before Content-Encoding, of at most `limit` bytes.

    Raises TooLarge as soon as more comes out, so a bomb is never decompressed whole; Malformed for
    invalid data; UnsupportedMediaType for another encoding than gzip, zstd or identity.
    """
    decompressor = decompressor_of(encoding)
    if decompressor is None:
        return body
    job = _DecompressionJob(decompressor, body, limit)
    ended = False
    while not ended:
        _, ended = job.step()
    return job.result()


async def in_thread(function: Callable[[], _Result]) -> _Result:
    """Call a function in the one thread that decompresses."""
    return await _thread.call(function)


async def decompress_in_thread(
    body: bytes,
    encoding: str,
    limit: int,
    count: Callable[[int], None],
) -> bytes:
    """Return the body of a known caller as it was before Content-Encoding.

    `count` is called with the number of bytes of each slice of output, and may raise Overloaded.
    Raises what `decompress` raises, and Overloaded.
    """
    decompressor = decompressor_of(encoding)
    if decompressor is None:
        return body
    # Not for zstd, of which a few bytes may become very many.
    if len(body) <= IN_PLACE and encoding.strip().lower() != "zstd":
        return decompress(body, encoding, limit)
    job = _DecompressionJob(decompressor, body, limit)
    if await _run(job, WITHOUT_A_PLACE, count):
        return job.result()
    async with KNOWN_CALLERS.place():
        await _run(job, math.inf, count)
        return await in_thread(job.result)


async def _run(job: "_DecompressionJob", most: float, count: Callable[[int], None]) -> bool:
    """Decompress until about `most` bytes have come out; return whether the end was reached."""
    ended = False
    while not ended and job.size < most:
        size, ended = await in_thread(job.step)
        count(size)
    return ended


class _DecompressionJob:
    """The decompression of one body, slice by slice."""

    def __init__(self, decompressor: Decompressor, body: bytes, limit: int) -> None:
        self._decompressor, self._limit = decompressor, limit
        self._pieces = decompressor.feed_whole(body)
        self._output = list[bytes]()
        self.size = 0

    def step(self) -> tuple[int, bool]:
        """Decompress a slice; return its size in bytes, and whether it was the last.

        Raises TooLarge, Malformed.
        """
        before = self.size
        for piece in self._pieces:
            self._output.append(piece)
            self.size += len(piece)
            if self.size > self._limit:
                raise body_too_large(self._limit)
            if self.size - before >= SLICE:
                return self.size - before, False
        return self.size - before, True

    def result(self) -> bytes:
        """Return the whole output. Raises Malformed if the body was cut off."""
        self._decompressor.end()
        return b"".join(self._output)
