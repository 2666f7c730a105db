"""The caller's own id makes a repeat a duplicate; the same id with another content is a conflict."""

import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import orjson
import pytest

from tests.support.gateway import EVENT, JSON, Talk, pointers, problem

Start = Callable[..., Talk]
number = count()


@pytest.fixture
def own() -> str:
    """An id that no other test uses."""
    return f"own:{next(number)}"


def keyed(item_id: str) -> dict[str, str]:
    return {"Idempotency-Key": item_id}


def test_a_receipt_tells_what_was_accepted_and_where_to_ask_again(gateway: Talk, own: str) -> None:
    answer = gateway.event(EVENT | {"id": own})
    receipt = answer.json()
    assert answer.status_code == 202
    fields = {"id", "action", "event", "userId", "status", "acceptedAt", "attempts", "href"}
    assert receipt.keys() == fields
    assert (receipt["id"], receipt["action"], receipt["userId"]) == (own, "track", "u1")
    assert (receipt["status"], receipt["attempts"]) == ("accepted", 0)
    assert answer.headers["location"] == receipt["href"] == f"/v1/receipts/{own}"
    later = gateway.get(answer.headers["location"]).json()
    later.pop("waitingFor", None)  # items of other tests may stand before it
    assert later == receipt


@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("POST", "/v1/events", {"deviceId": "d1", "event": "e"}),
        ("PATCH", "/v1/users/u9", {"userAttributes": {"a": 1}}),
        ("POST", "/v1/users/u9/states", {"state": ""}),
    ],
)
def test_every_write_answers_the_receipt_that_can_be_read_later(
    gateway: Talk, method: str, url: str, body: dict[str, Any]
) -> None:
    answer = gateway.post(url, body, method=method)
    assert answer.status_code == 202
    later = gateway.get(answer.headers["location"]).json()
    later.pop("waitingFor", None)  # items of other tests may stand before it
    assert later == answer.json()


def test_without_an_id_each_item_gets_one_of_its_own_that_sorts_by_time(gateway: Talk) -> None:
    ids = []
    for _ in range(5):
        ids.append(gateway.event().json()["id"])
        time.sleep(0.002)
    assert ids == sorted(set(ids))
    assert all(item_id[14] == "7" for item_id in ids)


@pytest.mark.parametrize("headers", [True, False], ids=["Idempotency-Key", "id"])
def test_a_repeat_is_a_duplicate_and_gets_the_first_receipt(
    gateway: Talk, own: str, headers: bool
) -> None:
    def send() -> Any:
        return gateway.event(headers=keyed(own)) if headers else gateway.event(EVENT | {"id": own})

    before = gateway.items()
    first, second, third = send(), send(), send()
    assert [first.status_code, second.status_code, third.status_code] == [202, 200, 200]
    assert second.json() == first.json() | {"duplicate": True}
    assert third.json() == second.json()
    assert second.headers["location"] == first.headers["location"]
    assert gateway.items() == before + 1


def test_the_header_and_the_field_mean_the_same_id(gateway: Talk, own: str) -> None:
    assert gateway.event(headers=keyed(own)).status_code == 202
    assert gateway.event(EVENT | {"id": own}).status_code == 200
    assert gateway.event(EVENT | {"id": own}, headers=keyed(own)).status_code == 200
    assert gateway.batch([EVENT | {"id": own, "action": "track"}]).json()["duplicates"] == 1


def test_a_header_and_a_field_that_differ_are_a_contradiction(gateway: Talk, own: str) -> None:
    answer = gateway.event(EVENT | {"id": own}, headers=keyed(own + "x"))
    assert pointers(problem(answer, 422, "validation")) == {"/id": "contradiction"}


def test_a_contradiction_hides_no_other_fault(gateway: Talk, own: str) -> None:
    answer = gateway.event(EVENT | {"id": own, "value": "x"}, headers=keyed(own + "x"))
    assert pointers(problem(answer, 422, "validation")) == {
        "/id": "contradiction",
        "/value": "type",
    }


def test_a_path_and_a_body_that_name_two_users_are_a_contradiction(gateway: Talk) -> None:
    body = {"userId": "bob", "userAttributes": {"a": 1}}
    answer = gateway.post("/v1/users/ann", body, method="PATCH")
    assert pointers(problem(answer, 422, "validation")) == {"/userId": "contradiction"}
    assert gateway.post("/v1/users/bob", body, method="PATCH").status_code == 202
    assert gateway.post("/v1/users/5", body | {"userId": 5}, method="PATCH").status_code == 202


@pytest.mark.parametrize("bad", ["", "a b", "a/b", "a" * 129, "é", "a,b"])
def test_an_idempotency_key_keeps_the_rules_of_an_id(gateway: Talk, bad: str) -> None:
    before = gateway.items()
    answer = gateway.event(headers={"Idempotency-Key": bad.encode("latin-1")})
    assert pointers(problem(answer, 422, "validation")).keys() == {"Idempotency-Key"}
    assert gateway.items() == before


ZERO = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize("user", ["a%22b", "a%27b", "a%00b", "a%0Ab", ZERO, "u" * 401])
@pytest.mark.parametrize("call", ["PATCH", "POST"])
def test_a_user_in_the_path_keeps_the_rules_of_a_user_id(
    gateway: Talk, call: str, user: str
) -> None:
    before = gateway.items()
    if call == "PATCH":
        answer = gateway.post(f"/v1/users/{user}", {"userAttributes": {"a": 1}}, method="PATCH")
    else:
        answer = gateway.post(f"/v1/users/{user}/states", {"state": "s"})
    problem(answer, 422, "validation")
    assert gateway.items() == before


USERS = {"ann%40example.org": "ann@example.org", "a%20b": "a b", "%E3%82%A2": "ア", "a%2Bb": "a+b", "a+b": "a+b",
         "a%25b": "a%b", "auth0%7C5": "auth0|5"}  # fmt: skip


@pytest.mark.parametrize(("user", "expected"), USERS.items())
def test_a_user_in_the_path_is_decoded_once(gateway: Talk, user: str, expected: str) -> None:
    answer = gateway.post(f"/v1/users/{user}", {"userAttributes": {"a": 1}}, method="PATCH")
    assert answer.json()["userId"] == expected


OTHERS: dict[str, dict[str, Any]] = {
    "another user": {"userId": "u2"},
    "another event": {"event": "Other"},
    "a value more": {"value": 1},
    "a time more": {"time": 5},
    "parameters more": {"params": {}},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS.keys())
def test_the_same_id_with_another_content_is_a_conflict(
    gateway: Talk, own: str, change: dict[str, Any]
) -> None:
    gateway.event(EVENT | {"id": own})
    before = gateway.items()
    problem(gateway.event(EVENT | change | {"id": own}), 409, "id-conflict")
    assert gateway.items() == before
    assert gateway.event(EVENT | {"id": own}).status_code == 200


def test_the_same_id_for_another_action_is_a_conflict(gateway: Talk, own: str) -> None:
    gateway.event(EVENT | {"id": own})
    problem(
        gateway.post("/v1/users/u1/states", {"state": "s"}, headers=keyed(own)), 409, "id-conflict"
    )


def test_the_same_content_written_otherwise_is_a_duplicate(gateway: Talk, own: str) -> None:
    """JSON objects have no order, and a time is a time: a retry may be rendered anew."""
    first = {"id": own, **EVENT, "time": "2026-01-31T00:00:00Z", "params": {"a": 1, "b": 2}}
    assert gateway.event(first).status_code == 202
    assert gateway.event(dict(reversed(first.items()))).status_code == 200
    assert gateway.event(first | {"time": 1_769_817_600}).status_code == 200
    assert gateway.event(first | {"params": {"b": 2, "a": 1}}).status_code == 200


def test_a_user_named_in_the_path_or_in_both_places_is_the_same_content(
    gateway: Talk, own: str
) -> None:
    body = {"userAttributes": {"a": 1}, "time": 5}
    assert (
        gateway.post("/v1/users/ann", body, method="PATCH", headers=keyed(own)).status_code == 202
    )
    again = gateway.post(
        "/v1/users/ann", body | {"userId": "ann"}, method="PATCH", headers=keyed(own)
    )
    assert again.status_code == 200
    item = {"action": "setUserAttributes", "userId": "ann", "id": own, **body}
    assert gateway.batch([item]).json()["duplicates"] == 1


def test_in_a_batch_a_conflict_is_a_rejected_result(gateway: Talk, own: str) -> None:
    gateway.event(EVENT | {"id": own})
    track = EVENT | {"action": "track"}
    document = gateway.batch(
        [track | {"id": own}, track | {"event": "Other", "id": own}, track]
    ).json()
    assert [result["status"] for result in document["results"]] == [
        "duplicate",
        "rejected",
        "accepted",
    ]
    assert (document["accepted"], document["duplicates"], document["rejected"]) == (1, 1, 1)
    assert document["results"][0]["id"] == document["results"][1]["id"] == own
    assert document["results"][1]["problem"]["type"] == "/problems/id-conflict"


def test_a_batch_of_duplicates_only_is_taken(gateway: Talk, own: str) -> None:
    gateway.event(EVENT | {"id": own})
    answer = gateway.batch([{"action": "track", **EVENT, "id": own}])
    assert (answer.status_code, answer.json()["duplicates"]) == (202, 1)


def test_a_repeat_inside_one_batch_is_a_duplicate_or_a_conflict(gateway: Talk, own: str) -> None:
    item = {"action": "track", **EVENT, "id": own}
    before = gateway.items()
    document = gateway.batch([item, item, item | {"event": "Other"}, item]).json()
    statuses = [result["status"] for result in document["results"]]
    assert statuses == ["accepted", "duplicate", "rejected", "duplicate"]
    assert gateway.items() == before + 1


def at_once(gateway: Talk, bodies: list[dict[str, Any]]) -> list[Any]:
    headers = {"Content-Type": JSON}
    requests = [
        ("POST", "/v1/events", {"content": orjson.dumps(body), "headers": headers})
        for body in bodies
    ]
    return gateway.at_once(*requests)


def test_of_fifty_requests_at_once_with_one_id_exactly_one_is_accepted(
    gateway: Talk, own: str
) -> None:
    before = gateway.items()
    answers = at_once(gateway, [EVENT | {"id": own}] * 50)
    assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 49}
    assert len({answer.json()["acceptedAt"] for answer in answers}) == 1
    assert gateway.items() == before + 1


def test_of_fifty_requests_at_once_with_one_id_and_two_contents_one_content_wins(
    gateway: Talk, own: str
) -> None:
    answers = at_once(gateway, [EVENT | {"id": own, "value": turn % 2} for turn in range(50)])
    assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 24, 409: 25}


def test_an_id_that_the_gateway_made_makes_a_repeat_a_duplicate_too(gateway: Talk) -> None:
    made = gateway.event().json()["id"]
    answer = gateway.event(EVENT | {"id": made})
    assert (answer.status_code, answer.json()["id"], answer.json()["duplicate"]) == (
        200,
        made,
        True,
    )
    problem(gateway.event(EVENT | {"id": made, "value": 1}), 409, "id-conflict")
    result = gateway.batch([{"action": "track", **EVENT}]).json()["results"][0]
    assert gateway.event(EVENT | {"id": result["id"]}).status_code == 200


def test_an_id_in_the_gateways_own_form_that_it_never_made_is_just_an_id(gateway: Talk) -> None:
    foreign = "01890a5d-ac96-774b-bcce-b302099a8057"
    assert gateway.get(f"/v1/receipts/{foreign}").status_code == 404
    assert gateway.event(EVENT | {"id": foreign}).status_code == 202
    assert gateway.event(EVENT | {"id": foreign}).status_code == 200
    assert gateway.get(f"/v1/receipts/{foreign}").json()["id"] == foreign


def test_after_the_window_an_id_is_new_again_with_any_content(start: Start) -> None:
    talk = start(gateway_dedup_seconds=0.3)
    assert talk.event(EVENT | {"id": "again"}).status_code == 202
    assert talk.event(EVENT | {"id": "again"}).status_code == 200
    time.sleep(0.35)
    answer = talk.event(EVENT | {"id": "again", "value": 2})
    assert answer.status_code == 202
    assert talk.items() == 2
    later = talk.get("/v1/receipts/again").json()
    assert later.pop("waitingFor")["reason"] == "earlier-item"
    assert later == answer.json()


def test_ids_are_remembered_over_a_restart(start: Start) -> None:
    first = start()
    made = first.event(EVENT | {"id": "kept"}).json()
    assert start().event(EVENT | {"id": "kept"}, key=first.key).json() == made | {"duplicate": True}


@pytest.mark.parametrize(
    "unknown", ["nothing", "01890a5d-ac96-774b-bcce-b302099a8058", "%27", "x" * 2_000]
)
def test_an_unknown_receipt_is_not_found(gateway: Talk, unknown: str) -> None:
    problem(gateway.get(f"/v1/receipts/{unknown}"), 404, "not-found")


@pytest.mark.parametrize("path", ["/v1/users/%ff", "/v1/users/%ff/states"])
def test_a_user_id_in_a_path_that_is_no_utf8_is_refused_and_no_other_user_is_written_to(
    gateway: Talk, path: str
) -> None:
    method = "POST" if path.endswith("states") else "PATCH"
    before = gateway.items()
    problem(gateway.post(path, {"state": "S"}, method=method), 400, "malformed")
    assert gateway.items() == before


def test_a_user_id_with_a_slash_is_written_with_its_escape(gateway: Talk) -> None:
    answer = gateway.post("/v1/users/team%2Fann", {"userAttributes": {"a": 1}}, method="PATCH")
    assert (answer.status_code, answer.json()["userId"]) == (202, "team/ann")
    answer = gateway.post("/v1/users/team%2Fann/states", {"state": "S"})
    assert (answer.status_code, answer.json()["userId"]) == (202, "team/ann")


def test_a_path_with_a_segment_too_many_is_no_users(gateway: Talk) -> None:
    problem(
        gateway.post("/v1/users/ann/attributes", {"userAttributes": {"a": 1}}, method="PATCH"),
        404,
        "not-found",
    )
