"""One call in flight for a user: the second is refused or waits, and overlaps are counted (fact
sheet §5).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import httpx

from app.simulator.access import ProfileLocks

from .client import Talk, event

SLOW = 0.3


def at_once(*calls: Callable[[], httpx.Response]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(calls)) as threads:
        return [each.result() for each in [threads.submit(call) for call in calls]]


def test_the_second_call_for_a_user_in_flight_is_refused_with_429(
    configured: Callable[..., Talk],
) -> None:
    leanplum = configured(latency_seconds=SLOW)
    answers = at_once(
        lambda: leanplum.track("ann"), lambda: leanplum.multi(event("ann"), event("bob"))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    text = "Request failed due to concurrent requests to the same profile ID"
    assert refused.json() == {"response": [{"success": False, "error": {"message": text}}]}
    assert leanplum.stats()["overlaps"] == 1
    assert leanplum.count("ann", "Open") == 1


def test_queueing_lets_the_second_call_wait(configured: Callable[..., Talk]) -> None:
    leanplum = configured(latency_seconds=SLOW, lock_users="queue")
    answers = at_once(leanplum.track, leanplum.track, leanplum.track)
    assert [answer.status_code for answer in answers] == [200] * 3
    finished = sorted(request["finishedAt"] for request in leanplum.requests())
    assert all(later - earlier >= SLOW * 0.9 for earlier, later in pairwise(finished))
    assert leanplum.stats()["overlaps"] == 3


def test_calls_for_different_users_run_together(configured: Callable[..., Talk]) -> None:
    leanplum = configured(latency_seconds=SLOW)
    answers = at_once(lambda: leanplum.track("ann"), lambda: leanplum.track("bob"))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert leanplum.stats()["overlaps"] == 0


def test_calls_after_one_another_never_overlap(leanplum: Talk) -> None:
    assert {leanplum.track().status_code for _ in range(20)} == {200}
    assert leanplum.stats()["overlaps"] == 0


def test_a_device_locks_the_user_who_holds_it(configured: Callable[..., Talk]) -> None:
    leanplum = configured(latency_seconds=SLOW)
    leanplum.track("ann", deviceId="d1")
    by_device = {"action": "track", "deviceId": "d1", "event": "Open"}
    answers = at_once(lambda: leanplum.track("ann"), lambda: leanplum.multi(by_device))
    assert sorted(answer.status_code for answer in answers) == [200, 429]


def test_the_lock_holds_through_a_slow_answer(leanplum: Talk) -> None:
    leanplum.plan({"mode": "slow", "delay": SLOW})
    answers = at_once(leanplum.track, leanplum.track)
    assert sorted(answer.status_code for answer in answers) == [200, 429]


def test_a_lock_is_given_back_when_its_holder_fails() -> None:
    async def scenario() -> bool:
        locks = ProfileLocks(queue=False)
        try:
            async with locks.hold({"ann"}):
                raise ValueError
        except ValueError:
            async with locks.hold({"ann"}) as granted:
                return granted

    assert asyncio.run(scenario()) is True
