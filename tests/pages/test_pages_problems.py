"""The pages of problems: each example is what the gateway sends in such a case."""

import html
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from playwright.sync_api import expect

from app.http.problem_types import PROBLEMS
from app.http.problems import example, example_headers
from app.model import Scope
from app.outbox.outbox import Outbox
from app.server.http1 import MAX_HEAD, MAX_URL
from app.settings import Settings
from tests.support.browser import Visit, accessibility_findings, assert_fits, screenshot
from tests.support.gateway import EVENT, WIDE, Talk, make_settings
from tests.support.http_server import Wire, served
from tests.support.processes import Process
from tests.support.simulator import Leanplum, delivering_to, simulated

Start = Callable[..., Talk]
ITEM = EVENT | {"action": "track"}
WRONG = {"userId": "u1", "curencyCode": "EUR"}
BODY = b'{"userId":"u1","event":"E"}'


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as simulator:
        yield simulator


@pytest.fixture
def talk(leanplum: Leanplum, settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Talk]:
    """A gateway whose Leanplum answers, without one of the keys."""
    given = {"leanplum_data_export_key": None, "gateway_relay_timeout_seconds": 1}
    leanplum.mend()
    with delivering_to(leanplum, settings, tmp_path / "g.db", **(WIDE | given)) as gateway:
        yield gateway


def same(answer: httpx.Response, slug: str) -> None:
    """Compare a response with the example, but for numbers and the id of the request."""
    compare(answer.json(), slug)
    assert example_headers(slug).keys() - {"Content-Type"} <= {
        name.title().replace("Www-", "WWW-") for name in answer.headers
    }


def compare(sent: dict[str, Any], slug: str) -> None:
    shown = example(slug)
    for document in (sent, shown):
        document["instance"] = ""
        document["detail"] = re.sub(r"\d+", "N", document["detail"])
    assert sent == shown


def forbidden(talk: Talk) -> httpx.Response:
    return talk.event(key=talk.create_key(Scope.USERS_WRITE)[1])


def conflicting(talk: Talk) -> httpx.Response:
    talk.event(EVENT | {"id": "order-1"})
    return talk.event(EVENT | {"id": "order-1", "value": 2})


def limited(talk: Talk) -> httpx.Response:
    _, key = talk.create_key(Scope.EVENTS_WRITE, ratePerSecond=1, rateBurst=1)
    talk.event(key=key)
    return talk.event(key=key)


CASES: dict[str, Callable[[Talk], httpx.Response]] = {
    "malformed": lambda talk: talk.event(b'{"userId": "u1",}'),
    "key-in-url": lambda talk: talk.get(f"/v1/receipts?key={talk.key}"),
    "unauthorized": lambda talk: talk.event(key=None),
    "forbidden": forbidden,
    "not-found": lambda talk: talk.post("/v1/event", EVENT),
    "method-not-allowed": lambda talk: talk.post("/v1/events", EVENT, method="PUT"),
    "id-conflict": conflicting,
    "too-large": lambda talk: talk.batch([ITEM] * 1_200),
    "unsupported-media-type": lambda talk: talk.event(b"x", headers={"Content-Type": "text/plain"}),
    "validation": lambda talk: talk.event(WRONG),
    "rate-limited": limited,
    "key-not-configured": lambda talk: talk.post("/v1/exports/users", {}),
}


@pytest.mark.parametrize("slug", CASES)
def test_a_refused_call_gets_what_the_page_shows(slug: str, talk: Talk) -> None:
    same(CASES[slug](talk), slug)


def test_what_leanplum_refuses_or_does_not_answer_is_shown_as_it_is_sent(
    talk: Talk, leanplum: Leanplum
) -> None:
    leanplum.fault(mode="400", times=None, message="Invalid message id.")
    same(talk.get("/v1/messages"), "upstream-rejected")
    leanplum.mend()
    leanplum.fault(mode="slow", times=None, delay=3)
    same(talk.get("/v1/messages"), "upstream-timeout")


def test_a_leanplum_that_cannot_be_reached_is_shown_as_it_is_sent(start: Start) -> None:
    same(start().post("/v1/users/u1/sessions", {}), "upstream-unavailable")


def test_what_the_gateway_cannot_store_is_shown_as_it_is_sent(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = start()
    talk.execute("ALTER TABLE items RENAME TO gone")
    same(talk.batch([ITEM]), "storage-unavailable")

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Outbox, "accept", broken)
    same(talk.event(), "internal")


def test_a_full_queue_is_shown_as_it_is_sent(start: Start) -> None:
    talk = start(gateway_max_queued_items=1)
    talk.event()
    same(talk.event(), "queue-full")


def sent_by_server(settings: Settings, said: bytes) -> dict[str, Any]:
    """The problem that the HTTP server itself answers."""
    with served(settings) as port, closing(Wire(port)) as wire:
        wire.say(said)
        document: dict[str, Any] = orjson.loads(wire.answer()[2])
        return document


def head(settings: Settings, length: int) -> bytes:
    assert settings.gateway_bootstrap_key is not None
    key = settings.gateway_bootstrap_key.get_secret_value()
    return (
        f"POST /v1/events HTTP/1.1\r\nHost: g\r\nX-API-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def test_what_the_http_server_refuses_is_shown_as_it_is_sent(
    tmp_path: Path, migrated: Path
) -> None:
    settings = make_settings(tmp_path, migrated, {"gateway_slow_seconds": 0.5})
    long_url = b"GET /" + b"a" * MAX_URL + b" HTTP/1.1\r\nHost: g\r\n\r\n"
    compare(sent_by_server(settings, long_url), "url-too-long")
    long_head = b"GET / HTTP/1.1\r\nHost: g\r\nX: " + b"a" * MAX_HEAD + b"\r\n\r\n"
    compare(sent_by_server(settings, long_head), "head-too-large")
    unfinished = head(settings, len(BODY)) + BODY[:-1]
    compare(sent_by_server(settings, unfinished), "request-timeout")


SHOWN = re.compile(r"<pre[^>]*>(.*?)</pre>", re.DOTALL)


@pytest.mark.parametrize("slug", PROBLEMS)
def test_a_page_has_the_cause_the_remedy_and_the_example(gateway: Talk, slug: str) -> None:
    text = html.unescape(gateway.get(f"/problems/{slug}", key=None).text)
    assert PROBLEMS[slug].cause in text
    assert PROBLEMS[slug].advice in text
    shown = SHOWN.search(text)
    assert shown
    assert orjson.loads(shown[1]) == example(slug)


@pytest.mark.parametrize(
    ("dark", "width"), [(False, 1280), (True, 1280), (False, 390), (True, 390)]
)
def test_the_pages_fit_and_are_accessible(
    visit: Visit, site: Process, dark: bool, width: int
) -> None:
    for path, name in (("/", "index"), ("/problems", "problems"), ("/problems/validation", "422")):
        page = visit(f"{site.url}{path}", dark=dark, width=width)
        screenshot(page, f"{name}-{'dark' if dark else 'light'}-{width}")
        assert_fits(page)
        assert not accessibility_findings(page)


def test_a_person_follows_the_links_to_a_problem_without_scripts(
    visit: Visit, site: Process
) -> None:
    page = visit(f"{site.url}/", javascript=False)
    page.locator("main").get_by_role("link", name="Problems").click()
    page.get_by_role("link", name="Validation failed").click()
    expect(page.get_by_role("heading", name="Validation failed")).to_be_visible()
    expect(page.locator("pre")).to_contain_text('"pointer": "/event"')
