"""Turns: how a call that is made while a caller waits keeps clear of the delivery.

Leanplum locks a user who has two calls at once, and what was accepted for a user should arrive before what is asked
about them afterwards. So such a call waits for its users' turn: until nothing of theirs waits or is in flight. It waits
for a bounded time only: a user with a long backlog, or one whose items Leanplum doesn't take now, is not cut off.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

from app import ids
from app.delivery.window import Window
from app.outbox.outbox import Outbox

LOOK_AGAIN_SECONDS = 0.05  # for what another process delivers


class Turns:
    """Who may call for which users. `window` is the deliverer's, or an empty one where others deliver."""

    def __init__(self, outbox: Outbox, window: Window, wake: Callable[[], None] = lambda: None) -> None:
        self._outbox, self._window, self._wake = outbox, window, wake
        self._waiters: set[asyncio.Event] = set()

    def landed(self) -> None:
        """A call has ended: whoever waits for a turn looks again."""
        for waiter in self._waiters:
            waiter.set()

    @asynccontextmanager
    async def take(self, app: str, subjects: Collection[str], seconds: float) -> AsyncIterator[None]:
        """The turn of these subjects, after at most `seconds`; until the end nothing is sent of what waits for them."""
        lanes = {ids.lane(app, subject) for subject in subjects}
        taken = await self._taken(lanes, time.monotonic() + seconds) if lanes else set[int]()
        try:
            yield
        finally:
            for lane in taken:
                self._window.free(lane)
            if taken:
                self.landed()
                self._wake()

    async def erased(self, app: str, subjects: Collection[str]) -> bool:
        """Whether one of the subjects was erased, so that nothing may be sent for it now."""
        return bool(subjects) and bool(await self._outbox.erased(app, subjects))

    async def _taken(self, lanes: set[int], deadline: float) -> set[int]:
        """Which of the lanes are ours; at the deadline those that are to be had."""
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            while True:
                waiter.clear()
                left = deadline - time.monotonic()
                free = self._window.free_of(lanes)
                if left <= 0 or (free and not await self._outbox.waits(lanes) and self._window.free_of(lanes)):
                    return {lane for lane in lanes if self._window.reserve(lane)}
                await _within(min(left, LOOK_AGAIN_SECONDS), waiter)
        finally:
            self._waiters.discard(waiter)


async def _within(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
