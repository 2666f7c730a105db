"""How much may stand before a body: the address, the headers, what frames the body. Over a real
connection.
"""

import resource
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import orjson
import pytest

from app.server.http1 import MAX_HEAD, MAX_HEADERS, MAX_PIPELINED, MAX_URL
from tests.support.http_server import Wire, served

ASK = b"GET /livez HTTP/1.1\r\nHost: gateway\r\n"
MB = 1024 * 1024


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[int]:
    from tests.support.gateway import make_settings

    with served(make_settings(tmp_path_factory.mktemp("heads"), migrated, {})) as port:
        yield port


@pytest.fixture
def wire(port: int) -> Iterator[Wire]:
    with closing(Wire(port)) as connection:
        yield connection


def refused(wire: Wire, status: int, slug: str) -> None:
    """The answer is this problem, and the connection ends."""
    found, headers, body = wire.answer()
    assert (found, headers["content-type"], headers["connection"]) == (
        status,
        "application/problem+json",
        "close",
    )
    document = orjson.loads(body)
    assert (document["type"], document["status"]) == (f"/problems/{slug}", status)
    assert document["instance"] == headers["x-request-id"]
    assert wire.closed()


def headers_of(size: int) -> bytes:
    """Headers of so many bytes altogether, in lines of 4 kB."""
    lines = [b"X-%d: %s\r\n" % (number, b"v" * 4_000) for number in range(size // 4_000)]
    return b"".join(lines)


def test_a_head_below_the_limits_is_taken(wire: Wire) -> None:
    wire.say(ASK + headers_of(MAX_HEAD - 6_000) + b"\r\n")
    assert wire.answer()[0] == 200
    wire.say(ASK + b"".join(b"X-%d: v\r\n" % number for number in range(MAX_HEADERS - 1)) + b"\r\n")
    assert wire.answer()[0] == 200
    wire.say(b"GET /livez?" + b"q" * (MAX_URL - 20) + b" HTTP/1.1\r\nHost: gateway\r\n\r\n")
    assert wire.answer()[0] == 200


def test_headers_of_too_many_bytes_are_refused(wire: Wire) -> None:
    wire.say(ASK + headers_of(MAX_HEAD + 8_000) + b"\r\n")
    refused(wire, 431, "head-too-large")


def test_too_many_headers_are_refused(wire: Wire) -> None:
    wire.say(ASK + b"X: v\r\n" * MAX_HEADERS + b"\r\n")
    refused(wire, 431, "head-too-large")


def test_one_header_that_is_too_long_is_refused(wire: Wire) -> None:
    wire.say(ASK + b"Cookie: " + b"c" * MAX_HEAD + b"\r\n\r\n")
    refused(wire, 431, "head-too-large")


def test_an_address_that_is_too_long_is_refused(wire: Wire) -> None:
    wire.say(b"GET /livez?" + b"q" * MAX_URL + b" HTTP/1.1\r\nHost: gateway\r\n\r\n")
    refused(wire, 414, "url-too-long")


CHUNKED = b"POST /v1/events HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "address": (b"GET /", b"a", "url-too-long"),
    "header's name": (ASK, b"n", "head-too-large"),
    "header's value": (ASK + b"X: ", b"v", "head-too-large"),
    "headers": (ASK, b"A: b\r\n", "head-too-large"),
    "nothing before a request": (b"", b"\r\n", "head-too-large"),
    "trailers": (CHUNKED + b"0\r\n", b"A: b\r\n", None),
    "one trailer": (CHUNKED + b"0\r\nA: ", b"b", None),
    "a chunk's extension": (CHUNKED + b"1;", b"e", None),
}


@pytest.mark.parametrize(("start", "piece", "slug"), ENDLESS.values(), ids=ENDLESS.keys())
def test_what_never_ends_is_cut_off_and_does_not_fill_the_memory(
    wire: Wire, start: bytes, piece: bytes, slug: str | None
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB
    with suppress(ConnectionError):
        wire.say(start)
        for _ in range(64):  # 64 MB, where somebody would take them
            wire.say(piece * (MB // len(piece)))
        pytest.fail("64 MB were taken")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
    with suppress(ConnectionError):
        status, _, body = wire.answer()
        if slug is None:
            assert status == 401, "the call has no key, and its answer was there before the end"
        else:
            assert orjson.loads(body)["type"] == f"/problems/{slug}"
    assert wire.closed()


def test_a_head_in_many_small_pieces_is_counted_as_a_whole(wire: Wire) -> None:
    with suppress(ConnectionError):
        wire.say(ASK)
        for number in range(MAX_HEAD // 512 + 200):
            wire.say(b"X-%d: %s\r\n" % (number, b"v" * 500))
    refused(wire, 431, "head-too-large")


def test_a_trailer_is_no_header(wire: Wire) -> None:
    """What a proxy in front looked at must not be changed by what comes behind the body."""
    call = b"POST /v1/events HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
    wire.say(
        ASK
        + b"\r\n"
        + call
        + b"2\r\n{}\r\n0\r\nAuthorization: Bearer lpgw_x\r\nX-Request-ID: mine\r\n\r\n"
    )
    assert wire.answer()[0] == 200
    status, headers, body = wire.answer()
    assert (status, b"Missing API key" in body) == (401, True)
    assert headers["x-request-id"] != "mine"


def test_as_many_calls_behind_each_other_as_may_be_are_answered_and_more_end_the_connection(
    port: int,
) -> None:
    with closing(Wire(port)) as wire:
        wire.say((ASK + b"\r\n") * MAX_PIPELINED)
        assert {wire.answer()[0] for _ in range(MAX_PIPELINED)} == {200}
    with closing(Wire(port)) as wire:
        wire.say((ASK + b"\r\n") * 50 * MAX_PIPELINED)
        assert wire.closed()


def test_what_is_no_http_behind_a_call_in_flight_is_not_taken_for_its_answer(wire: Wire) -> None:
    wire.say(ASK + b"\r\n" + b"nonsense\r\n\r\n")
    with suppress(ConnectionError):
        assert wire.answer()[0] == 200
    assert wire.closed()
