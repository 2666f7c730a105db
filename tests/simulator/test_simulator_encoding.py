"""The five encodings in which Leanplum takes the same call (fact sheet §1, §3.7, §7)."""

import json
import time

import pytest

from .client import Json, Talk, event

ITEMS = [event("ann", value=2), event("bob", params={"sku": "a"})]


def test_get_takes_all_arguments_from_the_query(leanplum: Talk) -> None:
    query = {
        **leanplum.keys(),
        "action": "track",
        "userId": "ann",
        "event": "Open",
        "params": '{"a":1}',
    }
    assert leanplum.http.get("/api", params=query).json() == {
        "response": [{"success": True, "isOffline": True}]
    }
    assert leanplum.user("ann")["events"]["Open"]["occurrences"][0]["params"] == {"a": 1}


def test_post_merges_query_and_body_and_the_body_wins(leanplum: Talk) -> None:
    body = {**leanplum.keys(), "userId": "ann", "event": "FromBody"}
    answer = leanplum.http.post("/api", params={"action": "track", "event": "FromQuery"}, json=body)
    assert answer.status_code == 200
    assert leanplum.count("ann", "FromBody") == 1
    assert leanplum.count("ann", "FromQuery") == 0


def test_form_fields_hold_nested_values_as_json_strings(leanplum: Talk) -> None:
    form = {
        **leanplum.keys(),
        "action": "setUserAttributes",
        "userId": "ann",
        "userAttributes": '{"age":29}',
    }
    assert leanplum.http.post("/api", data=form).status_code == 200
    assert leanplum.user("ann")["attributes"] == {"age": 29}


def test_multipart_fields_are_arguments(leanplum: Talk) -> None:
    fields = {
        **leanplum.keys(),
        "action": "track",
        "userId": "ann",
        "event": "Open",
        "value": "9.99",
    }
    files = {name: (None, value) for name, value in fields.items()}
    assert leanplum.http.post("/api", files=files).status_code == 200
    assert leanplum.user("ann")["events"]["Open"]["value"] == 9.99


def test_text_plain_holding_json_is_read_as_javascript_clients_send_it(leanplum: Talk) -> None:
    query = {**leanplum.keys(), "action": "multi", "client": "js", "time": str(time.time())}
    headers = {"Content-Type": "text/plain"}
    answer = leanplum.http.post(
        "/api", params=query, headers=headers, content=json.dumps({"data": ITEMS})
    )
    assert len(answer.json()["response"]) == 2


@pytest.mark.parametrize(
    "data", [ITEMS, {"data": ITEMS}, json.dumps(ITEMS), json.dumps({"data": ITEMS})]
)
def test_data_is_an_array_an_object_or_a_string_of_either(leanplum: Talk, data: object) -> None:
    answer = leanplum.call("multi", time=time.time(), data=data)
    assert [entry["success"] for entry in answer.json()["response"]] == [True, True]
    assert leanplum.requests()[0]["args"]["data"] == ITEMS


def test_android_sends_a_multi_as_a_form_with_data_as_a_string(leanplum: Talk) -> None:
    item = {
        "action": "start",
        "userId": "u1",
        "deviceId": "d1",
        "devMode": "false",
        "time": "1.700000000123E9",
    }
    form = {**leanplum.keys(), "client": "android", "action": "multi", "time": str(time.time())}
    answer = leanplum.http.post("/api", data={**form, "data": json.dumps({"data": [item]})})
    assert answer.json()["response"][0]["token"]
    assert leanplum.user("u1")["devices"] == ["d1"]


def test_the_batch_path_answers_as_the_api_path_does(leanplum: Talk) -> None:
    body = {**leanplum.keys(), "time": time.time(), "data": ITEMS}
    answer = leanplum.http.post("/api-batch?action=multi", json=body)
    assert len(answer.json()["response"]) == 2


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("application/json", b"{oops"), ("application/json", b'"a"'), ("multipart/form-data", b"x")],
)
def test_an_unreadable_body_is_answered_400(leanplum: Talk, content_type: str, body: bytes) -> None:
    answer = leanplum.http.post("/api", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 400
    assert answer.json()["response"][0]["success"] is False


@pytest.mark.parametrize("data", [[1], "oops", 3])
def test_data_that_is_no_list_of_objects_is_answered_400(leanplum: Talk, data: object) -> None:
    assert leanplum.call("multi", time=time.time(), data=data).status_code == 400


def test_answers_carry_the_headers_that_leanplum_sends(leanplum: Talk) -> None:
    headers = leanplum.track().headers
    assert headers["content-type"] == "application/json;charset=utf-8"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cache-control"] == "private"


def test_a_large_multi_is_answered_in_request_order(leanplum: Talk) -> None:
    items: list[Json] = [event(f"u{index % 50}", reqId=f"r{index}") for index in range(500)]
    assert [entry["reqId"] for entry in leanplum.entries(*items)] == [
        f"r{index}" for index in range(500)
    ]
