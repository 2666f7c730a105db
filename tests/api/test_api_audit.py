"""One audit record for each authenticated call: who, what, when, from where, with what outcome,
which request id.
"""

import getpass
import hashlib
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.cli import dead_letters
from app.model import Scope
from app.outbox.dead_letters import DeadLetterFilter
from tests.support.gateway import CANARY, EVENT, JSON, NDJSON, Talk

Start = Callable[..., Talk]
TRACK = EVENT | {"action": "track"}
OWN = EVENT | {"id": "audited"}
CALLS: dict[str, tuple[str, int, Callable[[Talk, dict[str, str]], Any]]] = {
    "an event": ("POST /v1/events", 202, lambda t, h: t.event(headers=h)),
    "a batch": ("POST /v1/batch", 202, lambda t, h: t.batch([TRACK, TRACK], headers=h)),
    "a user update": (
        "PATCH /v1/users/{userId}", 202,
        lambda t, h: t.post(f"/v1/users/{CANARY}", {"userAttributes": {"a": 1}}, method="PATCH", headers=h),
    ),
    "a state": (
        "POST /v1/users/{userId}/states", 202, lambda t, h: t.post("/v1/users/u/states", {"state": ""}, headers=h)
    ),
    "a duplicate": ("POST /v1/events", 200, lambda t, h: t.event(OWN, headers=h)),
    "a conflict": ("POST /v1/events", 409, lambda t, h: t.event(OWN | {"value": 1}, headers=h)),
    "a batch of conflicts": ("POST /v1/batch", 422, lambda t, h: t.batch([OWN | TRACK | {"value": 1}], headers=h)),
    "an invalid event": ("POST /v1/events", 422, lambda t, h: t.event({"event": CANARY}, headers=h)),
    "an invalid batch": ("POST /v1/batch", 422, lambda t, h: t.batch([CANARY, {}], headers=h)),
    "an empty batch": ("POST /v1/batch", 422, lambda t, h: t.batch([], headers=h)),
    "no JSON": ("POST /v1/events", 400, lambda t, h: t.event(CANARY.encode(), headers=h)),
    "too much": ("POST /v1/batch", 413, lambda t, h: t.batch([{}] * 1_001, headers=h)),
    "another type": ("POST /v1/events", 415, lambda t, h: t.event(headers=h | {"Content-Type": CANARY})),
    "a receipt": ("GET /v1/receipts/{id}", 200, lambda t, h: t.get("/v1/receipts/audited", headers=h)),
    "nothing that is here": ("GET (unknown)", 404, lambda t, h: t.get(f"/v1/{CANARY}", headers=h)),
    "another method": ("DELETE (unknown)", 405, lambda t, h: t.post("/v1/events", {}, method="DELETE", headers=h)),
    "no receipt": ("GET /v1/receipts/{id}", 404, lambda t, h: t.get(f"/v1/receipts/{CANARY}", headers=h)),
}  # fmt: skip


@pytest.mark.parametrize(("operation", "status", "call"), CALLS.values(), ids=CALLS.keys())
def test_each_authenticated_call_leaves_one_record(
    gateway: Talk, operation: str, status: int, call: Callable[..., Any]
) -> None:
    gateway.event(OWN)
    before = time.time() * 1000
    answer = call(gateway, {})
    assert answer.status_code == status
    request_id = answer.headers["x-request-id"]
    (record,) = gateway.audit(request_id)
    ((key_id,),) = gateway.rows("SELECT id FROM caller_keys")
    assert record["actor"]["user"]["uid"] == key_id
    assert record["api"]["operation"] == operation
    assert record["api"]["request"]["uid"] == request_id
    assert record["src_endpoint"]["ip"] == "127.0.0.1"
    assert before - 50 <= record["time"] <= time.time() * 1000
    assert record["unmapped"]["app"] == ("" if "unknown" in operation else "default")
    assert (record["class_uid"], record["type_uid"]) == (6003, 600300 + record["activity_id"])
    assert record["status_id"] == (1 if status < 400 else 2)
    assert record["status_code"] == str(status), "the outcome recorded is not the one answered"


def test_a_batch_is_one_record_that_counts_its_items(gateway: Talk) -> None:
    gateway.event(OWN)
    answer = gateway.batch(
        [TRACK, OWN | TRACK, OWN | TRACK | {"value": 3}, {}, CANARY, TRACK | {"userId": "u2"}]
    )
    (record,) = gateway.audit(answer.headers["x-request-id"])
    told = record["unmapped"]
    assert set(told.pop("users")) == {gateway.user_hash("u1"), gateway.user_hash("u2")}
    ids = [one["id"] for one in answer.json()["results"] if "id" in one]
    assert told == {
        "app": "default",
        "accepted": 2,
        "duplicates": 1,
        "rejected": 3,
        "actions": {"track": 4},
        "itemsHash": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
    }


def test_a_limited_call_and_a_forbidden_one_are_recorded(start: Start) -> None:
    talk = start(gateway_rate_burst=2, gateway_rate_per_second=1)
    key_id, key = talk.create_key(Scope.RECEIPTS_READ)
    answers = [talk.event(), talk.event(), talk.event(key=key)]
    assert [answer.status_code for answer in answers] == [202, 429, 403]
    records = [talk.audit(answer.headers["x-request-id"]) for answer in answers]
    assert [[one["status_code"] for one in found] for found in records] == [
        ["202"],
        ["429"],
        ["403"],
    ]
    assert records[2][0]["actor"]["user"]["uid"] == key_id


def test_a_call_that_a_full_queue_refuses_is_recorded(start: Start) -> None:
    talk = start(gateway_max_queued_items=1)
    talk.event()
    (record,) = talk.audit(talk.event().headers["x-request-id"])
    assert (record["status_code"], record["status_id"]) == ("503", 2)


def test_calls_without_a_known_key_and_pages_leave_no_record(gateway: Talk) -> None:
    before = len(gateway.audit())
    for answer in (
        gateway.event(key=None), gateway.event(key="nonsense"), gateway.get("/docs"), gateway.get("/nothing", key=None),
        gateway.get("/livez"), gateway.get("/problems"),
    ):  # fmt: skip
        assert answer.headers["x-request-id"]
    assert len(gateway.audit()) == before


def test_a_batch_of_which_nothing_is_taken_has_a_record_that_counts_its_items(
    gateway: Talk,
) -> None:
    answer = gateway.batch([CANARY, {}, TRACK | {"value": CANARY}])
    (record,) = gateway.audit(answer.headers["x-request-id"])
    assert record["unmapped"] == {"app": "default", "accepted": 0, "duplicates": 0, "rejected": 3}


def test_an_act_by_command_names_who_runs_it_and_the_app_that_it_is_about(start: Start) -> None:
    talk = start()
    talk.event()
    (seq,) = talk.rows("SELECT seq FROM items")[0]
    change = "UPDATE items SET status = 'expired', settled_at = 1 WHERE seq = ?"
    with sqlite3.connect(talk.path) as beside:
        beside.execute(change, (seq,))
    assert len(dead_letters.apply(talk.settings, "discard", None, DeadLetterFilter())) == 1
    record = talk.audit()[-1]
    assert (record["api"]["operation"], record["unmapped"]) == (
        "dead-letter.discard",
        {"app": "default"},
    )
    assert record["actor"]["user"] == {"uid": "operator", "name": getpass.getuser()}


def test_a_key_that_was_rotated_out_or_revoked_or_is_in_an_address_is_named_by_the_record_of_the_refusal(
    start: Start,
) -> None:
    talk = start()
    key_id, rotated = talk.create_key(Scope.EVENTS_WRITE)
    revoked = talk.post(f"/v1/keys/{key_id}/rotate", {"overlapSeconds": 0}).json()["key"]
    assert talk.call("DELETE", f"/v1/keys/{key_id}").status_code == 204
    answers = [
        talk.event(key=rotated),
        talk.event(key=revoked),
        talk.get(f"/v1/receipts/x?key={revoked}", key=None),
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 400]
    talk.get("/readyz")  # proves a commit: nobody waits for these records
    for answer in answers:
        (record,) = talk.audit(answer.headers["x-request-id"])
        assert record["actor"]["user"]["uid"] == key_id
        assert (record["status_code"], record["status_id"]) == (str(answer.status_code), 2)
        assert revoked not in str(record)


def test_the_record_is_committed_with_the_items(gateway: Talk) -> None:
    """No moment at which the one is on disk and the other is not: they have one transaction."""
    answer = gateway.event()
    found = gateway.rows(
        "SELECT (SELECT count(*) FROM acceptances WHERE request_id = ?1), "
        "(SELECT count(*) FROM audit_records WHERE record LIKE '%' || ?1 || '%')",
        answer.headers["x-request-id"],
    )
    assert found == [(1, 1)]


def test_the_first_key_is_recorded_as_an_act(start: Start) -> None:
    talk = start()
    (record,) = [one for one in talk.audit() if one["api"]["operation"] == "key.create"]
    assert record["resources"] == [{"uid": talk.rows("SELECT id FROM caller_keys")[0][0]}]


def test_no_record_holds_a_payload_a_value_or_a_key(gateway: Talk) -> None:
    canaries = {"p": CANARY, "q": CANARY}
    gateway.event(EVENT | {"event": CANARY, "params": canaries, "info": CANARY})
    gateway.batch([TRACK | {"params": canaries}, {"action": CANARY}, TRACK | {"value": CANARY}])
    gateway.batch([TRACK | {"userId": f"{CANARY}{number}"} for number in range(3)])
    gateway.event(EVENT | {"userId": CANARY, "id": "own-id-of-canary"})
    gateway.get(f"/v1/users/{CANARY}/variables")
    gateway.get(f"/v1/audit?userId={CANARY}")
    gateway.post("/v1/users/u", {"userAttributes": canaries}, method="PATCH")
    gateway.post(f"/v1/users/{CANARY}", {"userAttributes": {"a": 1}}, method="PATCH")
    gateway.batch(CANARY.encode(), headers={"Content-Type": NDJSON})
    gateway.event(
        headers={
            "Content-Type": JSON,
            "User-Agent": CANARY,
            "Prefer": CANARY,
            "traceparent": CANARY,
        }
    )
    gateway.get(f"/v1/receipts/{CANARY}?{CANARY}={CANARY}")
    texts = [record for (record,) in gateway.rows("SELECT record FROM audit_records")]
    assert len(gateway.audit()) > 5
    assert not [text for text in texts if CANARY in text or gateway.key in text]


# What OCSF 1.4 requires of API Activity, with the constraints of its objects ("at least one of").
REQUIRED: dict[str, type] = {
    "class_uid": int, "category_uid": int, "activity_id": int, "type_uid": int, "time": int, "severity_id": int,
    "metadata": dict, "actor": dict, "api": dict, "src_endpoint": dict,
}  # fmt: skip


def test_every_record_has_what_ocsf_requires_of_an_api_activity(start: Start) -> None:
    talk = start(gateway_rate_burst=3, gateway_rate_per_second=1)
    talk.event()
    talk.batch([TRACK])
    talk.get("/v1/users/u/variables")
    talk.event()
    talk.post("/v1/keys", {"name": "new", "scopes": ["sdk"]})
    records = talk.audit()
    operations = {one["api"]["operation"] for one in records}
    assert {
        "key.create",
        "POST /v1/events",
        "POST /v1/batch",
        "leanplum getVars",
        "POST /v1/keys",
    } <= operations
    for one in records:
        assert {name for name, kind in REQUIRED.items() if type(one.get(name)) is not kind} == set()
        assert (one["class_uid"], one["category_uid"]) == (6003, 6)
        assert one["type_uid"] == one["class_uid"] * 100 + one["activity_id"]
        assert one["metadata"]["product"]["name"] and one["metadata"]["version"] == "1.4.0"
        assert one["actor"]["user"]["uid"] and one["api"]["operation"]
        assert one["src_endpoint"].get("ip") or one["src_endpoint"].get("name")
        assert one["api"].get("request", {"uid": "given"})["uid"]
    assert [one["metadata"]["sequence"] for one in records] == list(range(1, len(records) + 1))


def test_a_call_about_one_user_names_it_by_its_keyed_hash_also_where_it_is_refused(
    start: Start,
) -> None:
    talk = start(gateway_rate_burst=3, gateway_rate_per_second=1)
    hashed = talk.user_hash("ann")
    answers = [
        talk.post("/v1/users/ann/states", {"state": "s"}),
        talk.post("/v1/users/ann/states", {"state": 5}),
        talk.post("/v1/users/ann/states", {"state": "s"}),
        talk.get("/v1/users/ann/variables"),
    ]
    assert [answer.status_code for answer in answers] == [202, 422, 429, 429]
    for answer in answers:
        (record,) = talk.audit(answer.headers["x-request-id"])
        assert record["unmapped"]["user"] == hashed, record


def test_what_is_done_to_a_key_is_recorded_with_what_it_was_given_and_found_by_its_id(
    start: Start,
) -> None:
    talk = start()
    given = {"name": "shop", "scopes": ["events:write"], "ratePerSecond": 7}
    key_id = talk.post("/v1/keys", given).json()["id"]
    one = f"/v1/keys/{key_id}"
    talk.post(one, {"scopes": ["keys:manage"], "apps": ["default"]}, method="PATCH")
    talk.post(f"{one}/rotate", {"overlapSeconds": 9})
    assert talk.call("DELETE", one).status_code == 204
    assert talk.call("DELETE", one).status_code == 404
    found = talk.get(f"/v1/audit?resource={key_id}&order=oldest").json()["records"]
    told = [(each["record"]["status_code"], each["record"]["unmapped"]) for each in found]
    assert told == [
        ("201", {"app": "", **given, "apps": None, "rateBurst": None, "expiresAtMs": None}),
        ("200", {"app": "", "scopes": ["keys:manage"], "apps": ["default"]}),
        ("200", {"app": "", "overlapSeconds": 9}),
        ("204", {"app": ""}),
        ("404", {"app": ""}),
    ]


def test_records_are_found_by_device(start: Start) -> None:
    talk = start()
    talk.event({"deviceId": "d1", "event": "E"}, headers={"X-Request-ID": "device"})
    talk.event(EVENT, headers={"X-Request-ID": "user"})
    found = talk.get("/v1/audit?deviceId=d1").json()["records"]
    assert [one["record"]["api"]["request"]["uid"] for one in found] == ["device"]
    both = talk.get("/v1/audit?deviceId=d1&userId=u1&order=oldest").json()["records"]
    assert [one["record"]["api"]["request"]["uid"] for one in both] == ["device", "user"]
