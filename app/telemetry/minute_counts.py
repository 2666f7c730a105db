"""Counts by minute and app, gathered in memory until they are stored.

`outbox/minute_counts.py` stores them.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from time import time
from typing import NamedTuple

MINUTE_SECONDS = 60
MINUTE_MS = 60_000
# Kinds, apart from the statuses by which settled and postponed items are counted. They are no
# enumeration: the hash of a member takes longer than all the rest of `MinuteCounts.add`.
ACCEPTED = "accepted"
CALLS = "calls"  # to Leanplum
FAILED_CALLS = "failed-calls"


class CountRow(NamedTuple):
    """How many of a kind one process has counted in a minute, in the column order of the table.

    `minute` is when it began, in epoch milliseconds. `part` tells apart what several processes
    count in one minute.
    """

    minute: int
    app: str
    kind: str
    part: int
    total: int


class _Part:
    """The counts of this process in one minute, and which of them are stored."""

    __slots__ = ("counts", "minute", "number", "stored")

    def __init__(self, minute: float) -> None:
        self.minute, self.number = minute, secrets.randbits(62)
        self.counts: dict[tuple[str, str], int] = {}  # by app and kind
        self.stored: dict[tuple[str, str], int] = {}

    def pending(self) -> Iterator[CountRow]:
        """Yield the counts that are not stored as they are now."""
        for key, count in self.counts.items():
            if self.stored.get(key) != count:
                yield CountRow(int(self.minute) * MINUTE_MS, *key, self.number, count)


class MinuteCounts:
    """The counts of this process, until they are stored.

    A row has the count of its whole minute until now, not what was added since the last time. So it
    can be stored again if nobody knows whether it was.
    """

    def __init__(self, clock: Callable[[], float] = time) -> None:
        """`clock` is in seconds since the epoch."""
        self._clock = clock
        self._part = _Part(0)  # of the current minute
        self._parts = {self._part.number: self._part}  # with those of earlier minutes

    def add(self, app: str, kind: str, count: int = 1) -> None:
        """Count in the current minute."""
        minute = self._clock() // MINUTE_SECONDS
        if minute != self._part.minute:  # also if the clock was set back
            self._part = _Part(minute)
            self._parts[self._part.number] = self._part
        counts, key = self._part.counts, (app, kind)
        counts[key] = counts.get(key, 0) + count

    def pending(self) -> list[CountRow]:
        """Return the counts that are not stored as they are now."""
        return [row for part in self._parts.values() for row in part.pending()]

    def note_stored(self, rows: Sequence[CountRow]) -> None:
        """Take note that rows are stored, and forget minutes that are over."""
        for row in rows:
            if row.part in self._parts:
                self._parts[row.part].stored[row.app, row.kind] = row.total
        for part in list(self._parts.values()):
            if part is not self._part and not any(part.pending()):
                del self._parts[part.number]
