"""Every fault of the simulator, once, ten times, and for minutes, on a clock that is moved on:
nothing is lost, each user's order holds, and users without the fault are not kept waiting beyond a
bound.
"""

import os
from typing import Any

import pytest

from app.delivery.pacing import LONGEST_SECONDS
from app.delivery.verdicts import RetryPolicy
from app.simulator.fault_effects import CALL_MODES, MODES

from .harness import Delivering, Leanplum, deliver

# How long a fault lasts: longer than an open circuit takes to reach its longest wait (62 s).
# `make soak` sets ten minutes.
FAULT_SECONDS = float(os.environ.get("GATEWAY_TESTS_FAULT_SECONDS", "100"))
USED_UP_SECONDS = 1_200.0  # by then, a fault of a few calls is over
POLICY = RetryPolicy()  # as in production
EVENTS, OTHERS = 3, 4
# Beside a fault that strikes one user's calls: a few steps, since only halves and the pace come in
# between. Beside one that strikes every call: as long as the probes of an open circuit, or of a
# held app, may be apart, and a backoff.
BOUND = 30.0
BOUND_OF_ALL = LONGEST_SECONDS + POLICY.most
# What ends for good with its first answer: everything else is delivered in the end.
FINAL = {"451": "rejected", "400": "rejected", "success-false": "rejected", "error-with-success": "skipped",
         "mixed-404": "rejected", "warning": "skipped"}  # fmt: skip
# In doubt: of one user's calls alone it ends the item, as long as others' pass; of every call it
# holds the app.
IN_DOUBT = {"403-html": "rejected", "403-other": "rejected", "403-size": "rejected"}

# Our key or app: nobody's items can go meanwhile
STOPS_ALL = {"403-key", "404-app", "redirect-item"}


class Clock:
    """Seconds that pass only when they are told to, for everything that delivers."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def ms(self) -> int:
        return int(self.seconds * 1000)

    def ticks(self) -> float:
        return self.seconds


async def run_until_delivered(
    at: Delivering, clock: Clock, leanplum: Leanplum, over_at: float
) -> dict[str, float]:
    """Step on; when nothing can be done, let time pass. When the item of each id was done, in
    seconds.
    """
    begun, over, done = clock.seconds, False, dict[str, float]()
    names = {
        f"{user}-{value}"
        for user in ("ann", *(f"other{n}" for n in range(OTHERS)))
        for value in range(EVENTS)
    }
    while done.keys() != names:
        assert clock.seconds - begun < over_at + 2 * BOUND_OF_ALL, (
            f"never settled: {sorted(names - done.keys())}"
        )
        if clock.seconds - begun >= over_at and not over:
            leanplum.unplan()
            over = True
        if await at.step() == 0:
            clock.seconds += 1.0
            continue
        for name in names - done.keys():
            if (await at.receipt(name)).settled:
                done[name] = clock.seconds - begun
    return done


def run(
    database: str, leanplum: Leanplum, fault: dict[str, Any], over_at: float
) -> tuple[dict[str, float], set[str]]:
    """When each item was settled, and how ann's ended."""
    clock = Clock()
    leanplum.plan(fault)

    async def body(at: Delivering) -> tuple[dict[str, float], set[str]]:
        at.outbox._clock = clock.ms
        for value in range(EVENTS):
            await at.accept("ann", value, now=clock.ms())
            for other in range(OTHERS):
                await at.accept(f"other{other}", value, now=clock.ms())
        done = await run_until_delivered(at, clock, leanplum, over_at)
        return done, {status for status, _ in await at.told("ann", EVENTS)}

    return deliver(database, leanplum, body, policy=POLICY, clock=clock.ms, ticks=clock.ticks)


def check_others(leanplum: Leanplum) -> None:
    assert leanplum.stats()["overlaps"] == 0
    for other in range(OTHERS):
        assert leanplum.values(f"other{other}") == list(range(EVENTS)), (
            "lost, repeated or out of order"
        )


PLANS = [("once", 1, 0.0), ("ten times", 10, 0.0), ("for minutes", None, FAULT_SECONDS)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("times", "over_at"), [plan[1:] for plan in PLANS], ids=[plan[0] for plan in PLANS]
)
@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.sampled(3)
def test_a_fault_of_one_users_calls_loses_nothing_and_keeps_nobody_else_waiting(
    path: Any, leanplum: Leanplum, mode: str, times: int | None, over_at: float
) -> None:
    fault: dict[str, Any] = {"mode": mode, "userId": "ann", "times": times}
    if mode == "slow":
        fault["delay"] = 0.01
    done, ended = run(f"sqlite:///{path}", leanplum, fault, over_at or USED_UP_SECONDS)
    check_others(leanplum)
    if mode in FINAL | IN_DOUBT:
        assert ended <= {(FINAL | IN_DOUBT)[mode], "delivered"}
    else:
        assert ended == {"delivered"}
        assert leanplum.values("ann") == list(range(EVENTS))
    if mode not in STOPS_ALL:
        late = max(at for name, at in done.items() if not name.startswith("ann"))
        assert late <= BOUND, f"others waited {late} s"


@pytest.mark.slow
@pytest.mark.parametrize("mode", sorted(CALL_MODES.keys() - FINAL.keys()))
@pytest.mark.sampled(4)
def test_after_minutes_in_which_every_call_fails_everything_is_delivered_in_order(
    path: Any, leanplum: Leanplum, mode: str
) -> None:
    fault: dict[str, Any] = {"mode": mode, "times": None}
    if mode == "slow":
        fault["delay"] = 0.01
    done, ended = run(f"sqlite:///{path}", leanplum, fault, FAULT_SECONDS)
    assert ended == {"delivered"}
    check_others(leanplum)
    assert leanplum.values("ann") == list(range(EVENTS))
    assert max(done.values()) <= FAULT_SECONDS + BOUND_OF_ALL
    assert leanplum.stats()["calls"] < 1.2 * FAULT_SECONDS, "it was asked far too often meanwhile"
