"""The deadline of a thread's work with the database, and work on threads that is answered in time.

The driver asks for the deadline each time it waits for the server (`postgresql.py`). A connection
whose answer did not come by then is closed: nobody can know what would arrive on it next.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from app.errors import CommitUnknown, StorageUnavailable

T = TypeVar("T")
CALLER_SECONDS = 10.0  # that somebody waits for a thread, a connection and the answer, all together
LONG_SECONDS = 60.0  # for what walks through whole tables
GRACE_SECONDS = 0.5  # beyond the deadline: the thread itself usually tells first, and knows more
# Apart, so that hanging background work takes no thread from callers. A thread costs nothing until
# it is used; with the writer they take all the connections that the engine's pool may have (15).
_CALLERS = ThreadPoolExecutor(8, "database")
_BACKGROUND = ThreadPoolExecutor(6, "database-background")


class _Awaited:
    """Work that somebody waits for until a time, by the monotonic clock."""

    __slots__ = ("sent", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.sent = False  # a commit


class _Thread(threading.local):
    until = math.inf  # by the monotonic clock
    awaited = _Awaited(math.inf)


_thread = _Thread()


def seconds_left() -> float | None:
    """Return the seconds until this thread's deadline, not below zero; None where it has none."""
    until = _thread.until
    return None if until == math.inf else max(0.0, until - time.monotonic())


def set_until(until: float) -> None:
    """Give this thread a deadline, by the monotonic clock, in place of the one it has."""
    _thread.until = until


def late_answer() -> StorageUnavailable:
    """Make the error of an answer that did not come in time."""
    return StorageUnavailable("The database did not respond in time.")


def may_commit() -> bool:
    """Note that a commit is about to be sent. Return False where it must not be: the deadline has
    passed, and whoever waited was told that nothing was done."""
    awaited = _thread.awaited
    awaited.sent = True
    if seconds_left() == 0:
        awaited.sent = False
    return awaited.sent


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give the work inside `seconds`, or less where an earlier deadline holds already."""
    outer = _thread.until
    _thread.until = min(outer, time.monotonic() + seconds)
    try:
        yield
    finally:
        _thread.until = outer


async def in_time(work: Callable[[], T], seconds: float = CALLER_SECONDS) -> T:
    """Run `work` on a thread for a caller who waits. Raises StorageUnavailable at the deadline, and
    CommitUnknown where a commit was sent by then."""
    return await _run(_CALLERS, work, seconds)


async def in_background(work: Callable[[], T], seconds: float = CALLER_SECONDS) -> T:
    """Run `work` on a thread apart from those of callers. Raises StorageUnavailable at the
    deadline.
    """
    return await _run(_BACKGROUND, work, seconds)


async def _run(threads: ThreadPoolExecutor, work: Callable[[], T], seconds: float) -> T:
    awaited = _Awaited(time.monotonic() + seconds)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds + GRACE_SECONDS):
            return await loop.run_in_executor(threads, _work, work, awaited)
    except TimeoutError:
        raise CommitUnknown() if awaited.sent else late_answer() from None


def _work(work: Callable[[], T], awaited: _Awaited) -> T:
    left = awaited.until - time.monotonic()
    if left <= 0:  # it waited for a thread; the caller has been told
        raise late_answer()
    _thread.awaited = awaited
    with within(left):
        return work()
