"""The last items that were accepted and settled, for all who look at the live page."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from app.outbox.feed import Feed, FeedEntry
from app.outbox.outbox import Outbox

SECONDS = 1.0  # between readings
# Entries of one kind that one reading shows, and those that it looks at: nobody reads more in a
# second, and each costs processor time that callers would have
LIMIT, SCANNED = 25, 500
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
        self._feed = Feed(limit=LIMIT, scanned=SCANNED)
        self.last = 0

    def begin(self) -> None:
        """Follow what is new from now on."""
        self._entries.clear()
        self._feed = Feed(limit=LIMIT, scanned=SCANNED)

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
