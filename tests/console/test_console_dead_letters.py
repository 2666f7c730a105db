"""The console's pages about dead letters."""

import re
import threading
from collections.abc import Callable
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest

from app.model import Scope, Settled, Status
from app.outbox import dead_letters
from tests.console.visitor import ConsoleVisitor, signed_in, text_of
from tests.support.dead_letters import event, settle
from tests.support.gateway import CANARY, Talk
from tests.support.wait import until

GROUP = re.compile(r'<th scope="row"><a href="/console(/dead-letters/selection\?[^"]+)">')
HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')
HOSTILE = "<img src=x onerror=alert(1)>"


def dead(talk: Talk, *item_ids: str, error: str = "Bad.", user: str = "ann") -> None:
    """Let events end as dead letters."""
    talk.batch([event(item_id, user) for item_id in item_ids])
    verdict = Settled(Status.REJECTED, {"success": False, "error": error})
    settle(talk, dict.fromkeys(item_ids, verdict))


def fields(page: str, action: str) -> dict[str, str]:
    """The hidden fields of the first form of an operation, as a browser sends them."""
    form = page.partition(f'action="/console/dead-letters/{action}"')[2].partition("</form>")[0]
    return {name: unescape(value) for name, value in HIDDEN.findall(form)}


def status(talk: Talk, item_id: str) -> str:
    return str(talk.get(f"/v1/receipts/{item_id}").json()["status"])


def operated(visitor: ConsoleVisitor, action: str, form: dict[str, str]) -> tuple[str, str, str]:
    """Send the form of an operation; return the page that follows, its text, and the request."""
    answer = visitor.post(f"/dead-letters/{action}", form)
    assert answer.status_code == 303, text_of(answer)
    path = answer.headers["location"].removeprefix("/console")
    page = visitor.get(path)
    return page.text, text_of(page), answer.headers["x-request-id"]


def test_a_group_is_shown_counted_and_replayed(start: Callable[..., Talk]) -> None:
    talk = start()
    dead(talk, "a", "b", error="Event value must not be negative.")
    dead(talk, "c", error="Other.")
    visitor = signed_in(talk)
    groups = GROUP.findall(visitor.get("/dead-letters").text)
    assert len(groups) == 2
    page = visitor.get(unescape(groups[0])).text
    assert "2 dead letters" in page
    assert CANARY not in page
    form = fields(page, "replay")
    _, counted, _ = operated(visitor, "replay", form | {"dry_run": "1"})
    assert "Dry run of a replay done" in counted
    assert "Matched 2" in counted
    assert status(talk, "a") == "rejected"
    _, replayed, request_id = operated(visitor, "replay", form)
    assert "Replay done" in replayed
    assert "Replayed 2" in replayed
    assert [status(talk, item_id) for item_id in "abc"] == ["accepted", "accepted", "rejected"]
    records = [each for each in talk.audit(request_id) if "replayed" in each["unmapped"]]
    assert [record["unmapped"]["replayed"] for record in records] == [2]
    assert records[0]["api"]["operation"] == "POST /console/dead-letters/replay"
    assert "replay" in visitor.get("/dead-letters").text


def test_what_dies_after_the_page_was_shown_is_not_part_of_the_operation(
    start: Callable[..., Talk],
) -> None:
    talk = start()
    dead(talk, "a")
    visitor = signed_in(talk)
    form = fields(visitor.get("/dead-letters/selection?app=default").text, "discard")
    dead(talk, "b")
    _, text, _ = operated(visitor, "discard", form)
    assert "Discarded 1" in text
    assert talk.rows("SELECT count(*) FROM items WHERE body IS NOT NULL") == [(1,)]


@pytest.mark.parametrize("name", ["E ", " ", " E"])
def test_an_operation_changes_what_its_page_shows_though_names_have_spaces(
    start: Callable[..., Talk], name: str
) -> None:
    talk = start()
    dead(talk, "a")
    talk.batch([{**event("b", "ann"), "event": name}])
    settle(talk, {"b": Settled(Status.REJECTED, {"success": False, "error": " No \n way. "})})
    visitor = signed_in(talk)
    query = urlencode({"app": "default", "event": name, "reason": "No way."})
    page = visitor.get(f"/dead-letters/selection?{query}").text
    assert "<code>b</code>" in page
    assert "<code>a</code>" not in page
    _, text, _ = operated(visitor, "discard", fields(page, "discard"))
    assert "Discarded 1" in text
    assert talk.rows("SELECT event FROM items WHERE body IS NOT NULL") == [("E",)]


def test_dead_letters_are_chosen_by_other_properties(start: Callable[..., Talk]) -> None:
    talk = start()
    dead(talk, "a", user="ann")
    dead(talk, "b", user="bob")
    visitor = signed_in(talk)
    for query, shown in [
        ("user=ann", ["a"]),
        ("id=b", ["b"]),
        ("event=E", ["a", "b"]),
        ("event=F", []),
        ("status=expired", []),
        ("action=track", ["a", "b"]),
        ("since=2100-01-01T00:00", []),
        ("until=2100-01-01T00:00", ["a", "b"]),
        ("reason=Bad.", ["a", "b"]),
        ("reason=Good.", []),
    ]:
        page = visitor.get(f"/dead-letters/selection?app=default&{query}").text
        assert [item_id for item_id in "ab" if f"<code>{item_id}</code>" in page] == shown, query


@pytest.mark.parametrize("query", ["status=delivered", "since=x", "user=a&device=b", "id=%00"])
def test_a_choice_that_makes_no_sense_is_refused(gateway: Talk, query: str) -> None:
    visitor = signed_in(gateway)
    assert visitor.get(f"/dead-letters/selection?app=default&{query}").status_code == 422


def test_an_operation_with_a_bad_choice_changes_nothing(start: Callable[..., Talk]) -> None:
    talk = start()
    dead(talk, "a")
    visitor = signed_in(talk)
    for form in (
        {"app": "default", "status": "delivered"},
        {"app": "default", "until": "soon"},
        {"app": "unknown"},
        {},
    ):
        for action in ("replay", "discard"):
            assert visitor.post(f"/dead-letters/{action}", form).status_code in {404, 422}
    assert status(talk, "a") == "rejected"
    assert talk.rows("SELECT count(*) FROM items WHERE body IS NOT NULL") == [(1,)]


def test_a_large_replay_shows_its_progress(
    start: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "STEP", 2)
    talk = start()
    ids = [f"n{number}" for number in range(6)]
    dead(talk, *ids)
    visitor = signed_in(talk)
    go_on, service = threading.Event(), talk.app.services.outbox.dead_letters
    read, steps = service._read, list[int]()

    async def slow(query: Any) -> Any:  # the second step waits for the test
        steps.append(1)
        if len(steps) > 1:
            while not go_on.is_set():
                await _pause()
        return await read(query)

    monkeypatch.setattr(service, "_read", slow)
    answer = visitor.post("/dead-letters/replay", {"app": "default"})
    path = answer.headers["location"].removeprefix("/console")
    page = visitor.get(path).text
    assert "running" in page
    assert '<noscript><meta http-equiv="refresh"' in page
    assert 'hx-trigger="every 2s"' in page
    go_on.set()
    until(lambda: "Replay done" in text_of(visitor.get(path)))
    done = visitor.get(path)
    assert "Replayed 6" in text_of(done)
    assert "refresh" not in done.text
    assert "hx-get" not in done.text


async def _pause() -> None:
    import asyncio

    await asyncio.sleep(0.01)


def test_a_replay_stops_when_its_key_is_revoked(
    start: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "STEP", 2)
    talk = start()
    dead(talk, "a", "b", "c", "d")
    key_id, key = talk.create_key(Scope.CONSOLE_READ, Scope.DEAD_LETTERS_MANAGE)
    visitor = signed_in(talk, key)
    service = talk.app.services.outbox.dead_letters
    read, steps = service._read, list[int]()

    async def revoking(query: Any) -> Any:
        steps.append(1)
        if len(steps) == 2:
            services = talk.app.services
            services.keys.revoke(key_id, 1)
            services.directory.refresh()
        return await read(query)

    monkeypatch.setattr(service, "_read", revoking)
    answer = visitor.post("/dead-letters/replay", {"app": "default"})
    path = answer.headers["location"].removeprefix("/console")
    text = text_of(signed_in(talk).get(path))
    assert "Replay stopped" in text
    assert "the key that began it does not work any more" in text
    assert [status(talk, item_id) for item_id in "abcd"] == ["accepted"] * 2 + ["rejected"] * 2
    failed = [each for each in talk.audit(answer.headers["x-request-id"]) if each["status_id"] == 2]
    assert len(failed) == 1


def test_texts_of_callers_and_leanplum_are_shown_as_texts(start: Callable[..., Talk]) -> None:
    talk = start()
    talk.batch([{**event("a", HOSTILE), "event": HOSTILE}])
    settle(talk, {"a": Settled(Status.REJECTED, {"error": f"No. {HOSTILE}!"})})
    visitor = signed_in(talk)
    groups = visitor.get("/dead-letters").text
    (link,) = GROUP.findall(groups)
    selection = visitor.get(unescape(link)).text
    query = f"/dead-letters/selection?app=default&event={HOSTILE}&reason={HOSTILE}"
    run, _, _ = operated(visitor, "replay", fields(selection, "replay") | {"dry_run": "1"})
    for page in (groups, selection, run, visitor.get(query).text):
        assert HOSTILE not in page
        assert "&lt;img src=x" in page or "…" in page


def test_a_key_for_some_apps_sees_and_changes_only_theirs(
    start: Callable[..., Talk], two_apps: dict[str, Any]
) -> None:
    talk = start(**two_apps)
    _, key = talk.create_key(Scope.CONSOLE_READ, Scope.DEAD_LETTERS_MANAGE, apps=["one"])
    visitor = signed_in(talk, key)
    assert visitor.get("/dead-letters/selection?app=two").status_code == 404
    for action in ("replay", "discard"):
        assert visitor.post(f"/dead-letters/{action}", {"app": "two"}).status_code == 404
    other = signed_in(talk).post("/dead-letters/replay", {"app": "two"})
    path = other.headers["location"].removeprefix("/console")
    assert visitor.get(path).status_code == 404
    assert path not in visitor.get("/dead-letters").text


def test_a_run_does_not_name_an_erased_user(start: Callable[..., Talk]) -> None:
    talk = start(leanplum_development_key="d")
    visitor = signed_in(talk)
    for kind in ("user", "device"):
        begun = visitor.post("/dead-letters/replay", {"app": "default", kind: "erased-one"})
        run = begun.headers["location"].removeprefix("/console")
        assert "erased-one" in visitor.get(run).text
        assert talk.call("DELETE", "/v1/users/erased-one").status_code == 202
        assert "erased-one" not in visitor.get(run).text
        assert not talk.rows("SELECT 1 FROM dead_letter_runs WHERE choice LIKE '%erased-one%'")


def test_without_dead_letters_the_page_says_so(gateway: Talk) -> None:
    text = text_of(signed_in(gateway).get("/dead-letters"))
    assert "No dead letters" in text
    assert "No dead letter matches" in text_of(
        signed_in(gateway).get("/dead-letters/selection?user=nobody")
    )
