"""Calls that are refused as a whole in nobody's known words, from a firewall's page to one entry
for a whole batch: the item at fault is found, and the app is held only where there is none.
"""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from typing import Any

import pytest

from app.delivery.verdicts import RetryPolicy
from app.model import Status

from .harness import Delivering, Leanplum, deliver

pytestmark = pytest.mark.slow

POLICY = RetryPolicy()  # as in production
Fault = dict[str, Any]

REFUSALS: list[Fault] = [
    {"mode": "403-html"},
    {"mode": "403-html", "status": 404},
    {"mode": "403-html", "status": 401},
    {"mode": "403-html", "status": 407},
    {"mode": "403-html", "status": 302},
    {"mode": "403-other"},
    {"mode": "403-size"},
    {"mode": "200-refused", "message": "Daily quota spent"},
]
NAMES = [f"{one['mode']} {one.get('status', '')}".strip() for one in REFUSALS]
refusals = pytest.mark.parametrize("refusal", REFUSALS, ids=NAMES)


class Clock:
    """Seconds that pass only when they are told to, for everything that delivers."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def ms(self) -> int:
        return int(self.seconds * 1000)

    def ticks(self) -> float:
        return self.seconds


async def settle(at: Delivering, clock: Clock, true: Callable[[], object], seconds: float) -> float:
    """Step on, and let time pass where nothing can be done, until this is true; how long it
    took.
    """
    begun = clock.seconds
    while not true():
        assert clock.seconds - begun <= seconds, f"not within {seconds} s"
        if await at.step() == 0:
            clock.seconds += 0.25
    return clock.seconds - begun


def run(
    database: str, leanplum: Leanplum, body: Callable[[Delivering, Clock], Any], **options: Any
) -> Any:
    """Run `body` with a delivery whose time stands still."""
    clock = Clock()

    async def with_clock(at: Delivering) -> Any:
        at.outbox._clock = clock.ms
        return await body(at, clock)

    options = {"policy": POLICY, "clock": clock.ms, "ticks": clock.ticks} | options
    return deliver(database, leanplum, with_clock, **options)


def on_behalf_of(refusal: Fault, **more: Any) -> Fault:
    return {**refusal, "times": None, **more}


@refusals
@pytest.mark.sampled(2)
def test_one_item_that_is_blocked_is_found_and_all_others_are_delivered(
    database: str, leanplum: Leanplum, refusal: Fault
) -> None:
    leanplum.plan(on_behalf_of(refusal, contains="user17-1"))

    async def body(at: Delivering, clock: Clock) -> None:
        users = [f"user{number}" for number in range(30)]
        for value in range(3):
            await at.accept_marked(users, value, now=clock.ms())
        took = await settle(at, clock, lambda: at.outbox.queued == 0, 60)
        assert took <= 5.0, f"others waited {took} s"
        for user in users:
            expected = [
                ("delivered", 1),
                ("rejected" if user == "user17" else "delivered", 1),
                ("delivered", 1),
            ]
            assert await at.told(user, 3) == expected
        assert at.metrics.states["default"] == "closed"
        receipt = await at.receipt("user17-1")
        assert refusal["mode"] == "200-refused" or "calls of other users pass" in str(
            receipt.leanplum
        )

    run(database, leanplum, body)
    assert leanplum.values("user3") == [0, 1, 2]
    assert leanplum.values("user17") == [0, 2]
    assert leanplum.stats()["overlaps"] == 0
    assert leanplum.stats()["calls"] <= 1 + 2 * 5 + 2 * 2 + 2 + 4


@pytest.mark.slow
@refusals
@pytest.mark.sampled(4)
def test_where_everything_is_blocked_the_app_is_held_and_probed_and_nothing_is_given_up(
    database: str, leanplum: Leanplum, refusal: Fault
) -> None:
    leanplum.plan(on_behalf_of(refusal))

    async def body(at: Delivering, clock: Clock) -> None:
        users = [f"user{number}" for number in range(120)]
        await at.accept_marked(users, 0, now=clock.ms())
        await at.step()
        assert at.metrics.states["default"] == "held"
        assert leanplum.stats()["calls"] <= 16, (
            "it was asked for in halves although nobody's items pass"
        )
        assert await at.told("user0", 1) in ([("held", 0)], [("accepted", 0)])
        before = leanplum.stats()["calls"]
        await settle(at, clock, lambda: leanplum.stats()["calls"] >= before + 10, 400)
        assert clock.seconds - 1_800_000_000.0 >= 8 * POLICY.held, "one probe for each of the waits"
        assert all(len(call["args"]["data"]) == 1 for call in leanplum.calls()[before:]), (
            "a probe is one item"
        )
        leanplum.unplan()
        await settle(at, clock, lambda: at.outbox.queued == 0, 2 * POLICY.held + 5)
        assert {(await at.receipt(f"{user}-0")).status for user in users} == {Status.DELIVERED}
        assert at.metrics.states["default"] == "closed"

    run(database, leanplum, body)


# One entry for one item is that item's
@pytest.mark.parametrize("refusal", REFUSALS[:-1], ids=NAMES[:-1])
@pytest.mark.sampled(3)
def test_a_blocked_item_of_the_only_user_holds_the_app_until_anothers_passes_and_then_it_is_at_fault(
    database: str, leanplum: Leanplum, refusal: Fault
) -> None:
    leanplum.plan(on_behalf_of(refusal, contains="ann-0"))

    async def body(at: Delivering, clock: Clock) -> None:
        await at.accept_marked(["ann"], 0, now=clock.ms())
        await at.accept_marked(["ann"], 1, now=clock.ms())
        await settle(at, clock, lambda: leanplum.stats()["calls"] == 3, 2 * POLICY.held + 1)
        assert at.metrics.states["default"] == "held"
        assert {status for status, _ in await at.told("ann", 2)} <= {"held", "accepted"}
        await at.accept_marked(["bob"], 0, now=clock.ms())
        took = await settle(at, clock, lambda: leanplum.values("bob") == [0], 20)
        assert took <= 0.5, f"another user's item waited {took} s for somebody else's"
        assert at.metrics.states["default"] == "closed"
        await settle(at, clock, lambda: at.outbox.queued == 0, POLICY.held + 5)
        assert await at.told("ann", 2) == [("rejected", 1), ("delivered", 1)]

    run(database, leanplum, body)


def test_items_of_the_only_user_before_the_blocked_one_are_delivered(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.plan({"mode": "403-html", "contains": "ann-2", "times": None})

    async def body(at: Delivering, clock: Clock) -> None:
        for value in range(4):
            await at.accept_marked(["ann"], value, now=clock.ms())
        await settle(at, clock, lambda: leanplum.values("ann") == [0, 1], 5 * POLICY.held)
        assert {status for status, _ in (await at.told("ann", 4))[2:]} <= {"held", "accepted"}

    run(database, leanplum, body)


@pytest.mark.parametrize("times", [1, 2, 3, 4, 5, 8])
def test_a_block_that_passes_soon_refuses_nothing(
    database: str, leanplum: Leanplum, times: int
) -> None:
    leanplum.plan({"mode": "403-html", "times": times})

    async def body(at: Delivering, clock: Clock) -> None:
        users = [f"user{number}" for number in range(9)]
        await at.accept_marked(users, 0, now=clock.ms())
        await settle(at, clock, lambda: at.outbox.queued == 0, 20 * POLICY.held)
        assert {(await at.receipt(f"{user}-0")).status for user in users} == {Status.DELIVERED}

    run(database, leanplum, body)


@pytest.mark.parametrize("mode", ["403-html", "403-other"])
def test_several_blocked_items_of_several_users_are_all_found(
    database: str, leanplum: Leanplum, mode: str
) -> None:
    bad = {"user7", "user33", "user34"}
    leanplum.plan(*({"mode": mode, "contains": f"{user}-", "times": None} for user in bad))

    async def body(at: Delivering, clock: Clock) -> None:
        users = [f"user{number}" for number in range(60)]
        await at.accept_marked(users, 0, now=clock.ms())
        good = [user for user in users if user not in bad]
        took = await settle(at, clock, lambda: all(leanplum.values(user) for user in good), 60)
        assert took <= 5.0
        for number in range(20):  # others' items that come later
            clock.seconds += 10
            await at.accept_marked([f"later{number}"], 0, now=clock.ms())
            await settle(at, clock, partial(leanplum.values, f"later{number}"), 5)
        assert at.outbox.queued == 0
        assert {(await at.receipt(f"{user}-0")).status for user in bad} == {Status.REJECTED}
        assert at.metrics.states["default"] == "closed"

    run(database, leanplum, body)


def test_a_400_isolates_the_bad_item_of_the_only_user_without_holding_anything(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.plan({"mode": "400", "contains": "ann-1", "times": None})

    async def body(at: Delivering, clock: Clock) -> None:
        for value in range(4):
            await at.accept_marked(["ann"], value, now=clock.ms())
        await settle(at, clock, lambda: at.outbox.queued == 0, 1)
        assert [status for status, _ in await at.told("ann", 4)] == [
            "delivered",
            "rejected",
            "delivered",
            "delivered",
        ]

    run(database, leanplum, body)


def test_a_known_refusal_of_the_key_holds_at_once_also_while_an_item_is_looked_for(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.plan({"mode": "403-html"}, {"mode": "403-key", "times": None})

    async def body(at: Delivering, clock: Clock) -> None:
        await at.accept_marked([f"user{number}" for number in range(20)], 0, now=clock.ms())
        await at.step()
        assert at.metrics.states["default"] == "held"
        assert leanplum.stats()["calls"] == 2
        await at.step()
        assert leanplum.stats()["calls"] == 2, "what a person must mend is not probed at once"

    run(database, leanplum, body)


# --- one entry for a whole batch --------------------------------------------------------------------------------------

NOT_TWICE = RetryPolicy(not_twice=frozenset({"track"}))


@pytest.mark.parametrize(
    "message", ["Rate limit exceeded", "Too Many Requests.", "Daily quota spent"]
)
def test_one_refusal_for_a_whole_batch_loses_no_answer(
    database: str, leanplum: Leanplum, message: str
) -> None:
    """Nothing was done, so nothing becomes unknown, and what is told to wait is no attempt."""
    leanplum.plan({"mode": "200-refused", "message": message, "times": 3})

    async def body(at: Delivering, clock: Clock) -> None:
        for value in range(5):
            await at.accept("ann", value, now=clock.ms())
            await at.accept("bob", value, now=clock.ms())
        await settle(at, clock, lambda: at.outbox.queued == 0, 60)
        assert await at.told("ann", 5) == await at.told("bob", 5) == [("delivered", 1)] * 5

    run(database, leanplum, body, policy=NOT_TWICE)
    assert leanplum.values("ann") == leanplum.values("bob") == list(range(5))
    assert leanplum.stats()["duplicates"] == 0


def test_one_refusal_that_asks_for_fewer_calls_lowers_the_rate(
    database: str, leanplum: Leanplum
) -> None:
    leanplum.plan({"mode": "200-refused", "message": "Rate limit exceeded", "retryAfter": 7.5})

    async def body(at: Delivering, clock: Clock) -> None:
        await at.accept_marked([f"user{number}" for number in range(10)], 0, now=clock.ms())
        await at.step()
        assert await at.told("user0", 1) == [("retrying", 0)]
        took = await settle(at, clock, lambda: at.outbox.queued == 0, 30)
        assert took >= 7.5

    run(database, leanplum, body)


# --- Retry-After ---


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["503", "429"])
@pytest.mark.parametrize(
    ("wish", "least", "most"),
    [
        ("2.75", 2.75, 8.0),
        (lambda: formatdate(time.time() + 40, usegmt=True), 38.0, 46.0),
        (lambda: formatdate(time.time() - 40, usegmt=True), 0.0, 5.0),
        ("soon", 0.0, 5.0),
        ("-1", 0.0, 5.0),
        ("99999999999", 3600.0, 3610.0),
    ],
    ids=["fraction", "date", "date that is past", "nonsense", "negative", "far too long"],
)
@pytest.mark.sampled(2)
def test_retry_after_is_honoured_in_each_form_within_bounds(
    path: Any, leanplum: Leanplum, mode: str, wish: Any, least: float, most: float
) -> None:
    leanplum.plan({"mode": mode, "retryAfter": wish if isinstance(wish, str) else wish()})

    async def body(at: Delivering, clock: Clock) -> None:
        await at.accept("ann", 0, now=clock.ms())
        took = await settle(at, clock, lambda: at.outbox.queued == 0, 4_000)
        assert least <= took <= most

    run(f"sqlite:///{path}", leanplum, body)


@pytest.mark.parametrize("order", ["alone first", "among others"])
def test_while_it_runs_by_itself_nobody_elses_item_waits_for_the_blocked_one(
    database: str, leanplum: Leanplum, order: str
) -> None:
    blocked = {"mode": "403-html", "contains": "bad-0", "times": None}
    leanplum.plan(blocked, {"mode": "slow", "delay": 0.02, "times": None})

    async def body(at: Delivering) -> None:
        async with at.running():
            if order == "alone first":
                await at.accept_marked(["bad"], 0)
                await asyncio.sleep(0.3)
            for value in range(6):
                await at.accept_marked([f"user{number}" for number in range(60)], value)
                if value == 2 and order == "among others":
                    await at.accept_marked(["bad"], 0)
                await asyncio.sleep(0.1)
            for _ in range(500):
                if at.outbox.queued <= 1:
                    break
                await asyncio.sleep(0.01)
            late = [
                receipt.id
                for user in range(60)
                for value in range(6)
                if (receipt := await at.receipt(f"user{user}-{value}")).settled_at is None
                or receipt.settled_at - receipt.accepted_at > 5_000
            ]
            assert late == []

    deliver(database, leanplum, body, policy=POLICY)
    assert leanplum.stats()["overlaps"] == 0
