"""The last items that were accepted and settled, for all who look at the live page."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from app.outbox.feed import Feed, FeedEntry
from app.outbox.outbox import Outbox

SECONDS = 1.0  # between readings
LIMIT = 50  # entries of one kind that one reading shows: more than anybody can read in a second
KEPT = 400


class TailEntry(NamedTuple):
    """An entry with its number in the tail; `more` if others of its reading were left out."""

    number: int
    entry: FeedEntry
    more: bool


class Tail:
    """The last entries, numbered in the order in which they came."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._entries: deque[TailEntry] = deque(maxlen=KEPT)
        self._feed = Feed(limit=LIMIT)
        self.last = 0

    def begin(self) -> None:
        """Follow what is new from now on."""
        self._entries.clear()
        self._feed = Feed(limit=LIMIT)

    async def read(self) -> None:
        """Read what is new."""
        step = await self._outbox.read_feed(self._feed)
        for entry in step.entries:
            self.last += 1
            self._entries.append(TailEntry(self.last, entry, step.truncated))

    def after(self, number: int) -> Iterator[TailEntry]:
        """Yield the kept entries after a number, newest first."""
        for entry in reversed(self._entries):
            if entry.number <= number:
                return
            yield entry
