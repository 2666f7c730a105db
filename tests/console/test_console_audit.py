"""The console's pages about the audit."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import orjson
import pytest

from app.model import Scope
from tests.console.visitor import signed_in, text_of
from tests.support.gateway import Talk
from tests.support.wait import until

ROW = re.compile(r'<th scope="row"><a href="/console/audit/(\d+)">')
HOSTILE = "<script>alert(1)</script>"


def numbers(page: str) -> list[int]:
    return [int(number) for number in ROW.findall(page)]


def number_of(talk: Talk, request_id: str) -> int:
    """The number of the one record of a request."""
    (row,) = talk.rows(
        "SELECT seq FROM audit_records WHERE instr(record, ?) > 0", f'"{request_id}"'
    )
    return int(row[0])


def test_records_are_listed_newest_first_and_searched_by_every_field(gateway: Talk) -> None:
    first = gateway.event({"userId": "ann", "event": "E"}).headers["x-request-id"]
    refused = gateway.post("/v1/users/ann/states", {"state": 0}).headers["x-request-id"]
    ids = [number_of(gateway, request_id) for request_id in (first, refused)]
    visitor = signed_in(gateway)
    own = gateway.audit(first)[0]["actor"]["user"]["uid"]
    shown = numbers(visitor.get("/audit").text)
    assert shown == sorted(shown, reverse=True)
    assert set(ids) <= set(shown)
    for query, expected in [
        ({"request": first}, ids[:1]),
        ({"user": "ann", "outcome": "success"}, ids[:1]),
        ({"user": "ann", "outcome": "refused"}, ids[1:]),
        ({"user": "nobody"}, []),
        ({"device": "ann"}, []),
        ({"caller": own, "user": "ann", "action": "POST /v1/events"}, ids[:1]),
        ({"app": "default", "user": "ann"}, ids[::-1]),
        ({"user": "ann", "since": "2020-01-01T00:00", "until": "2100-01-01T00:00"}, ids[::-1]),
        ({"user": "ann", "since": "2100-01-01T00:00"}, []),
        ({"user": "ann", "until": "2020-01-01T00:00"}, []),
    ]:
        assert numbers(visitor.get("/audit", params=query).text) == expected, query


@pytest.mark.parametrize(
    "query", ["since=yesterday", "outcome=odd", "after=x", f"user={'x' * 501}", "until=2026-13-01"]
)
def test_a_search_that_makes_no_sense_is_refused(gateway: Talk, query: str) -> None:
    assert signed_in(gateway).get(f"/audit?{query}").status_code == 422


def test_a_long_log_has_pages_that_keep_the_search(gateway: Talk) -> None:
    for _ in range(105):
        gateway.event({"userId": "paged", "event": "E"})
    visitor = signed_in(gateway)
    first = visitor.get("/audit?user=paged").text
    following = re.search(r'href="/console(/audit\?[^"]+)" rel="next"', first)
    assert following
    second = visitor.get(unescape(following[1])).text
    assert (len(numbers(first)), len(numbers(second))) == (100, 5)
    assert 'value="paged"' in second
    assert max(numbers(second)) < min(numbers(first))


def test_one_record_is_shown_with_its_verified_proof(gateway: Talk) -> None:
    request_id = gateway.event({"userId": "bob", "event": "E"}).headers["x-request-id"]
    number = number_of(gateway, request_id)
    until(lambda: gateway.get(f"/v1/audit/{number}/proof").status_code == 200)
    page = signed_in(gateway).get(f"/audit/{number}")
    proof = gateway.get(f"/v1/audit/{number}/proof").json()
    assert "verified" in page.text
    assert request_id in page.text
    assert unescape(page.text).count(proof["leafHash"]) == 1
    assert "bob" not in page.text
    for name in ("rootHash", "publicKey"):
        assert proof["checkpoint"][name] in unescape(page.text)


def test_the_checkpoint_is_shown_with_its_state(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    until(lambda: "signature and root hash verified" in visitor.get("/audit").text)
    checkpoint = gateway.get("/v1/audit/checkpoint").json()
    assert checkpoint["publicKey"] in unescape(visitor.get("/audit").text)


def test_a_changed_record_is_shown_as_broken(start: Callable[..., Talk]) -> None:
    talk = start()
    number = number_of(talk, talk.event().headers["x-request-id"])
    until(lambda: talk.get(f"/v1/audit/{number}/proof").status_code == 200)
    talk.execute(
        "UPDATE audit_records SET record = replace(record, '202', '204') WHERE seq = ?", number
    )
    page = signed_in(talk).get(f"/audit/{number}")
    assert page.status_code == 200
    assert "differs from what was sealed" in page.text
    assert "verified the proof" not in page.text


def test_texts_of_callers_are_shown_as_texts(start: Callable[..., Talk]) -> None:
    talk = start()
    number = number_of(talk, talk.event().headers["x-request-id"])
    (row,) = talk.rows("SELECT record FROM audit_records WHERE seq = ?", number)
    record: dict[str, Any] = orjson.loads(row[0])
    record["api"]["operation"] = record["unmapped"]["app"] = HOSTILE
    record["actor"]["user"]["uid"] = record["src_endpoint"]["ip"] = HOSTILE
    talk.execute(
        "UPDATE audit_records SET record = ? WHERE seq = ?", orjson.dumps(record).decode(), number
    )
    visitor = signed_in(talk)
    for path in ("/audit", f"/audit/{number}", f"/audit?user={HOSTILE}&action={HOSTILE}"):
        page = visitor.get(path).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page


@pytest.mark.parametrize("damaged", ["", "[]", "{", '{"api": 1, "actor": [], "time": "x"}'])
def test_a_damaged_record_does_not_stop_the_page(start: Callable[..., Talk], damaged: str) -> None:
    talk = start()
    number = number_of(talk, talk.event().headers["x-request-id"])
    talk.execute("UPDATE audit_records SET record = ? WHERE seq = ?", damaged, number)
    assert signed_in(talk).get(f"/audit/{number}").status_code == 200
    assert signed_in(talk).get("/audit").status_code == 200


def test_a_key_for_some_apps_sees_only_their_records(
    start: Callable[..., Talk], two_apps: dict[str, object]
) -> None:
    talk = start(**two_apps)
    sent = {
        app: talk.event(headers={"X-Leanplum-App": app}).headers["x-request-id"]
        for app in ("one", "two")
    }
    records = {app: number_of(talk, request_id) for app, request_id in sent.items()}
    _, key = talk.create_key(Scope.CONSOLE_READ, Scope.AUDIT_READ, apps=["one"])
    visitor = signed_in(talk, key)
    assert numbers(visitor.get("/audit?action=POST+/v1/events").text) == [records["one"]]
    assert visitor.get(f"/audit/{records['one']}").status_code == 200
    assert visitor.get(f"/audit/{records['two']}").status_code == 404
    assert visitor.get("/audit?app=two").status_code == 403


@pytest.mark.parametrize("record_id", ["0", "-1", "x", "9" * 30])
def test_a_number_that_no_record_can_have_is_not_found(gateway: Talk, record_id: str) -> None:
    assert signed_in(gateway).get(f"/audit/{record_id}").status_code == 404


def test_reading_the_audit_is_itself_recorded(gateway: Talk) -> None:
    answer = signed_in(gateway).get("/audit?user=ann")
    (record,) = gateway.audit(answer.headers["x-request-id"])
    assert record["api"]["operation"] == "GET /console/audit"
    assert "ann" not in str(record)
    assert "Audit" in text_of(answer)
