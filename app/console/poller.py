"""Reading of what changes, again and again while anybody looks at it: once for all who do."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog

from app.telemetry import explain

log = structlog.get_logger("console")


class Source(Protocol):
    """Something that is read again and again."""

    def begin(self) -> None:
        """Begin anew: nobody has looked for a while."""
        ...

    async def read(self) -> None:
        """Read what is new."""
        ...


class Poller:
    """The loop that reads a source while it is followed."""

    def __init__(self, source: Source, seconds: float) -> None:
        """Read `seconds` after the last reading has ended."""
        self._source, self._seconds = source, seconds
        self._followers = 0
        self._task: asyncio.Task[None] | None = None
        self._next = asyncio.Event()  # is set by the next reading

    @property
    def runs(self) -> bool:
        """Return whether anybody follows the source."""
        return self._task is not None

    @contextmanager
    def following(self) -> Iterator[None]:
        """Read while the context is open."""
        self._followers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                self._task.cancel()
                self._task = None

    async def changed(self, seconds: float) -> None:
        """Wait for the next reading, at most so many seconds."""
        event = self._next
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return

    async def _run(self) -> None:
        self._source.begin()
        while True:
            await self._read()
            event, self._next = self._next, asyncio.Event()
            event.set()
            await asyncio.sleep(self._seconds)

    async def _read(self) -> None:
        try:
            await self._source.read()
        except Exception as error:
            # The loop must go on: whatever is wrong now may be over at the next reading.
            log.warning("console.not_read", **explain(error))
