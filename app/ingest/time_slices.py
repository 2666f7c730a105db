"""Large pieces of work, one at a time and in order, with a turn of everybody else's after each.

Where each of 60 callers had a piece of work done before anybody else had a turn, everybody else
would wait for all of them, several times in one request.
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
    """Return what is held for one piece of work, and until others have had their turn
    (`asyncio.sleep(0)`).
    """
    return _locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())


async def in_slices(work: Iterator[_Made]) -> list[_Made]:
    """Return what an iterator makes, which may be much: after each slice of time, others have their
    turn.
    """
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
    """Work for one slice of time; returns whether that was all."""
    until = time.perf_counter() + SLICE_SECONDS
    for one in work:
        made.append(one)
        if time.perf_counter() >= until:
            return False
    return True


class RestingThread:
    """The one thread for large work of a kind. Several would take the interpreter's lock by turns,
    and everybody else would wait for all of them each time.

    A parser or decompressor that is written in C takes that lock, or the processor, until it is
    done. So between two pieces of work the thread rests for as long as it has worked: whoever
    waited for one need not wait for the next.
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
