"""Callers that close their sending side and read on, and requests followed by what is no
request.
"""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.gateway import make_settings
from tests.support.http_server import Wire, served

LIVE = b"GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n"
BODY = b'{"userId":"u","event":"E"}'
Server = tuple[int, bytes]  # a port and a key


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Server]:
    settings = make_settings(
        tmp_path_factory.mktemp("half"), migrated, {"gateway_failed_auth_per_minute": 10_000}
    )
    assert settings.gateway_bootstrap_key is not None
    with served(settings) as port:
        yield port, settings.gateway_bootstrap_key.get_secret_value().encode()


def post(key: bytes, body: bytes = BODY, length: int | None = None) -> bytes:
    head = b"POST /v1/events HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
    return (
        head % key
        + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length)
        + body
    )


def answers(port: int, said: bytes, *, half: bool) -> list[tuple[int, bool]]:
    """The answers up to the end of the connection: the status, and whether it says that it is the
    last.
    """
    found = list[tuple[int, bool]]()
    with closing(Wire(port)) as wire:
        wire.socket.settimeout(4)
        wire.say(said)
        if half:
            wire.socket.shutdown(socket.SHUT_WR)
        while True:
            try:
                status, headers, _ = wire.answer()
            except ConnectionError:
                return found
            found.append((status, headers.get("connection") == "close"))


def statuses(port: int, said: bytes) -> list[int]:
    """The answers to a caller that sends no more. One that is begun before that is seen doesn't say
    that it is last.
    """
    return [status for status, _ in answers(port, said, half=True)]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_whole_requests_are_answered_when_the_caller_sends_no_more(
    server: Server, count: int
) -> None:
    port, key = server
    assert statuses(port, post(key) * count) == [202] * count


def test_reads_and_refusals_are_answered_too(server: Server) -> None:
    port = server[0]
    assert statuses(port, LIVE) == [200]
    assert statuses(port, post(b"nonsense")) == [401]


def test_a_refusal_of_a_body_that_is_cut_off_is_read(server: Server) -> None:
    port, key = server
    assert statuses(port, post(b"nonsense", length=1_000_000)) == [401]
    assert statuses(port, post(key, length=1000)) == [400]


@pytest.mark.parametrize("said", [b"", b"GET /livez HTTP/1.1\r\nHo"])
def test_who_has_asked_for_nothing_is_let_go_at_once(server: Server, said: bytes) -> None:
    assert answers(server[0], said, half=True) == []


def test_a_request_before_the_beginning_of_another_is_answered(server: Server) -> None:
    port, key = server
    assert statuses(port, post(key) + LIVE[:20]) == [202]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02",
        b"garbage\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\x00b: c\r\n",
    ],
)
def test_a_request_before_what_is_none_is_answered_and_then_that_is_refused(
    server: Server, garbage: bytes, half: bool
) -> None:
    port, key = server
    assert answers(port, post(key) + garbage, half=half) == [(202, False), (400, True)]
    assert answers(port, post(key) * 3 + garbage, half=half) == [(202, False)] * 3 + [(400, True)]
    assert answers(port, garbage, half=False) == [(400, True)]


def test_a_request_before_one_with_a_broken_body_is_answered_and_then_that_is_refused(
    server: Server,
) -> None:
    port, key = server
    broken = post(key, b"zz\r\n").replace(b"Content-Length: 4", b"Transfer-Encoding: chunked")
    assert answers(port, post(key) + broken, half=False) == [(202, False), (400, True)]
    assert answers(port, post(key) * 2 + broken, half=False) == [(202, False)] * 2 + [(400, True)]
    assert answers(port, broken, half=False) == [(400, True)]
