"""Rows (c2) and (d2), without targets: accepting while the same process on one core delivers."""

from bench.bodies import BATCH, EVENT
from bench.figures import Slice, ratio
from bench.report import Row, summarise
from bench.scenarios.setting import Setting, read_counts


def measure(setting: Setting) -> list[Row]:
    """Measure (a) and (b), then single events, then batches, while the backlog is delivered."""
    a, b = setting.measure_a(), setting.measure_b()
    upstream = setting.stage.upstream()
    gateway = setting.stage.gateway(upstream, delivery=True)
    setting.load.warm(gateway, EVENT)
    warmed: int = read_counts(upstream)["distinct"]
    singles = setting.load.slice(gateway, EVENT)
    after_singles: int = read_counts(upstream)["distinct"]
    batches = setting.load.slice(gateway, BATCH)
    after_batches: int = read_counts(upstream)["distinct"]
    return [
        _row("(c2) single events, delivering too", singles, a, b, after_singles - warmed),
        _row("(d2) batches of 100, delivering too", batches, a, b, after_batches - after_singles),
    ]


def _row(name: str, measured: Slice, a: Slice, b: Slice, arrived: int) -> Row:
    return summarise(
        name,
        [measured],
        to_a=ratio(measured.rate, a.rate),
        to_b=ratio(measured.rate, b.rate),
        notes=(f"delivered during the slice: {arrived:,} items",),
    )
