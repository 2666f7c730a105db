"""Segment's protocol at /segment/v1: what libraries send, and what they get back."""

import gzip
import json
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from app.compat.segment.request import PATHS
from app.model import Scope
from tests.support.gateway import CANARY, Talk
from tests.support.segment import TRACK, basic, post

Start = Callable[..., Talk]
MESSAGES: dict[str, dict[str, Any]] = {
    "track": TRACK,
    "identify": {"userId": "ann", "traits": {"plan": "pro"}},
    "page": {"userId": "ann", "name": "Home"},
    "screen": {"userId": "ann", "name": "Home"},
    "group": {"userId": "ann", "groupId": "g"},
    "alias": {"userId": "ann", "previousId": "p"},
}
EACH = [{"type": kind, **message} for kind, message in MESSAGES.items()]
ACTIONS = [
    "track",
    "setUserAttributes",
    "advance",
    "advance",
    "setUserAttributes",
    "setUserAttributes",
]
SUCCESS = {"success": True}


@pytest.fixture
def talk(start: Start) -> Talk:
    return start()


def actions(talk: Talk) -> list[str]:
    return [action for (action,) in talk.rows("SELECT action FROM items ORDER BY seq")]


def scoped(talk: Talk, *scopes: Scope) -> str:
    """A new key with these scopes."""
    gateway = talk.app.services
    key, _ = gateway.keys.create("backend", frozenset(scopes), None, 0)
    talk.do(gateway.directory.refresh)
    return str(key)


# --- every call -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "action"), [*zip(MESSAGES, ACTIONS, strict=True)])
def test_each_kind_of_message_is_accepted_durably_by_its_name_and_its_letter(
    talk: Talk, kind: str, action: str
) -> None:
    for path in (kind, kind[0]):
        answer = post(talk, path, MESSAGES[kind])
        assert (answer.status_code, answer.json()) == (200, SUCCESS)
    assert actions(talk) == [action, action]


@pytest.mark.parametrize("path", ["batch", "b", "import"])
def test_a_batch_is_accepted_in_its_order(talk: Talk, path: str) -> None:
    answer = post(talk, path, {"batch": EACH})
    assert (answer.status_code, answer.json()) == (200, SUCCESS)
    assert actions(talk) == ACTIONS
    assert post(talk, path, {"batch": []}).json() == SUCCESS


def test_the_path_says_what_a_message_is_whatever_its_type_says(talk: Talk) -> None:
    assert post(talk, "page", {**MESSAGES["page"], "type": "track"}).json() == SUCCESS
    assert actions(talk) == ["advance"]


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "zstd", None])
def test_compressed_bodies_are_taken(talk: Talk, encoding: str | None) -> None:
    import zstandard

    body = orjson.dumps({"batch": EACH})
    packed = {None: body, "zstd": zstandard.compress(body)}.get(encoding, gzip.compress(body))
    headers = {} if encoding is None else {"Content-Encoding": encoding}
    assert post(talk, "batch", packed, headers=headers).json() == SUCCESS
    assert len(actions(talk)) == 6


@pytest.mark.parametrize(
    "media", ["application/json", "text/plain", "application/json; charset=utf-8", "x"]
)
def test_the_content_type_does_not_matter(talk: Talk, media: str) -> None:
    assert post(talk, "t", TRACK, headers={"Content-Type": media}).json() == SUCCESS


# --- who calls --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["track", "batch"])
def test_the_key_may_come_in_five_ways(talk: Talk, path: str) -> None:
    body = TRACK if path == "track" else {"batch": EACH[:1]}
    ways: list[tuple[dict[str, str], dict[str, str]]] = [
        (basic(talk.key), {}),
        ({"Authorization": f"Bearer {talk.key}"}, {}),
        ({"X-API-Key": talk.key}, {}),
        ({}, {"writeKey": talk.key}),
        (basic(talk.key), {"writeKey": "another"}),
    ]
    for headers, more in ways:
        assert post(talk, path, {**body, **more}, key=None, headers=headers).json() == SUCCESS


@pytest.mark.parametrize(
    "headers",
    [
        {}, basic("lpgw_wrong"), basic(""), {"Authorization": "Basic %%%"}, {"Authorization": "Basic"},
        {"Authorization": "Digest x"}, {"X-API-Key": "wrong"}, {"Authorization": "Basic /w=="},
    ],
)  # fmt: skip
def test_a_bad_key_is_401(talk: Talk, headers: dict[str, str]) -> None:
    answer = post(talk, "track", {**TRACK, "writeKey": 5}, key=None, headers=headers)
    found = answer.json()
    assert (answer.status_code, found["success"], found["code"]) == (401, False, "unauthorized")
    assert found["message"]
    assert talk.items() == 0


@pytest.mark.parametrize(
    ("scope", "kinds"),
    [
        (Scope.EVENTS_WRITE, {"track", "page", "screen"}),
        (Scope.USERS_WRITE, {"identify", "group", "alias"}),
    ],
)
def test_each_kind_of_message_needs_the_scope_of_its_action(
    talk: Talk, scope: Scope, kinds: set[str]
) -> None:
    key = scoped(talk, scope)
    assert {
        kind for kind in MESSAGES if post(talk, kind, MESSAGES[kind], key=key).status_code == 200
    } == kinds
    answer = post(talk, "batch", {"batch": EACH}, key=key)
    assert answer.status_code == 200
    assert [EACH[one["index"]]["type"] for one in answer.json()["rejected"]] == [
        k for k in MESSAGES if k not in kinds
    ]
    assert {one["code"] for one in answer.json()["rejected"]} == {"forbidden"}
    assert len(talk.rows("SELECT 1 FROM items")) == 6


def test_a_key_with_neither_scope_is_403(talk: Talk) -> None:
    key = scoped(talk, Scope.RECEIPTS_READ, Scope.SDK)
    for path, body in (("track", TRACK), ("batch", {"batch": EACH})):
        answer = post(talk, path, body, key=key)
        assert (answer.status_code, answer.json()["success"]) == (403, False)
    assert talk.items() == 0


@pytest.mark.parametrize("parameter", ["writeKey", "api_key"])
def test_a_key_in_the_address_is_refused_and_not_repeated(talk: Talk, parameter: str) -> None:
    answer = post(talk, f"track?{parameter}={talk.key}", TRACK)
    found = answer.json()
    assert (answer.status_code, found["success"], found["code"]) == (400, False, "key-in-url")
    assert talk.key not in answer.text
    assert talk.items() == 0


def test_the_audit_says_who_sent_what_kind_of_call_about_whom(talk: Talk) -> None:
    post(talk, "batch", {"batch": EACH[:2]}, headers={"X-Request-ID": "two"})
    post(talk, "track", {**TRACK, "userId": "o'hara"}, headers={"X-Request-ID": "bad"})
    (two,), (bad,) = talk.audit("two"), talk.audit("bad")
    assert two["api"]["operation"] == "POST /segment/v1/batch"
    assert two["unmapped"]["user"] == talk.app.services.pseudonyms.of("default", "uann")
    assert two["unmapped"]["actions"] == {"track": 1, "setUserAttributes": 1}
    assert (bad["api"]["operation"], bad["status_code"]) == ("POST /segment/v1/track", "400")
    assert "ann" not in repr([two, bad])


# --- users who were erased --------------------------------------------------------------------------------------------


def test_messages_of_an_erased_user_are_refused_and_their_neighbours_are_not(start: Start) -> None:
    talk = start(leanplum_development_key="dev_sandbox")
    assert talk.call("DELETE", "/v1/users/ann").status_code == 202
    alone = post(talk, "track", TRACK)
    assert (alone.status_code, alone.json()["code"]) == (403, "forbidden")
    assert post(talk, "batch", {"batch": EACH[:5]}).status_code == 403
    found = post(
        talk, "batch", {"batch": [EACH[0], {**EACH[0], "userId": "bob"}, {"type": "merge"}]}
    )
    assert (found.status_code, found.json()["accepted"]) == (200, 1)
    assert [(one["index"], one["code"]) for one in found.json()["rejected"]] == [
        (0, "forbidden"),
        (2, "validation"),
    ]
    assert talk.rows("SELECT subject FROM items ORDER BY seq") == [("uann",), ("ubob",)]


# --- repeats ----------------------------------------------------------------------------------------------------------


def test_a_message_that_comes_again_is_taken_once_and_the_first_one_counts(talk: Talk) -> None:
    for value in (1, 1, 2):
        message = {
            **TRACK,
            "messageId": "m 1",
            "properties": {"value": value},
            "sentAt": f"2023-01-0{value}T00:00:00Z",
        }
        assert post(talk, "track", message).json() == SUCCESS
        assert post(talk, "batch", {"batch": [{"type": "track", **message}] * 2}).json() == SUCCESS
    assert talk.items() == 1
    assert '"value":1' in talk.rows("SELECT body FROM items")[0][0]


def test_the_receipt_is_found_by_the_message_id(talk: Talk) -> None:
    post(talk, "track", {**TRACK, "messageId": "m-1"})
    assert talk.get("/v1/receipts/m-1").json()["action"] == "track"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff", b"[" * 5000])
@pytest.mark.parametrize("path", ["track", "batch"])
def test_what_cannot_be_read_is_400(talk: Talk, path: str, body: bytes) -> None:
    answer = post(talk, path, body)
    found = answer.json()
    assert (answer.status_code, found["success"], found["code"]) == (400, False, "malformed")


@pytest.mark.parametrize("batch", [None, {}, "x", 5])
def test_a_batch_that_is_no_list_is_400(talk: Talk, batch: Any) -> None:
    assert post(talk, "batch", {"batch": batch}).status_code == 400


def test_a_message_that_breaks_rules_is_400_and_told_without_its_values(talk: Talk) -> None:
    answer = post(talk, "identify", {"userId": f"o'{CANARY}", "traits": {"a": CANARY}})
    found = answer.json()
    assert answer.status_code == 400
    assert (found["success"], found["code"]) == (False, "validation")
    assert found["message"].startswith("/userId: ")
    assert [one["pointer"] for one in found["errors"]] == ["/userId"]
    assert CANARY not in answer.text


def test_a_bad_message_harms_no_neighbour_and_is_told_everywhere(talk: Talk, capfd: Any) -> None:
    bad = [
        {"type": "track", "userId": "o'hara", "event": "E", "messageId": "m-2"},
        {"type": "merge"},
        5,
    ]
    answer = post(
        talk, "batch", {"batch": [EACH[0], *bad, EACH[1]]}, headers={"X-Request-ID": "r-1"}
    )
    found = answer.json()
    assert (answer.status_code, found["success"], found["code"], found["accepted"]) == (
        200,
        False,
        "partly-refused",
        2,
    )
    assert [(one["index"], one.get("messageId")) for one in found["rejected"]] == [
        (1, "m-2"),
        (2, None),
        (3, None),
    ]
    assert actions(talk) == ACTIONS[:2]
    (record,) = talk.audit("r-1")
    assert (record["unmapped"]["accepted"], record["unmapped"]["rejected"]) == (2, 3)
    metrics = talk.get("/metrics").text
    for kind, outcome, count in (
        ("track", "accepted", 1),
        ("track", "refused", 1),
        ("other", "refused", 2),
    ):
        line = f'leanplum_gateway_segment_messages_total{{outcome="{outcome}",type="{kind}"}} {count}.0'
        assert line in metrics


def test_a_batch_of_bad_messages_alone_is_400(talk: Talk) -> None:
    answer = post(talk, "batch", {"batch": [{"type": "merge"}, {}]})
    assert (answer.status_code, answer.json()["success"], answer.json()["accepted"]) == (
        400,
        False,
        0,
    )
    assert talk.items() == 0


def test_what_is_not_for_leanplum_is_told_as_success_and_kept_nowhere(talk: Talk) -> None:
    answer = post(talk, "batch", {"batch": [{**EACH[0], "integrations": {"All": False}}]})
    assert (answer.status_code, answer.json()) == (200, SUCCESS)
    assert talk.items() == 0
    assert 'outcome="not-for-leanplum",type="track"} 1.0' in talk.get("/metrics").text


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_only_post_is_taken(talk: Talk, method: str) -> None:
    answer = talk.call(method, "/segment/v1/track")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"{", {"batch": []}, {"batch": [5]}])
def test_what_brings_nothing_counts_as_one(start: Start, body: Any) -> None:
    talk = start(gateway_rate_per_second=1, gateway_rate_burst=5)
    assert post(talk, "batch", body).headers["ratelimit"].startswith('"caller";r=4;')


def test_a_spent_limit_is_429_with_a_time_to_wait(start: Start) -> None:
    talk = start(gateway_rate_per_second=1, gateway_rate_burst=6)
    assert post(talk, "batch", {"batch": EACH}).status_code == 200
    answer = post(talk, "track", TRACK)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate-limited")
    assert int(answer.headers["retry-after"]) >= 1
    assert "ratelimit" in answer.headers
    assert talk.items() == 6


def test_a_batch_larger_than_the_bucket_passes_when_the_bucket_is_full(start: Start) -> None:
    talk = start(gateway_rate_per_second=1, gateway_rate_burst=3)
    assert post(talk, "batch", {"batch": EACH}).status_code == 200
    assert post(talk, "batch", {"batch": EACH}).status_code == 429


def test_a_full_queue_is_503_with_a_time_to_wait(start: Start) -> None:
    talk = start(gateway_max_queued_items=1)
    post(talk, "track", TRACK)
    answer = post(talk, "batch", {"batch": EACH})
    assert (answer.status_code, answer.json()["success"]) == (503, False)
    assert int(answer.headers["retry-after"]) >= 1


def test_too_many_or_too_much_is_413(start: Start) -> None:
    talk = start(gateway_max_batch_items=5, gateway_max_body_bytes=10_000)
    for body in ({"batch": EACH}, {"batch": [], "padding": "x" * 10_000}):
        answer = post(talk, "batch", body)
        assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
    bomb = gzip.compress(json.dumps({"batch": [], "padding": " " * 10**6}).encode())
    assert post(talk, "batch", bomb, headers={"Content-Encoding": "gzip"}).status_code == 413
    assert talk.items() == 0


# --- browsers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PATHS])
def test_a_browser_may_call_from_any_page(gateway: Talk, path: str) -> None:
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "authorization,x-retry-count"}  # fmt: skip
    answer = gateway.call("OPTIONS", path, key=None, headers=asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-headers"] == "authorization,x-retry-count"
    assert answer.headers["access-control-allow-methods"] == "POST, OPTIONS"
    refused = gateway.call("POST", path, key=None, content=b"{}")
    assert refused.headers["access-control-allow-origin"] == "*"
    assert "Retry-After" in refused.headers["access-control-expose-headers"]
    assert refused.headers["x-content-type-options"] == "nosniff"


def test_messages_of_more_values_than_any_has_are_refused_before_they_are_judged(
    talk: Talk,
) -> None:
    crowded = TRACK | {"properties": {f"k{number}": [] for number in range(150_000)}}
    for path, body in (("track", crowded), ("batch", {"batch": [crowded | {"type": "track"}]})):
        began = time.process_time()
        assert post(talk, path, body).status_code == 413
        assert time.process_time() - began < 1.5
    one_too_many = TRACK | {
        "type": "track",
        "properties": {f"k{number}": 1 for number in range(2_001)},
    }
    answer = post(talk, "batch", {"batch": [one_too_many, TRACK | {"type": "track"}]})
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    assert "2000 fields" in answer.json()["rejected"][0]["message"]
