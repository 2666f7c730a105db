"""Every fault mode, over real HTTP: what goes wrong, and whether the actions are done (fact sheet
§10.7).
"""

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from app.simulator.fault_effects import MODES, WRONG_REQ_ID
from tests.support.wait import until

from .client import Json, Talk, event, message

A, B, C = (event(name, reqId=f"r-{name}") for name in ("ann", "bob", "cid"))


def applied(leanplum: Talk) -> list[str]:
    """Who of the three has the event."""
    return [name for name in ("ann", "bob", "cid") if leanplum.count(name, "Open")]


@pytest.mark.parametrize(
    ("mode", "status", "text"),
    [
        ("429", 429, "Request failed due to concurrent requests to the same profile ID"),
        ("408", 408, "Too Many Requests."),
        ("403-key", 403, "Invalid access key"),
        ("404-app", 404, "App not found"),
        ("403-size", 403, "Batch exceeds"),
        ("403-other", 403, "Request not allowed"),
        ("200-refused", 200, "Per device rate limit exceeded."),
        ("400", 400, "Bad request"),
        ("451", 451, "User is blocked."),
    ],
)
def test_refusing_modes_answer_one_error_and_do_nothing(
    leanplum: Talk, mode: str, status: int, text: str
) -> None:
    leanplum.plan({"mode": mode})
    answer = leanplum.multi(A, B)
    assert answer.status_code == status
    (entry,) = answer.json()["response"]
    assert entry["success"] is False
    assert text in message(entry, "error")
    assert applied(leanplum) == []
    assert leanplum.multi(A, B).status_code == 200


@pytest.mark.parametrize(
    ("mode", "status", "done"),
    [
        ("500-html", 500, []),
        ("503", 503, []),
        ("html-200", 200, []),
        ("403-html", 403, []),
        ("applied-500", 500, ["ann", "bob"]),
    ],
)
def test_page_modes_answer_html(leanplum: Talk, mode: str, status: int, done: list[str]) -> None:
    leanplum.plan({"mode": mode})
    answer = leanplum.multi(A, B)
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "text/html; charset=utf-8",
    )
    assert "<html>" in answer.text
    assert applied(leanplum) == done


def test_truncated_is_json_cut_short_after_the_actions_were_done(leanplum: Talk) -> None:
    leanplum.plan({"mode": "truncated"})
    answer = leanplum.multi(A, B)
    assert answer.headers["content-type"].startswith("application/json")
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert applied(leanplum) == ["ann", "bob"]


def test_empty_is_an_empty_body_after_the_actions_were_done(leanplum: Talk) -> None:
    leanplum.plan({"mode": "empty"})
    answer = leanplum.multi(A, B)
    assert (answer.status_code, answer.content) == (200, b"")
    assert applied(leanplum) == ["ann", "bob"]


def test_disconnect_does_the_actions_and_hangs_up_without_an_answer(leanplum: Talk) -> None:
    leanplum.plan({"mode": "disconnect"})
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        leanplum.multi(A, B)
    assert applied(leanplum) == ["ann", "bob"]
    assert leanplum.requests()[0]["status"] is None
    assert leanplum.requests()[0]["finishedAt"] is not None


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("short", ["r-ann", "r-bob"]),
        ("long", ["r-ann", "r-bob", "r-cid", None]),
        ("shuffle", ["r-cid", "r-bob", "r-ann"]),
    ],
)
def test_shape_modes_change_the_list_of_entries(
    leanplum: Talk, mode: str, expected: list[str | None]
) -> None:
    leanplum.plan({"mode": mode})
    assert [entry.get("reqId") for entry in leanplum.entries(A, B, C)] == expected
    assert applied(leanplum) == ["ann", "bob", "cid"]


def test_slow_answers_as_usual_after_its_delay(leanplum: Talk) -> None:
    leanplum.plan({"mode": "slow", "delay": 0.1})
    assert leanplum.multi(A).status_code == 200
    (request,) = leanplum.requests()
    assert request["finishedAt"] - request["receivedAt"] >= 0.09


ENTRY_CASES: list[tuple[Json, Json, bool]] = [
    ({"mode": "warning", "message": "Hm."}, {"success": True, "warning": {"message": "Hm."}}, True),
    (
        {"mode": "warning", "message": "No.", "applied": False},
        {"warning": {"message": "No."}},
        False,
    ),
    (
        {"mode": "error-with-success", "message": "No."},
        {"success": True, "error": {"message": "No."}},
        False,
    ),
    (
        {"mode": "success-false", "message": "No."},
        {"success": False, "error": {"message": "No."}},
        False,
    ),
    (
        {"mode": "redirect-item"},
        {"success": False, "apiHost": "api2.leanplum.com", "apiPath": "new-api"},
        False,
    ),
    ({"mode": "wrong-reqid"}, {"success": True, "reqId": WRONG_REQ_ID}, True),
]


@pytest.mark.parametrize(("fault", "expected", "done"), ENTRY_CASES)
def test_entry_modes_touch_the_matching_entry_only(
    leanplum: Talk, fault: Json, expected: Json, done: bool
) -> None:
    leanplum.plan({**fault, "userId": "bob"})
    answer = leanplum.multi(A, B, C)
    first, second, third = answer.json()["response"]
    assert answer.status_code == 200
    assert second == {**second, **expected}
    assert (first, third) == tuple(
        {"success": True, "isOffline": True, "reqId": r} for r in ("r-ann", "r-cid")
    )
    assert applied(leanplum) == (["ann", "bob", "cid"] if done else ["ann", "cid"])


def test_no_reqid_leaves_the_request_id_out(leanplum: Talk) -> None:
    leanplum.plan({"mode": "no-reqid"})
    assert all("reqId" not in entry for entry in leanplum.entries(A, B))


def test_mixed_404_fails_one_entry_under_status_404(leanplum: Talk) -> None:
    leanplum.plan({"mode": "mixed-404"})
    answer = leanplum.multi(A, B)
    assert answer.status_code == 404
    assert [entry["success"] for entry in answer.json()["response"]] == [False, True]
    assert applied(leanplum) == ["bob"]


def test_an_entry_that_a_fault_kept_from_being_done_can_be_sent_again(leanplum: Talk) -> None:
    item = {**A, "uuid": "u"}
    leanplum.plan({"mode": "success-false"})
    leanplum.multi(item)
    leanplum.multi(item)
    assert leanplum.count("ann", "Open") == 1
    assert leanplum.stats()["duplicates"] == 0


def test_what_was_done_before_a_lost_answer_is_a_duplicate_when_sent_again(leanplum: Talk) -> None:
    item = {**A, "uuid": "u"}
    leanplum.plan({"mode": "applied-500"})
    assert [leanplum.multi(item).status_code for _ in range(2)] == [500, 200]
    assert leanplum.count("ann", "Open") == 1
    assert leanplum.stats()["duplicates"] == 1


def test_times_counts_the_calls_that_a_fault_strikes(leanplum: Talk) -> None:
    leanplum.plan({"mode": "429", "times": 2}, {"mode": "503", "times": 1})
    assert [leanplum.track().status_code for _ in range(4)] == [429, 429, 503, 200]


def test_times_null_strikes_until_the_plan_is_removed(leanplum: Talk) -> None:
    leanplum.plan({"mode": "503", "times": None})
    assert {leanplum.track().status_code for _ in range(5)} == {503}
    leanplum.http.delete("/_simulator/faults")
    assert leanplum.track().status_code == 200


def test_seconds_bounds_how_long_a_fault_stays(leanplum: Talk) -> None:
    leanplum.plan({"mode": "503", "times": None, "seconds": 0})
    assert leanplum.track().status_code == 200
    assert leanplum.http.get("/_simulator/faults").json()["faults"] == []


def test_a_fault_for_an_action_leaves_other_calls_alone(leanplum: Talk) -> None:
    leanplum.plan({"mode": "503", "action": "start"})
    assert leanplum.track().status_code == 200
    assert leanplum.multi(A, {"action": "start", "userId": "ann"}).status_code == 503


def test_entry_faults_for_two_users_strike_in_the_same_call(leanplum: Talk) -> None:
    leanplum.plan({"mode": "success-false", "userId": "ann"}, {"mode": "warning", "userId": "cid"})
    first, second, third = leanplum.entries(A, B, C)
    assert ("error" in first, "warning" in second, "warning" in third) == (True, False, True)


def test_the_first_matching_fault_decides_the_call(leanplum: Talk) -> None:
    leanplum.plan({"mode": "warning"}, {"mode": "503"})
    assert [leanplum.multi(A).status_code for _ in range(2)] == [200, 503]


def test_status_message_and_retry_after_can_be_chosen(leanplum: Talk) -> None:
    leanplum.plan({"mode": "429", "status": 418, "message": "Tea.", "retryAfter": 7})
    answer = leanplum.track()
    assert (answer.status_code, answer.headers["retry-after"]) == (418, "7")
    assert message(answer.json()["response"][0], "error") == "Tea."


@pytest.mark.parametrize(
    ("said", "header"), [(1.5, "1.5"), ("Sun, 06 Nov 1994 08:49:37 GMT",) * 2, ("soon", "soon")]
)
def test_retry_after_may_be_a_fraction_a_date_or_any_text(
    leanplum: Talk, said: Any, header: str
) -> None:
    leanplum.plan({"mode": "503", "retryAfter": said})
    assert leanplum.track().headers["retry-after"] == header


@pytest.mark.parametrize("place", [{"event": "a' OR 1=1"}, {"params": {"deep": ["x", {"y": "' OR 1=1 --"}]}},
                                   {"params": {"' OR 1=1": 1}}, {"userId": "' OR 1=1"}])  # fmt: skip
def test_a_fault_for_a_text_strikes_the_calls_in_which_it_stands(
    leanplum: Talk, place: Json
) -> None:
    leanplum.plan({"mode": "403-html", "contains": "' OR 1=1", "times": None})
    assert leanplum.multi(A, C).status_code == 200
    assert leanplum.multi(A, {**B, **place}, C).status_code == 403
    assert leanplum.multi(A, C).status_code == 200


def test_a_fault_of_an_entry_for_a_text_strikes_the_entries_in_which_it_stands(
    leanplum: Talk,
) -> None:
    leanplum.plan({"mode": "success-false", "contains": "bob", "times": None})
    assert [entry["success"] for entry in leanplum.entries(A, B, C)] == [True, False, True]


def test_probability_zero_never_strikes_and_is_not_used_up(leanplum: Talk) -> None:
    leanplum.plan({"mode": "503", "probability": 0})
    assert leanplum.track().status_code == 200
    assert len(leanplum.http.get("/_simulator/faults").json()["faults"]) == 1


def test_a_refused_call_uses_up_no_fault(leanplum: Talk) -> None:
    leanplum.plan({"mode": "503"})
    assert leanplum.call("track", "nobody", userId="ann", event="Open").status_code == 403
    assert leanplum.track().status_code == 503


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_strikes_a_lone_action_too(leanplum: Talk, mode: str) -> None:
    leanplum.plan({"mode": mode, "delay": 0})
    if mode == "disconnect":
        with pytest.raises(httpx.RemoteProtocolError):
            leanplum.track()
    else:
        leanplum.track(reqId="r")
    assert leanplum.http.get("/_simulator/faults").json()["faults"] == []


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        ([], '{"faults"'),
        ({"faults": {}}, '{"faults"'),
        ({"faults": [{}]}, "faults[0]: expected an object with a mode"),
        ({"faults": [{"mode": "429"}, {"mode": "explode"}]}, "faults[1].mode: expected one of 429"),
        ({"faults": [{"mode": "429", "times": 0}]}, "faults[0].times"),
        ({"faults": [{"mode": "429", "times": True}]}, "faults[0].times"),
        ({"faults": [{"mode": "429", "probability": 2}]}, "faults[0].probability"),
        ({"faults": [{"mode": "429", "color": "red"}]}, "unknown field 'color'"),
        ({"faults": [{"mode": "slow"}]}, "slow needs a delay"),
        ({"faults": [{"mode": "403-html", "contains": 1}]}, "faults[0].contains"),
        ({"faults": [{"mode": "429", "retryAfter": "1\r\nX: y"}]}, "faults[0].retryAfter"),
    ],
)
def test_a_wrong_plan_is_refused_as_a_whole_with_the_reason(
    leanplum: Talk, plan: Any, text: str
) -> None:
    answer = leanplum.http.post("/_simulator/faults", json=plan)
    assert answer.status_code == 400
    assert text in answer.json()["error"]["message"]
    assert leanplum.track().status_code == 200


def test_the_list_has_every_mode_with_a_description_and_its_parameters(leanplum: Talk) -> None:
    listed = leanplum.http.get("/_simulator/faults").json()
    assert [mode["mode"] for mode in listed["modes"]] == list(MODES)
    for mode in listed["modes"]:
        assert mode["description"].endswith(".")
        assert set(mode["parameters"]) <= listed["parameters"].keys()
        assert set(mode["example"]["faults"][0]) <= {*mode["parameters"]}
    assert all(text.endswith(".") for text in listed["parameters"].values())


@pytest.mark.parametrize("mode", MODES)
def test_the_command_of_a_mode_plans_it_and_that_of_removal_removes_it(
    leanplum: Talk, mode: str
) -> None:
    listed = leanplum.http.get("/_simulator/faults").json()
    (described,) = [each for each in listed["modes"] if each["mode"] == mode]
    words = shlex.split(described["curl"])
    assert words[:2] == ["curl", "-sS"]
    planned = httpx.post(words[2], content=words[-1], trust_env=False).json()
    assert planned["faults"][0].items() >= described["example"]["faults"][0].items()
    assert planned["faults"][0]["mode"] == mode
    *_, method, url = shlex.split(listed["remove"])
    assert httpx.request(method, url, trust_env=False).json() == {"faults": []}


def test_a_mode_without_a_text_of_its_own_takes_no_message(leanplum: Talk) -> None:
    modes = {mode["mode"]: mode for mode in leanplum.http.get("/_simulator/faults").json()["modes"]}
    assert "message" in modes["503"]["parameters"]
    assert "message" not in modes["empty"]["parameters"]


@pytest.mark.parametrize(("method", "path"), [("DELETE", "faults"), ("POST", "reset")])
def test_removing_the_faults_sends_the_responses_that_they_delay(
    leanplum: Talk, method: str, path: str
) -> None:
    leanplum.plan({"mode": "slow", "delay": 300})
    with ThreadPoolExecutor() as pool:
        delayed = pool.submit(leanplum.multi, A)
        until(lambda: leanplum.requests() != [])
        leanplum.http.request(method, f"/_simulator/{path}").raise_for_status()
        assert delayed.result(timeout=20).status_code == 200


def test_a_plan_that_is_no_json_is_refused(leanplum: Talk) -> None:
    answer = leanplum.http.post("/_simulator/faults", content=b"{oops")
    assert answer.status_code == 400
    assert "not JSON" in answer.json()["error"]["message"]
