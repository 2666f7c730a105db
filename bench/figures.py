"""A measured slice, and the figures made of slices: medians, also of ratios within a round."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Slice:
    """A measured slice of load: latencies in ms, memory in MB, `items` that were accepted.

    `processor` are the seconds of processor time that the load generator needed.
    """

    requests: int
    failed: int
    items: int
    seconds: float
    p50: float
    p99: float
    pss: float = 0.0
    started: float = 0.0
    processor: float = 0.0

    @property
    def rate(self) -> float:
        """Items per second; for single events and the yardsticks, requests per second."""
        return self.items / self.seconds if self.seconds else 0.0


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed; 0 of none."""
    if not ordered:
        return 0.0
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def ratio(part: float, whole: float) -> float:
    """Return `part / whole`, or 0 if `whole` is 0."""
    return part / whole if whole else 0.0


def median_ratio(measured: Sequence[Slice], yardstick: Sequence[Slice]) -> float:
    """Return the median of the ratios of slices measured in the same round."""
    return median(ratio(m.rate, y.rate) for m, y in zip(measured, yardstick, strict=True))


def ratio_to_around(rate: float, around: Sequence[Slice]) -> float:
    """Return the ratio of `rate` to the mean of the slices taken just before and after it."""
    return ratio(rate, sum(s.rate for s in around) / len(around))
