"""The metrics at `/metrics`. No label ever contains a secret or a user's attribute value."""

from bisect import bisect_left
from collections import Counter as TallyOf
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app.telemetry.minute_counts import ACCEPTED, CALLS, FAILED_CALLS, MinuteCounts

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """The metrics of one gateway, in a registry of their own, so that tests do not share them.

    It also keeps the state of the connection to Leanplum for each app: `/readyz` shows it, and
    receipts explain from it why an item waits. `minutes` has the counts by minute that are stored
    in the database, for all processes together.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = RequestTally()
        self.registry.register(self.requests)
        self.minutes = MinuteCounts()
        self._accepted = AcceptedItems()
        self.taxonomy = NameCounts()
        self.registry.register(self.taxonomy)
        self._define_item_metrics()
        self._define_leanplum_metrics()
        self._define_operator_metrics()
        # By app: "closed" (calls succeed), "open" (the circuit breaker is open) or "held"
        self.states: dict[str, str] = {}
        # By app: since when it has been in that state, in milliseconds
        self.states_since: dict[str, int] = {}
        # By app that is held because of it: the host to which Leanplum redirects
        self.redirects: dict[str, str] = {}

    def _define_item_metrics(self) -> None:
        self.registry.register(self._accepted)
        self.settled = self._counter(
            "leanplum_gateway_items_settled", "Items settled, by final status", "status"
        )
        self.postponed = self._counter(
            "leanplum_gateway_items_postponed",
            "Attempts after which an item is retried or held",
            "status",
        )
        self.queued = self._gauge("leanplum_gateway_queued_items", "Items waiting to be delivered")
        self.segment = self._counter(
            "leanplum_gateway_segment_messages",
            "Messages at the Segment endpoint, by type and outcome",
            "type",
            "outcome",
        )
        self.plan_violations = self._counter(
            "leanplum_gateway_plan_violations",
            "Violations of the tracking plan; a name that the plan does not have is `other`",
            "app",
            "event",
            "code",
        )
        self.taxonomy_beyond = self._counter(
            "leanplum_gateway_taxonomy_beyond",
            "Names received that Leanplum would drop",
            "app",
            "kind",
        )

    def _define_leanplum_metrics(self) -> None:
        self.calls = self._counter(
            "leanplum_gateway_leanplum_calls", "Calls to Leanplum, by HTTP status", "status"
        )
        self.call_seconds = Histogram(
            "leanplum_gateway_leanplum_call_seconds",
            "Duration of calls to Leanplum",
            registry=self.registry,
        )
        self.call_rate = self._gauge(
            "leanplum_gateway_call_rate", "Calls to Leanplum allowed per second", "app"
        )
        self.warnings = self._counter(
            "leanplum_gateway_leanplum_warnings",
            "Warnings in Leanplum's responses, by kind",
            "app",
            "warning",
        )
        self.held = self._gauge(
            "leanplum_gateway_held",
            "1 while the app's items are held: Leanplum refuses the key or the app, all refusals "
            "are in doubt, or the app's production key is not configured",
            "app",
        )
        self.circuit_open = self._gauge(
            "leanplum_gateway_circuit_open",
            "1 while the circuit breaker for Leanplum is open",
            "app",
        )

    def _define_operator_metrics(self) -> None:
        self.audit_not_sealed = self._gauge(
            "leanplum_gateway_audit_not_sealed",
            "1 while audit records cannot be sealed, or old ones cannot be removed",
        )
        self.audit_misfit = self._gauge(
            "leanplum_gateway_audit_does_not_fit",
            "1 while the audit log in the database is not as the gateway left it (tampering)",
        )
        self.apps_refused = self._gauge(
            "leanplum_gateway_apps_refused", "1 while a changed apps file is invalid and ignored"
        )

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(name, help_text, labels, registry=self.registry)

    def count_warnings(self, app: str, labels: Iterable[str]) -> None:
        """Count warnings of Leanplum by their labels (`leanplum/outcomes.py`)."""
        for label, count in TallyOf(labels).items():
            self.warnings.labels(app, label).inc(count)

    def count_accepted(self, app: str, count: int) -> None:
        """Count items of an app that were accepted."""
        if count:
            self._accepted.count += count
            self.minutes.add(app, ACCEPTED, count)

    def count_settled(self, app: str, counts: Mapping[str, int]) -> None:
        """Count items of an app that have settled, by status."""
        for status, count in counts.items():
            self.settled.labels(status).inc(count)
            self.minutes.add(app, status, count)

    def count_postponed(self, app: str, counts: Mapping[str, int]) -> None:
        """Count items of an app that are retried or held after an attempt, by status."""
        for status, count in counts.items():
            self.postponed.labels(status).inc(count)
            self.minutes.add(app, status, count)

    def count_call(self, app: str, status: int | None, seconds: float) -> None:
        """Count a call to Leanplum about an app, by its HTTP status (None: no answer came).

        404 is not a failure: Leanplum answers so if something is not found, also in a `multi`.
        """
        self.calls.labels(str(status or "none")).inc()
        self.call_seconds.observe(seconds)
        self.minutes.add(app, CALLS)
        if status is None or not (200 <= status < 300 or status == 404):
            self.minutes.add(app, FAILED_CALLS)

    def define_shared_limit_metrics(self) -> tuple[Gauge, Counter]:
        """Define the metrics of limits that replicas share; return the gauge and the counter."""
        up = self._gauge(
            "leanplum_gateway_shared_limits_up",
            "1 while limits are shared, 0 while each replica keeps a share",
        )
        local = self._counter(
            "leanplum_gateway_local_limit_decisions",
            "Rate limit decisions made locally because the shared limits were unavailable",
        )
        return up, local


class AcceptedItems(Collector):
    """The number of items that were accepted: a plain number, for the reason of `RequestTally`."""

    def __init__(self) -> None:
        self.count = 0

    def collect(self) -> Iterator[Metric]:
        """Yield the metric with its current value."""
        name = "leanplum_gateway_items_accepted"
        yield CounterMetricFamily(name, "Items accepted", value=self.count)


class RequestTally(Collector):
    """Requests answered, and how long each took.

    Plain lists that become metrics when they are collected: the counters of the Prometheus client
    take a lock for each number, on every request.
    """

    def __init__(self) -> None:
        self._answered: dict[tuple[str, int], int] = {}  # by operation and HTTP status
        # By operation: a count for each bucket and for +Inf, then the sum of all durations
        self._times: dict[str, list[float]] = {}

    def add(self, operation: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (operation, status)
        self._answered[key] = self._answered.get(key, 0) + 1
        times = self._times.get(operation)
        if times is None:
            times = self._times[operation] = [0.0] * (len(BUCKETS) + 2)
        times[bisect_left(BUCKETS, seconds)] += 1
        times[-1] += seconds

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics with their current values."""
        requests = CounterMetricFamily(
            "leanplum_gateway_requests", "Requests answered", labels=["operation", "status"]
        )
        for (operation, status), count in list(self._answered.items()):
            requests.add_metric([operation, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily(
            "leanplum_gateway_request_seconds", "Duration of requests", labels=["operation"]
        )
        bounds = [*map(str, BUCKETS), "+Inf"]
        for operation, times in list(self._times.items()):
            buckets = list(zip(bounds, accumulate(times[:-1]), strict=True))
            seconds.add_metric([operation], buckets, times[-1])
        yield seconds


class NameCounts(Collector):
    """How many names of each kind every app has, against the number that Leanplum keeps.

    The counts are read from `counts` when the metrics are collected.
    """

    def __init__(self) -> None:
        self.counts: Callable[[], Mapping[str, Mapping[Any, int]]] = dict  # by app and kind
        self.caps: Mapping[Any, int] = {}  # by kind

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics with their current values."""
        names = GaugeMetricFamily(
            "leanplum_gateway_taxonomy_names", "Names in use by an app", labels=["app", "kind"]
        )
        for app, kinds in self.counts().items():
            for kind, count in kinds.items():
                names.add_metric([app, kind], count)
        yield names
        caps = GaugeMetricFamily(
            "leanplum_gateway_taxonomy_limit",
            "Names of a kind that Leanplum keeps",
            labels=["kind"],
        )
        for kind, cap in self.caps.items():
            caps.add_metric([kind], cap)
        yield caps
