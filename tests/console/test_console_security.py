"""What protects the console: scopes, tokens of forms, origins, policies, methods."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi.routing import APIRoute

from app.model import Scope
from app.server.application import ROUTERS
from tests.console.operations import OPERATIONS, PUBLIC, STREAMS, Operation
from tests.console.visitor import ORIGIN, ConsoleVisitor, signed_in
from tests.support.gateway import Talk

FORMS = [operation for operation in OPERATIONS if operation.method == "POST"]
OTHER_ORIGINS = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://[::1"},
    {"Origin": f"{ORIGIN}:81"},
    {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"},
    {"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"},
)


def named(operation: Operation) -> str:
    return f"{operation.method} {operation.path or '/'}"


def sent(visitor: ConsoleVisitor, operation: Operation) -> int:
    """Send the request of an operation, as its page does; return the status."""
    if operation.method == "GET":
        answer = visitor.get(operation.path)
    else:
        answer = visitor.post(operation.path, operation.form)
    return answer.status_code


@pytest.fixture(scope="module")
def keys(gateway: Talk) -> dict[frozenset[Scope], str]:
    """Keys by their scopes besides `console:read`: what an operation needs, or all but one."""
    wanted = {operation.scopes for operation in (*OPERATIONS, *STREAMS)}
    wanted |= {frozenset(Scope) - {Scope.CONSOLE_READ, scope} for scope in Scope}
    return {scopes: gateway.create_key(Scope.CONSOLE_READ, *sorted(scopes))[1] for scopes in wanted}


def test_every_route_of_the_console_is_in_the_table() -> None:
    routes = [route for router in ROUTERS for route in router.routes]
    served = {
        (method, route.path.removeprefix("/console"))
        for route in routes
        if isinstance(route, APIRoute) and route.path.startswith("/console")
        for method in route.methods or ()
    }
    rows = (*OPERATIONS, *STREAMS)
    listed = {(operation.method, operation.path.partition("?")[0]) for operation in rows}
    assert served == listed | PUBLIC


@pytest.mark.parametrize("operation", OPERATIONS, ids=named)
def test_a_key_with_exactly_the_scopes_may(
    gateway: Talk, keys: dict[frozenset[Scope], str], operation: Operation
) -> None:
    assert sent(signed_in(gateway, keys[operation.scopes]), operation) in operation.done


@pytest.mark.parametrize(
    ("operation", "missing"),
    [
        (operation, scope)
        for operation in (*OPERATIONS, *STREAMS)
        for scope in sorted(operation.scopes)
    ],
)
def test_a_key_with_every_scope_but_one_that_is_needed_may_not(
    gateway: Talk, keys: dict[frozenset[Scope], str], operation: Operation, missing: Scope
) -> None:
    visitor = signed_in(gateway, keys[frozenset(Scope) - {Scope.CONSOLE_READ, missing}])
    assert sent(visitor, operation) == 403


@pytest.mark.parametrize("operation", [*OPERATIONS, *STREAMS], ids=named)
def test_without_a_session_nothing_is_done(gateway: Talk, operation: Operation) -> None:
    answer = ConsoleVisitor(gateway).send(operation.method, operation.path, data=operation.form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")


@pytest.mark.parametrize("operation", FORMS, ids=named)
def test_an_operation_without_the_token_of_its_session_is_refused(
    gateway: Talk, operation: Operation
) -> None:
    visitor, other = signed_in(gateway), signed_in(gateway)
    for token in ("", "0" * 64, visitor.cookie, other.token, "ü"):
        fields = {**operation.form, "form_token": token}
        assert visitor.send("POST", operation.path, data=fields).status_code == 403
    assert (
        visitor.send("POST", operation.path, data={"a": "b", **operation.form}).status_code == 403
    )
    assert visitor.get().status_code == 200


@pytest.mark.parametrize("headers", OTHER_ORIGINS, ids=str)
@pytest.mark.parametrize("operation", FORMS, ids=named)
def test_an_operation_from_another_origin_is_refused(
    gateway: Talk, operation: Operation, headers: dict[str, str]
) -> None:
    visitor = signed_in(gateway)
    assert visitor.post(operation.path, operation.form, headers=headers).status_code == 403
    assert visitor.get().status_code == 200


@pytest.mark.parametrize("headers", OTHER_ORIGINS, ids=str)
def test_nobody_is_signed_in_from_another_origin(gateway: Talk, headers: dict[str, str]) -> None:
    visitor = ConsoleVisitor(gateway)
    answer = visitor.send("POST", "/sign-in", data={"key": gateway.key}, headers=headers)
    assert answer.status_code == 403
    assert visitor.cookie == ""


def test_a_token_in_the_url_or_in_json_does_not_count(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    json = visitor.send("POST", "/sign-out", json={"form_token": visitor.token})
    assert json.status_code == 415
    assert visitor.send(
        "POST", f"/sign-out?form_token={visitor.token}", data={"a": "b"}
    ).status_code in {
        400,
        401,
        403,
    }
    assert visitor.get().status_code == 200


@pytest.mark.parametrize("path", ["", "/sign-in", "/nowhere"])
def test_pages_run_nothing_of_others_and_are_not_framed_or_cached(gateway: Talk, path: str) -> None:
    headers = signed_in(gateway).get(path).headers
    policy = dict(
        part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "form-action", "connect-src")} == {
        "'self'"
    }
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_pages_have_no_inline_scripts_styles_or_handlers(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    for operation in OPERATIONS:
        if operation.method == "GET":
            page = visitor.get(operation.path).text.lower()
            assert "<style" not in page
            assert " style=" not in page
            assert " onclick=" not in page
            assert "<script>" not in page


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_refused_and_do_nothing(gateway: Talk, method: str) -> None:
    visitor = signed_in(gateway)
    for path in ("", "/sign-in", "/sign-out"):
        assert visitor.send(method, path, data={"form_token": visitor.token}).status_code == 405
    assert visitor.get().status_code == 200


def test_an_operation_is_not_done_by_get_or_head(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    pages = {operation.path for operation in OPERATIONS if operation.method == "GET"}
    for method in ("GET", "HEAD"):
        for operation in FORMS:
            if operation.path in pages:
                continue
            assert visitor.send(method, operation.path).status_code in {404, 405}
    assert visitor.get().status_code == 200


def test_head_answers_like_get_without_a_body(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    head = visitor.send("HEAD", "")
    assert (head.status_code, head.text) == (200, "")
    assert head.headers["content-type"].startswith("text/html")


def test_a_page_that_does_not_exist_is_a_page(gateway: Talk) -> None:
    answer = signed_in(gateway).get("/nowhere")
    assert answer.status_code == 404
    assert "<h1>Not found</h1>" in answer.text


def test_the_api_takes_no_session(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    answer = gateway.get(
        "/v1/keys", key=None, headers={"Cookie": f"leanplum_gateway_console={visitor.cookie}"}
    )
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("path", "form", "refused"),
    [
        ("/preview", {"items": '{"action": "track", "userId": "u", "event": "E"}'}, 403),
        ("/keys/create", {"name": "new", "scopes": "sdk", "apps": "one"}, 422),
        ("/dead-letters/replay", {}, 404),
        ("/dead-letters/discard", {}, 404),
    ],
)
def test_an_operation_has_the_apps_of_the_key_as_it_is_once_the_form_has_come(
    start: Callable[..., Talk],
    two_apps: dict[str, Any],
    path: str,
    form: dict[str, str],
    refused: int,
) -> None:
    talk = start(**two_apps)
    key_id, key = talk.create_key(*Scope)
    visitor = signed_in(talk, key)
    text = urlencode({"form_token": visitor.token, "app": "one", **form}).encode()

    async def body() -> AsyncIterator[bytes]:
        yield text[:10]
        narrow = partial(talk.post, f"/v1/keys/{key_id}", {"apps": ["two"]}, method="PATCH")
        assert (await asyncio.to_thread(narrow)).status_code == 200
        yield text[10:]

    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = visitor.send("POST", path, content=body(), headers=headers)
    assert answer.status_code == refused
