"""Dead letters over HTTP: listed, filtered, sent again, discarded; each act in the audit."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.api.dead_letters import DISCARD, LIST, REPLAY
from app.clock import instant, now_ms
from app.model import Postponed, Scope, Settled, Status
from tests.support.dead_letters import event, settle
from tests.support.gateway import CANARY, Talk, problem
from tests.support.wait import until

ENDS = (Status.REJECTED, Status.EXPIRED, Status.UNKNOWN, Status.DELIVERED, Status.SKIPPED)


@pytest.fixture
def talk(start: Callable[..., Talk], frequent_housekeeping: None) -> Talk:
    return start()


def dead(talk: Talk, *item_ids: str, status: Status = Status.REJECTED) -> None:
    talk.batch([event(one) for one in item_ids])
    settle(talk, dict.fromkeys(item_ids, Settled(status, {"success": False, "error": "Bad."})))


def listed(talk: Talk, query: str = "") -> list[str]:
    return [one["id"] for one in talk.get(f"{LIST}{query}").json()["deadLetters"]]


def test_only_what_was_refused_given_up_or_perhaps_done_is_listed_and_never_what_is_in_it(
    talk: Talk,
) -> None:
    talk.batch([event(status) for status in ENDS] + [event("waits")])
    settle(talk, {status: Settled(status, {"success": False, "error": "Bad."}) for status in ENDS})
    answer = talk.get(LIST)
    assert [one["id"] for one in answer.json()["deadLetters"]] == ["rejected", "expired", "unknown"]
    first = answer.json()["deadLetters"][0]
    assert (first["status"], first["userId"], first["leanplum"]["error"]) == (
        "rejected",
        "ann",
        "Bad.",
    )
    assert first["href"] == "/v1/receipts/rejected"
    assert CANARY not in answer.text


def test_they_are_filtered_by_user_device_and_event(talk: Talk) -> None:
    talk.batch([
        event("a"),
        event("b", "bob"),
        {"action": "track", "deviceId": "phone", "event": "Buy", "id": "c"},
        {"action": "advance", "userId": "ann", "state": "Buy", "id": "d"},
    ])  # fmt: skip
    bad = Settled(Status.REJECTED, {"success": False, "error": "Bad."})
    settle(talk, dict.fromkeys("abcd", bad))
    assert listed(talk, "?userId=ann") == ["a", "d"]
    assert listed(talk, "?userId=ann&event=E") == ["a"]
    assert listed(talk, "?deviceId=phone") == ["c"]
    assert listed(talk, "?event=Buy") == ["c", "d"]
    assert listed(talk, "?userId=nobody") == []
    refused = problem(talk.get(f"{LIST}?userId=a&deviceId=b"), 422, "validation")
    assert refused["errors"][0]["parameter"] == "deviceId"


def test_those_of_a_user_or_an_event_are_sent_again_or_discarded(talk: Talk) -> None:
    talk.batch([event("a"), event("b", "bob"), {**event("c"), "event": "Buy"}])
    bad = Settled(Status.REJECTED, {"success": False, "error": "Bad."})
    settle(talk, dict.fromkeys("abc", bad))
    chosen = {"userId": "ann", "event": "E"}
    counted = talk.post(REPLAY, {"filter": chosen, "dryRun": True}).json()
    assert counted == {"matched": 1, "replayed": 0, "dryRun": True}
    assert talk.post(REPLAY, {"filter": chosen}).json()["replayed"] == 1
    assert listed(talk) == ["b", "c"]
    assert talk.post(DISCARD, {"filter": {"event": "Buy"}}).json()["discarded"] == 1
    assert listed(talk) == ["b"]
    both = {"filter": {"userId": "ann", "deviceId": "phone"}}
    refused = problem(talk.post(REPLAY, both), 422, "validation")
    assert refused["errors"][0]["pointer"] == "/filter/deviceId"


def test_they_are_filtered_by_action_status_time_and_app(talk: Talk) -> None:
    dead(talk, "a")
    dead(talk, "b", status=Status.EXPIRED)
    talk.batch([{"action": "advance", "userId": "ann", "state": "s", "id": "c"}])
    settle(talk, {"c": Settled(Status.REJECTED, {"success": False, "error": "Bad."})})
    soon = instant(now_ms() + 60_000)
    assert listed(talk, "?action=track") == ["a", "b"]
    assert listed(talk, "?status=rejected") == ["a", "c"]
    assert listed(talk, f"?until={soon}&app=default") == ["a", "b", "c"]
    assert listed(talk, f"?since={soon}") == []
    assert talk.get(f"{LIST}?app=other").status_code == 403
    for bad in ("status=delivered", "since=yesterday", "cursor=x", "limit=0"):
        assert talk.get(f"{LIST}?{bad}").status_code == 422, bad


def test_they_come_in_pages(talk: Talk) -> None:
    dead(talk, *(f"i{number}" for number in range(5)))
    first = talk.get(f"{LIST}?limit=2").json()
    second = talk.get(f"{LIST}?limit=2&cursor={first['nextCursor']}").json()
    last = talk.get(f"{LIST}?limit=2&cursor={second['nextCursor']}").json()
    assert [one["id"] for page in (first, second, last) for one in page["deadLetters"]] == [
        f"i{n}" for n in range(5)
    ]
    assert "nextCursor" not in last


@pytest.mark.parametrize(("path", "done"), [(REPLAY, "replayed"), (DISCARD, "discarded")])
def test_a_dry_run_only_counts(talk: Talk, path: str, done: str) -> None:
    dead(talk, "a", "b")
    answer = talk.post(path, {"filter": {}, "dryRun": True})
    assert (answer.status_code, answer.json()) == (200, {"matched": 2, done: 0, "dryRun": True})
    assert listed(talk) == ["a", "b"]


def test_what_is_sent_again_waits_with_its_id_and_content_and_new_attempts(talk: Talk) -> None:
    dead(talk, "a", "b")
    before = talk.rows("SELECT seq, body FROM items WHERE id = 'a'")
    answer = talk.post(REPLAY, {"ids": ["a", "nobody"]})
    assert answer.json() == {"matched": 1, "replayed": 1, "dryRun": False}
    receipt = talk.get("/v1/receipts/a").json()
    assert (receipt["status"], receipt["attempts"], "settledAt" in receipt) == (
        "accepted",
        0,
        False,
    )
    assert talk.rows("SELECT seq, body FROM items WHERE id = 'a'") == before
    assert listed(talk) == ["b"]
    until(lambda: talk.queued() == 1)


def test_an_id_made_here_is_found_too(talk: Talk) -> None:
    made = talk.event({"userId": "ann", "event": "E"}).json()["id"]
    settle(talk, {made: Settled(Status.REJECTED, {"success": False, "error": "Bad."})})
    assert talk.post(REPLAY, {"ids": [made]}).json()["replayed"] == 1


def test_what_is_discarded_is_gone_but_for_its_receipt(talk: Talk) -> None:
    dead(talk, "a", "b", status=Status.EXPIRED)
    answer = talk.post(DISCARD, {"filter": {"status": "expired", "action": "track"}})
    assert answer.json() == {"matched": 2, "discarded": 2, "dryRun": False}
    assert listed(talk) == []
    assert talk.get("/v1/receipts/a").json()["status"] == "expired"
    assert talk.rows("SELECT count(*) FROM items WHERE body IS NOT NULL") == [(0,)]
    assert talk.post(REPLAY, {"ids": ["a"]}).json()["replayed"] == 0


def test_what_still_waits_is_never_touched(talk: Talk) -> None:
    talk.batch([event("a"), event("b")])
    settle(talk, {"a": Postponed(Status.RETRYING, 60, {"success": False, "error": "HTTP 503"})})
    for path, done in ((REPLAY, "replayed"), (DISCARD, "discarded")):
        assert talk.post(path, {"ids": ["a", "b"]}).json()[done] == 0
    assert talk.get("/v1/receipts/a").json()["status"] == "retrying"


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        (b"{", 400, None),
        ([], 422, ""),
        ({}, 422, ""),
        ({"ids": ["a"], "filter": {}}, 422, ""),
        ({"ids": []}, 422, "/ids"),
        ({"ids": [1]}, 422, "/ids/0"),
        ({"filter": {"status": "delivered"}}, 422, "/filter/status"),
        ({"filter": {"sttus": "expired"}}, 422, "/filter/sttus"),
        ({"filter": {"since": "soon"}}, 422, "/filter/since"),
        ({"filter": {}, "dryRun": "yes"}, 422, "/dryRun"),
    ],
)
def test_what_chooses_nothing_sensible_is_refused_and_nothing_done(
    talk: Talk, body: Any, status: int, pointer: str | None
) -> None:
    dead(talk, "a")
    for path in (REPLAY, DISCARD):
        answer = talk.post(path, body)
        assert answer.status_code == status
        if pointer is not None:
            assert answer.json()["errors"][0]["pointer"] == pointer
    assert listed(talk) == ["a"]


def test_they_need_their_own_scope(talk: Talk) -> None:
    _, key = talk.create_key(*(one for one in Scope if one != Scope.DEAD_LETTERS_MANAGE))
    assert talk.get(LIST, key=key).status_code == 403
    assert talk.post(REPLAY, {"filter": {}}, key=key).status_code == 403
    assert talk.post(DISCARD, {"filter": {}}, key=None).status_code == 401


def test_each_act_has_its_audit_record_with_its_count(talk: Talk) -> None:
    dead(talk, "a", "b")
    talk.post(DISCARD, {"ids": ["a"]})
    talk.post(REPLAY, {"ids": ["b"]})
    records = [
        json.loads(record)
        for (record,) in talk.rows("SELECT record FROM audit_records ORDER BY seq")
    ]
    acts = {
        one["api"]["operation"]: one["unmapped"]
        for one in records
        if "dead-letters" in one["api"]["operation"]
    }
    assert acts[f"POST {DISCARD}"]["discarded"] == acts[f"POST {REPLAY}"]["replayed"] == 1
