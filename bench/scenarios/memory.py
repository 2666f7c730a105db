"""Rows (g): memory when idle and with many items waiting, and accepting with a full queue.

Memory is the proportional set size: workers are forked, and share most of their pages.
"""

from bench.bodies import BATCH, BIG_BATCH
from bench.children import Child
from bench.figures import Slice, median_ratio
from bench.report import Row, at_least, at_most, summarise
from bench.scenarios.setting import Setting

CONNECTIONS = 8
WORKERS = 2


def measure(setting: Setting) -> list[Row]:
    """Fill one gateway; then measure it and a new, empty one alternately."""
    full = setting.stage.gateway(setting.upstream)
    idle = full.pss()
    setting.load.warm(full, BATCH)
    loaded = setting.load.count(
        full,
        BIG_BATCH,
        items=setting.plan.waiting_items,
        limit=setting.plan.loading_limit,
        connections=CONNECTIONS,
    )
    pairs = [_pair(setting, full) for _ in range(setting.plan.memory_pairs)]
    return [
        _idle(idle),
        _idle_workers(setting, idle),
        _waiting(loaded, setting.plan.waiting_items),
        _full(pairs, loaded.items),
    ]


def _pair(setting: Setting, full: Child) -> tuple[Slice, Slice]:
    """Measure the full gateway, then a newly started one, which is empty."""
    with_full = setting.load.slice(full, BATCH)
    with full.paused():
        empty = setting.stage.gateway(setting.upstream)
        setting.load.warm(empty, BATCH)
        with_empty = setting.load.slice(empty, BATCH)
        setting.stage.fleet.stop(empty)
    return with_full, with_empty


def _idle(pss: float) -> Row:
    return Row("(g) idle after start", pss=pss, targets=(at_most(150, "MB", pss),))


def _idle_workers(setting: Setting, one_process: float) -> Row:
    """Measure a gateway with workers: all its processes, also the delivering one."""
    gateway = setting.stage.gateway(setting.upstream, workers=WORKERS, delivery=True)
    pss = gateway.pss()
    setting.stage.fleet.stop(gateway)
    more = (pss - one_process) / WORKERS
    return Row(
        f"(g-w) idle with {WORKERS} workers",
        pss=pss,
        targets=(at_most(100, "MB more for each", more),),
        notes=(f"{more:.0f} MB more than one process for each worker",),
    )


def _waiting(loaded: Slice, wanted: int) -> Row:
    notes: tuple[str, ...] = ()
    if loaded.items < wanted:
        notes = (f"loading was cut off by its limit: {wanted:,} were wanted",)
    targets = (at_most(300, "MB", loaded.pss),)
    return summarise(
        f"(g-q) {loaded.items:,} waiting, by 1,000s", [loaded], targets=targets, notes=notes
    )


def _full(pairs: list[tuple[Slice, Slice]], waiting: int) -> Row:
    full, empty = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    share = median_ratio(full, empty)
    return summarise(
        f"(g-d) batches with {waiting:,} waiting",
        full,
        targets=(at_least(0.85, "of empty", share),),
        notes=(f"{share:.2f} of the empty queue's rate, median of {len(pairs)} pairs",),
    )
