"""Limits that all replicas share, in Valkey; and what holds while it is away: each replica's share,
in memory.

Calls that come together are decided together: one call to the server is under way, and what comes
meanwhile goes with the next one. So a caller waits for one answer or two, and when the server falls
silent, for one time-out at most: after it everything is decided here, until a probe in the
background finds the server again.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import uuid4

import structlog

from app.limits.bucket import Buckets, Decision, Limit
from app.limits.valkey import GONE_SECONDS, Call

LOOK_SECONDS = 1.0  # between signs of life, which are probes while the server is away
AT_ONCE = 256  # calls decided together
PROBE = Limit("probe", 1.0, 1, 1)

log = structlog.get_logger("limits")


class Server(Protocol):
    """What holds the shared buckets."""

    async def take(self, calls: Sequence[Call]) -> list[Decision]:
        """Decide calls in their order."""

    async def beat(self, replica: str) -> int:
        """Give a sign of life; how many replicas have given one lately."""

    async def close(self, replica: str) -> None:
        """Take the replica out."""


def share(limit: Limit, replicas: int) -> Limit:
    """One replica's part of a limit. A call that the whole limit would let pass is let pass by a
    full share: a caller that sends large batches must not be shut out for as long as the server is
    away.
    """
    return Limit(
        limit.name, limit.rate / replicas, limit.burst / replicas, limit.whole, limit.lends
    )


class SharedLimiter:
    """Asks the server; while that is away, its own buckets."""

    def __init__(
        self,
        server: Server,
        buckets: Buckets,
        *,
        clock: Callable[[], float],
        told: Callable[[bool], object],
        decided_here: Callable[[], object],
    ) -> None:
        """`told` is called with whether the server is there, when that changes; `decided_here` for
        each decision that was not the server's.
        """
        self._server, self._buckets, self._clock = server, buckets, clock
        self._told, self._decided_here = told, decided_here
        self._me = uuid4().hex
        self._there: bool | None = None  # None: not known yet
        self._replicas, self._counted_at = 1, 0.0
        self._waiting: list[tuple[Sequence[Limit], int, asyncio.Future[Decision | None]]] = []
        self._under_way: asyncio.Task[None] | None = None

    def take_now(self, limits: Sequence[Limit], count: int) -> Decision | None:
        """By this one's share, while the server is away."""
        return None if self._there else self._by_share(limits, count)

    async def take(self, limits: Sequence[Limit], count: int) -> Decision:
        """As all replicas together allow it, or as this one's share does. Raises nothing."""
        decision = await self._by_server(limits, count)
        return self._by_share(limits, count) if decision is None else decision

    async def give(self, limits: Sequence[Limit], count: int) -> Decision:
        """Give items back to the shared buckets; while the server is away, to this one's share."""
        decision = await self._by_server(limits, -count)
        if decision is not None:
            return decision
        return self._buckets.give([share(limit, self._replicas) for limit in limits], count)

    async def _by_server(self, limits: Sequence[Limit], count: int) -> Decision | None:
        """Return what the server decides; None while it is away."""
        if not self._there:
            return None
        answer: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((limits, count, answer))
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._ask())
        return await answer

    def _by_share(self, limits: Sequence[Limit], count: int) -> Decision:
        self._decided_here()
        return self._buckets.take([share(limit, self._replicas) for limit in limits], count)

    def state(self) -> str:
        """By how many they are shared; or that the server is away, and what holds meanwhile."""
        if self._there:
            return f"shared by {self._replicas} replica{'s' if self._replicas != 1 else ''}"
        held = (
            "the whole of each limit"
            if self._replicas == 1
            else f"one of {self._replicas} shares of each limit"
        )
        return f"the shared limits are away; this replica keeps {held} by itself"

    async def look(self) -> None:
        """Give a sign of life, and see whether the server is there."""
        try:
            replicas = await self._server.beat(self._me)
            if not self._there:
                await self._server.take([((PROBE._replace(name=f"probe:{self._me}"),), 1)])
        except Exception as error:  # whatever it is, limits go on without the server
            self._away(error)
        else:
            self._found(replicas)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def close(self) -> None:
        """Answer who still waits, and leave."""
        if self._under_way is not None:
            await self._under_way
        await self._server.close(self._me)

    async def _ask(self) -> None:
        """Until nobody waits."""
        calls = self._waiting
        try:
            while self._waiting:
                calls, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                decisions = await self._server.take([(limits, count) for limits, count, _ in calls])
                for (limits, _, answer), decision in zip(calls, decisions, strict=True):
                    self._remember(limits, decision)
                    _tell(answer, decision)
        except Exception as error:  # as above
            self._away(error)
            for _, _, answer in [*calls, *self._waiting]:
                _tell(answer, None)
            self._waiting = []
        finally:
            self._under_way = None

    def _remember(self, limits: Sequence[Limit], decision: Decision) -> None:
        """So that a share, when it is needed, begins where the whole was, and a caller's spent
        limit is not new.
        """
        for limit, lacks in zip(limits, decision.lacks, strict=True):
            self._buckets.put(share(limit, self._replicas), lacks / self._replicas)

    def _found(self, replicas: int) -> None:
        """The number grows at once and shrinks late: a server that comes back empty knows the
        others in a second.
        """
        now = self._clock()
        if replicas >= self._replicas or now - self._counted_at > GONE_SECONDS:
            self._replicas, self._counted_at = replicas, now
        if not self._there:
            self._there = True
            self._told(True)
            log.info("limits.shared", replicas=self._replicas)

    def _away(self, error: Exception) -> None:
        if self._there is not False:
            self._there = False
            self._told(False)
            log.warning("limits.away", kind=type(error).__name__, replicas=self._replicas)


def _tell(answer: "asyncio.Future[Decision | None]", decision: Decision | None) -> None:
    if not answer.done():  # its caller may have gone away
        answer.set_result(decision)
