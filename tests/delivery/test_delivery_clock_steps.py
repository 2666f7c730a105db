"""Retries, windows and leases while somebody sets the wall clock."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from app.clock import Clock
from app.delivery.deliverer import Deliverer
from app.delivery.verdicts import RetryPolicy

from .harness import Delivering, Leanplum, deliver

pytestmark = pytest.mark.slow

HOUR, DAY = 3_600.0, 86_400.0
POLICY = RetryPolicy(window=DAY, least=2.0, most=60.0)
AWAY = {"mode": "503", "times": None}


@dataclass
class Time:
    """The clocks of one host; somebody may set its wall clock."""

    wall: float = 1_800_000_000.0
    seconds: float = 900.0

    def ms(self) -> int:
        return int(self.wall * 1000)

    def ticks(self) -> float:
        return self.seconds

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.seconds += seconds


Body = Callable[[Delivering, Time], Awaitable[None]]


def run(database: str, leanplum: Leanplum, body: Body) -> None:
    """Run `body` with a delivery whose clocks stand still."""
    time = Time()

    async def timed(at: Delivering) -> None:
        at.outbox._clock = time.ms
        await body(at, time)

    clocks = {"clock": time.ms, "ticks": time.ticks}
    deliver(database, leanplum, timed, policy=POLICY, **clocks)


async def within(
    at: Delivering,
    time: Time,
    seconds: float,
    deliverer: Deliverer | None = None,
    pause: float = 0.25,
) -> None:
    """Step on for so long, by the monotonic clock."""
    at.deliverer = deliverer or at.deliverer
    until = time.seconds + seconds
    while time.seconds < until and at.outbox.queued:
        if await at.step() == 0:
            time.go(pause)


@pytest.mark.parametrize("step", [-HOUR, -DAY, -30 * DAY, HOUR, DAY])
def test_whoever_waits_for_a_retry_is_not_stranded_by_a_step(
    database: str, leanplum: Leanplum, step: float
) -> None:
    leanplum.plan({"mode": "503"})

    async def body(at: Delivering, time: Time) -> None:
        await at.accept("ann", 0, 1, now=time.ms())
        await at.step()
        assert await at.told("ann", 2) == [("retrying", 1), ("retrying", 1)]
        time.wall += step
        await within(at, time, 5)
        assert await at.told("ann", 2) == [("delivered", 2), ("delivered", 2)]

    run(database, leanplum, body)
    assert leanplum.values("ann") == [0, 1]


@pytest.mark.parametrize("step", [-HOUR, HOUR, DAY])
def test_a_retry_waits_its_time_although_the_clock_was_set(
    database: str, leanplum: Leanplum, step: float
) -> None:
    leanplum.plan({"mode": "503", "retryAfter": 30})

    async def body(at: Delivering, time: Time) -> None:
        await at.accept("ann", 0, now=time.ms())
        await at.step()
        time.wall += step
        await within(at, time, 29)
        assert await at.told("ann", 1) == [("retrying", 1)]
        assert leanplum.stats()["calls"] == 1
        await within(at, time, 5)
        assert leanplum.stats()["calls"] == 2

    run(database, leanplum, body)


def test_a_step_back_while_nothing_ran_strands_nobody(database: str, leanplum: Leanplum) -> None:
    leanplum.plan({"mode": "503"})

    async def body(at: Delivering, time: Time) -> None:
        await at.accept("ann", 0, now=time.ms())
        await at.step()
        await at.deliverer.leave()
        time.wall -= HOUR
        clock = Clock(time.ms, time.ticks)
        clock.follow(await at.outbox.newest())
        at.options = replace(at.options, times=clock)
        await within(at, time, 5, at.another())
        assert (await at.receipt("ann-0")).status == "delivered"

    run(database, leanplum, body)


@pytest.mark.parametrize("step", [DAY, 366 * DAY, -HOUR, 0.0])
def test_items_expire_by_the_time_that_has_passed_and_not_by_a_step(
    path: str, leanplum: Leanplum, step: float
) -> None:
    leanplum.plan(AWAY)

    async def body(at: Delivering, time: Time) -> None:
        await at.accept("before", 0, now=time.ms())
        await within(at, time, 600, pause=20)
        time.wall += step
        await at.accept("after", 0, now=time.ms())
        await within(at, time, 600, pause=20)
        for user in ("before", "after"):
            assert (await at.receipt(f"{user}-0")).status == "retrying"
        time.go(DAY - 1_300)
        await within(at, time, 60, pause=5)
        assert (await at.receipt("before-0")).status == "retrying"
        time.go(300 + max(0.0, -step))
        await within(at, time, 240, pause=5)
        assert (await at.receipt("before-0")).status == "expired"
        time.go(600)
        await within(at, time, 240, pause=5)
        assert (await at.receipt("after-0")).status == "expired"

    run(f"sqlite:///{path}", leanplum, body)


@pytest.mark.parametrize("behind", [2 * DAY, -2 * DAY])
def test_items_accepted_by_a_host_whose_clock_is_wrong_expire_by_the_time_that_has_passed(
    path: str, leanplum: Leanplum, behind: float
) -> None:
    leanplum.plan(AWAY)

    async def body(at: Delivering, time: Time) -> None:
        await at.step()
        await at.accept("ann", 0, now=time.ms() - int(behind * 1000))
        await within(at, time, 600, pause=20)
        assert (await at.receipt("ann-0")).status == "retrying"

    run(f"sqlite:///{path}", leanplum, body)


def test_a_living_deliverer_keeps_its_users_when_the_databases_clock_is_set_forward(
    path: str, leanplum: Leanplum
) -> None:
    """No liveness lock tells here, as between hosts: each renews its lease again soon."""

    async def body(at: Delivering, time: Time) -> None:
        one, two = at.deliverer, at.another()
        for _ in range(4):
            await one.step()
            await two.step()
            time.go(3)
        shares = one.window.shards, two.window.shards
        assert all(shares)
        time.wall += DAY
        for _ in range(40):
            await two.step()
            await one.step()
            assert (one.window.shards, two.window.shards) == shares
            time.go(3)
        for _ in range(30):  # nobody renews its lease any more
            await two.step()
            time.go(3)
        assert len(two.window.shards) == len(shares[0]) + len(shares[1])

    run(f"sqlite:///{path}", leanplum, body)
