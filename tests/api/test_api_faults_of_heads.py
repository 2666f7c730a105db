"""A refusal for what a header or the path says names the header or the parameter in `errors`."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from tests.support.gateway import make_settings
from tests.support.http_server import Wire, served

Server = tuple[int, bytes]  # a port and a key
HOST, AUTH, JSON = b"Host: gateway", b"Authorization: Bearer KEY", b"Content-Type: application/json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Server]:
    settings = make_settings(tmp_path_factory.mktemp("faults"), migrated, {})
    assert settings.gateway_bootstrap_key is not None
    with served(settings) as port:
        yield port, settings.gateway_bootstrap_key.get_secret_value().encode()


def asked(
    server: Server, line: bytes, *headers: bytes, body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    lines = [line + b" HTTP/1.1", *headers, b"Content-Length: %d" % len(body), b"", body]
    with closing(Wire(server[0])) as wire:
        wire.say(b"\r\n".join(lines).replace(b"KEY", server[1]))
        return wire.answer()


@pytest.mark.parametrize("path", [b"/v1/events", b"/v1/batch", b"/v1/users/u"])
@pytest.mark.parametrize(
    ("headers", "status", "name"),
    [
        ([HOST, AUTH, JSON, b"X-Leanplum-App: unknown"], 403, "X-Leanplum-App"),
        ([HOST, AUTH, JSON, b"Content-Encoding: br"], 415, "Content-Encoding"),
        ([HOST, AUTH, b"Content-Type: text/plain"], 415, "Content-Type"),
        ([AUTH, JSON], 400, "Host"),
        ([HOST, HOST, AUTH, JSON], 400, "Host"),
        ([b"Host: a b", AUTH, JSON], 400, "Host"),
        ([HOST, AUTH, AUTH, JSON], 400, "Authorization"),
        ([HOST, AUTH, b"X-API-Key: lpgw_other", JSON], 400, "X-API-Key"),
        ([HOST, AUTH, JSON, b"Idempotency-Key: a", b"Idempotency-Key: b"], 400, "Idempotency-Key"),
    ],
)  # fmt: skip
def test_the_header_at_fault_is_named(
    server: Server, path: bytes, headers: list[bytes], status: int, name: str
) -> None:
    method = b"PATCH " if path.endswith(b"users/u") else b"POST "
    found, _, body = asked(server, method + path, *headers, body=b'{"userId":"u","event":"E"}')
    told = orjson.loads(body)
    assert found == status, told
    assert told["errors"] == [{"header": name, "detail": told["detail"], "code": "header"}]


def test_a_body_without_a_type_lacks_the_header(server: Server) -> None:
    status, _, body = asked(
        server, b"POST /v1/events", HOST, AUTH, body=b'{"userId":"u","event":"E"}'
    )
    assert (status, orjson.loads(body)["errors"][0]["header"]) == (415, "Content-Type")


@pytest.mark.parametrize("path", [b"/v1/users/%ff", b"/v1/receipts/%c3%28"])
def test_a_path_that_is_not_utf_8_is_named_as_a_parameter(server: Server, path: bytes) -> None:
    status, _, body = asked(server, b"GET " + path, HOST, AUTH)
    told = orjson.loads(body)
    assert (status, [one["parameter"] for one in told["errors"]]) == (400, ["path"])


@pytest.mark.parametrize("path", [b"/api", b"/segment/v1/track"])
@pytest.mark.parametrize("headers", [[], [HOST, HOST], [b"Host: a b"]])
def test_a_preflight_with_a_faulty_head_is_refused_like_any_request(
    server: Server, path: bytes, headers: list[bytes]
) -> None:
    assert asked(server, b"OPTIONS " + path, *headers)[0] == 400
    assert asked(server, b"OPTIONS " + path, HOST)[0] == 204
