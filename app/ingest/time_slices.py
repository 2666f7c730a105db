"""Large pieces of work, one at a time and in order, with a pause for other tasks after each.

If the work of 60 callers were done without pauses, all other tasks would wait for all of it,
several times in one request.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakKeyDictionary

SLICE_SECONDS = 0.002
LONGEST_REST = 0.1  # seconds
_Made = TypeVar("_Made")
_locks = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]()


def turn() -> asyncio.Lock:
    """Return the lock to hold for a piece of work and for the pause (`asyncio.sleep(0)`) after."""
    return _locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())


async def in_slices(work: Iterator[_Made]) -> list[_Made]:
    """Return the values of an iterator, with a pause for other tasks after each slice of time."""
    made = list[_Made]()
    if _slice(work, made):  # nearly always, and then at once
        return made
    ended = False
    while not ended:
        await asyncio.sleep(0)
        async with turn():
            ended = _slice(work, made)
            await asyncio.sleep(0)
    return made


def _slice(work: Iterator[_Made], made: list[_Made]) -> bool:
    """Work for one slice of time; return True when the iterator has ended."""
    until = time.perf_counter() + SLICE_SECONDS
    for one in work:
        made.append(one)
        if time.perf_counter() >= until:
            return False
    return True


class RestingThread:
    """The only thread for large pieces of work of one kind.

    Several threads would take the interpreter's lock one after the other, and every other task
    would wait for all of them. A parser or decompressor written in C holds that lock, or the
    processor, until it is done. So after each piece of work the thread rests for as long as it has
    worked: a task that waited for one piece need not wait for the next.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._rests_until = 0.0

    async def call(self, function: Callable[[], _Made]) -> _Made:
        """Call a function in the thread, after those that were asked for before."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._rested, function
        )

    def _rested(self, function: Callable[[], _Made]) -> _Made:
        time.sleep(max(0.0, self._rests_until - time.monotonic()))
        began = time.monotonic()
        try:
            return function()
        finally:
            ended = time.monotonic()
            self._rests_until = ended + min(ended - began, LONGEST_REST)
