"""Gauges of the database, which show the values of the last background read.

`server/database_watch.py` reads them. Ages are counted when the metrics are collected, so they grow
in between.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.clock import now_ms


class AppItems(NamedTuple):
    """The items of an app: those that wait, by status, and its dead letters.

    `oldest` is since when (epoch milliseconds) the oldest item waits; None if none does.
    """

    waiting: Mapping[str, int]
    oldest: int | None = None
    dead_letters: int = 0


class DatabaseState(NamedTuple):
    """The state of the database at one read, which began `at` (epoch milliseconds).

    `free_bytes`: on the disk of an SQLite database; None on PostgreSQL. `sealed_at` is the time of
    the last checkpoint (epoch milliseconds). `skew_seconds` is how far this clock is ahead of the
    database server's; None if the database has no clock of its own.
    """

    at: int
    apps: Mapping[str, AppItems]
    size_bytes: int
    free_bytes: int | None
    unsealed_records: int
    sealed_at: int | None
    skew_seconds: float | None


class DatabaseGauges(Collector):
    """The metrics of the database, as they were read last."""

    def __init__(self, clock: Callable[[], int] = now_ms) -> None:
        """`clock` is in milliseconds since the epoch."""
        self._clock = clock
        self.state: DatabaseState | None = None  # None in a process that does not read it

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; without values if the database was not read."""
        yield from self._queue_metrics()
        state = self.state
        yield _gauge(
            "database_read_timestamp_seconds",
            "When the queue and the other metrics of the database were read last",
            None if state is None else state.at / 1000,
        )
        yield _gauge(
            "database_size_bytes",
            "Size of the database on disk, without SQLite's write-ahead log",
            None if state is None else state.size_bytes,
        )
        yield _gauge(
            "database_free_bytes",
            "Bytes that are free on the disk of the database (SQLite)",
            None if state is None else state.free_bytes,
        )
        yield _gauge(
            "audit_unsealed_records",
            "Audit records that are not sealed yet",
            None if state is None else state.unsealed_records,
        )
        yield _gauge(
            "audit_checkpoint_age_seconds",
            "Age of the last checkpoint; it grows while there is nothing to seal",
            None if state is None else self._age(state.sealed_at),
        )
        yield _gauge(
            "clock_skew_seconds",
            "Seconds by which this clock is ahead of the database server's (PostgreSQL)",
            None if state is None else state.skew_seconds,
        )

    def _queue_metrics(self) -> Iterator[Metric]:
        items = _family("queue_items", "Items that wait to be delivered, by status", "app", "state")
        oldest = _family(
            "queue_oldest_item_age_seconds",
            "How long the oldest item has waited since it was accepted or replayed; 0 if none",
            "app",
        )
        dead_letters = _family("dead_letters", "Dead letters that can be replayed", "app")
        apps: Mapping[str, AppItems] = {} if self.state is None else self.state.apps
        for app, found in apps.items():
            for status, count in found.waiting.items():
                items.add_metric([app, status], count)
            oldest.add_metric([app], self._age(found.oldest) or 0)
            dead_letters.add_metric([app], found.dead_letters)
        yield from (items, oldest, dead_letters)

    def _age(self, since: int | None) -> float | None:
        return None if since is None else max(0.0, (self._clock() - since) / 1000)


def _family(name: str, help_text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"leanplum_gateway_{name}", help_text, labels=labels)


def _gauge(name: str, help_text: str, value: float | None) -> GaugeMetricFamily:
    metric = _family(name, help_text)
    if value is not None:
        metric.add_metric([], value)
    return metric
