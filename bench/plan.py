"""The durations and amounts of a run: the full one in four minutes, the quick one in one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """The durations in seconds and amounts of a run; a limit ends a step that would take longer."""

    rounds: int
    slice: int
    warm: float
    delivered_items: int
    delivery_limit: float
    faulty_items: int
    latency: float
    waiting_items: int
    loading_limit: float
    memory_pairs: int
    large_items: int
    short_items: int
    drain: float
    connections: int = 64
    seed_connections: int = 4
    users: int = 2_000
    upstream_delay: float = 0.05


FULL = Plan(
    rounds=3,
    slice=3,
    warm=0.5,
    delivered_items=100_000,
    delivery_limit=45.0,
    faulty_items=300_000,
    latency=8.0,
    waiting_items=1_000_000,
    loading_limit=70.0,
    memory_pairs=3,
    large_items=10_000_000,
    short_items=300_000,
    drain=20.0,
)

QUICK = Plan(
    rounds=2,
    slice=1,
    warm=0.3,
    delivered_items=30_000,
    delivery_limit=30.0,
    faulty_items=100_000,
    latency=3.0,
    waiting_items=100_000,
    loading_limit=8.0,
    memory_pairs=2,
    large_items=200_000,
    short_items=50_000,
    drain=4.0,
)
