"""The pages under /_simulator: what was received, who is known, what was counted."""

from collections.abc import Callable

import pytest

from .client import Talk, event


def test_a_received_call_is_shown_with_its_arguments_and_its_answer(leanplum: Talk) -> None:
    leanplum.http.post(
        "/api?action=track", json={**leanplum.keys(), "userId": "ann", "event": "Open"}
    )
    (request,) = leanplum.requests()
    assert (request["index"], request["method"], request["path"]) == (1, "POST", "/api")
    assert (request["query"], request["status"]) == ("action=track", 200)
    assert request["headers"]["content-type"] == "application/json"
    assert request["args"] == {
        **leanplum.keys(),
        "action": "track",
        "userId": "ann",
        "event": "Open",
    }
    assert '"userId":"ann"' in request["body"].replace(" ", "")
    assert request["response"] == {"response": [{"success": True, "isOffline": True}]}
    assert request["finishedAt"] >= request["receivedAt"]


def test_an_unreadable_call_is_shown_without_arguments(leanplum: Talk) -> None:
    leanplum.http.post("/api", content=b"{oops", headers={"Content-Type": "application/json"})
    (request,) = leanplum.requests()
    assert (request["args"], request["body"], request["status"]) == (None, "{oops", 400)


def test_a_call_is_shown_with_its_begin_and_end_its_users_actions_and_answers(
    leanplum: Talk,
) -> None:
    leanplum.track("ann", deviceId="d1")
    by_device = {"action": "track", "deviceId": "d1", "event": "Buy"}
    leanplum.multi(event("bob"), by_device, {"action": "stop", "userId": "nobody"})
    (call,) = leanplum.http.get("/_simulator/calls?since=1").json()["calls"]
    assert (call["index"], call["users"], call["status"]) == (2, ["ann", "bob", "nobody"], 200)
    assert call["receivedAt"] <= call["finishedAt"]
    assert [one["action"] for one in call["actions"]] == ["track", "track", "stop"]
    assert [one["success"] for one in call["answers"]] == [True, True, True]
    assert "warning" in call["answers"][2]


def test_a_lone_action_is_shown_without_its_key(leanplum: Talk) -> None:
    leanplum.call("start", userId="ann")
    (call,) = leanplum.http.get("/_simulator/calls").json()["calls"]
    (action,) = call["actions"]
    assert (action["action"], action["userId"], "clientKey" in action) == ("start", "ann", False)


def test_a_call_that_makes_no_sense_is_shown_with_nobody(leanplum: Talk) -> None:
    leanplum.http.post("/api", content=b"{oops", headers={"Content-Type": "application/json"})
    (call,) = leanplum.http.get("/_simulator/calls").json()["calls"]
    assert (call["users"], call["status"]) == ([], 400)


def test_requests_can_be_read_on_from_an_index(leanplum: Talk) -> None:
    for name in ("a", "b", "c", "d"):
        leanplum.track(event=name)
    page = leanplum.http.get("/_simulator/requests?since=1&limit=2").json()["requests"]
    assert [(request["index"], request["args"]["event"]) for request in page] == [
        (2, "b"),
        (3, "c"),
    ]


@pytest.mark.parametrize("page", ["requests", "calls"])
@pytest.mark.parametrize("query", ["since=x", "limit=x", "limit=-1", "since=-1"])
def test_an_index_or_limit_that_is_no_count_is_refused(
    leanplum: Talk, query: str, page: str
) -> None:
    assert leanplum.http.get(f"/_simulator/{page}?{query}").status_code == 400


def test_only_the_latest_calls_are_remembered(configured: Callable[..., Talk]) -> None:
    leanplum = configured(keep_requests=2)
    for name in ("a", "b", "c"):
        leanplum.track(event=name)
    assert [request["index"] for request in leanplum.requests()] == [2, 3]
    assert leanplum.stats()["calls"] == 3


def test_a_user_is_shown_with_events_sessions_and_devices(leanplum: Talk) -> None:
    leanplum.call("start", userId="ann", deviceId="d1", userAttributes={"age": 29})
    leanplum.track("ann", "Buy", value=2, params={"a": 1}, time=1_700_000_000, reqId="r")
    user = leanplum.user("ann")
    assert (user["userId"], user["attributes"], user["devices"]) == ("ann", {"age": 29}, ["d1"])
    assert (user["blocked"], user["sessions"][0]["state"], user["states"]) == (False, "open", {})
    assert set(user["events"]["Buy"]) == {"count", "value", "firstTime", "lastTime", "occurrences"}
    (occurrence,) = user["events"]["Buy"]["occurrences"]
    assert {"value": 2.0, "params": {"a": 1}, "reqId": "r"}.items() <= occurrence.items()


def test_a_user_id_may_hold_a_slash(leanplum: Talk) -> None:
    leanplum.track("team/ann")
    assert leanplum.user("team/ann")["userId"] == "team/ann"


def test_a_device_is_shown_with_its_user(leanplum: Talk) -> None:
    leanplum.call("setDeviceAttributes", deviceId="d1", userId="ann", appVersion="2")
    shown = {"deviceId": "d1", "userId": "ann", "attributes": {"appVersion": "2"}}
    assert leanplum.http.get("/_simulator/devices/d1").json() == shown


@pytest.mark.parametrize("path", ["users/nobody", "devices/nothing"])
def test_an_unknown_user_or_device_is_404_in_json(leanplum: Talk, path: str) -> None:
    answer = leanplum.http.get(f"/_simulator/{path}")
    assert answer.status_code == 404
    assert "no such" in answer.json()["error"]["message"]


def test_stats_count_calls_items_users_and_what_was_applied(leanplum: Talk) -> None:
    leanplum.track()
    leanplum.multi(
        event("bob"), event("cid", reqId="1", uuid="u"), {"action": "stop", "userId": "nobody"}
    )
    leanplum.multi(event("cid", reqId="1", uuid="u"))
    counted = {"calls": 3, "items": 5, "users": 3, "overlaps": 0, "duplicates": 1, "applied": 3}
    assert leanplum.stats() == counted


def test_without_deduplication_repeats_are_counted_and_applied(
    configured: Callable[..., Talk],
) -> None:
    leanplum = configured(deduplicate=False)
    for _ in range(3):
        leanplum.multi(event("ann", reqId="1", uuid="u"))
    assert leanplum.count("ann", "Open") == 3
    assert (leanplum.stats()["duplicates"], leanplum.stats()["applied"]) == (2, 3)


def test_a_single_write_for_a_blocked_user_is_451(leanplum: Talk) -> None:
    leanplum.call("block", userId="ann")
    assert leanplum.track("ann").status_code == 451
    assert leanplum.multi(event("ann")).status_code == 451
    assert leanplum.multi(event("ann"), event("bob")).status_code == 200
    assert leanplum.user("ann")["blocked"] is True


def test_reset_makes_the_simulator_as_new(leanplum: Talk) -> None:
    leanplum.track()
    leanplum.plan({"mode": "503"})
    leanplum.http.post("/_simulator/reset")
    assert set(leanplum.stats().values()) == {0}
    assert (leanplum.requests(), leanplum.track().status_code) == ([], 200)
