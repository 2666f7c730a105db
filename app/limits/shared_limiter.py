"""The limiter that all replicas share, in Valkey.

While Valkey is unavailable, each replica applies its share of the limits, in memory.

Calls that come together are decided together: one request to the server is in progress, and calls
that come meanwhile go with the next one. So a caller waits for one or two round trips, and when the
server stops answering, for one timeout at most: after that everything is decided in memory until a
probe in the background finds the server again.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

import structlog

from app.limits.buckets import Buckets, Decision, Limit
from app.limits.valkey import GONE_SECONDS, TakeRequest

HEARTBEAT_INTERVAL_SECONDS = 1.0  # heartbeats are probes while the server is unavailable
BATCH_SIZE = 256  # calls decided in one request
PROBE = Limit("probe", 1.0, 1, 1)

log = structlog.get_logger("limits")


class BucketServer(Protocol):
    """A server that holds the shared buckets (`Valkey`)."""

    async def take(self, calls: Sequence[TakeRequest]) -> list[Decision]:
        """Decide calls in their order."""

    async def beat(self, replica: str) -> int:
        """Send a heartbeat, and return how many replicas have sent one lately."""

    async def close(self, replica: str) -> None:
        """Remove the replica."""


@dataclass(frozen=True, slots=True)
class _WaitingCall:
    """A call that waits for the server's decision; None tells it to decide by its own share."""

    limits: Sequence[Limit]
    count: int
    answer: asyncio.Future[Decision | None]

    def resolve(self, decision: Decision | None) -> None:
        """Answer the call, unless its caller has gone away."""
        if not self.answer.done():
            self.answer.set_result(decision)


def share(limit: Limit, replicas: int) -> Limit:
    """Return one replica's part of a limit.

    A call that the whole limit would let pass is let pass by a full share: a caller that sends
    large batches must not be shut out for as long as the server is unavailable.
    """
    return Limit(
        limit.name, limit.rate / replicas, limit.burst / replicas, limit.whole, limit.lends
    )


class SharedLimiter:
    """A limiter that asks the server, and while that is unavailable its own buckets."""

    def __init__(
        self,
        server: BucketServer,
        buckets: Buckets,
        *,
        clock: Callable[[], float],
        on_available: Callable[[bool], object],
        on_local_decision: Callable[[], object],
    ) -> None:
        """Begin without knowing whether the server is available.

        `on_available` is called with whether the server is available when that changes;
        `on_local_decision` for each decision that was not the server's.
        """
        self._server, self._buckets, self._clock = server, buckets, clock
        self._on_available, self._on_local_decision = on_available, on_local_decision
        self._replica = uuid4().hex
        self._available: bool | None = None  # None: not known yet
        self._replicas, self._counted_at = 1, 0.0
        self._waiting: list[_WaitingCall] = []
        self._request: asyncio.Task[None] | None = None

    def take_now(self, limits: Sequence[Limit], count: int) -> Decision | None:
        """Decide by this replica's share while the server is unavailable, else return None."""
        return None if self._available else self._take_locally(limits, count)

    async def take(self, limits: Sequence[Limit], count: int) -> Decision:
        """Decide by what all replicas together allow, or by this replica's share."""
        decision = await self._ask_server(limits, count)
        return self._take_locally(limits, count) if decision is None else decision

    async def give(self, limits: Sequence[Limit], count: int) -> Decision:
        """Give items back to the shared buckets, or to this replica's share of them."""
        decision = await self._ask_server(limits, -count)
        return self._buckets.give(self._shares(limits), count) if decision is None else decision

    async def _ask_server(self, limits: Sequence[Limit], count: int) -> Decision | None:
        """Return the server's decision; None while it is unavailable."""
        if not self._available:
            return None
        answer: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_WaitingCall(limits, count, answer))
        if self._request is None:
            self._request = asyncio.create_task(self._decide_waiting())
        return await answer

    def _take_locally(self, limits: Sequence[Limit], count: int) -> Decision:
        self._on_local_decision()
        return self._buckets.take(self._shares(limits), count)

    def _shares(self, limits: Sequence[Limit]) -> list[Limit]:
        return [share(limit, self._replicas) for limit in limits]

    def state(self) -> str:
        """Describe how many replicas share the limits, or that the server is unavailable."""
        if self._available:
            return f"shared by {self._replicas} replica{'s' if self._replicas != 1 else ''}"
        part = f"one of {self._replicas} shares of each limit"
        if self._replicas == 1:
            part = "the whole of each limit"
        return f"the shared limits are unavailable; this replica applies {part} by itself"

    async def step(self) -> None:
        """Send a heartbeat, and find out whether the server is available."""
        try:
            replicas = await self._server.beat(self._replica)
            if not self._available:
                probe = PROBE._replace(name=f"probe:{self._replica}")
                await self._server.take([((probe,), 1)])
        except Exception as error:  # whatever it is, limits go on without the server
            self._note_failure(error)
        else:
            self._note_success(replicas)

    async def run(self) -> None:
        """Take a step each second, until cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_SECONDS)
            await self.step()

    async def close(self) -> None:
        """Answer the calls that still wait, and remove this replica."""
        if self._request is not None:
            await self._request
        await self._server.close(self._replica)

    async def _decide_waiting(self) -> None:
        """Send requests until no call waits."""
        batch = self._waiting
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_SIZE], self._waiting[BATCH_SIZE:]
                requests = [(call.limits, call.count) for call in batch]
                decisions = await self._server.take(requests)
                for call, decision in zip(batch, decisions, strict=True):
                    self._remember(decision)
                    call.resolve(decision)
        except Exception as error:  # whatever it is, limits go on without the server
            self._note_failure(error)
            for call in [*batch, *self._waiting]:
                call.resolve(None)
            self._waiting = []
        finally:
            self._request = None

    def _remember(self, decision: Decision) -> None:
        """Keep the state of the shared buckets for the time when the server is unavailable.

        This replica's share begins there, so a caller's spent limit stays spent.
        """
        for limit, deficit in zip(decision.limits, decision.deficits, strict=True):
            self._buckets.put(share(limit, self._replicas), deficit / self._replicas)

    def _note_success(self, replicas: int) -> None:
        """Note that the server is available, and how many replicas it knows.

        The number grows at once and shrinks late: a server that comes back empty knows the others
        within a second.
        """
        now = self._clock()
        if replicas >= self._replicas or now - self._counted_at > GONE_SECONDS:
            self._replicas, self._counted_at = replicas, now
        if not self._available:
            self._available = True
            self._on_available(True)
            log.info("limits.shared", replicas=self._replicas)

    def _note_failure(self, error: Exception) -> None:
        if self._available is not False:
            self._available = False
            self._on_available(False)
            log.warning("limits.away", kind=type(error).__name__, replicas=self._replicas)
