"""Heads that two readers would read differently are refused on every path, before anybody asks who
calls.
"""

import base64
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from tests.support.gateway import make_settings
from tests.support.http_server import Wire, served

BODY = b'{"userId":"u","event":"e"}'
PATHS = ["/v1/events", "/v1/batch", "/v1/nothing", "/api", "/segment/v1/track"]
Server = tuple[int, str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Server]:
    settings = make_settings(tmp_path_factory.mktemp("head"), migrated, {})
    assert settings.gateway_bootstrap_key is not None
    with served(settings) as port:
        yield port, settings.gateway_bootstrap_key.get_secret_value()


def ask(
    server: Server, *lines: str, path: str = "/v1/events", version: str = "1.1"
) -> tuple[int, str]:
    """The status, and what is said to be wrong."""
    start = [
        f"POST {path} HTTP/{version}",
        *lines,
        "Content-Type: application/json",
        f"Content-Length: {len(BODY)}",
    ]
    with closing(Wire(server[0])) as wire:
        wire.say("\r\n".join([*start, "", ""]).encode("latin-1") + BODY)
        status, headers, body = wire.answer()
    found = orjson.loads(body)
    if "response" in found:
        assert headers["access-control-allow-origin"] == "*"
        return status, found["response"][0].get("error", {}).get("message", "")
    if status == 400 and not path.startswith("/segment"):
        assert found["type"] == "/problems/malformed"
    return status, found.get("detail") or found.get("message") or ""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["Authorization: Bearer KEY"], "Host"),
        (["Host: a", "Host: b", "Authorization: Bearer KEY"], "Host"),
        (["Host: a", "host: a", "Authorization: Bearer KEY"], "Host"),
        (["Host: a b", "Authorization: Bearer KEY"], "Host"),
        (["Host: a/b", "Authorization: Bearer KEY"], "Host"),
        (["Host: a, b", "Authorization: Bearer KEY"], "Host"),
        (["Host: a", "Authorization: Bearer KEY", "Authorization: Bearer KEY"], "Authorization"),
        (["Host: a", "Authorization: Bearer KEY", "Authorization: Bearer nonsense"], "Authorization"),
        (["Host: a", "Authorization: Bearer nonsense", "Authorization: Basic eDp5"], "Authorization"),
        (["Host: a", "X-API-Key: KEY", "X-API-Key: nonsense"], "X-API-Key"),
        (["Host: a", "Authorization: Bearer nonsense", "X-API-Key: KEY"], "X-API-Key"),
        (["Host: a", "X-API-Key: KEY", "X-Leanplum-App: a", "X-Leanplum-App: b"], "X-Leanplum-App"),
        (["Host: a", "X-API-Key: KEY", "Content-Type: text/plain"], "Content-Type"),
        (["Host: a", "X-API-Key: KEY", "Idempotency-Key: a", "Idempotency-Key: b"], "Idempotency-Key"),
    ],
)  # fmt: skip
def test_a_head_with_two_meanings_is_refused_and_the_header_is_named(
    server: Server, path: str, lines: list[str], named: str
) -> None:
    status, told = ask(server, *(line.replace("KEY", server[1]) for line in lines), path=path)
    assert (status, named in told) == (400, True), told
    assert server[1] not in told


@pytest.mark.parametrize(
    "lines",
    [
        ["Host: gateway.example:8000"], ["Host: [::1]:8000"], ["Host: under_score.internal"], ["Host:"],
        ["Host: gateway", "X-API-Key: KEY"], ["Host: gateway", "X-API-Key: a proxy's own"],
        ["Host: gateway", "Accept: a/b", "Accept: c/d"],
        ["Host: gateway", "X-Forwarded-For: ::1", "X-Forwarded-For: ::2"],
    ],
)  # fmt: skip
def test_a_head_with_one_meaning_is_taken(server: Server, lines: list[str]) -> None:
    lines = [*lines, "Authorization: Bearer KEY"]
    assert ask(server, *(line.replace("KEY", server[1]) for line in lines))[0] == 202


def test_http_1_0_needs_no_host(server: Server) -> None:
    assert ask(server, f"Authorization: Bearer {server[1]}", version="1.0")[0] == 202


def test_the_key_for_segment_may_stand_beside_a_proxy_s_own(server: Server) -> None:
    basic = base64.b64encode(f"{server[1]}:".encode()).decode()
    found = ask(
        server,
        "Host: a",
        f"Authorization: Basic {basic}",
        "X-API-Key: other",
        path="/segment/v1/track",
    )
    assert found[0] == 200
