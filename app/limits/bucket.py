"""A token bucket for each name, kept as GCRA: one number a name, the time at which its bucket will be full again.

Source: "Generic cell rate algorithm", ITU-T I.371. Counted in items, times in seconds.
"""

from collections.abc import Callable
from typing import NamedTuple


class Decision(NamedTuple):
    """Whether so many items may pass now; what is left; seconds until the bucket is full, and until these may pass."""

    allowed: bool
    remaining: int
    full_in: float
    retry_after: float


class Buckets:
    """Buckets of one size and rate. Full ones are forgotten, so memory is bounded by who called lately."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._interval, self._burst, self._clock = 1.0 / rate, burst, clock
        self._full_at: dict[str, float] = {}
        self._sweep_at = 10_000

    def take(self, name: str, count: int) -> Decision:
        """Take `count` tokens from the bucket of `name`, all or none."""
        now = self._clock()
        full_at = max(self._full_at.get(name, now), now)
        after = full_at + count * self._interval
        room = self._burst * self._interval
        if after - now > room + 1e-9:
            return Decision(False, self._left(full_at - now), full_at - now, after - now - room)
        if count:
            self._full_at[name] = after
            if len(self._full_at) > self._sweep_at:
                self._sweep(now)
        return Decision(True, self._left(after - now), after - now, 0.0)

    def wait(self, name: str) -> float:
        """Seconds until one token may be taken from the bucket of `name`; 0 where it may be now."""
        if name not in self._full_at:
            return 0.0
        return max(0.0, self._full_at[name] - self._clock() - (self._burst - 1) * self._interval)

    def _left(self, missing: float) -> int:
        return max(0, int(self._burst - missing / self._interval + 1e-6))

    def _sweep(self, now: float) -> None:
        self._full_at = {name: at for name, at in self._full_at.items() if at > now}
        self._sweep_at = max(10_000, 2 * len(self._full_at))
