"""The limit as callers meet it: headers on every answer of a limited call, and 429 with nothing taken (contract §9)."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.callers.store import ALL_SCOPES, KeyStore
from tests.api.talk import EVENT, NDJSON, Talk, problem

Start = Callable[..., Talk]
TRACK = EVENT | {"action": "track"}
STATE = re.compile(r'"caller";r=(\d+);t=(\d+)')


def state(answer: Any) -> tuple[int, int]:
    """Remaining and reset of the RateLimit header."""
    found = STATE.fullmatch(answer.headers["ratelimit"])
    assert found, answer.headers
    return int(found[1]), int(found[2])


def another_key(talk: Talk) -> str:
    gateway = talk.app.state.gateway
    key, _ = KeyStore(gateway.engine).create("other", ALL_SCOPES, None, 0)
    gateway.directory.refresh()
    return key


def test_headers_tell_the_policy_what_is_left_and_when_it_is_full_again(start: Start) -> None:
    talk = start(gateway_rate_per_second=2, gateway_rate_burst=10)
    first, second = talk.event(), talk.batch([TRACK] * 4)
    assert first.headers["ratelimit-policy"] == second.headers["ratelimit-policy"] == '"caller";q=2;w=1'
    assert state(first) == (9, 1)
    assert state(second) in {(5, 3), (5, 2)}


LIMITED: dict[str, Callable[[Talk], Any]] = {
    "accepted": lambda talk: talk.event(),
    "duplicate": lambda talk: [talk.event(EVENT | {"id": "x"}) for _ in range(2)][1],
    "conflict": lambda talk: [talk.event(EVENT | {"id": "x", "value": value}) for value in (1, 2)][1],
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
def test_every_answer_of_a_limited_call_has_the_headers(start: Start, call: Callable[[Talk], Any]) -> None:
    answer = call(start())
    assert answer.headers.get("ratelimit-policy") == '"caller";q=1000;w=1', answer.status_code
    assert state(answer)[0] < 5_000


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
    problem(talk.batch([TRACK] * 6), 429, "rate-limited")
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
    assert talk.event(key=another_key(talk)).status_code == 202


def test_an_address_that_fails_too_often_is_told_to_stop_but_good_keys_behind_it_pass(start: Start) -> None:
    talk = start(gateway_failed_auth_per_minute=5)
    statuses = [talk.event(key="lpgw_nonsense").status_code for _ in range(6)]
    assert statuses == [401] * 5 + [429]
    assert talk.event().status_code == 202
    answer = talk.event(key="lpgw_nonsense")
    problem(answer, 429, "rate-limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 12


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic bHB3Zzo="}], ids=["no key", "another scheme"])
def test_a_call_without_a_key_is_a_failed_authentication_too(start: Start, headers: dict[str, str]) -> None:
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
