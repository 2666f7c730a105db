"""Rows (e): the time until the upstream has every acknowledged item; nothing is pinned.

`deliver` and `row` also make the rows of other gateways: with workers, and on PostgreSQL.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

from bench.bodies import BATCH
from bench.children import Child
from bench.figures import Slice, ratio_to_around
from bench.report import Row, Target, at_least, none_lost
from bench.scenarios.setting import Setting, read_counts

CONNECTIONS = 16
POLL = 0.1


@dataclass(frozen=True)
class Delivery:
    """The acknowledged items, and those that arrived."""

    accepted: Slice
    distinct: int
    repeated: int
    calls: int
    seconds: float

    @property
    def lost(self) -> int:
        """Items acknowledged and not delivered."""
        return max(0, self.accepted.items - self.distinct)

    @property
    def rate(self) -> float:
        """Items per second, from the first post to the last arrival."""
        return min(self.distinct, self.accepted.items) / self.seconds if self.seconds > 0 else 0.0


def measure(setting: Setting) -> list[Row]:
    """Measure the delivery, between two slices of each yardstick."""
    a, b = [setting.measure_a()], [setting.measure_b()]
    delivery = deliver(setting, setting.plan.delivered_items)
    a.append(setting.measure_a())
    b.append(setting.measure_b())
    smooth = deliver(setting, setting.plan.faulty_items)
    faulty = deliver(setting, setting.plan.faulty_items, fail_each=20)
    to_a, to_b = ratio_to_around(delivery.rate, a), ratio_to_around(delivery.rate, b)
    targets = (at_least(0.8, "a", to_a), at_least(20, "b", to_b))
    found = row(f"(e) accepted to delivered, {delivery.accepted.items:,} items", delivery, targets)
    return [replace(found, to_a=to_a, to_b=to_b), faulty_row(smooth, faulty)]


def measure_beside(
    setting: Setting, name: str, bound: float, *, workers: int = 1, database: str = ""
) -> Row:
    """Measure another gateway's delivery between two slices of (a), of which `bound` is wanted."""
    a = [setting.measure_a()]
    items = setting.plan.delivered_items
    delivery = deliver(setting, items, workers=workers, database=database)
    a.append(setting.measure_a())
    to_a = ratio_to_around(delivery.rate, a)
    return replace(row(name, delivery, (at_least(bound, "a", to_a),)), to_a=to_a)


def deliver(
    setting: Setting, items: int, *, fail_each: int = 0, workers: int = 1, database: str = ""
) -> Delivery:
    """Post items to a new gateway, and wait until the upstream has them."""
    plan = setting.plan
    upstream = setting.stage.upstream(delay=plan.upstream_delay, fail_each=fail_each, pinned=False)
    gateway = setting.stage.gateway(
        upstream, delivery=True, pinned=False, workers=workers, database=database
    )
    limit = plan.delivery_limit
    accepted = setting.load.count(
        gateway, BATCH, items=items, limit=limit, connections=CONNECTIONS, pinned=False
    )
    seen = await_arrival(upstream, accepted.items, accepted.started + limit)
    setting.stage.fleet.stop(gateway, upstream)
    seconds = seen["last_new"] - accepted.started if seen["distinct"] else 0.0
    return Delivery(accepted, seen["distinct"], seen["repeated"], seen["calls"], seconds)


def await_arrival(upstream: Child, items: int, deadline: float) -> dict[str, Any]:
    """Return the upstream's counts when `items` distinct items arrived, or at the deadline."""
    while (seen := read_counts(upstream))["distinct"] < items and time.monotonic() < deadline:
        time.sleep(POLL)
    return seen


def row(name: str, delivery: Delivery, targets: tuple[Target, ...]) -> Row:
    """Return figures and targets of one delivery; its ratios are left to the caller."""
    notes = [
        f"{delivery.seconds:.1f} s, {delivery.calls:,} upstream calls, "
        f"{delivery.repeated:,} items seen again; "
        f"accepted at {delivery.accepted.rate:,.0f} items/s "
        "(latencies are of posting a batch)"
    ]
    if delivery.lost:
        notes.append(f"not delivered within the limit: {delivery.lost:,} acknowledged items")
    return Row(
        name=name,
        rate=delivery.rate,
        p50=delivery.accepted.p50,
        p99=delivery.accepted.p99,
        pss=delivery.accepted.pss,
        failed=delivery.accepted.failed,
        lost=delivery.lost,
        targets=(*targets, none_lost(delivery.lost)),
        notes=tuple(notes),
        slices=(delivery.accepted,),
    )


def faulty_row(smooth: Delivery, faulty: Delivery) -> Row:
    """Return the figures with every 20th call failing, retries included, against those without."""
    ratio = faulty.rate / smooth.rate if smooth.rate else 0.0
    return Row(
        name=f"(e5) {faulty.accepted.items:,} items, 5 % of calls failing",
        rate=faulty.rate,
        p50=faulty.accepted.p50,
        p99=faulty.accepted.p99,
        pss=faulty.accepted.pss,
        failed=faulty.accepted.failed,
        lost=faulty.lost,
        targets=(at_least(0.8, "of fault-free", ratio), none_lost(faulty.lost)),
        notes=(
            f"{ratio:.2f} of the {smooth.rate:,.0f} items/s without; "
            f"{faulty.seconds:.1f} s to {smooth.seconds:.1f} s",
        ),
        slices=(faulty.accepted,),
    )
