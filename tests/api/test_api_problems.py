"""Errors as problems, their pages, and the request id that every answer has."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import errors
from app.audit.proofs import BROKEN
from app.console.access import SignedOut
from app.http import problems
from app.http.problem_types import PROBLEMS
from app.outbox.outbox import Outbox
from app.pages import asset_path
from app.server.http1 import MAX_HEAD, MAX_HEADERS, MAX_URL
from tests.support.gateway import CANARY, EVENT, Talk, problem

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., Talk]
SLUGS = {
    "validation": 422, "malformed": 400, "unauthorized": 401, "forbidden": 403, "not-found": 404,
    "method-not-allowed": 405, "id-conflict": 409, "too-large": 413, "unsupported-media-type": 415, "rate-limited": 429,
    "queue-full": 503, "storage-unavailable": 503, "internal": 500,
    "key-in-url": 400, "request-timeout": 408, "url-too-long": 414, "head-too-large": 431, "overloaded": 503,
    "audit-broken": 503,
}  # fmt: skip
TITLES = {
    "malformed": "Malformed request",
    "key-in-url": "API key in URL",
    "unauthorized": "Missing or invalid API key",
    "forbidden": "Forbidden",
    "not-found": "Not found",
    "method-not-allowed": "Method not allowed",
    "request-timeout": "Request timeout",
    "id-conflict": "Idempotency conflict",
    "too-large": "Payload too large",
    "url-too-long": "URI too long",
    "unsupported-media-type": "Unsupported media type",
    "validation": "Validation failed",
    "rate-limited": "Rate limit exceeded",
    "head-too-large": "Request header fields too large",
    "internal": "Internal server error",
    "key-not-configured": "Leanplum key not configured",
    "upstream-rejected": "Rejected by Leanplum",
    "upstream-unavailable": "Leanplum is unavailable",
    "upstream-timeout": "Leanplum timed out",
    "queue-full": "Queue full",
    "overloaded": "Gateway overloaded",
    "stopping": "Gateway is shutting down",
    "audit-broken": "Audit log integrity check failed",
    "storage-unavailable": "Storage unavailable",
}
PAGES = [
    "/livez",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/",
    "/docs",
    "/problems",
    "/problems/validation",
]


NOWHERE = ["/nothing", "/v1", "/v1/", "/v1/event", "/v2/events", "/v1/events/x", "/assets/no.js", "/%00",
           "/assets/0/no.js", "/assets/%2e%2e/main.py", "/v1/users/a/b/c"]  # fmt: skip


@pytest.mark.parametrize("url", NOWHERE)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_address_is_not_found_or_takes_no_such_method(
    gateway: Talk, method: str, url: str
) -> None:
    answer = gateway.call(method, url)
    if url.startswith(("/assets/0/", "/assets/%2e%2e/")) and method != "GET":
        problem(answer, 405, "method-not-allowed")
    else:
        problem(answer, 404, "not-found")


METHODS = [
    ("GET", "/v1/events", {"POST"}),
    ("PUT", "/v1/events", {"POST"}),
    ("DELETE", "/v1/batch", {"POST"}),
    ("GET", "/v1/devices/d", {"PATCH"}),
    ("POST", "/v1/users/u", {"GET", "PATCH", "DELETE"}),
    ("PUT", "/v1/keys", {"GET", "POST"}),
    ("PATCH", "/v1/users/u/states", {"POST"}),
    ("POST", "/livez", {"GET"}),
    ("DELETE", "/v1/receipts/x", {"GET"}),
    ("POST", "/problems", {"GET"}),
    ("OPTIONS", "/v1/events", {"POST"}),
    ("POST", asset_path("favicon.svg"), {"GET"}),
]


@pytest.mark.parametrize(("method", "url", "allowed"), METHODS)
def test_another_method_is_not_allowed_and_allow_names_those_that_are(
    gateway: Talk, method: str, url: str, allowed: set[str]
) -> None:
    answer = gateway.call(method, url)
    problem(answer, 405, "method-not-allowed")
    assert (
        allowed
        <= {name.strip() for name in answer.headers["allow"].split(",")}
        <= allowed | {"HEAD", "OPTIONS"}
    )


@pytest.mark.parametrize("url", PAGES)
def test_head_answers_as_get_does(gateway: Talk, url: str) -> None:
    """RFC 9110 §9.1: every server supports GET and HEAD; health checkers ask by HEAD."""
    asked, headed = gateway.get(url), gateway.call("HEAD", url)
    assert headed.status_code == asked.status_code == 200
    assert headed.headers["content-type"] == asked.headers["content-type"]


def test_head_of_a_write_is_not_allowed(gateway: Talk) -> None:
    answer = gateway.call("HEAD", "/v1/events")
    assert (answer.status_code, "POST" in answer.headers["allow"]) == (405, True)


def _subclasses(base: type[errors.GatewayError]) -> set[type[errors.GatewayError]]:
    direct = set(base.__subclasses__())
    return direct.union(*(_subclasses(kind) for kind in direct))


def test_every_error_that_reaches_a_caller_has_a_problem() -> None:
    # Only subclasses of the first three are raised; the others end a command, or lead to a sign-in
    without = {errors.Refusal, errors.Unable, errors.Upstream, errors.StartRefused}
    without |= {errors.CheckFailed, SignedOut}
    assert _subclasses(errors.GatewayError) - without == set(problems.SLUGS)
    assert set(problems.SLUGS.values()) <= set(PROBLEMS)


def test_the_examples_are_what_the_code_says() -> None:
    examples = {slug: problem.example for slug, problem in PROBLEMS.items()}
    assert examples["url-too-long"] == f"The URI exceeds {MAX_URL} bytes."
    limits = f"{MAX_HEADERS} header fields or {MAX_HEAD} bytes of them"
    assert examples["head-too-large"] == f"The request has more than {limits}."
    assert examples["stopping"] == errors.Stopping().detail
    assert examples["audit-broken"] == BROKEN
    sources = (ROOT / "app").rglob("*.py")
    text = "\n".join(page.read_text() for page in sources if page.name != "problem_types.py")
    for slug in ("request-timeout", "id-conflict", "overloaded", "storage-unavailable"):
        assert examples[slug] in text, slug


def test_the_table_of_problems_is_that_of_the_contract() -> None:
    assert {slug: problem.status for slug, problem in PROBLEMS.items() if slug in SLUGS} == SLUGS


@pytest.mark.parametrize("slug", sorted(PROBLEMS))
def test_every_problem_has_a_page_that_the_index_leads_to(gateway: Talk, slug: str) -> None:
    page = gateway.get(f"/problems/{slug}", key=None)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert str(PROBLEMS[slug].status) in page.text
    assert f"/problems/{slug}" in gateway.get("/problems", key=None).text


def example_on(page: str) -> dict[str, Any]:
    """The example on a problem's page."""
    shown = re.search(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert shown
    example: dict[str, Any] = json.loads(html.unescape(shown[1]))
    return example


@pytest.mark.parametrize("slug", PROBLEMS)
def test_a_page_has_an_example_in_json(gateway: Talk, slug: str) -> None:
    example = example_on(gateway.get(f"/problems/{slug}", key=None).text)
    assert example["type"] == f"/problems/{slug}"
    assert (example["title"], example["status"]) == (TITLES[slug], PROBLEMS[slug].status)
    assert example["detail"] and example["instance"]


def test_the_example_of_a_failed_validation_has_pointers(gateway: Talk) -> None:
    example = example_on(gateway.get("/problems/validation", key=None).text)
    assert {"pointer", "detail", "code"} == example["errors"][0].keys()
    assert example["errors"][0]["pointer"] == "/event"


@pytest.mark.parametrize("slug", ["nothing", "%3Cscript%3E", "Validation"])
def test_a_page_of_no_problem_is_not_found_and_repeats_nothing(gateway: Talk, slug: str) -> None:
    answer = gateway.get(f"/problems/{slug}", key=None)
    problem(answer, 404, "not-found")
    assert "script" not in answer.text


@pytest.mark.parametrize("url", [*PAGES, "/nothing"])
def test_pages_say_that_they_may_not_be_framed_or_guessed(gateway: Talk, url: str) -> None:
    headers = gateway.get(url).headers
    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")


@pytest.mark.parametrize("url", ["/docs", "/problems", "/problems/validation"])
def test_a_page_allows_the_scripts_that_are_in_it_by_their_hashes_and_no_others(
    gateway: Talk, url: str
) -> None:
    page = gateway.get(url)
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in page.headers["content-security-policy"].split(";")
    )
    assert (policy["default-src"], policy["frame-ancestors"], policy["base-uri"]) == ("'none'",) * 3
    assert "unsafe" not in policy["script-src"]
    for inline in re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy["script-src"]
    assert page.headers.get_list("content-security-policy") == [
        page.headers["content-security-policy"]
    ]


@pytest.mark.parametrize(
    "url", ["/openapi.json", "/v1/receipts/none", "/nothing", "/livez", "/metrics"]
)
def test_what_is_no_page_may_do_nothing_in_a_browser(gateway: Talk, url: str) -> None:
    assert (
        gateway.get(url).headers["content-security-policy"]
        == "default-src 'none'; frame-ancestors 'none'"
    )


EVERYWHERE: dict[str, Callable[[Talk, dict[str, str]], Any]] = {
    "accepted": lambda talk, headers: talk.event(headers=headers),
    "batch": lambda talk, headers: talk.batch([EVENT | {"action": "track"}], headers=headers),
    "routed write": lambda talk, headers: talk.post(
        "/v1/users/u/states", {"state": ""}, headers=headers
    ),
    "malformed": lambda talk, headers: talk.event(b"{", headers=headers),
    "invalid": lambda talk, headers: talk.event({}, headers=headers),
    "unauthorized": lambda talk, headers: talk.event(key="nonsense", headers=headers),
    "not found": lambda talk, headers: talk.get("/nothing", headers=headers),
    "method": lambda talk, headers: talk.get("/v1/events", headers=headers),
    "receipt": lambda talk, headers: talk.get("/v1/receipts/none", headers=headers),
    "page": lambda talk, headers: talk.get("/docs", headers=headers),
    "asset": lambda talk, headers: talk.get(asset_path("favicon.svg"), headers=headers),
    "livez": lambda talk, headers: talk.get("/livez", headers=headers),
}


@pytest.mark.parametrize("call", EVERYWHERE.values(), ids=EVERYWHERE.keys())
def test_a_request_id_is_echoed_and_is_the_instance_of_a_problem(
    gateway: Talk, call: Callable[..., Any]
) -> None:
    answer = call(gateway, {"X-Request-ID": "trace-1.a:b/c+d=e_f"})
    assert answer.headers.get_list("x-request-id") == ["trace-1.a:b/c+d=e_f"]
    if answer.headers["content-type"] == "application/problem+json":
        assert answer.json()["instance"] == "trace-1.a:b/c+d=e_f"


@pytest.mark.parametrize("call", EVERYWHERE.values(), ids=EVERYWHERE.keys())
def test_a_request_id_is_made_where_none_came_and_is_new_each_time(
    gateway: Talk, call: Callable[..., Any]
) -> None:
    made = {call(gateway, {}).headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    assert all(20 <= len(one) <= 128 for one in made)


@pytest.mark.parametrize("call", EVERYWHERE.values(), ids=EVERYWHERE.keys())
def test_no_browser_guesses_what_kind_an_answer_is(gateway: Talk, call: Callable[..., Any]) -> None:
    assert call(gateway, {}).headers.get_list("x-content-type-options") == ["nosniff"]


def test_no_cache_keeps_a_key_or_anybody_s_data(gateway: Talk) -> None:
    made = gateway.post("/v1/keys", {"name": "n", "scopes": ["sdk"]})
    assert made.status_code == 201
    rotated = gateway.post(f"/v1/keys/{made.json()['id']}/rotate", {})
    for answer in (
        made,
        rotated,
        gateway.get("/v1/keys"),
        gateway.get("/v1/receipts/none"),
        gateway.get("/v1/apps"),
    ):
        assert answer.headers.get_list("cache-control") == ["no-store"]


@pytest.mark.parametrize(
    "given", ["", " ", "a b", "a" * 129, 'a"b', "a,b", "<x>", "é", "a\tb", "{}", "a;b"]
)
def test_a_bad_request_id_is_replaced(gateway: Talk, given: str) -> None:
    answer = gateway.event({}, headers={"X-Request-ID": given.encode("latin-1")})
    assert answer.headers["x-request-id"] != given
    problem(answer, 422, "validation")


def test_the_longest_request_id_is_taken(gateway: Talk) -> None:
    assert (
        gateway.get("/livez", headers={"X-Request-ID": "a" * 128}).headers["x-request-id"]
        == "a" * 128
    )


async def broken(*_: object) -> Any:
    """Fail by a mistake, with what a caller sent in the error's text."""
    raise RuntimeError(CANARY)


@pytest.mark.parametrize("name", ["accepted", "batch", "routed write", "receipt"])
def test_a_mistake_of_ours_is_an_internal_problem_that_tells_nothing_of_it(
    start: Start, name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = start()
    monkeypatch.setattr(Outbox, "accept", broken)
    monkeypatch.setattr(Outbox, "receipt", broken)
    answer = EVERYWHERE[name](talk, {})
    problem(answer, 500, "internal")
    assert CANARY not in answer.text
    assert CANARY not in "".join(capfd.readouterr())


def test_a_database_that_cannot_commit_is_a_storage_problem_and_the_next_commit_is_tried_anew(
    start: Start,
) -> None:
    """Nothing is answered 202 that is not on disk."""
    talk = start()
    talk.execute("ALTER TABLE items RENAME TO gone")
    try:
        problem(talk.event(), 503, "storage-unavailable")
        problem(talk.batch([EVENT | {"action": "track"}]), 503, "storage-unavailable")
        problem(talk.get("/v1/receipts/x"), 503, "storage-unavailable")
    finally:
        talk.execute("ALTER TABLE gone RENAME TO items")
    assert talk.event().status_code == 202
    assert talk.items() == 1


@pytest.mark.parametrize("waiting", ["event", "batch"])
def test_a_full_queue_refuses_and_takes_nothing(start: Start, waiting: str) -> None:
    talk = start(gateway_max_queued_items=3)
    talk.batch([EVENT | {"action": "track"}] * 2)
    if waiting == "event":
        assert talk.event().status_code == 202
        answer = talk.event(EVENT | {"event": CANARY})
    else:
        answer = talk.batch([EVENT | {"action": "track"}] * 2)
    problem(answer, 503, "queue-full")
    assert int(answer.headers["retry-after"]) > 0
    assert talk.items() == (3 if waiting == "event" else 2)


def test_the_queue_is_full_after_a_restart_too(start: Start) -> None:
    first = start(gateway_max_queued_items=2)
    first.batch([EVENT | {"action": "track"}] * 2)
    problem(start(gateway_max_queued_items=2).event(key=first.key), 503, "queue-full")


def test_many_at_once_do_not_overfill_the_queue(start: Start) -> None:
    talk = start(gateway_max_queued_items=10)
    options: dict[str, Any] = {"json": EVENT}
    statuses = [
        answer.status_code for answer in talk.at_once(*[("POST", "/v1/events", options)] * 50)
    ]
    assert (statuses.count(202), statuses.count(503)) == (10, 40)
    assert talk.items() == 10
