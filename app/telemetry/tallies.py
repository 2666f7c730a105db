"""Counters and histograms that take no lock, and become metrics when they are collected.

The counters of the Prometheus client take a lock for each number, which is too much for every
request. A tally is plain numbers in a dictionary. One thread writes to it; any thread may collect.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

# Seconds of a request, a commit or a call
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
CALL_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# Seconds that an item waits: up to the retry window of a day
WAITING_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0)
# Of a `multi`, which has at most 500 items of 50 users
ITEMS = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0)
USERS = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0)

Labels = tuple[str, ...]


class Counts(Collector):
    """A counter: a number for each combination of labels."""

    def __init__(self, name: str, help_text: str, *labels: str) -> None:
        """`name` is without `_total`. Without labels, the counter begins at zero."""
        self._name, self._help, self._labels = name, help_text, labels
        self._counts: dict[Labels, float] = {}
        if not labels:
            self._counts[()] = 0

    def add(self, *labels: str, count: float = 1) -> None:
        """Count, under these labels."""
        self._counts[labels] = self._counts.get(labels, 0) + count

    def collect(self) -> Iterator[Metric]:
        """Yield the metric with its current values."""
        metric = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for labels, count in list(self._counts.items()):
            metric.add_metric(labels, count)
        yield metric


class Distribution(Collector):
    """A histogram for each combination of labels."""

    def __init__(
        self, name: str, help_text: str, *labels: str, bounds: Sequence[float] = SECONDS
    ) -> None:
        self._name, self._help, self._labels, self._bounds = name, help_text, labels, bounds
        # By labels: a count for each bucket and for +Inf, then the sum of all values
        self._buckets: dict[Labels, list[float]] = {}
        if not labels:
            self._buckets[()] = new_buckets(bounds)

    def observe(self, value: float, *labels: str, count: int = 1) -> None:
        """Count a value, or so many equal ones, under these labels."""
        buckets = self._buckets.get(labels)
        if buckets is None:
            buckets = self._buckets[labels] = new_buckets(self._bounds)
        buckets[bisect_left(self._bounds, value)] += count
        buckets[-1] += value * count

    def collect(self) -> Iterator[Metric]:
        """Yield the metric with its current values."""
        metric = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        add_histograms(metric, self._buckets, self._bounds)
        yield metric


class RequestTally(Collector):
    """Requests answered, and how long each took, by route, method and status.

    One list for each operation and status has both, so that a request takes one look-up.
    """

    def __init__(self) -> None:
        # By operation (method and route) and HTTP status, as in `Distribution`
        self._times: dict[tuple[str, int], list[float]] = {}

    def add(self, operation: str, status: int, seconds: float) -> None:
        """Count one request."""
        times = self._times.get((operation, status))
        if times is None:
            times = self._times[operation, status] = new_buckets(SECONDS)
        times[bisect_left(SECONDS, seconds)] += 1
        times[-1] += seconds

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics with their current values."""
        requests = CounterMetricFamily(
            "leanplum_gateway_http_requests",
            "Requests answered, by route, method and HTTP status",
            labels=["route", "method", "status"],
        )
        durations: dict[Labels, list[float]] = {}
        for (operation, status), times in list(self._times.items()):
            method, _, route = operation.partition(" ")
            requests.add_metric([route, method, str(status)], sum(times[:-1]))
            key = (route, method, f"{status // 100}xx")
            others = durations.get(key)
            durations[key] = times if others is None else list(map(float.__add__, times, others))
        yield requests
        seconds = HistogramMetricFamily(
            "leanplum_gateway_http_request_duration_seconds",
            "Time from the end of a request's headers to its response, in seconds",
            labels=["route", "method", "status_class"],
        )
        add_histograms(seconds, durations, SECONDS)
        yield seconds


def new_buckets(bounds: Sequence[float]) -> list[float]:
    """Return an empty histogram: a count for each bucket and for +Inf, then the sum."""
    return [0.0] * (len(bounds) + 2)


def add_histograms(
    metric: HistogramMetricFamily,
    histograms: Mapping[Labels, Sequence[float]],
    bounds: Sequence[float],
) -> None:
    """Add histograms to a metric, by their labels."""
    names = [*map(str, bounds), "+Inf"]
    for labels, buckets in list(histograms.items()):
        cumulative = list(zip(names, accumulate(buckets[:-1]), strict=True))
        metric.add_metric(labels, cumulative, buckets[-1])
