"""Metrics of several processes as one. Pure, except that it reads a registry.

Counters and histograms are added up. A gauge shows something that all processes share, such as
whether an app is held, so the highest value counts; for what is 1 while it works, the lowest.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

ADDED_TYPES = frozenset({"counter", "histogram"})
CREATED = "_created"  # samples with the time at which a counter began: the earliest counts
WORKS = "_up"  # gauges that are 1 while something works
Rendered = list[Any]  # metrics as values for JSON


def render(registry: CollectorRegistry) -> Rendered:
    """Return the metrics of a registry as values for JSON."""
    return [_values(metric) for metric in registry.collect()]


def merge(of_processes: Iterable[Rendered]) -> bytes:
    """Return the metrics of several processes in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged([metric for rendered in of_processes for metric in rendered]))
    return generate_latest(registry)


def add_counters(of_processes: Iterable[Rendered]) -> Rendered:
    """Return the counters and histograms of several processes, added up, without gauges."""
    metrics = [metric for rendered in of_processes for metric in rendered]
    counted = [metric for metric in metrics if metric[2] in ADDED_TYPES]
    return [_values(metric) for metric in _Merged(counted).collect()]


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
                values[name][key] = (
                    value if found is None else _merged(kind, sample_name, found, value)
                )
        for name, metric in metrics.items():
            for (sample_name, labels), value in values[name].items():
                metric.add_sample(sample_name, dict(labels), value)
            yield metric


def _merged(kind: str, sample_name: str, one: float, other: float) -> float:
    if sample_name.endswith((CREATED, WORKS)):
        return min(one, other)
    return one + other if kind in ADDED_TYPES else max(one, other)
