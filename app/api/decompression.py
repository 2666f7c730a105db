"""Decompress bodies off the event loop: in one thread, a slice of each in turn, only so many at once.

A body of a few kilobytes may become thousands of times as large, so what comes out counts against
`GATEWAY_MAX_HELD_BYTES` as it comes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

from app.api.turns import RestingThread
from app.errors import Overloaded
from app.intake import bodies
from app.intake.bodies import Unpacker

AT_ONCE = 2  # more would not be faster: there is one thread
MAX_WAITING, WAITING_SECONDS = 1_000, 5.0
SLICE = 256 * 1024  # bytes that come out of one body before another has its turn
WITHOUT_A_PLACE = 1024 * 1024  # bytes that come out before a body must wait for others as large
IN_PLACE = 512  # bytes of a gzip body that is decompressed where it is: at most half a megabyte
FULL = "As many compressed bodies wait to be decompressed as may."
_Made = TypeVar("_Made")
_thread = RestingThread("decompression")


class Queue:
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


KNOWN_CALLERS = Queue(AT_ONCE, MAX_WAITING)


async def in_thread(function: Callable[[], _Made]) -> _Made:
    """Call a function in the one thread that decompresses."""
    return await _thread.call(function)


async def decompressed(body: bytes, encoding: str, limit: int, count: Callable[[int], None]) -> bytes:
    """Return the body of a known caller as it was before Content-Encoding.

    `count` is told of the bytes that came out, and may raise Overloaded. Raises what
    `bodies.decompress` raises.
    """
    unpacker = bodies.unpacker_of(encoding)
    if unpacker is None:
        return body
    if len(body) <= IN_PLACE and not bodies.is_zstd(encoding):
        return bodies.decompress(body, encoding, limit)
    unpacking = _Unpacking(unpacker, body, limit)
    while not unpacking.ended and unpacking.size < WITHOUT_A_PLACE:
        count(await in_thread(unpacking.step))
    if unpacking.ended:
        return unpacking.whole()
    async with KNOWN_CALLERS.place():
        while not unpacking.ended:
            count(await in_thread(unpacking.step))
        return await in_thread(unpacking.whole)


class _Unpacking:
    """A body that is decompressed slice by slice."""

    def __init__(self, unpacker: Unpacker, body: bytes, limit: int) -> None:
        self._unpacker, self._limit = unpacker, limit
        self._pieces = _pieces(unpacker, body)
        self._out = list[bytes]()
        self.size, self.ended = 0, False

    def step(self) -> int:
        """Decompress a slice, and return how many bytes came out. Raises TooLarge, Malformed."""
        before = self.size
        for piece in self._pieces:
            self._out.append(piece)
            self.size += len(piece)
            if self.size > self._limit:
                raise bodies.too_large(self._limit)
            if self.size - before >= SLICE:
                return self.size - before
        self.ended = True
        return self.size - before

    def whole(self) -> bytes:
        """Return all that came out. Raises Malformed where the body was cut off."""
        self._unpacker.end()
        return b"".join(self._out)


def _pieces(unpacker: Unpacker, body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), bodies.PACKED_STEP):
        yield from unpacker.feed(body[at : at + bodies.PACKED_STEP])
