"""Rows (g): memory when idle and with many items waiting, and accepting with a full queue."""

from bench.bodies import BATCH, BIG_BATCH
from bench.children import Child
from bench.figures import Slice, median_ratio
from bench.report import Row, Target, summarise
from bench.scenarios.setting import Setting

CONNECTIONS = 8


def measure(setting: Setting) -> list[Row]:
    """Fill one gateway; then measure it and a new, empty one alternately."""
    full = setting.stage.gateway(setting.upstream)
    idle = full.rss()
    setting.load.warm(full, BATCH)
    loaded = setting.load.count(
        full,
        BIG_BATCH,
        items=setting.plan.waiting_items,
        limit=setting.plan.loading_limit,
        connections=CONNECTIONS,
    )
    pairs = [_pair(setting, full) for _ in range(setting.plan.memory_pairs)]
    return [_idle(idle), _waiting(loaded, setting.plan.waiting_items), _full(pairs, loaded.items)]


def _pair(setting: Setting, full: Child) -> tuple[Slice, Slice]:
    """Measure the full gateway, then a newly started one, which is empty."""
    with_full = setting.load.slice(full, BATCH)
    with full.paused():
        empty = setting.stage.gateway(setting.upstream)
        setting.load.warm(empty, BATCH)
        with_empty = setting.load.slice(empty, BATCH)
        setting.stage.fleet.stop(empty)
    return with_full, with_empty


def _idle(rss: float) -> Row:
    return Row(
        "(g) idle after start", rss=rss, targets=(Target("<= 150 MB", rss, 150, at_least=False),)
    )


def _waiting(loaded: Slice, wanted: int) -> Row:
    notes: tuple[str, ...] = ()
    if loaded.items < wanted:
        notes = (f"loading was cut off by its limit: {wanted:,} were wanted",)
    targets = (Target("<= 300 MB", loaded.rss, 300, at_least=False),)
    return summarise(
        f"(g) {loaded.items:,} waiting, by 1,000s", [loaded], targets=targets, notes=notes
    )


def _full(pairs: list[tuple[Slice, Slice]], waiting: int) -> Row:
    full, empty = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    share = median_ratio(full, empty)
    return summarise(
        f"(g) batches with {waiting:,} waiting",
        full,
        targets=(Target(">= 0.85 of empty", share, 0.85),),
        notes=(f"{share:.2f} of the empty queue's rate, median of {len(pairs)} pairs",),
    )
