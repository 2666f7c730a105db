"""Time as the gateway keeps it: whole milliseconds since the epoch, in UTC.

The wall clock gives the times that are reported and stored. It may be set, so what waits or grows
old is judged by `Clock`, which compares the wall clock with the monotonic one and remembers when
it was set.
"""

import math
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

STEP_MS = 1_000  # a smaller difference between two looks is followed, as one that NTP corrects
NOISE_MS = 2.0  # between looks at two clocks, of which one shows whole milliseconds
MOST_PERIODS = 64


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def instant(at: int) -> str:
    """Milliseconds since the epoch as RFC 3339, as in 2026-01-31T12:00:00.000Z."""
    seconds, milliseconds = divmod(at, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=1024)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class _Period(NamedTuple):
    """A time in which nobody set the wall clock.

    `begins` is by the monotonic clock; `ahead` is the wall clock's time less the monotonic one's.
    """

    begins: float
    ahead: float


class Clock:
    """The wall clock, and how much time has really passed since it showed a time.

    Stored times are the wall clock's. If the wall clock was set meanwhile, one time may have
    occurred several times. The answers then assume the latest: what was stored is kept a little
    longer, and nothing ends too early.
    """

    def __init__(
        self,
        wall: Callable[[], int] = now_ms,
        ticks: Callable[[], float] = time.monotonic,
        on_step: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Read `wall` (milliseconds) and `ticks` (seconds).

        `on_step` is called with the seconds by which the wall clock was set.
        """
        self._wall, self._ticks, self._on_step = wall, ticks, on_step
        self._lock = threading.Lock()
        self._seen = now = self._monotonic()
        self._periods: tuple[_Period, ...] = (_Period(-math.inf, self._wall() - now),)

    def __call__(self) -> int:
        """Return the wall clock's time."""
        return self._wall()

    def follow(self, newest: int) -> None:
        """Take note of the newest time that was stored before this process began.

        If the wall clock shows an earlier time, it was set back meanwhile.
        """
        now = self.look()
        with self._lock:
            *earlier, last = self._periods
            behind = newest - (now + last.ahead)
            if behind < STEP_MS:
                return
            before = _Period(last.begins, newest - now)
            self._periods = (*earlier, before, _Period(now, last.ahead))
        self._on_step(-behind / 1000)

    def look(self) -> float:
        """Notice whether the wall clock was set, and return the monotonic clock's milliseconds."""
        now = self._monotonic()
        if -NOISE_MS < self._wall() - now - self._periods[-1].ahead < NOISE_MS:
            self._seen = now
            return now
        with self._lock:
            now = self._monotonic()
            ahead = self._wall() - now
            *earlier, last = self._periods
            step = ahead - last.ahead
            if abs(step) < STEP_MS:
                self._periods = (*earlier, _Period(last.begins, ahead))
            else:
                # The wall clock was set at some moment since the last check, so a time stored since
                # then may be by the clock before or after the step.
                first, *rest = (*self._periods, _Period(self._seen, ahead))[-MOST_PERIODS:]
                self._periods = (_Period(-math.inf, first.ahead), *rest)
            self._seen = now
        if abs(step) >= STEP_MS:
            self._on_step(step / 1000)
        return now

    def age(self, stamp: int) -> float:
        """Return the seconds that have passed for certain since the wall clock showed `stamp`."""
        now = ends = self.look()
        youngest: float | None = None
        for period in reversed(self._periods):
            shown_at = stamp - period.ahead
            if period.begins <= shown_at < ends + STEP_MS:
                return max(0.0, now - shown_at) / 1000
            if youngest is None and shown_at >= ends:  # the clock was set past it
                youngest = (now - ends) / 1000
            ends = period.begins
        return youngest or 0.0

    def since(self, span_ms: int) -> int:
        """Return the time below which everything stored is older than `span_ms` for certain."""
        began = self.look() - span_ms
        periods = self._periods
        if len(periods) == 1:
            return math.floor(began + periods[0].ahead)
        shown = [max(one.begins, began) + one.ahead for one in self._periods_since(began)]
        return math.floor(min(shown))

    def latest(self, span_ms: int) -> int:
        """Return the latest time that the clock could show by any setting of the last `span_ms`.

        A wait that was to end by then, and lasts no longer than the span, is over.
        """
        now = self.look()
        return math.floor(now + max(one.ahead for one in self._periods_since(now - span_ms)))

    def _periods_since(self, began: float) -> list[_Period]:
        periods = self._periods
        ends = [following.begins for following in periods[1:]]
        return [one for one, end in zip(periods, (*ends, math.inf), strict=True) if end > began]

    def _monotonic(self) -> float:
        return self._ticks() * 1000


class Watermarks:
    """Upper bounds for how long items have waited, from when the newest sequence number was read.

    An item was accepted before its number was first read. These bounds use monotonic time alone, so
    a wrong wall clock, here or on the host that accepted the item, does not affect them.
    """

    def __init__(self, span: float) -> None:
        """Remember `span` seconds, to a hundredth of them."""
        self._span = span
        self._seen: list[tuple[int, float]] = []  # the newest number, and when it was seen

    def note(self, newest: int, now: float) -> None:
        """Take note of the newest number that was there at the time `now` or later."""
        if self._seen and now < self._seen[-1][1] + self._span / 100:
            return
        self._seen.append((newest, now))
        while len(self._seen) > 1 and self._seen[1][1] < now - self._span:
            del self._seen[0]

    def at_most(self, number: int, now: float) -> float:
        """Return the seconds that an item with this number can have waited."""
        before = bisect_left(self._seen, (number, -math.inf))
        return now - self._seen[before - 1][1] if before else math.inf
