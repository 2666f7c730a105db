"""The metrics at `/metrics`. No label ever contains a secret or a user's attribute value."""

import platform
from collections import Counter as TallyOf
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app import __version__
from app.leanplum.actions import DELIVERABLE_ACTIONS
from app.model import FINAL
from app.telemetry.database_gauges import DatabaseGauges
from app.telemetry.minute_counts import ACCEPTED, CALLS, FAILED_CALLS, MinuteCounts
from app.telemetry.process_metrics import ProcessMetrics
from app.telemetry.tallies import (
    CALL_SECONDS,
    ITEMS,
    USERS,
    WAITING_SECONDS,
    Counts,
    Distribution,
    RequestTally,
)

ERASED = "erased"  # the status by which items are counted that an erasure removed unsent
C = TypeVar("C", bound=Collector)


class Metrics:
    """The metrics of one gateway, in a registry of their own, so that tests do not share them.

    It also keeps the state of the connection to Leanplum for each app: `/readyz` shows it, and
    receipts explain from it why an item waits. `minutes` has the counts by minute that are stored
    in the database, for all processes together.
    """

    def __init__(self, worker: str = "") -> None:
        """`worker` is the name of this worker; "" in a gateway of one process."""
        self.registry = CollectorRegistry()
        self.requests = self._registered(RequestTally())
        self.minutes = MinuteCounts()
        self.taxonomy = self._registered(NameCounts())
        self.database = self._registered(DatabaseGauges())
        self._registered(ProcessMetrics(worker))
        self._define_item_metrics()
        self._define_leanplum_metrics()
        self._define_limit_metrics()
        self._define_operator_metrics()
        # By app: "closed" (calls succeed), "open" (the circuit breaker is open) or "held"
        self.states: dict[str, str] = {}
        # By app: since when it has been in that state, in milliseconds
        self.states_since: dict[str, int] = {}
        # By app that is held because of it: the host to which Leanplum redirects
        self.redirects: dict[str, str] = {}

    def _define_item_metrics(self) -> None:
        self._accepted = self._counter(
            "items_accepted", "Items accepted, by Leanplum's action", "app", "action"
        )
        self._settled = self._counter(
            "items_settled", "Items that have left the queue, by final status", "app", "status"
        )
        self._delivery_seconds = self._histogram(
            "item_delivery_seconds",
            "Time from accepting an item, or replaying it, until Leanplum has applied it",
            "app",
            bounds=WAITING_SECONDS,
        )
        self._segment = self._counter(
            "segment_messages",
            "Messages at the Segment endpoint, by type and outcome",
            "type",
            "outcome",
        )
        self._plan_violations = self._counter(
            "plan_violations",
            "Violations of the tracking plan; a name that the plan does not have is `other`",
            "app",
            "event",
            "code",
        )
        self._taxonomy_beyond_limit = self._counter(
            "taxonomy_beyond_limit", "Names received that Leanplum would drop", "app", "kind"
        )

    def _define_leanplum_metrics(self) -> None:
        self._calls = self._counter("calls", "Calls to Leanplum, by outcome", "app", "outcome")
        self._call_seconds = self._histogram(
            "call_duration_seconds", "Duration of calls to Leanplum", "app", bounds=CALL_SECONDS
        )
        self._call_items = self._histogram(
            "call_items", "Items in one call that delivers", "app", bounds=ITEMS
        )
        self._call_users = self._histogram(
            "call_users", "Users and devices in one call that delivers", "app", bounds=USERS
        )
        self._retries = self._counter(
            "retries", "Attempts after which an item is tried again, by reason", "app", "reason"
        )
        self.allowed_calls = self._gauge(
            "allowed_calls_per_second", "Calls to Leanplum allowed per second", "app"
        )
        self._warnings = self._counter(
            "warnings", "Warnings in Leanplum's responses, by kind", "app", "warning"
        )
        self.app_held = self._gauge(
            "app_held",
            "1 while the app's items are held: Leanplum refuses the key or the app, all refusals "
            "are in doubt, or the app's production key is not configured",
            "app",
        )
        self.circuit_open = self._gauge(
            "circuit_open", "1 while the circuit breaker for Leanplum is open", "app"
        )

    def _define_limit_metrics(self) -> None:
        self._rate_limited = self._counter(
            "rate_limited_requests",
            "Requests refused by a limit: of the caller's key, of the app, or of the address",
            "limit",
        )
        self._failed_authentications = self._counter(
            "failed_authentications", "Requests with a missing, unknown, expired or revoked key"
        )

    def _define_operator_metrics(self) -> None:
        self._commit_seconds = self._histogram(
            "commit_duration_seconds",
            "Duration of commits to the database; one has the writes of all calls that wait",
        )
        self._clock_steps = self._counter("clock_steps", "Times that the wall clock was set")
        self.audit_sealing_failing = self._gauge(
            "audit_sealing_failing",
            "1 while audit records cannot be sealed, or old ones cannot be removed",
        )
        self.audit_tampering_detected = self._gauge(
            "audit_tampering_detected",
            "1 while the audit log in the database is not as the gateway left it",
        )
        self.apps_file_refused = self._gauge(
            "apps_file_refused", "1 while a changed apps file is invalid and ignored"
        )
        self._build_info = self._gauge(
            "build_info", "1; the labels say what runs", "version", "python", "database"
        )

    def _registered(self, collector: C) -> C:
        self.registry.register(collector)
        return collector

    def _counter(self, name: str, help_text: str, *labels: str) -> Counts:
        return self._registered(Counts(f"leanplum_gateway_{name}", help_text, *labels))

    def _histogram(
        self, name: str, help_text: str, *labels: str, **options: Sequence[float]
    ) -> Distribution:
        full_name = f"leanplum_gateway_{name}"
        return self._registered(Distribution(full_name, help_text, *labels, **options))

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"leanplum_gateway_{name}", help_text, labels, registry=self.registry)

    def show_build(self, database: str) -> None:
        """Show the gateway's version, Python's and the kind of database."""
        python = platform.python_version()
        self._build_info.labels(__version__, python, database).set(1)

    def count_warnings(self, app: str, labels: Iterable[str]) -> None:
        """Count warnings of Leanplum by their labels (`leanplum/outcomes.py`)."""
        for label, count in TallyOf(labels).items():
            self._warnings.add(app, label, count=count)

    def show_app(self, app: str) -> None:
        """Begin the counters of an app at zero, since a rate needs a value before the first one."""
        for action in DELIVERABLE_ACTIONS:
            self._accepted.add(app, action, count=0)
        for status in FINAL:
            self._settled.add(app, status.value, count=0)

    def count_accepted(self, app: str, actions: Sequence[str]) -> None:
        """Count items of an app that were accepted, by their actions."""
        if not actions:
            return
        count, first = len(actions), actions[0]
        if actions.count(first) == count:  # nearly always
            self._accepted.add(app, first, count=count)
        else:
            for action, part in TallyOf(actions).items():
                self._accepted.add(app, action, count=part)
        self.minutes.add(app, ACCEPTED, count)

    def count_settled(self, app: str, counts: Mapping[str, int]) -> None:
        """Count items of an app that have settled, by status."""
        for status, count in counts.items():
            self._settled.add(app, status, count=count)
            self.minutes.add(app, status, count)

    def count_erased(self, app: str, count: int) -> None:
        """Count items of an app that an erasure has removed from the queue."""
        if count:
            self._settled.add(app, ERASED, count=count)

    def count_postponed(self, app: str, counts: Mapping[str, int]) -> None:
        """Count items of an app that are retried or held after an attempt, by minute alone."""
        for status, count in counts.items():
            self.minutes.add(app, status, count)

    def count_retries(self, app: str, reasons: Iterable[str]) -> None:
        """Count items of an app that are tried again, by reason."""
        for reason, count in TallyOf(reasons).items():
            self._retries.add(app, reason, count=count)

    def count_delivered(self, app: str, now: int, since: Iterable[int]) -> None:
        """Count how long items took that are delivered `now`; times are in milliseconds."""
        for began, count in TallyOf(since).items():
            self._delivery_seconds.observe(max(0, now - began) / 1000, app, count=count)

    def count_call(self, app: str, status: int | None, seconds: float, outcome: str) -> None:
        """Count a call to Leanplum about an app, by its HTTP status (None: no answer came).

        404 is not a failure: Leanplum answers so if something is not found, also in a `multi`.
        """
        self._calls.add(app, outcome)
        self._call_seconds.observe(seconds, app)
        self.minutes.add(app, CALLS)
        if status is None or not (200 <= status < 300 or status == 404):
            self.minutes.add(app, FAILED_CALLS)

    def count_call_fill(self, app: str, items: int, users: int) -> None:
        """Count how many items and users one call that delivers had."""
        self._call_items.observe(items, app)
        self._call_users.observe(users, app)

    def count_commit(self, seconds: float) -> None:
        """Count a commit; the writer's thread calls this."""
        self._commit_seconds.observe(seconds)

    def count_clock_step(self) -> None:
        """Count that the wall clock was set."""
        self._clock_steps.add()

    def count_limited(self, limit: str) -> None:
        """Count a request that a limit refused: `key`, `app` or `address`."""
        self._rate_limited.add(limit)

    def count_failed_authentication(self) -> None:
        """Count a request without a valid key."""
        self._failed_authentications.add()

    def count_segment(self, kind: str, outcome: str, count: int) -> None:
        """Count messages at the Segment endpoint."""
        self._segment.add(kind, outcome, count=count)

    def count_violation(self, app: str, event: str, code: str) -> None:
        """Count a violation of the tracking plan."""
        self._plan_violations.add(app, event, code)

    def count_beyond_limit(self, app: str, kinds: Collection[str]) -> None:
        """Count names that Leanplum would drop, by their kinds."""
        for kind in kinds:
            self._taxonomy_beyond_limit.add(app, kind)

    def define_shared_limit_metrics(self) -> tuple[Gauge, Counts]:
        """Define the metrics of limits that replicas share; return the gauge and the counter."""
        up = self._gauge(
            "shared_limits_up", "1 while limits are shared, 0 while each replica keeps a share"
        )
        local = self._counter(
            "local_limit_decisions",
            "Rate limit decisions made locally because the shared limits were unavailable",
        )
        return up, local


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
