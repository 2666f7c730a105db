"""Token buckets, kept as GCRA: two numbers for each bucket, what it lacked of being full, and when.

Source: "Generic cell rate algorithm", ITU-T I.371, as a continuous-state leaky bucket. Counted in
items, times in seconds. A bucket's rate and size come with each call, so a change of them is in
force from the next call on.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

A_TRIFLE = 1e-6  # of an item: what floating point may be wrong by


class Limit(NamedTuple):
    """Which bucket, the items a second that it regains, and the items that it holds. A call for up
    to `whole` items passes a full bucket even where this holds fewer, and what it lacks then is
    made good before the next one. `lends`: a call for more than `whole` items passes where one item
    would. The bucket lacks all of them then, and the part beyond `whole` is a debt, which a smaller
    bucket doesn't cancel.
    """

    name: str
    rate: float
    burst: float
    whole: int
    lends: bool = False

    def later(self, lacks: float, seconds: float) -> float:
        """Return what a bucket that lacked so much lacks so much later."""
        return max(0.0, lacks - seconds * self.rate)

    def resized(self, lacks: float, held: int) -> float:
        """Return what a bucket lacks that lacked so much when it held `held` items. It lacks no
        more than it holds now, and its debt.
        """
        return lacks - max(0.0, min(held, lacks) - self.whole)

    def fits(self, lacks: float, count: int) -> bool:
        """Whether a call for so many items passes a bucket that lacks so much."""
        if lacks + count <= self.burst + A_TRIFLE or (count <= self.whole and lacks <= A_TRIFLE):
            return True
        return self.lends and count > self.whole and self.fits(lacks, 1)

    def remaining(self, lacks: float) -> int:
        """The items that may pass at once."""
        left = int(self.burst - lacks + A_TRIFLE)
        return left if left > 0 else 0

    def full_in(self, lacks: float) -> float:
        """Seconds until the bucket is full."""
        return lacks / self.rate

    def wait(self, lacks: float, count: int) -> float:
        """Seconds until so many items may pass; infinite where they never do."""
        if count > self.whole:
            return self.wait(lacks, 1) if self.lends else math.inf
        return max(0.0, lacks - max(0.0, self.burst - count)) / self.rate


class Decision(NamedTuple):
    """Whether a call may pass, by which limits, and what each of their buckets lacks: after it
    where it may pass, else as they are.
    """

    allowed: bool
    limits: Sequence[Limit]
    lacks: Sequence[float]

    def fits(self, count: int) -> bool:
        """Whether so many items pass buckets that are as these."""
        return all(
            limit.fits(lacks, count) for limit, lacks in zip(self.limits, self.lacks, strict=True)
        )

    def wait(self, count: int) -> float:
        """Seconds until so many items may pass; infinite where they never do."""
        return max(
            limit.wait(lacks, count) for limit, lacks in zip(self.limits, self.lacks, strict=True)
        )


class Buckets:
    """Buckets in memory. Full ones are forgotten, so memory is bounded by who called lately."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # What it lacked, when, its rate, and its `whole`.
        self._known: dict[str, tuple[float, float, float, int]] = {}
        self._sweep_at = 10_000

    def __len__(self) -> int:
        return len(self._known)

    def take(self, limits: Sequence[Limit], count: int) -> Decision:
        """Take `count` items from every one of the buckets, or nothing from any."""
        if len(limits) > 1:
            return self._take_from_all(limits, count)
        # One bucket, as for nearly every call. Written out: a call costs more here than what it
        # would do.
        limit, now, known = limits[0], self._clock(), self._known
        found = known.get(limit.name)
        lacks = 0.0 if found is None else found[0] - (now - found[1]) * limit.rate
        if not 0 <= lacks <= limit.whole:
            lacks = 0.0 if lacks < 0 else self._lacks(limit, now)
        if lacks + count > limit.burst and not limit.fits(lacks, count):
            return Decision(False, limits, (lacks,))
        if count:
            lacks += count
            known[limit.name] = (lacks, now, limit.rate, limit.whole)
            if len(known) > self._sweep_at:
                self._sweep(now)
        return tuple.__new__(Decision, (True, limits, (lacks,)))  # half the price of Decision(…)

    def _take_from_all(self, limits: Sequence[Limit], count: int) -> Decision:
        now = self._clock()
        lacks = [self._lacks(limit, now) for limit in limits]
        allowed = all(limit.fits(lack, count) for limit, lack in zip(limits, lacks, strict=True))
        if allowed and count:
            lacks = [lack + count for lack in lacks]
            for limit, lack in zip(limits, lacks, strict=True):
                self._keep(limit, lack, now)
        return Decision(allowed, limits, lacks)

    def give(self, limits: Sequence[Limit], count: int) -> Decision:
        """Give `count` items back to every one of the buckets, as far as it lacks them."""
        now = self._clock()
        lacks = [max(0.0, self._lacks(limit, now) - count) for limit in limits]
        for limit, lack in zip(limits, lacks, strict=True):
            self._keep(limit, lack, now)
        return Decision(True, limits, lacks)

    def put(self, limit: Limit, lacks: float) -> None:
        """Make a bucket as it is known to be from elsewhere."""
        self._keep(limit, lacks, self._clock())

    def _lacks(self, limit: Limit, now: float) -> float:
        found = self._known.get(limit.name)
        if found is None:
            return 0.0
        lacks = limit.later(found[0], now - found[1])
        # It was made smaller, and counts as that from now on
        if lacks > limit.whole and found[3] > limit.whole:
            lacks = limit.resized(lacks, found[3])
            self._keep(limit, lacks, now)
        return lacks

    def _keep(self, limit: Limit, lacks: float, now: float) -> None:
        self._known[limit.name] = (lacks, now, limit.rate, limit.whole)
        if len(self._known) > self._sweep_at:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        self._known = {
            name: of for name, of in self._known.items() if of[0] > (now - of[1]) * of[2]
        }
        self._sweep_at = max(10_000, 2 * len(self._known))
