"""The load that processes, cores, a database and Leanplum can carry, from the cost of an item.

Each part that an item passes has a limit of its own; the least of them is the capacity. The formula
knows nothing of waiting: near the capacity, latencies grow.
"""

from dataclasses import dataclass

SECOND = 1e6  # microseconds


@dataclass(frozen=True)
class ItemCost:
    """Processor microseconds of one item, by the part that spends them.

    `database` is that of a server; a SQLite database works inside the other parts. `turn` is the
    time during which no other process can write: transactions that write take turns.
    """

    accepting: float
    delivering: float = 0.0
    database: float = 0.0
    surroundings: float = 0.0
    """Of the load generator and the upstream, where these run on the same cores."""
    turn: float = 0.0

    @property
    def total(self) -> float:
        """Of all parts together."""
        return self.accepting + self.delivering + self.database + self.surroundings


@dataclass(frozen=True)
class Upstream:
    """How Leanplum is called: calls in flight, their duration, and the items of one call."""

    concurrency: int = 16
    seconds: float = 0.2
    items_in_call: float = 50.0

    @property
    def rate(self) -> float:
        """Items per second."""
        return self.concurrency / self.seconds * self.items_in_call


def limits(
    cost: ItemCost, *, workers: int, cores: int, upstream: Upstream | None = None
) -> dict[str, float]:
    """Return the greatest rate in items per second that each part allows.

    One worker accepts and delivers; of several, each accepts, and one more process delivers.
    """
    parts = {"cores": cores * SECOND / cost.total}
    if workers == 1:
        parts["the process"] = SECOND / (cost.accepting + cost.delivering)
    else:
        parts["accepting processes"] = workers * SECOND / cost.accepting
        if cost.delivering:
            parts["delivering process"] = SECOND / cost.delivering
    if cost.turn:
        parts["turns to write"] = SECOND / cost.turn
    if upstream:
        parts["calls to Leanplum"] = upstream.rate
    return parts


def capacity(parts: dict[str, float]) -> tuple[float, str]:
    """Return the least rate, and the part that sets it."""
    return min((rate, part) for part, rate in parts.items())
