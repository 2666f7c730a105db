"""Rows (l): very many items waiting, on SQLite and on PostgreSQL.

Only measured when asked for, since it takes some ten minutes. The items are written beside the
gateway, in its own schema.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from app.database.engine import connect
from bench.bodies import BATCH
from bench.children import Child
from bench.figures import Slice, median_ratio
from bench.report import Row, Target, summarise
from bench.rows import ManyItems, fill
from bench.scenarios.setting import Setting, read_counts
from bench.search import index
from bench.usage import read_usage

POLL = 0.05
OTHERS = 20  # one item in so many is of a second caller
CALM = 2.0  # seconds in which a gateway does next to nothing: what follows a start is done
CALM_SHARE = 0.1  # of a core
CALM_WITHIN = 120.0  # seconds after its start
DRAINS = 2  # of the long queue, and of a short one, in turn
FIRST_ARRIVAL = 60.0  # seconds that the first call to the upstream may take
NewDatabase = Callable[[], str]  # returns the URL of a new database


@dataclass(frozen=True)
class Drain:
    """The rate at which items arrived, the seconds until the first did, and the memory."""

    rate: float
    first: float
    pss: float


def measure(setting: Setting) -> list[Row]:
    """Measure SQLite and PostgreSQL."""
    rows = _measure(setting, "SQLite", setting.stage.new_sqlite)
    with setting.stage.postgresql() as server:
        return [*rows, *_measure(setting, "PostgreSQL", server.new_database)]


def _measure(setting: Setting, kind: str, new_database: NewDatabase) -> list[Row]:
    plan = setting.plan
    long = _filled(new_database(), plan.large_items)
    short = _filled(new_database(), plan.short_items)
    waiting = f"{plan.large_items:,} waiting, {kind}"
    rows = [
        _ready(setting, waiting, long, new_database()),
        *_accepting(setting, waiting, long, new_database()),
    ]
    return [*rows, _draining(setting, waiting, long, short)]


def _filled(url: str, count: int) -> str:
    """Fill a database with waiting items, and write their search index; return its URL."""
    engine = connect(url)
    try:
        # Of one user, items of two callers wait: their order must be found
        fill(engine, ManyItems(count, waiting=count, others=count // OTHERS))
        index(engine)  # or else the gateways would write it while they are measured
    finally:
        engine.dispose()
    return url


def _start(setting: Setting, url: str, upstream: Child | None = None) -> tuple[Child, float]:
    """Start a gateway, which delivers if it has an upstream; return the seconds that it took."""
    began = time.monotonic()
    gateway = setting.stage.gateway(
        upstream or setting.upstream,
        delivery=upstream is not None,
        pinned=upstream is None,
        database=url,
    )
    return gateway, time.monotonic() - began


def _ready(setting: Setting, waiting: str, long: str, empty: str) -> Row:
    """Start each three times, in turn; the seconds include those of the process itself."""
    with_long, with_empty = list[float](), list[float]()
    connect(empty).dispose()
    for _ in range(3):
        for url, seconds in ((long, with_long), (empty, with_empty)):
            gateway, took = _start(setting, url)
            seconds.append(took)
            setting.stage.fleet.stop(gateway)
    return Row(
        f"(l) ready, {waiting}",
        targets=(Target("<= 5 s", max(with_long), 5, at_least=False),),
        notes=(
            f"ready after {', '.join(f'{took:.1f}' for took in with_long)} s; "
            f"with an empty database after {median(with_empty):.1f} s",
        ),
    )


def _accepting(setting: Setting, waiting: str, long: str, empty: str) -> list[Row]:
    """Measure accepting on both databases in turn; each gateway is paused while the other works."""
    stage = setting.stage
    gateways = [_start(setting, url)[0] for url in (long, empty)]
    slices: tuple[list[Slice], list[Slice]] = ([], [])
    for gateway in gateways:
        setting.load.warm(gateway, BATCH)
    calm = [_calm_down(gateway) for gateway in gateways]
    for gateway in gateways:
        gateway.pause()
    for _ in range(2 * setting.plan.memory_pairs):
        for gateway, measured in zip(gateways, slices, strict=True):
            with gateway.resumed():
                measured.append(setting.load.slice(gateway, BATCH))
    stage.fleet.stop(*gateways)
    share = median_ratio(*slices)
    return [
        summarise(
            f"(l) batches, {waiting}",
            slices[0],
            targets=(
                Target(">= 0.9 of empty", share, 0.9),
                Target("<= 300 MB", max(each.pss for each in slices[0]), 300, at_least=False),
            ),
            notes=(
                f"{share:.2f} of the rate with an empty queue, median of the pairs, once the "
                f"counts that follow a start were done: {calm[0]:.0f} s later",
            ),
        )
    ]


def _calm_down(gateway: Child) -> float:
    """Wait until a gateway does next to nothing; return the seconds that it was at work."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < CALM_WITHIN:
        before = read_usage(gateway.pids())
        time.sleep(CALM)
        if read_usage(gateway.pids()).since(before).processor < CALM * CALM_SHARE * 1e6:
            break
    return passed


def _draining(setting: Setting, waiting: str, long: str, short: str) -> Row:
    drains: tuple[list[Drain], list[Drain]] = ([], [])
    for _ in range(DRAINS):
        for url, measured in zip((long, short), drains, strict=True):
            measured.append(_drain(setting, url))
    long_rate, short_rate = (median(each.rate for each in measured) for measured in drains)
    share = long_rate / short_rate if short_rate else 0.0
    pss = max(each.pss for each in drains[0])
    first = ", ".join(f"{each.first:.1f}" for each in drains[0])
    return Row(
        f"(l) draining, {waiting}",
        rate=long_rate,
        pss=pss,
        targets=(
            Target(">= 0.9 of a short queue", share, 0.9),
            Target("<= 300 MB", pss, 300, at_least=False),
        ),
        notes=(
            f"{share:.2f} of the {short_rate:,.0f} items/s of a short queue; the first call came "
            f"{first} s after the start",
        ),
    )


def _drain(setting: Setting, url: str) -> Drain:
    """Deliver for a while, and measure from the first call that arrives."""
    stage, seconds = setting.stage, setting.plan.drain
    upstream = stage.upstream(delay=setting.plan.upstream_delay, pinned=False)
    began = time.monotonic()
    gateway, _ = _start(setting, url, upstream)
    while not read_counts(upstream)["distinct"] and time.monotonic() < began + FIRST_ARRIVAL:
        time.sleep(POLL)
    first, start = time.monotonic(), read_counts(upstream)["distinct"]
    time.sleep(seconds)
    arrived, pss = read_counts(upstream)["distinct"] - start, gateway.pss()
    stage.fleet.stop(gateway, upstream)
    return Drain(arrived / seconds, first - began, pss)
