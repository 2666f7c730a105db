"""Rows (r): one `deliver` process drains a queue that was filled before; nothing is pinned."""

import time

from bench.bodies import BATCH
from bench.figures import ratio_to_around
from bench.report import Row, none_lost
from bench.scenarios.delivery import CONNECTIONS, await_arrival
from bench.scenarios.setting import Setting


def measure(setting: Setting) -> list[Row]:
    """Measure it on SQLite."""
    name = "(r) one deliverer drains SQLite"
    return [drain(setting, name, setting.stage.new_sqlite())]


def drain(setting: Setting, name: str, database: str) -> Row:
    """Fill a database, then time a deliverer from the first arrival upstream to the last."""
    plan, stage = setting.plan, setting.stage
    upstream = stage.upstream(delay=plan.upstream_delay, pinned=False)
    gateway = stage.gateway(upstream, database=database, pinned=False)
    filled = setting.load.count(
        gateway,
        BATCH,
        items=plan.delivered_items,
        limit=plan.loading_limit,
        connections=CONNECTIONS,
        pinned=False,
    )
    stage.fleet.stop(gateway)
    a = [setting.measure_a()]
    deliverer = stage.deliverer(upstream, database)
    seen = await_arrival(upstream, filled.items, time.monotonic() + plan.delivery_limit)
    pss = deliverer.pss()
    stage.fleet.stop(deliverer, upstream)
    a.append(setting.measure_a())
    seconds = seen["last_new"] - seen["first_new"]
    rate = seen["distinct"] / seconds if seconds else 0.0
    lost = filled.items - seen["distinct"]
    return Row(
        name=name,
        rate=rate,
        to_a=ratio_to_around(rate, a),
        pss=pss,
        failed=filled.failed,
        lost=lost,
        targets=(none_lost(lost),),
        notes=(f"{filled.items:,} items in {seconds:.1f} s, {seen['calls']:,} upstream calls",),
    )
