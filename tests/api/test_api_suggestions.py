"""A URL, a method or a query parameter that does not exist is answered with what was meant."""

import re
from collections.abc import Iterator

import pytest

from tests.support.gateway import CANARY, Talk, problem
from tests.support.openapi import PATHS, parameters_of

# A misspelled name of an export is taken for the id of a job
ROUTES = [path for path in PATHS if re.match("/v1/(?!exports/[a-z])", path)]
QUERIES = [
    (path, parameter["name"])
    for path, operations in PATHS.items()
    if "{" not in path
    for parameter in parameters_of(operations.get("get", {}))
    if parameter["in"] == "query" and len(parameter["name"]) >= 5
]


def misspellings(template: str) -> Iterator[str]:
    """The path with its last word misspelled, without its version, and with a slash at its end."""
    path = re.sub(r"{\w+}", "42", template)
    head, last = re.fullmatch(r"(.*/)([a-z-]+)(?:/42)*", path).groups()  # type: ignore[union-attr]
    tail = path[len(head + last) :]
    yield head + last[:-1] + tail
    yield head + last[0] + last + tail
    yield path + "/"
    yield path.removeprefix("/v1")


@pytest.mark.parametrize("template", ROUTES)
def test_a_misspelled_path_is_answered_with_the_route(gateway: Talk, template: str) -> None:
    for path in misspellings(template):
        if len(template.split("/")[2]) < 6 and path.count("/") < 3:
            continue
        found = problem(gateway.call("POST", path), 404, "not-found")
        assert found["detail"].startswith("No route matches POST /")
        assert found["detail"].endswith(f"; did you mean {template}?"), (path, found["detail"])


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/v1/event", "No route matches POST /v1/event; did you mean /v1/events?"),
        ("/v1/events/", "No route matches POST /v1/events/; did you mean /v1/events?"),
        ("/v2/events", "No route matches POST /v2/events; did you mean /v1/events?"),
        ("/v1/track", "No route matches POST /v1/track; did you mean /segment/v1/track?"),
        ("/v1/users", "No route matches POST /v1/users; did you mean /v1/users/{userId}?"),
        ("/nothing", "No route matches POST /nothing; /docs lists all routes"),
        ("/v1/", "No route matches POST /v1/; /docs lists all routes"),
        (f"/v1/{CANARY}", "No route matches POST /v1/…; /docs lists all routes"),
        (f"/v1/user/{CANARY}/state", "No route matches POST /v1/user/…/state; did you mean /v1/users/{userId}/states?"),
        ("/a" * 500, f"No route matches POST {'/a' * 50}…; /docs lists all routes"),
    ],
)  # fmt: skip
def test_a_path_like_none_is_not_repeated_beyond_its_words(
    gateway: Talk, path: str, detail: str
) -> None:
    assert problem(gateway.call("POST", path), 404, "not-found")["detail"] == detail


def test_a_method_that_is_not_allowed_is_answered_with_those_that_are(gateway: Talk) -> None:
    answer = gateway.call("POST", f"/v1/receipts/{CANARY}")
    detail = problem(answer, 405, "method-not-allowed")["detail"]
    assert detail == "POST is not allowed on /v1/receipts/…; allowed: GET, HEAD"


@pytest.mark.parametrize(("path", "name"), QUERIES)
def test_a_misspelled_query_parameter_is_answered_with_the_parameter(
    gateway: Talk, path: str, name: str
) -> None:
    for typo in (name[:-1], name.upper(), f"{name}s", f"{name[0]}_{name[1:]}"):
        if any((path, typo) == query for query in QUERIES):
            continue
        found = problem(gateway.get(f"{path}?{typo}={CANARY}"), 422, "validation")
        (error,) = found["errors"]
        assert error["parameter"] == typo
        assert error["detail"] == f"unknown query parameter; did you mean {name}?"


def test_a_query_parameter_like_none_is_unknown(gateway: Talk) -> None:
    found = problem(gateway.get("/v1/receipts?zzzzz=1"), 422, "validation")
    assert (
        found["errors"][0]["detail"] == "unknown query parameter; remove it or check its spelling"
    )
