"""One measured slice, and how slices become figures: medians, also of ratios taken within each
round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Slice:
    """What one stretch of load found: latencies in ms, memory in MB, and how many `items` were
    taken.
    """

    requests: int
    failed: int
    items: int
    seconds: float
    p50: float
    p99: float
    rss: float = 0.0
    started: float = 0.0

    @property
    def rate(self) -> float:
        """Items a second; for single events and for the yardsticks that is requests a second."""
        return self.items / self.seconds if self.seconds else 0.0


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; 0 of none."""
    if not ordered:
        return 0.0
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def ratio(part: float, whole: float) -> float:
    """`part / whole`, and 0 where there is nothing to compare with."""
    return part / whole if whole else 0.0


def median_ratio(measured: Sequence[Slice], yardstick: Sequence[Slice]) -> float:
    """The median of the ratios of slices measured in the same round."""
    return median(ratio(m.rate, y.rate) for m, y in zip(measured, yardstick, strict=True))


def ratio_to_around(rate: float, around: Sequence[Slice]) -> float:
    """`rate` against the mean of the slices taken just before and just after it."""
    return ratio(rate, sum(s.rate for s in around) / len(around))
