"""Rows (c2) and (d2), to inform: the accept path while the same process, on the same core, also
delivers.
"""

from bench.bodies import BATCH, EVENT
from bench.figures import Slice, ratio
from bench.report import Row, summarise
from bench.scenarios.setting import Setting, seen_by


def measure(setting: Setting) -> list[Row]:
    """(a) and (b), then single events, then batches, while the backlog is being delivered."""
    a, b = setting.measure_a(), setting.measure_b()
    upstream = setting.stage.upstream()
    gateway = setting.stage.gateway(upstream, delivery=True)
    setting.load.warm(gateway, EVENT)
    warmed: int = seen_by(upstream)["distinct"]
    singles = setting.load.slice(gateway, EVENT)
    after_singles: int = seen_by(upstream)["distinct"]
    batches = setting.load.slice(gateway, BATCH)
    after_batches: int = seen_by(upstream)["distinct"]
    return [
        _row("(c2) single events, delivering too", singles, a, b, after_singles - warmed),
        _row("(d2) batches of 100, delivering too", batches, a, b, after_batches - after_singles),
    ]


def _row(name: str, found: Slice, a: Slice, b: Slice, arrived: int) -> Row:
    return summarise(
        name,
        [found],
        to_a=ratio(found.rate, a.rate),
        to_b=ratio(found.rate, b.rate),
        notes=(f"delivered during the slice: {arrived:,} items",),
    )
