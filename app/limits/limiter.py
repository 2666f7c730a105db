"""Who asks for items goes through a limiter: this one knows of this process alone, `shared` of all
replicas.
"""

from collections.abc import Sequence
from typing import Protocol

from app.limits.bucket import Buckets, Decision, Limit


class Limiter(Protocol):
    """What callers of a limiter see."""

    def take_now(self, limits: Sequence[Limit], count: int) -> Decision | None:
        """As `take` does, where that can be decided without waiting; else None, and nothing is
        taken.
        """

    async def take(self, limits: Sequence[Limit], count: int) -> Decision:
        """Take `count` items from every one of the buckets, or nothing from any."""

    async def give(self, limits: Sequence[Limit], count: int) -> Decision:
        """Give `count` items back to every one of the buckets, as far as it lacks them."""

    def state(self) -> str | None:
        """How far limits are shared, for operators; None where they are not meant to be."""


class OwnLimiter:
    """Buckets in memory, for a single replica."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self.take_now = buckets.take  # always

    async def take(self, limits: Sequence[Limit], count: int) -> Decision:
        """At once."""
        return self._buckets.take(limits, count)

    async def give(self, limits: Sequence[Limit], count: int) -> Decision:
        """Give back at once."""
        return self._buckets.give(limits, count)

    def state(self) -> str | None:
        """They are not shared."""
        return None
