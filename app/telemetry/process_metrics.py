"""Metrics of the process itself, with the names that all Prometheus clients give them.

With several workers, each has its series, told apart by the label `worker`. Sums would be wrong for
the start time and the limit of open files, and a sum of processor seconds would seem to begin anew
when one worker is replaced.
"""

from collections.abc import Iterator

from prometheus_client import PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

PREFIX = "process_"


class ProcessMetrics(Collector):
    """`process_*` and `python_info` of this process."""

    def __init__(self, worker: str = "") -> None:
        """`worker` is the name of this worker; "" in a gateway of one process."""
        self._labels = {"worker": worker} if worker else {}
        self._process = ProcessCollector(registry=None)
        self._platform = PlatformCollector(registry=None)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics with their current values."""
        for found in self._process.collect():
            metric = Metric(found.name, found.documentation, found.type)
            for sample in found.samples:
                metric.add_sample(sample.name, sample.labels | self._labels, sample.value)
            yield metric
        yield from self._platform.collect()
