"""Row (e): from the first post until the upstream has seen every acknowledged item; nothing is
pinned.
"""

import time
from dataclasses import dataclass
from typing import Any

from bench.bodies import BATCH
from bench.children import Child
from bench.figures import Slice, ratio_to_around
from bench.report import Row, Target
from bench.scenarios.setting import Setting, seen_by

CONNECTIONS = 16
POLL = 0.1


@dataclass(frozen=True)
class Delivery:
    """What was promised, and what arrived."""

    accepted: Slice
    distinct: int
    repeated: int
    calls: int
    seconds: float

    @property
    def lost(self) -> int:
        """Acknowledged and not delivered."""
        return max(0, self.accepted.items - self.distinct)

    @property
    def rate(self) -> float:
        """Items a second, from the first post to the last arrival."""
        return min(self.distinct, self.accepted.items) / self.seconds if self.seconds > 0 else 0.0


def measure(setting: Setting) -> list[Row]:
    """The delivery, between two looks at each yardstick."""
    a, b = [setting.measure_a()], [setting.measure_b()]
    found = _deliver(setting, setting.plan.delivered_items)
    a.append(setting.measure_a())
    b.append(setting.measure_b())
    smooth = _deliver(setting, setting.plan.faulty_items)
    faulty = _deliver(setting, setting.plan.faulty_items, fail_each=20)
    return [row(found, a, b, setting.plan.delivery_limit), faulty_row(smooth, faulty)]


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
    """The upstream's counts once it has seen `items` different ones, or at the deadline."""
    while (seen := seen_by(upstream))["distinct"] < items and time.monotonic() < deadline:
        time.sleep(POLL)
    return seen


def row(found: Delivery, a: list[Slice], b: list[Slice], limit: float) -> Row:
    """Figures and targets of one delivery."""
    to_a, to_b = ratio_to_around(found.rate, a), ratio_to_around(found.rate, b)
    late = (
        (f"not delivered within {limit:.0f} s: {found.lost:,} acknowledged items",)
        if found.lost
        else ()
    )
    return Row(
        name=f"(e) accepted to delivered, {found.accepted.items:,} items",
        rate=found.rate,
        to_a=to_a,
        to_b=to_b,
        p50=found.accepted.p50,
        p99=found.accepted.p99,
        rss=found.accepted.rss,
        failed=found.accepted.failed,
        lost=found.lost,
        targets=(
            Target(">= 0.8 a", to_a, 0.8),
            Target(">= 20 b", to_b, 20),
            Target("0 lost", found.lost, 0, at_least=False),
        ),
        notes=(
            f"{found.seconds:.1f} s, {found.calls:,} upstream calls, {found.repeated:,} items seen again; "
            f"accepted at {found.accepted.rate:,.0f} items/s (latencies are of posting a batch)",
            *late,
        ),
        slices=(found.accepted,),
    )


def faulty_row(smooth: Delivery, faulty: Delivery) -> Row:
    """The same with every 20th call failing, beside as many items without; waiting for what failed
    is counted in.
    """
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
            f"{ratio:.2f} of the {smooth.rate:,.0f} items/s without; {faulty.seconds:.1f} s to {smooth.seconds:.1f} s",
        ),
        slices=(faulty.accepted,),
    )
