"""The limit as callers meet it: headers on every answer of a limited call, and 429 with nothing
taken.
"""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.apps import AppRegistry
from app.callers.store import ALL_SCOPES, KeyStore
from app.compat.segment.request import PATHS as SEGMENT_PATHS
from app.http.rate_limiting import RateLimiter, network
from app.limits.buckets import Buckets, LocalLimiter, RatePolicies
from app.model import Scope
from tests.support.clock import Clock
from tests.support.gateway import EVENT, NDJSON, Talk, problem

Start = Callable[..., Talk]
TRACK = EVENT | {"action": "track"}
STATE = re.compile(r'"caller";r=(\d+);t=(\d+)')


def state(answer: Any) -> tuple[int, int]:
    """Remaining and reset of the RateLimit header."""
    found = STATE.fullmatch(answer.headers["ratelimit"])
    assert found, answer.headers
    return int(found[1]), int(found[2])


def key_of(
    talk: Talk, name: str = "other", scopes: Any = ALL_SCOPES, apps: Any = None, **limits: Any
) -> str:
    gateway = talk.app.services
    key, _ = KeyStore(gateway.engine, gateway.macs).create(name, scopes, apps, 0, **limits)
    talk.do(gateway.directory.refresh)
    return key


def test_headers_tell_the_policy_what_is_left_and_when_it_is_full_again(start: Start) -> None:
    talk = start(gateway_rate_per_second=2, gateway_rate_burst=10)
    first, second = talk.event(), talk.batch([TRACK] * 4)
    assert (
        first.headers["ratelimit-policy"]
        == second.headers["ratelimit-policy"]
        == '"caller";q=2;w=1'
    )
    assert state(first) == (9, 1)
    assert state(second) in {(5, 3), (5, 2)}


LIMITED: dict[str, Callable[[Talk], Any]] = {
    "accepted": lambda talk: talk.event(),
    "duplicate": lambda talk: [talk.event(EVENT | {"id": "x"}) for _ in range(2)][1],
    "conflict": lambda talk: [talk.event(EVENT | {"id": "x", "value": value}) for value in (1, 2)][
        1
    ],
    "invalid": lambda talk: talk.event({}),
    "malformed": lambda talk: talk.event(b"{"),
    "too large": lambda talk: talk.event(b" " * 6_000_000),
    "another type": lambda talk: talk.event(headers={"Content-Type": "text/plain"}),
    "a routed write": lambda talk: talk.post("/v1/users/u/states", {"state": ""}),
    "a routed write, invalid": lambda talk: talk.post("/v1/users/u/states", {}),
    "batch": lambda talk: talk.batch([TRACK, {}]),
    "batch of invalid items": lambda talk: talk.batch([{}]),
    "batch, malformed": lambda talk: talk.batch(b"{"),
    "batch, empty": lambda talk: talk.batch([]),
    "batch, too large": lambda talk: talk.batch(b" " * 6_000_000),
    "batch, too many": lambda talk: talk.batch([{}] * 1_001),
    "batch, another type": lambda talk: talk.batch([TRACK], headers={"Content-Type": "text/plain"}),
}


@pytest.mark.parametrize("call", LIMITED.values(), ids=LIMITED.keys())
def test_every_answer_of_a_limited_call_has_the_headers(
    start: Start, call: Callable[[Talk], Any]
) -> None:
    answer = call(start())
    assert answer.headers.get("ratelimit-policy") == '"caller";q=1000;w=1', answer.status_code
    assert state(answer)[0] < 5_000


def test_every_call_with_a_key_is_limited_whatever_it_asks_for(start: Start) -> None:
    """A call that is forbidden, too: it costs a record in the audit."""
    talk = start(gateway_rate_per_second=1, gateway_rate_burst=10**4)
    useless = key_of(talk, scopes=frozenset({Scope.SDK}), apps=["elsewhere"])
    for operation in operations(talk):
        for key in ("", useless):
            answer = talk.call(*operation, headers={"Content-Type": "application/json"}, key=key)
            assert STATE.fullmatch(answer.headers.get("ratelimit", "")), (
                operation,
                answer.status_code,
            )
    for path in ("/api", "/api-batch"):
        assert (
            "ratelimit"
            in talk.post(f"{path}?appId=none&clientKey={talk.key}", {}, key=None).headers
        )
    for path in SEGMENT_PATHS:
        for key in ("", useless):
            assert "ratelimit" in talk.post(path, b"{}", key=key).headers


def test_with_a_spent_limit_every_call_is_refused(start: Start) -> None:
    talk = start(gateway_rate_per_second=1, gateway_rate_burst=1)
    for method, path in operations(talk):
        for _ in range(10):  # what a second has brought back is spent by the first
            answer = talk.call(method, path, headers={"Content-Type": "application/json"})
            if answer.status_code == 429:
                break
        problem(answer, 429, "rate-limited")


def operations(talk: Talk) -> list[tuple[str, str]]:
    """Every operation that takes a key, as method and path."""
    paths = talk.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), re.sub(r"\{\w+\}", "1", path))
        for path, methods in paths.items()
        for method, told in methods.items()
        if told["tags"] != ["Operations"]
    ]


def test_pages_and_unknown_callers_have_no_limit_to_tell(start: Start) -> None:
    talk = start()
    for answer in (talk.get("/livez"), talk.get("/docs"), talk.event(key=None)):
        assert "ratelimit" not in answer.headers


def test_a_spent_limit_is_a_problem_with_retry_after_and_nothing_is_taken(start: Start) -> None:
    talk = start(gateway_rate_per_second=1, gateway_rate_burst=2)
    assert [talk.event().status_code for _ in range(2)] == [202, 202]
    answer = talk.event()
    problem(answer, 429, "rate-limited")
    assert answer.headers["retry-after"] == "1"
    assert state(answer)[0] == 0
    assert talk.items() == 2


@pytest.mark.parametrize("kind", ["JSON", "NDJSON"])
def test_a_batch_that_fits_only_in_part_is_refused_whole(start: Start, kind: str) -> None:
    talk = start(gateway_rate_per_second=1, gateway_rate_burst=5)

    def send(count: int) -> Any:
        if kind == "JSON":
            return talk.batch([TRACK] * count)
        line = b'{"action":"track","userId":"u","event":"e"}\n'
        return talk.batch(line * count, headers={"Content-Type": NDJSON})

    assert send(3).status_code == 202
    answer = send(4)
    problem(answer, 429, "rate-limited")
    assert (int(answer.headers["retry-after"]), state(answer)[0]) == (2, 2)
    assert talk.items() == 3
    assert send(2).status_code == 202


def test_a_batch_larger_than_the_burst_never_passes_and_costs_nothing(start: Start) -> None:
    talk = start(gateway_rate_per_second=1, gateway_rate_burst=5)
    told = problem(talk.batch([TRACK] * 6), 429, "rate-limited")
    assert told["detail"] == "6 items exceed the burst of this key's limit, which is 5; split them."
    assert talk.batch([TRACK] * 5).status_code == 202


def test_waiting_as_long_as_retry_after_says_is_enough(start: Start) -> None:
    talk = start(gateway_rate_per_second=4, gateway_rate_burst=4)
    talk.batch([TRACK] * 4)
    answer = talk.batch([TRACK] * 3)
    assert answer.status_code == 429
    time.sleep(int(answer.headers["retry-after"]))
    assert talk.batch([TRACK] * 3).status_code == 202


def test_each_key_has_a_limit_of_its_own(start: Start) -> None:
    talk = start(gateway_rate_per_second=1, gateway_rate_burst=1)
    assert [talk.event().status_code, talk.event().status_code] == [202, 429]
    assert talk.event(key=key_of(talk)).status_code == 202


def test_a_key_has_limits_of_its_own_where_it_is_given_some(start: Start) -> None:
    talk = start(gateway_rate_per_second=10, gateway_rate_burst=20)
    answers = {
        name: talk.event(key=key_of(talk, name, **limits))
        for name, limits in {
            "both": {"rate_per_second": 3, "rate_burst": 4},
            "rate": {"rate_per_second": 3},
            "burst": {"rate_burst": 4},
        }.items()
    }
    told = {
        name: (answer.headers["ratelimit-policy"][9:], state(answer)[0])
        for name, answer in answers.items()
    }
    assert told == {"both": ("q=3;w=1", 3), "rate": ("q=3;w=1", 5), "burst": ("q=10;w=1", 3)}


def test_a_limit_that_is_changed_is_in_force_at_once(start: Start) -> None:
    talk = start()
    key = key_of(talk, rate_per_second=1, rate_burst=1)
    key_id = next(
        one["id"] for one in talk.get("/v1/keys").json()["keys"] if one["name"] == "other"
    )
    assert [talk.event(key=key).status_code for _ in range(2)] == [202, 429]
    talk.post(f"/v1/keys/{key_id}", {"ratePerSecond": 1000, "rateBurst": 2000}, method="PATCH")
    answer = talk.batch([TRACK] * 500, key=key)
    assert (answer.status_code, answer.headers["ratelimit-policy"]) == (202, '"caller";q=1000;w=1')
    talk.post(f"/v1/keys/{key_id}", {"ratePerSecond": 1, "rateBurst": 10}, method="PATCH")
    assert talk.event(key=key).status_code == 429


APPS = """
[apps.shop]
app_id = "app_1"
production_key = "p"
rate_per_second = 1
rate_burst = {burst}
[apps.game]
app_id = "app_2"
production_key = "p"
rate_per_second = 2
[apps.free]
app_id = "app_3"
production_key = "p"
"""


@pytest.fixture
def with_apps(start: Start, tmp_path: Path) -> Talk:
    file = tmp_path / "apps.toml"
    file.write_text(APPS.format(burst=6))
    nothing: dict[str, Any] = {"leanplum_app_id": None, "leanplum_production_key": None}
    return start(
        gateway_apps_file=file, gateway_rate_per_second=10, gateway_rate_burst=50, **nothing
    )


def of(app: str) -> dict[str, str]:
    return {"X-Leanplum-App": app}


def test_the_headers_tell_the_limit_of_the_app_beside_the_callers(with_apps: Talk) -> None:
    told = {app: with_apps.event(headers=of(app)).headers for app in ("shop", "game", "free")}
    policies = {app: headers["ratelimit-policy"] for app, headers in told.items()}
    assert policies == {
        "shop": '"caller";q=10;w=1, "app";q=1;w=1',
        "game": '"caller";q=10;w=1, "app";q=2;w=1',
        "free": '"caller";q=10;w=1',
    }
    assert re.fullmatch(r'"caller";r=49;t=1, "app";r=5;t=1', told["shop"]["ratelimit"])
    assert re.search(r'"app";r=9;t=1$', told["game"]["ratelimit"]), (
        "5 seconds' worth, as the gateway's own burst is"
    )
    assert "app" not in told["free"]["ratelimit"]


def test_all_callers_of_an_app_share_its_limit_and_what_it_refuses_costs_them_nothing(
    with_apps: Talk,
) -> None:
    other = key_of(with_apps)
    assert with_apps.batch([TRACK] * 5, headers=of("shop")).status_code == 202
    answer = with_apps.batch([TRACK] * 3, headers=of("shop"), key=other)
    detail = problem(answer, 429, "rate-limited")["detail"]
    assert (
        detail
        == "3 items would exceed the limit that all callers of the app share of 1 per second."
    )
    assert (answer.headers["retry-after"], '"caller";r=50;t=0' in answer.headers["ratelimit"]) == (
        "2",
        True,
    )
    assert with_apps.event(headers=of("shop"), key=other).status_code == 202
    assert with_apps.batch([TRACK] * 5, headers=of("free"), key=other).status_code == 202


def test_what_the_callers_limit_refuses_costs_the_app_nothing(with_apps: Talk) -> None:
    slow = key_of(with_apps, "slow", rate_per_second=1, rate_burst=1)
    assert with_apps.event(headers=of("shop"), key=slow).status_code == 202
    answers = [with_apps.event(headers=of("shop"), key=slow) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {429}
    assert "this key's limit of 1 per second" in answers[0].json()["detail"]
    assert with_apps.batch([TRACK] * 5, headers=of("shop")).status_code == 202


def test_a_batch_larger_than_the_apps_burst_is_told_so(with_apps: Talk) -> None:
    answer = with_apps.batch([TRACK] * 7, headers=of("shop"))
    assert "which is 6; split them." in problem(answer, 429, "rate-limited")["detail"]


def test_an_apps_limit_that_is_changed_in_the_file_is_in_force_within_a_second(
    with_apps: Talk, tmp_path: Path
) -> None:
    (tmp_path / "apps.toml").write_text(APPS.format(burst=30))
    deadline = time.monotonic() + 5
    while with_apps.batch([TRACK] * 20, headers=of("shop")).status_code != 202:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_sdk_call_larger_than_the_burst_counts_as_one_that_fills_it(start: Start) -> None:
    """An SDK can't split what it sends."""
    talk = start(gateway_rate_per_second=1, gateway_rate_burst=5)
    entries = [{"action": "track", "userId": "u", "event": "e"}] * 8
    answers = [
        talk.post(f"/api?action=multi&clientKey={talk.key}", {"data": entries}, key=None)
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert state(answers[0])[0] == 0


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_of_an_ipv6_address_the_network_counts_that_one_host_is_given(
    address: str, counted: str
) -> None:
    assert network(address) == counted


def test_failures_from_very_many_addresses_leave_little_behind() -> None:
    clock = Clock()
    buckets = Buckets(clock)

    async def fail() -> None:
        apps = AppRegistry(lambda: {})
        limiter = RateLimiter(
            LocalLimiter(buckets), RatePolicies(1, 1), apps, failures_per_minute=50
        )
        for number in range(50_000):
            clock.now += 0.001
            await limiter.count_failure(f"2001:db8:{number >> 8:x}:{number & 255:x}::1")

    asyncio.run(fail())
    assert len(buckets) <= 12_000


def test_an_address_that_fails_too_often_is_told_to_stop_but_good_keys_behind_it_pass(
    start: Start,
) -> None:
    talk = start(gateway_failed_auth_per_minute=5)
    statuses = [talk.event(key="lpgw_nonsense").status_code for _ in range(6)]
    assert statuses == [401] * 5 + [429]
    assert talk.event().status_code == 202
    answer = talk.event(key="lpgw_nonsense")
    problem(answer, 429, "rate-limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 12


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Basic bHB3Zzo="}], ids=["no key", "another scheme"]
)
def test_a_call_without_a_key_is_a_failed_authentication_too(
    start: Start, headers: dict[str, str]
) -> None:
    """Else an address may knock as often as it likes without being told to stop."""
    talk = start(gateway_failed_auth_per_minute=5)
    statuses = [talk.event(key=None, headers=headers).status_code for _ in range(6)]
    assert statuses == [401] * 5 + [429]


def test_reading_a_receipt_and_the_routed_writes_count_failures_as_well(start: Start) -> None:
    talk = start(gateway_failed_auth_per_minute=4)
    for _ in range(2):
        talk.get("/v1/receipts/x", key="nonsense")
        talk.post("/v1/users/u/states", {"state": ""}, key="nonsense")
    assert talk.get("/v1/receipts/x", key="nonsense").status_code == 429


def test_after_a_pause_an_address_may_try_again(start: Start) -> None:
    talk = start(gateway_failed_auth_per_minute=60)
    while talk.event(key="nonsense").status_code == 401:
        pass
    time.sleep(1.05)
    assert talk.event().status_code == 202


def test_calls_with_a_good_key_are_no_failures(start: Start) -> None:
    talk = start(gateway_failed_auth_per_minute=2)
    assert {talk.event().status_code for _ in range(10)} == {202}
