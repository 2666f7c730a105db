"""At most one call for a user at a time (fact sheet §5), refusing or queueing the second."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class UserLocks:
    """The users of the calls in flight. A call waits only for earlier ones, so nobody waits in a
    circle.
    """

    def __init__(self, *, queue: bool) -> None:
        self.overlaps = 0
        self._queue = queue
        self._in_flight: dict[str, list[asyncio.Event]] = {}

    @asynccontextmanager
    async def hold(self, users: set[str]) -> AsyncIterator[bool]:
        """Hold these users until the block ends; False when an earlier call has one and queueing is
        off.
        """
        rivals = {rival for user in users for rival in self._in_flight.get(user, ())}
        self.overlaps += len(rivals)
        if rivals and not self._queue:
            yield False
            return
        finished = self._enter(users)
        try:
            for rival in rivals:
                await rival.wait()
            yield True
        finally:
            self._leave(users, finished)

    def _enter(self, users: set[str]) -> asyncio.Event:
        finished = asyncio.Event()
        for user in users:
            self._in_flight.setdefault(user, []).append(finished)
        return finished

    def _leave(self, users: set[str], finished: asyncio.Event) -> None:
        finished.set()
        for user in users:
            self._in_flight[user].remove(finished)
            if not self._in_flight[user]:
                del self._in_flight[user]
