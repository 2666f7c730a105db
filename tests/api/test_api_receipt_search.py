"""The search of receipts over HTTP: by whom, what, when, outcome and request."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.clock import instant, now_ms
from app.model import Scope, Settled, Status
from app.outbox import search_index
from tests.support.dead_letters import settle
from tests.support.gateway import CANARY, Talk, problem
from tests.support.wait import until


@pytest.fixture
def talk(start: Callable[..., Talk]) -> Talk:
    return start()


def found(talk: Talk, **query: Any) -> list[str]:
    answer = talk.get("/v1/receipts", params=query)
    assert answer.status_code == 200, answer.text
    return [receipt["id"] for receipt in answer.json()["receipts"]]


def fill(talk: Talk) -> None:
    """Accept items of users and of a device, and settle some."""
    talk.batch([
        {"action": "track", "userId": "ann", "event": "Buy", "params": {"note": CANARY}, "id": "1"},
        {"action": "advance", "userId": "ann", "state": "Checkout", "id": "2"},
        {"action": "track", "deviceId": "phone", "event": "Buy", "id": "3"},
        {"action": "setUserAttributes", "userId": "bob", "userAttributes": {"a": CANARY}, "id": "4"},
    ])  # fmt: skip
    settle(talk, {
        "1": Settled(Status.REJECTED, {"success": False, "error": "Bad."}),
        "4": Settled(Status.DELIVERED),
    })  # fmt: skip


def test_receipts_are_found_by_user_device_action_event_and_status(talk: Talk) -> None:
    fill(talk)
    assert found(talk) == ["4", "3", "2", "1"]
    assert found(talk, userId="ann") == ["2", "1"]
    assert found(talk, userId=" ann ") == ["2", "1"], "as ids are accepted"
    assert found(talk, deviceId="phone") == ["3"]
    assert found(talk, deviceId="ann") == []
    assert found(talk, action="track") == ["3", "1"]
    assert found(talk, event="Buy") == ["3", "1"]
    assert found(talk, event="Checkout") == ["2"]
    assert found(talk, status="rejected") == ["1"]
    assert found(talk, status="delivered") == ["4"]
    assert found(talk, status="accepted") == ["3", "2"]
    assert found(talk, userId="ann", event="Buy", status="rejected", action="track") == ["1"]


def test_receipts_are_found_by_the_time_of_acceptance(talk: Talk) -> None:
    begun = now_ms()
    fill(talk)
    assert found(talk, since=instant(begun), until=instant(now_ms() + 60_000)) == list("4321")
    assert found(talk, since=begun / 1000) == list("4321")
    assert found(talk, userId="ann", until=instant(begun - 60_000)) == []
    assert found(talk, since=instant(now_ms() + 60_000)) == []


def test_the_items_of_an_audit_record_are_found_by_its_request_id(talk: Talk) -> None:
    answer = talk.batch([
        {"action": "track", "userId": "ann", "event": "Buy", "id": "1"},
        {"action": "track", "userId": "bob", "event": "Buy"},
    ])  # fmt: skip
    talk.event()
    (record,) = talk.audit(answer.headers["x-request-id"])
    request_id = record["api"]["request"]["uid"]
    generated = answer.json()["results"][1]["id"]
    assert found(talk, requestId=request_id) == [generated, "1"]
    assert found(talk, requestId="another") == []


def test_a_receipt_shows_the_event_and_no_value(talk: Talk) -> None:
    fill(talk)
    answer = talk.get("/v1/receipts")
    assert [receipt.get("event") for receipt in answer.json()["receipts"]] == [
        None,
        "Buy",
        "Checkout",
        "Buy",
    ]
    assert CANARY not in answer.text
    accepted = talk.event({"userId": "cem", "event": "Buy"}).json()
    assert accepted["event"] == "Buy"
    assert talk.get(accepted["href"]).json() == accepted


def test_pages_follow_one_another(talk: Talk) -> None:
    fill(talk)
    ids, cursor = list[str](), None
    for _ in range(4):
        query = {"limit": 1} | ({} if cursor is None else {"cursor": cursor})
        page = talk.get("/v1/receipts", params=query).json()
        ids += [receipt["id"] for receipt in page["receipts"]]
        cursor = page.get("nextCursor")
    assert ids == ["4", "3", "2", "1"]
    assert cursor is None
    assert found(talk, cursor="0") == []


@pytest.mark.parametrize(
    ("query", "parameter", "detail"),
    [
        ("userId=a&deviceId=b", "deviceId", "cannot be used with userId"),
        ("uuid=a", "uuid", "requires reqId"),
        ("since=20&until=10", "until", "must be later than since"),
        ("since=10&until=10", "until", "must be later than since"),
        ("since=yesterday", "since", "RFC 3339"),
        ("status=done", "status", "accepted"),
        ("userId=", "userId", "must not be empty"),
        ("requestId=", "requestId", "must not be empty"),
        ("cursor=x", "cursor", ""),
        ("limit=1001", "limit", "1000"),
        ("userid=ann", "userid", "did you mean userId"),
        ("userId=a%00", "userId", "NUL"),
    ],
)
def test_a_wrong_query_is_refused_with_its_parameter(
    gateway: Talk, query: str, parameter: str, detail: str
) -> None:
    (error,) = problem(gateway.get(f"/v1/receipts?{query}"), 422, "validation")["errors"]
    assert error["parameter"] == parameter
    assert detail in error["detail"]


def test_a_search_needs_the_scope_and_is_recorded_with_a_hash_of_the_user(talk: Talk) -> None:
    fill(talk)
    _, key = talk.create_key(Scope.EVENTS_WRITE)
    problem(talk.get("/v1/receipts?userId=ann", key=key), 403, "forbidden")
    answer = talk.get("/v1/receipts?userId=ann")
    (record,) = talk.audit(answer.headers["x-request-id"])
    assert record["unmapped"]["user"] == talk.user_hash("ann")
    assert "ann" not in json.dumps(record)


def test_housekeeping_writes_the_index_and_the_search_stays_as_it_was(
    start: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch, frequent_housekeeping: None
) -> None:
    monkeypatch.setattr(search_index, "BLOCK", 2)
    talk = start()
    fill(talk)
    until(lambda: talk.rows("SELECT count(*) FROM search_blocks") == [(2,)])
    assert found(talk, userId="ann") == ["2", "1"]
    assert found(talk, deviceId="phone") == ["3"]
    assert found(talk) == ["4", "3", "2", "1"]


def test_each_result_of_a_batch_has_the_path_of_its_receipt(talk: Talk) -> None:
    items = [{"action": "track", "userId": "ann", "event": "E", "id": "1"}, {"action": "none"}]
    answer = talk.batch([*items, items[0]]).json()
    accepted, rejected, duplicate = answer["results"]
    assert accepted["href"] == duplicate["href"] == "/v1/receipts/1"
    assert "href" not in rejected
    assert talk.get(accepted["href"]).json()["id"] == "1"
