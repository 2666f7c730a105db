"""Metrics of several processes as one. Pure, except that it reads a registry.

Counters and histograms are added up. A gauge shows something that all processes share, such as
the length of the queue, so the highest value counts; of `LOWEST`, the lowest. The metrics of a
process itself have a label with its name.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from app.telemetry.process_metrics import PREFIX

ADDED_TYPES = frozenset({"counter", "histogram"})
# Gauges that are 1 only while they are 1 in every process
LOWEST = frozenset({"leanplum_gateway_shared_limits_up"})
Rendered = list[Any]  # metrics as values for JSON


class Collected(Protocol):
    """A registry, or a collector of metrics."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics with their current values."""
        ...


def render(registry: Collected) -> Rendered:
    """Return the metrics of a registry as values for JSON."""
    return [_values(metric) for metric in registry.collect()]


def merge(of_processes: Iterable[Rendered]) -> bytes:
    """Return the metrics of several processes in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged([metric for rendered in of_processes for metric in rendered]))
    return generate_latest(registry)


def add_totals(totals: Rendered, ended: Rendered) -> Rendered:
    """Return totals with the counters and histograms of a process that has ended added.

    They must not vanish with it: a counter that falls seems to have begun anew. Its gauges, and
    the metrics of the process itself, end with it.
    """
    counted = [metric for metric in ended if metric[2] in ADDED_TYPES and not _is_own(metric[0])]
    return render(_Merged([*totals, *counted]))


def _is_own(name: str) -> bool:
    """Return whether a metric is about the process itself."""
    return name.startswith(PREFIX)


def _values(metric: Metric) -> list[Any]:
    samples = [[sample.name, sample.labels, sample.value] for sample in metric.samples]
    return [metric.name, metric.documentation, metric.type, samples]


class _Merged(Collector):
    def __init__(self, rendered: Sequence[Any]) -> None:
        self._rendered = rendered

    def describe(self) -> Iterable[Metric]:
        """Return nothing: no names are compared."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once, with the values of all processes."""
        metrics = dict[str, Metric]()
        values = dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]]()
        for name, documentation, kind, samples in self._rendered:
            if name not in metrics:
                metrics[name], values[name] = Metric(name, documentation, kind), {}
            for sample_name, labels, value in samples:
                key = sample_name, tuple(labels.items())
                found = values[name].get(key)
                values[name][key] = value if found is None else _merged(name, kind, found, value)
        for name, metric in metrics.items():
            for (sample_name, labels), value in values[name].items():
                metric.add_sample(sample_name, dict(labels), value)
            yield metric


def _merged(name: str, kind: str, one: float, other: float) -> float:
    if name in LOWEST:
        return min(one, other)
    # Two processes have one name while one replaces the other: theirs are not added up
    return one + other if kind in ADDED_TYPES and not _is_own(name) else max(one, other)
