"""Finding receipts in the console, and the history of one item."""

import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from app.model import Scope
from app.outbox.outbox import Outbox
from app.outbox.search import EXAMINED, ReceiptSearch
from app.settings import Settings
from tests.console.visitor import ConsoleVisitor, signed_in, text_of
from tests.support.gateway import CANARY, Talk
from tests.support.simulator import Leanplum, delivering_to, simulated
from tests.support.wait import until

LINK = re.compile(r'href="/console(/find/receipt\?[^"]+)"')
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


def send(talk: Talk, user: str, item_id: str, event: str = "E", **headers: str) -> str:
    """Accept an event; return the id of the request."""
    body = {"userId": user, "event": event, "id": item_id, "params": {"a": CANARY}}
    answer = talk.event(body, headers=headers)
    assert answer.status_code == 202, answer.text
    return answer.headers["x-request-id"]


def found(visitor: ConsoleVisitor, **query: str) -> list[str]:
    """The ids of the items that a search shows."""
    links = LINK.findall(visitor.get("/find", params=query).text)
    return [re.findall(r"id=([^&]+)", unescape(link))[0] for link in links]


def test_items_are_found_by_every_field_newest_first(gateway: Talk) -> None:
    request_id = send(gateway, "ann", "a1", "Open")
    send(gateway, "ann", "a2", "Purchase")
    gateway.event({"deviceId": "phone", "event": "Open", "id": "a3"})
    visitor = signed_in(gateway)
    for query, expected in [
        ({"user": "ann"}, ["a2", "a1"]),
        ({"device": "phone"}, ["a3"]),
        ({"user": " ann "}, ["a2", "a1"]),
        ({"user": "ann", "event": "Open"}, ["a1"]),
        ({"user": "ann", "status": "accepted"}, ["a2", "a1"]),
        ({"user": "ann", "status": "delivered"}, []),
        ({"user": "ann", "action": "track"}, ["a2", "a1"]),
        ({"request": request_id}, ["a1"]),
        ({"id": "a3"}, ["a3"]),
        ({"id": "unknown"}, []),
        ({"app": "default", "user": "ann"}, ["a2", "a1"]),
        ({"user": "ann", "since": "2100-01-01T00:00"}, []),
        ({"user": "ann", "until": "2100-01-01T00:00"}, ["a2", "a1"]),
    ]:
        assert found(visitor, **query) == expected, query
    assert "Enter what you know" in visitor.get("/find").text


def test_a_long_list_has_pages_that_keep_the_search(gateway: Talk) -> None:
    gateway.batch([{"action": "track", "userId": "many", "event": "E"}] * 55)
    visitor = signed_in(gateway)
    first = visitor.get("/find?user=many").text
    following = re.search(r'href="/console(/find\?[^"]+)" rel="next"', first)
    assert following
    second = visitor.get(unescape(following[1])).text
    assert (len(LINK.findall(first)), len(LINK.findall(second))) == (50, 5)
    assert 'rel="next"' not in second


@pytest.mark.parametrize(
    "query",
    [
        "status=odd",
        "since=soon",
        "since=1969-12-31T23:59",
        "until=9999-12-31T23:59-12:00",
        "user=a&device=b",
        "before=x",
        f"user={'x' * 501}",
        "user=%00",
    ],
)
def test_a_search_that_makes_no_sense_is_refused(gateway: Talk, query: str) -> None:
    assert signed_in(gateway).get(f"/find?{query}").status_code == 422


def test_the_history_of_an_item_has_all_that_happened(
    leanplum: Leanplum, settings: Callable[..., Settings], path: Path
) -> None:
    with delivering_to(leanplum, settings, path) as talk:
        leanplum.fault(mode="503", userId="ann", times=1)
        leanplum.fault(mode="success-false", userId="ann", message=f"Bad. {HOSTILE}", times=1)
        request_id = send(talk, "ann", "a1", "Purchase")
        until(lambda: talk.get("/v1/receipts/a1").json()["status"] == "rejected", 30.0)
        page = signed_in(talk).get("/find/receipt?app=default&id=a1")
        text = text_of(page)
        for words in (
            "Bad.",
            "2 attempts",
            request_id,
            "503",
            "200",
            "HTTP 503",
            "Leanplum refused it for good",
        ):
            assert words in text, words
        assert HOSTILE not in page.text
        assert "&lt;img" in page.text
        assert CANARY not in page.text
        _, key = talk.create_key(Scope.CONSOLE_READ, Scope.RECEIPTS_READ)
        narrow = signed_in(talk, key).get("/find/receipt?app=default&id=a1").text
        for link in ("/console/audit", "/console/keys", "/console/dead-letters"):
            assert link not in narrow
        assert "Calls to Leanplum" not in narrow


def test_an_item_that_waits_says_why(
    leanplum: Leanplum, settings: Callable[..., Settings], path: Path
) -> None:
    with delivering_to(leanplum, settings, path, leanplum_production_key="wrong") as talk:
        send(talk, "ann", "a1")
        until(lambda: talk.get("/v1/receipts/a1").json()["status"] == "held")
        text = text_of(signed_in(talk).get("/find/receipt?app=default&id=a1"))
        assert "Leanplum refuses the app or its key" in text
        assert "Next attempt" in text


def test_names_and_ids_of_callers_are_shown_as_texts(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    send(gateway, HOSTILE, "hostile", HOSTILE)
    for path in ("/find?id=hostile", "/find/receipt?app=default&id=hostile"):
        page = visitor.get(path).text
        assert HOSTILE not in page
        assert "&lt;img src=x onerror=alert(1)&gt;" in page
    page = visitor.get("/find", params=dict.fromkeys(("user", "event", "id"), HOSTILE)).text
    assert HOSTILE not in page


def test_what_the_gateway_changed_in_an_item_is_shown(gateway: Talk) -> None:
    body = {"userId": "ann", "event": "Purchase", "id": "euro", "value": 1, "currencyCode": "eur"}
    assert gateway.event({**body, "time": 1_600_000_000}).status_code == 202
    enrichment = gateway.get("/v1/receipts/euro").json()["enrichment"]
    text = text_of(signed_in(gateway).get("/find/receipt?app=default&id=euro"))
    assert "Enriched by currency" in text
    for warning in enrichment["warnings"]:
        assert warning in text


def test_an_item_that_was_changed_without_a_warning_is_shown(gateway: Talk) -> None:
    body = {"userId": "ann", "event": "Purchase", "id": "now", "value": 1, "currencyCode": "eur"}
    assert gateway.event(body).status_code == 202
    assert "warnings" not in gateway.get("/v1/receipts/now").json()["enrichment"]
    text = text_of(signed_in(gateway).get("/find/receipt?app=default&id=now"))
    assert "Enriched by currency" in text


def test_a_key_for_some_apps_finds_only_their_items(
    start: Callable[..., Talk], two_apps: dict[str, Any]
) -> None:
    talk = start(**two_apps)
    for app in ("one", "two"):
        send(talk, "ann", f"in-{app}", **{"X-Leanplum-App": app})
    _, key = talk.create_key(Scope.CONSOLE_READ, Scope.RECEIPTS_READ, apps=["one"])
    visitor = signed_in(talk, key)
    assert found(visitor, user="ann") == ["in-one"]
    assert found(visitor, id="in-two") == []
    assert visitor.get("/find?app=two").status_code == 404
    assert visitor.get("/find/receipt?app=two&id=in-two").status_code == 404
    assert visitor.get("/find/receipt?app=one&id=in-two").status_code == 404
    assert found(signed_in(talk), user="ann") == ["in-two", "in-one"]


def test_a_search_for_a_user_is_audited_with_the_hash_of_the_user(gateway: Talk) -> None:
    answer = signed_in(gateway).get("/find?user=ann&app=default")
    (record,) = gateway.audit(answer.headers["x-request-id"])
    assert record["api"]["operation"] == "GET /console/find"
    assert record["unmapped"]["user"] == gateway.user_hash("ann")


def test_a_search_of_many_apps_examines_no_more_than_that_of_one(
    start: Callable[..., Talk], two_apps: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    examined = list[int | None]()
    search = Outbox.search_receipts

    async def counted(outbox: Outbox, wanted: ReceiptSearch) -> Any:
        examined.append(wanted.examined)
        return await search(outbox, wanted)

    monkeypatch.setattr(Outbox, "search_receipts", counted)
    assert "Nothing found" in signed_in(start(**two_apps)).get("/find?event=missing").text
    assert examined[-2:] == [EXAMINED // 2] * 2


def test_the_history_of_an_item_of_an_erased_user_leads_to_nobody(
    start: Callable[..., Talk],
) -> None:
    talk = start()
    send(talk, "ann", "of-erased")
    visitor, query = signed_in(talk), "/find/receipt?app=default&id=of-erased"
    assert "Everything of this user" in visitor.get(query).text
    talk.execute("UPDATE items SET subject = 'e0123abc'")  # as an erasure does
    page = visitor.get(query)
    assert page.status_code == 200
    assert "Everything of" not in page.text
    assert "0123abc" not in page.text
