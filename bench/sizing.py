"""The processes, cores and bytes for a load, from the cost of an item; sized for half the capacity.

The other half is for peaks, restarts and the draining of a backlog.
"""

from dataclasses import dataclass
from math import ceil

from bench.capacity import SECOND
from bench.cost_of_items import Cost
from bench.predictions import whole_cost

LOADED = 0.5
DAY = 86_400
AUDIT_DAYS = 90  # GATEWAY_AUDIT_SECONDS; receipts are kept for a day, GATEWAY_DEDUP_SECONDS


@dataclass(frozen=True)
class Size:
    """What a load needs.

    `accepting` and `delivering` are processes; 1 and 0 are one process that does both.
    """

    accepting: int
    delivering: int
    cores: float
    memory_mb: float
    written_per_second: float
    stored: float

    @property
    def command(self) -> str:
        """The commands to run."""
        if not self.delivering:
            return "`serve`"
        if self.delivering == 1:
            return f"`serve --workers {self.accepting}`"
        return f"`serve --workers {self.accepting} --no-delivery`, {self.delivering} × `deliver`"


def size(load: float, cost: Cost) -> Size | None:
    """Return what `load` items per second need; None if writers that take turns do not suffice."""
    whole = whole_cost(cost)
    if load * whole.turn > LOADED * SECOND:
        return None
    accepting = max(2, ceil(load * whole.accepting / (LOADED * SECOND)))
    delivering = max(1, ceil(load * whole.delivering / (LOADED * SECOND)))
    if load * (whole.accepting + whole.delivering) <= LOADED * SECOND:
        accepting, delivering = 1, 0
    flowing = cost.flowing
    stored = max(cost.waiting_bytes, cost.delivered_bytes)
    return Size(
        accepting,
        delivering,
        cores=load * (whole.total - whole.surroundings) / (LOADED * SECOND),
        memory_mb=accepting * cost.accepting.memory_mb + delivering * cost.delivering.memory_mb,
        written_per_second=load * (flowing.gateway.written + flowing.database.written),
        stored=load * DAY * (stored + (AUDIT_DAYS - 1) * cost.audit_bytes),
    )
