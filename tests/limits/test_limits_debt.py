"""A batch that is larger than a bucket, of a client that can't split it, passes and is a debt: the
rate holds.
"""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.limits.buckets import Buckets, Limit
from app.limits.valkey import PREFIX, Valkey
from tests.support.clock import Clock
from tests.support.processes import APP_ID, Process, bearer, serving
from tests.support.valkey import Valkey as Server
from tests.support.valkey import valkey as running

from .limiters import asked


def lending(rate: float = 1, burst: int = 5, name: str = "a") -> Limit:
    return Limit(name, rate, burst, burst, lends=True)


# --- in memory --------------------------------------------------------------------------------------------------------


def test_a_call_larger_than_the_bucket_passes_and_nothing_passes_until_its_debt_is_paid() -> None:
    buckets = Buckets(clock := Clock())
    assert buckets.take((lending(),), 1_000).allowed
    for count in (1, 5, 1_000):
        refused = buckets.take((lending(),), count)
        assert (refused.allowed, refused.deficits) == (False, (1_000,))
    assert buckets.take((lending(),), 1).wait(1) == pytest.approx(996)
    assert buckets.take((lending(),), 1_000).wait(1_000) == pytest.approx(996)
    clock.now += 995.9
    assert not buckets.take((lending(),), 1_000).allowed
    clock.now += 0.1
    assert buckets.take((lending(),), 1_000).allowed


def test_only_what_is_larger_than_the_bucket_is_lent() -> None:
    buckets = Buckets(Clock())
    assert buckets.take((lending(),), 4).allowed
    assert not buckets.take((lending(),), 5).allowed
    assert not buckets.take((lending()._replace(lends=False),), 6).allowed
    assert buckets.take((lending(),), 6).allowed


def test_a_debt_is_paid_at_the_rate_of_the_day_and_a_smaller_bucket_does_not_cancel_it() -> None:
    buckets = Buckets(clock := Clock())
    buckets.take((lending(rate=10, burst=100),), 1_100)
    smaller = lending(rate=1, burst=10)
    refused = buckets.take((smaller,), 1)
    assert (refused.allowed, refused.deficits) == (False, (1_010,)), (
        "1,000 of debt, and an empty bucket"
    )
    faster = lending(rate=1_000, burst=10)
    assert buckets.take((faster,), 1).wait(1) == pytest.approx(1.001)
    clock.now += 1.01
    assert buckets.take((faster,), 1).allowed


def test_a_debt_to_one_limit_of_two_is_a_debt_alone() -> None:
    mine, ours = lending(rate=1, burst=5, name="mine"), lending(rate=1, burst=2_000, name="ours")
    buckets = Buckets(Clock())
    assert buckets.take((mine, ours), 1_000).deficits == [1_000, 1_000]
    assert not buckets.take((mine, ours), 1).allowed
    assert buckets.take((lending(name="other"), ours), 1).allowed


def test_a_share_of_a_bucket_lends_too_however_small_it_is() -> None:
    share = Limit("a", 0.5, 0.5, 1, lends=True)
    buckets = Buckets(Clock())
    assert buckets.take((share,), 1_000).allowed
    assert buckets.take((share,), 1).wait(1) == pytest.approx(2_000)


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 60)), max_size=40),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_over_time_no_more_passes_than_the_rate_allows_and_one_batch(
    wanted: list[tuple[float, int]], rate: int, burst: int
) -> None:
    buckets, mine = Buckets(clock := Clock()), lending(rate, burst)
    began, passed, largest = clock.now, 0, 0
    for pause, count in wanted:
        clock.now += pause
        largest = max(largest, count)
        passed += count if buckets.take((mine,), count).allowed else 0
        assert passed <= burst + rate * (clock.now - began) + largest + 1e-3


def test_a_bucket_that_was_made_smaller_is_full_again_as_soon_as_it_says() -> None:
    buckets = Buckets(clock := Clock())
    buckets.take((lending(rate=1_000, burst=5_000),), 5_000)
    smaller = lending(rate=1, burst=10)
    for limits in ((smaller,), (smaller, lending(name="other"))):
        assert buckets.take(limits, 1).wait(1) == pytest.approx(1)
        clock.now += 1
        assert buckets.take(limits, 1).allowed


# --- in Valkey --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as found:
        yield found


HISTORY = [  # seconds since the one before, items, rate, burst, whether it lends
    (0, 4, 10, 20, False), (0, 30, 10, 20, False), (0, 30, 10, 20, True), (0.1, 1, 10, 20, True), (0, 30, 10, 20, True),
    (0, 1, 1, 5, True), (1, 0, 1, 5, True), (1.5, 40, 10, 5, True), (0, 1, 1_000, 5, False), (1, 1_000, 1_000, 5, True),
    (0.5, 1, 1_000, 500, True), (0.5, 900, 1_000, 500, True), (2, 500, 1, 500, False), (0, 1, 1, 3, False),
    (1, 1, 1, 3, False), (0, 1, 1, 3, False), (0, 1, 1, 2, True), (1, 9, 1, 2, True),
]  # fmt: skip


def test_valkey_lends_and_is_paid_as_memory_does(server: Server) -> None:
    began = microseconds = 1_700_000_000_000_000
    buckets = Buckets(clock := Clock(0.0))

    async def compare(shared: Valkey) -> list[bool]:
        nonlocal microseconds
        allowed = list[bool]()
        for pause, count, rate, burst, lends in HISTORY:
            microseconds += round(pause * 1e6)
            clock.now = (microseconds - began) / 1e6
            both = tuple(
                Limit(name, rate, size, size, lends)
                for name, size in (("mine", burst), ("ours", burst + 20))
            )
            for limits in (both[:1], both):
                here, there = (
                    buckets.take(limits, count),
                    (await shared.take([(limits, count)], microseconds))[0],
                )
                assert there.allowed == here.allowed, (pause, count, rate, burst)
                assert there.deficits == pytest.approx(here.deficits, abs=1e-4)
                allowed.append(here.allowed)
        return allowed

    assert set(asked(server.url, compare)) == {True, False}


def test_a_debt_is_kept_until_the_bucket_is_full_and_no_longer(server: Server) -> None:
    async def lent(shared: Valkey) -> None:
        assert (await shared.take([((lending(rate=10, burst=5, name="lent"),), 1_000)]))[0].allowed

    asked(server.url, lent)
    with server.client() as client:
        assert 95_000 < client.pttl(f"{PREFIX}lent") <= 100_001


def test_a_bucket_that_an_older_process_has_written_is_read(server: Server) -> None:
    with server.client() as client:
        client.set(f"{PREFIX}old", "15 1700000000000000")

    async def looked(shared: Valkey) -> Any:
        return (
            await shared.take(
                [((lending(rate=1, burst=20, name="old"),), 1)], 1_700_000_000_000_000
            )
        )[0]

    assert asked(server.url, looked).deficits == [16]


# --- through the server -----------------------------------------------------------------------------------------------

SCOPES = ("sdk", "events:write", "users:write")
EVENT = {"action": "track", "userId": "u", "event": "E"}


@pytest.fixture(scope="module", params=["memory", "Valkey"])
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    with ExitStack() as stack:
        more = {"GATEWAY_LOG_LEVEL": "error"}
        if request.param == "Valkey":
            more["GATEWAY_SHARED_LIMITS_URL"] = stack.enter_context(running()).url
            more["GATEWAY_SHARED_LIMITS_TIMEOUT_SECONDS"] = "5"
        folder = tmp_path_factory.mktemp("debt")
        yield stack.enter_context(serving(folder, "http://127.0.0.1:9", "--no-delivery", **more))


def sdk(gateway: Process, key: str, entries: int) -> httpx.Response:
    call = {"appId": APP_ID, "clientKey": key, "action": "multi", "data": [EVENT] * entries}
    return gateway.http.post("/api", json=call)


def sdk_query(gateway: Process, key: str, entries: int) -> httpx.Response:
    data = json.dumps([EVENT] * entries)
    return gateway.http.post(f"/api-batch?appId={APP_ID}&clientKey={key}", data={"data": data})


def segment(gateway: Process, key: str, messages: int) -> httpx.Response:
    batch = [{"type": "track", "userId": "u", "event": "E"}] * messages
    basic = "Basic " + base64.b64encode(f"{key}:".encode()).decode()
    return gateway.http.post(
        "/segment/v1/batch", json={"batch": batch}, headers={"Authorization": basic}
    )


ENDPOINTS = {"JSON to /api": sdk, "a form to /api-batch": sdk_query, "Segment": segment}


@pytest.mark.parametrize("send", ENDPOINTS.values(), ids=ENDPOINTS)
def test_of_five_batches_larger_than_the_bucket_one_passes(gateway: Process, send: Any) -> None:
    _, key = gateway.create_key(*SCOPES, ratePerSecond=1, rateBurst=5)
    answers = [send(gateway, key, 1_000) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 429, 429, 429, 429]
    assert answers[0].headers["ratelimit-policy"] == '"caller";q=1;w=1'
    assert answers[0].headers["ratelimit"] == '"caller";r=0;t=1000'
    assert 985 <= int(answers[-1].headers["retry-after"]) <= 996
    assert (
        gateway.call(
            "POST", "/v1/events", json={"userId": "u", "event": "E"}, headers=bearer(key)
        ).status_code
        == 429
    )


@pytest.mark.parametrize("send", ENDPOINTS.values(), ids=ENDPOINTS)
def test_after_retry_after_the_debt_is_paid_and_the_next_batch_passes(
    gateway: Process, send: Any
) -> None:
    _, key = gateway.create_key(*SCOPES, ratePerSecond=500, rateBurst=10)
    assert send(gateway, key, 600).status_code == 200
    began = time.monotonic()
    refused = send(gateway, key, 600)
    assert refused.status_code == 429
    wait = int(refused.headers["retry-after"])
    assert 1 <= wait <= 2
    time.sleep(wait)
    assert send(gateway, key, 600).status_code == 200
    assert time.monotonic() - began >= 590 / 500 - 0.2


def test_a_batch_that_the_bucket_would_hold_waits_until_it_does(gateway: Process) -> None:
    _, key = gateway.create_key(*SCOPES, ratePerSecond=1, rateBurst=100)
    assert sdk(gateway, key, 60).status_code == 200
    refused = sdk(gateway, key, 60)
    assert refused.status_code == 429
    assert 15 <= int(refused.headers["retry-after"]) <= 20
    assert segment(gateway, key, 101).status_code == 200, (
        "what is larger than the bucket needs one item"
    )


def test_at_v1_a_batch_larger_than_the_bucket_never_passes(gateway: Process) -> None:
    _, key = gateway.create_key(*SCOPES, ratePerSecond=1, rateBurst=5)
    answer = gateway.call("POST", "/v1/batch", json={"items": [EVENT] * 6}, headers=bearer(key))
    assert answer.status_code == 429
    assert "which is 5; split them" in answer.json()["detail"]
