"""Decompress bodies off the event loop: in one thread, a slice of each in turn, few at once.

A body of a few kilobytes may become thousands of times as large, so what comes out counts against
`GATEWAY_MAX_HELD_BYTES` as it comes.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

from app.errors import Overloaded
from app.http import json_body
from app.http.json_body import Unpacker
from app.ingest.time_slices import RestingThread

AT_ONCE = 2  # more would not be faster: there is one thread
MAX_WAITING, WAITING_SECONDS = 1_000, 5.0
SLICE = 256 * 1024  # bytes that come out of one body before another has its turn
WITHOUT_A_PLACE = 1024 * 1024  # bytes that come out before a body must wait for others as large
IN_PLACE = 512  # bytes of a gzip body that is decompressed where it is: at most half a megabyte
FULL = "Too many compressed bodies are waiting to be decompressed."
_Made = TypeVar("_Made")
_thread = RestingThread("decompression")


class PlaceQueue:
    """A queue for places, of which there are few. It is bounded in length and in time."""

    def __init__(self, places: int, most_waiting: int, seconds: float = WAITING_SECONDS) -> None:
        self._places, self._most, self._seconds = places, most_waiting, seconds
        self._waiting = 0
        self._free = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place, and hold it for as long as the context lasts. Raises Overloaded where
        too many wait, or none becomes free in time."""
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


async def in_thread(function: Callable[[], _Made]) -> _Made:
    """Call a function in the one thread that decompresses."""
    return await _thread.call(function)


async def decompressed(
    body: bytes,
    encoding: str,
    limit: int,
    count: Callable[[int], None],
) -> bytes:
    """Return the body of a known caller as it was before Content-Encoding.

    `count` is told of the bytes that came out, and may raise Overloaded. Raises what
    `bodies.decompress` raises.
    """
    unpacker = json_body.unpacker_of(encoding)
    if unpacker is None:
        return body
    if len(body) <= IN_PLACE and not json_body.is_zstd(encoding):
        return json_body.decompress(body, encoding, limit)
    unpacking = _Unpacking(unpacker, body, limit)
    if await _ended(unpacking, WITHOUT_A_PLACE, count):
        return unpacking.whole()
    async with KNOWN_CALLERS.place():
        await _ended(unpacking, math.inf, count)
        return await in_thread(unpacking.whole)


async def _ended(unpacking: "_Unpacking", most: float, count: Callable[[int], None]) -> bool:
    """Decompress a body until about `most` bytes have come out; tell whether that was all."""
    ended = False
    while not ended and unpacking.size < most:
        size, ended = await in_thread(unpacking.step)
        count(size)
    return ended


class _Unpacking:
    """A body that is decompressed slice by slice."""

    def __init__(self, unpacker: Unpacker, body: bytes, limit: int) -> None:
        self._unpacker, self._limit = unpacker, limit
        self._pieces = _pieces(unpacker, body)
        self._out = list[bytes]()
        self.size = 0

    def step(self) -> tuple[int, bool]:
        """Decompress a slice; return how many bytes came out, and whether those were the last.

        Raises TooLarge, Malformed.
        """
        before = self.size
        for piece in self._pieces:
            self._out.append(piece)
            self.size += len(piece)
            if self.size > self._limit:
                raise json_body.too_large(self._limit)
            if self.size - before >= SLICE:
                return self.size - before, False
        return self.size - before, True

    def whole(self) -> bytes:
        """Return all that came out. Raises Malformed where the body was cut off."""
        self._unpacker.end()
        return b"".join(self._out)


def _pieces(unpacker: Unpacker, body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), json_body.PACKED_STEP):
        yield from unpacker.feed(body[at : at + json_body.PACKED_STEP])
