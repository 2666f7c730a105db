"""The shared limiter, with a server that the test makes come and go."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from app.limits.buckets import Buckets, Decision, Limit
from app.limits.shared_limiter import SharedLimiter
from app.limits.valkey import GONE_SECONDS, TakeRequest
from tests.support.clock import Clock

from .limiters import limit


class Fake:
    """A server in memory: it answers, or raises, or waits."""

    def __init__(self, clock: Clock) -> None:
        self.buckets, self.replicas = Buckets(clock), 2
        self.trouble: Exception | None = None
        self.taking: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.flights = list[int]()

    async def take(self, calls: Sequence[TakeRequest]) -> list[Decision]:
        self.flights.append(len(calls))
        if self.taking is not None:
            await self.taking()
        if self.trouble is not None:
            raise self.trouble
        return [self.buckets.take(limits, count) for limits, count in calls]

    async def beat(self, replica: str) -> int:
        if self.trouble is not None:
            raise self.trouble
        return self.replicas

    async def close(self, replica: str) -> None:
        pass


class Desk:
    """A limiter with its server, and what it told."""

    def __init__(self) -> None:
        self.clock, self.told, self.here = Clock(), list[bool](), 0
        self.server = Fake(self.clock)
        self.limiter = SharedLimiter(
            self.server,
            Buckets(self.clock),
            clock=self.clock,
            on_available=self.told.append,
            on_local_decision=self._count,
        )

    def _count(self) -> None:
        self.here += 1

    async def allows(self, count: int, *limits: Limit) -> bool:
        return (await self.limiter.take(limits or (limit(),), count)).allowed

    async def passed(self, calls: int) -> int:
        return sum([await self.allows(1) for _ in range(calls)])


def at_desk(act: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    async def with_a_server() -> None:
        desk = Desk()
        await desk.limiter.step()
        await act(desk)
        await desk.limiter.close()

    asyncio.run(with_a_server())


def test_the_server_decides_while_it_is_there() -> None:
    async def act(desk: Desk) -> None:
        assert (await desk.passed(30), desk.here) == (20, 0)
        assert (desk.told, desk.limiter.state()) == ([True], "shared by 2 replicas")

    at_desk(act)


def test_calls_that_come_together_are_decided_together_in_their_order() -> None:
    async def act(desk: Desk) -> None:
        desk.server.flights.clear()
        found = await asyncio.gather(*(desk.allows(1) for _ in range(300)))
        assert found == [True] * 20 + [False] * 280
        assert desk.server.flights == [256, 44]

    at_desk(act)


def test_when_the_server_fails_each_call_is_decided_here_at_once_and_the_server_is_asked_no_more() -> (
    None
):
    async def act(desk: Desk) -> None:
        desk.server.trouble = OSError()
        desk.server.flights.clear()
        assert (
            await asyncio.gather(*(desk.allows(1) for _ in range(300)))
            == [True] * 10 + [False] * 290
        )
        assert (desk.here, desk.told, desk.server.flights) == (300, [True, False], [256])
        assert await desk.passed(5) == 0
        assert desk.server.flights == [256]

    at_desk(act)


def test_a_share_begins_where_the_whole_was() -> None:
    async def act(desk: Desk) -> None:
        assert await desk.allows(16)
        desk.server.trouble = OSError()
        assert await desk.passed(20) == 2, "4 of 20 were left, for two replicas"
        desk.clock.now += 1
        assert await desk.passed(20) == 5, "half of 10 a second"

    at_desk(act)


def test_a_batch_of_the_whole_burst_still_passes_a_share() -> None:
    async def act(desk: Desk) -> None:
        desk.server.trouble = OSError()
        assert await desk.allows(20)
        assert not await desk.allows(1)
        desk.clock.now += 3.9
        assert not await desk.allows(20)
        desk.clock.now += 0.2
        assert await desk.allows(20)

    at_desk(act)


def test_when_the_server_is_back_it_decides_again() -> None:
    async def act(desk: Desk) -> None:
        desk.server.trouble = OSError()
        await desk.allows(1)
        assert "one of 2 shares" in desk.limiter.state()
        await desk.limiter.step()
        desk.server.trouble = None
        await desk.limiter.step()
        here = desk.here
        assert (await desk.passed(30), desk.here) == (20, here)
        assert (desk.told, desk.limiter.state()) == ([True, False, True], "shared by 2 replicas")

    at_desk(act)


def test_a_server_that_gives_signs_of_life_and_no_decisions_stays_away() -> None:
    async def act(desk: Desk) -> None:
        async def fails() -> None:
            raise TimeoutError

        desk.server.taking = fails
        await desk.allows(1)
        await desk.limiter.step()
        assert desk.told == [True, False]

    at_desk(act)


def test_a_server_that_is_not_there_at_the_start_is_found_later() -> None:
    async def act() -> None:
        desk = Desk()
        desk.server.trouble = OSError()
        await desk.limiter.step()
        assert (await desk.passed(30), desk.told) == (20, [False])
        assert "the whole of each limit" in desk.limiter.state()
        desk.server.trouble = None
        await desk.limiter.step()
        assert desk.told == [False, True]

    asyncio.run(act())


def test_the_number_of_replicas_grows_at_once_and_shrinks_late() -> None:
    async def act(desk: Desk) -> None:
        desk.server.replicas = 4
        await desk.limiter.step()
        desk.server.replicas = 1  # it came back empty
        await desk.limiter.step()
        desk.server.trouble = OSError()
        assert await desk.passed(20) == 5
        desk.server.trouble = None
        desk.clock.now += GONE_SECONDS + 1
        await desk.limiter.step()
        desk.server.trouble = OSError()
        await desk.limiter.step()
        assert await desk.passed(30) == 20

    at_desk(act)


def test_a_caller_that_goes_away_while_it_waits_keeps_nobody_from_an_answer() -> None:
    async def act(desk: Desk) -> None:
        gate = asyncio.Event()
        desk.server.taking = gate.wait  # type: ignore[assignment]
        gone, waiting = (asyncio.create_task(desk.allows(1)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        gate.set()
        assert await waiting
        with pytest.raises(asyncio.CancelledError):
            await gone

    at_desk(act)
