"""Row (f): latency at half of the greatest load, counted from when a request is due."""

from dataclasses import replace

from bench.bodies import EVENT
from bench.figures import Slice
from bench.report import Row, at_most, summarise
from bench.scenarios.setting import Setting


def measure(setting: Setting) -> list[Row]:
    """Measure the greatest load of a new gateway, then send half of it."""
    gateway = setting.stage.gateway(setting.upstream)
    setting.load.warm(gateway, EVENT)
    greatest = setting.load.slice(gateway, EVENT)
    found = setting.load.paced(gateway, EVENT, rate=greatest.rate / 2, seconds=setting.plan.latency)
    return [row(found, greatest)]


def row(found: Slice, greatest: Slice) -> Row:
    """Return figures and target of the half load."""
    return summarise(
        "(f) single events at half load",
        [replace(found, failed=found.failed + greatest.failed)],
        targets=(at_most(10, "ms", found.p99, "p99"),),
        notes=(f"half of {greatest.rate:,.0f} requests/s, measured just before",),
    )
