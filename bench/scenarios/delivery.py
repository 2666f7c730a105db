"""Rows (e): the time until the upstream has every acknowledged item; nothing is pinned."""

import time
from dataclasses import dataclass
from typing import Any

from bench.bodies import BATCH
from bench.children import Child
from bench.figures import Slice, ratio_to_around
from bench.report import Row, Target
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
    delivery = _deliver(setting, setting.plan.delivered_items)
    a.append(setting.measure_a())
    b.append(setting.measure_b())
    smooth = _deliver(setting, setting.plan.faulty_items)
    faulty = _deliver(setting, setting.plan.faulty_items, fail_each=20)
    return [row(delivery, a, b, setting.plan.delivery_limit), faulty_row(smooth, faulty)]


def _deliver(setting: Setting, items: int, *, fail_each: int = 0) -> Delivery:
    plan = setting.plan
    upstream = setting.stage.upstream(delay=plan.upstream_delay, fail_each=fail_each, pinned=False)
    gateway = setting.stage.gateway(upstream, delivery=True, pinned=False)
    limit = plan.delivery_limit
    accepted = setting.load.count(
        gateway, BATCH, items=items, limit=limit, connections=CONNECTIONS, pinned=False
    )
    seen = _await_arrival(upstream, accepted.items, accepted.started + limit)
    seconds = seen["last_new"] - accepted.started if seen["distinct"] else 0.0
    return Delivery(accepted, seen["distinct"], seen["repeated"], seen["calls"], seconds)


def _await_arrival(upstream: Child, items: int, deadline: float) -> dict[str, Any]:
    """Return the upstream's counts when `items` distinct items arrived, or at the deadline."""
    while (seen := read_counts(upstream))["distinct"] < items and time.monotonic() < deadline:
        time.sleep(POLL)
    return seen


def row(delivery: Delivery, a: list[Slice], b: list[Slice], limit: float) -> Row:
    """Return figures and targets of one delivery."""
    to_a, to_b = ratio_to_around(delivery.rate, a), ratio_to_around(delivery.rate, b)
    notes = [
        f"{delivery.seconds:.1f} s, {delivery.calls:,} upstream calls, "
        f"{delivery.repeated:,} items seen again; "
        f"accepted at {delivery.accepted.rate:,.0f} items/s "
        "(latencies are of posting a batch)"
    ]
    if delivery.lost:
        notes.append(f"not delivered within {limit:.0f} s: {delivery.lost:,} acknowledged items")
    return Row(
        name=f"(e) accepted to delivered, {delivery.accepted.items:,} items",
        rate=delivery.rate,
        to_a=to_a,
        to_b=to_b,
        p50=delivery.accepted.p50,
        p99=delivery.accepted.p99,
        rss=delivery.accepted.rss,
        failed=delivery.accepted.failed,
        lost=delivery.lost,
        targets=(
            Target(">= 0.8 a", to_a, 0.8),
            Target(">= 20 b", to_b, 20),
            Target("0 lost", delivery.lost, 0, at_least=False),
        ),
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
        rss=faulty.accepted.rss,
        failed=faulty.accepted.failed,
        lost=faulty.lost,
        targets=(
            Target(">= 0.8 of fault-free", ratio, 0.8),
            Target("0 lost", faulty.lost, 0, at_least=False),
        ),
        notes=(
            f"{ratio:.2f} of the {smooth.rate:,.0f} items/s without; "
            f"{faulty.seconds:.1f} s to {smooth.seconds:.1f} s",
        ),
        slices=(faulty.accepted,),
    )
