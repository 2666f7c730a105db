"""What only a real connection shows: pieces, lies about length, keep-alive, and callers that go
away.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import orjson
import pytest

from app.settings import Settings
from tests.support.http_server import Wire, served

BODY = b'{"userId":"u","event":"e"}'


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[tuple[int, Settings]]:
    from tests.support.gateway import make_settings

    settings = make_settings(tmp_path_factory.mktemp("wire"), migrated, {})
    with served(settings) as port:
        yield port, settings


@pytest.fixture
def wire(server: tuple[int, Settings]) -> Iterator[Wire]:
    with closing(Wire(server[0])) as connection:
        yield connection


@pytest.fixture
def head(server: tuple[int, Settings]) -> Callable[..., bytes]:
    """Makes the head of a POST with the right key."""
    secret = server[1].gateway_bootstrap_key
    assert secret is not None

    def made(*lines: str, url: str = "/v1/events", key: str = secret.get_secret_value()) -> bytes:
        start = [
            f"POST {url} HTTP/1.1",
            "Host: gateway",
            f"Authorization: Bearer {key}",
            "Content-Type: application/json",
        ]
        return "\r\n".join([*start, *lines, "", ""]).encode("latin-1")

    return made


def items(server: tuple[int, Settings]) -> int:
    path = server[1].gateway_database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM items").fetchone()[0])


def chunks(*pieces: bytes, last: bool = True) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + (
        b"0\r\n\r\n" if last else b""
    )


def test_a_body_is_taken_whole_told_or_in_chunks_of_any_size(
    wire: Wire, head: Callable[..., bytes]
) -> None:
    wire.say(head(f"Content-Length: {len(BODY)}") + BODY)
    assert wire.answer()[0] == 202
    wire.say(head("Transfer-Encoding: chunked") + chunks(BODY))
    assert wire.answer()[0] == 202
    wire.say(
        head("Transfer-Encoding: chunked") + chunks(*(BODY[at : at + 1] for at in range(len(BODY))))
    )
    assert wire.answer()[0] == 202


def test_a_slow_body_is_waited_for(wire: Wire, head: Callable[..., bytes]) -> None:
    wire.say(head(f"Content-Length: {len(BODY)}"))
    for at in range(0, len(BODY), 9):
        time.sleep(0.05)
        wire.say(BODY[at : at + 9])
    assert wire.answer()[0] == 202


def test_calls_one_behind_the_other_on_one_connection_are_answered_in_order(
    wire: Wire, head: Callable[..., bytes]
) -> None:
    call = [
        head(f"Content-Length: {len(BODY)}", f"X-Request-ID: call-{number}") + BODY
        for number in range(5)
    ]
    wire.say(b"".join(call))
    assert [wire.answer()[1]["x-request-id"] for _ in range(5)] == [
        f"call-{number}" for number in range(5)
    ]


@pytest.mark.parametrize("key", ["nonsense", ""])
def test_a_refused_call_whose_body_was_not_read_leaves_the_connection_sound(
    wire: Wire, head: Callable[..., bytes], key: str
) -> None:
    """The next call must not find the last one's body in its way."""
    large = b'{"info":"%s"}' % (b"x" * 200_000)
    wire.say(head(f"Content-Length: {len(large)}", key=key) + large)
    assert wire.answer()[0] == 401
    wire.say(head(f"Content-Length: {len(BODY)}") + BODY)
    assert wire.answer()[0] == 202


def test_a_length_over_the_limit_is_refused_before_the_body_comes(
    wire: Wire, head: Callable[..., bytes]
) -> None:
    wire.say(head("Content-Length: 6000000"))
    status, headers, body = wire.answer()
    assert (status, headers["content-type"]) == (413, "application/problem+json")
    assert orjson.loads(body)["type"] == "/problems/too-large"


def test_chunks_over_the_limit_are_refused_while_they_come(
    wire: Wire, head: Callable[..., bytes]
) -> None:
    wire.say(head("Transfer-Encoding: chunked", url="/v1/batch"))
    piece = chunks(b"x" * 60_000, last=False)
    for _ in range(90):
        wire.say(piece)
    assert wire.answer()[0] == 413


@pytest.mark.parametrize(
    "lie",
    [
        ["Content-Length: -5"], ["Content-Length: abc"], ["Content-Length: 1e3"], ["Content-Length: " + "9" * 400],
        ["Content-Length: 5", "Content-Length: 6"], ["Transfer-Encoding: chunked", "Content-Length: 5"],
    ],
    ids=["negative", "words", "exponent", "400 digits", "two", "both"],
)  # fmt: skip
def test_a_length_that_cannot_be_is_a_bad_request_and_takes_nothing(
    wire: Wire, head: Callable[..., bytes], server: tuple[int, Settings], lie: list[str]
) -> None:
    before = items(server)
    wire.say(head(*lie) + BODY)
    with suppress(ConnectionError):  # closing at once is right too
        assert wire.answer()[0] == 400
    assert items(server) == before


def test_a_chunk_whose_size_is_no_number_takes_nothing(
    wire: Wire, head: Callable[..., bytes], server: tuple[int, Settings]
) -> None:
    before = items(server)
    wire.say(head("Transfer-Encoding: chunked") + b"zz\r\n" + BODY + b"\r\n0\r\n\r\n")
    with suppress(ConnectionError):  # closing at once is right too
        assert wire.answer()[0] == 400
    assert items(server) == before


LINE = b'{"action":"track","userId":"u","event":"e"}\n'


@pytest.mark.parametrize("how", ["told", "chunked", "nothing sent"])
def test_a_caller_that_goes_away_in_the_middle_leaves_nothing_behind(
    wire: Wire, head: Callable[..., bytes], server: tuple[int, Settings], how: str
) -> None:
    """Its lines up to there would be good ones, and it will send them all again."""
    before = items(server)
    kind = "Content-Type: application/x-ndjson"
    if how == "told":
        wire.say(head("Content-Length: 100000", kind, url="/v1/batch") + LINE * 20)
    elif how == "chunked":
        wire.say(
            head("Transfer-Encoding: chunked", kind, url="/v1/batch")
            + chunks(LINE * 20, last=False)
        )
    else:
        wire.say(head("Content-Length: 100000", kind, url="/v1/batch"))
    time.sleep(0.1)
    wire.close()
    time.sleep(0.3)
    assert items(server) == before
    with closing(Wire(server[0])) as other:
        other.say(head(f"Content-Length: {len(BODY)}") + BODY)
        assert other.answer()[0] == 202


def test_a_caller_that_goes_away_before_its_answer_is_served_all_the_same(
    wire: Wire, head: Callable[..., bytes], server: tuple[int, Settings]
) -> None:
    before = items(server)
    wire.say(head(f"Content-Length: {len(BODY)}") + BODY)
    wire.close()
    deadline = time.monotonic() + 3
    while items(server) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert items(server) == before + 1


def test_a_head_answer_has_no_body_on_the_wire(wire: Wire) -> None:
    wire.say(b"HEAD /v1/events HTTP/1.1\r\nHost: gateway\r\n\r\n")
    wire.say(b"GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n")
    data = b""
    while data.count(b"\r\n\r\n") < 2:
        data += wire.socket.recv(65_536)
    first, _, rest = data.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 405")
    assert rest.startswith(b"HTTP/1.1 200")


def test_an_answer_has_its_date_and_neither_server_nor_version(wire: Wire) -> None:
    wire.say(b"GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n")
    headers = wire.answer()[1].keys()
    assert "date" in headers  # RFC 9110 §6.6.1
    assert not {"server", "x-powered-by"} & headers


H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")


def test_who_asks_for_another_protocol_is_answered_in_this_one_and_the_body_is_read(
    wire: Wire, head: Callable[..., bytes]
) -> None:
    for framed in ((f"Content-Length: {len(BODY)}",), ("Transfer-Encoding: chunked",)):
        body = BODY if "Length" in framed[0] else chunks(BODY)
        wire.say(head(*H2C, *framed) + body)
        assert wire.answer()[0] == 202
        for cut in (0, 1, len(body) - 1):
            wire.say(head(*H2C, *framed) + body[:cut])
            time.sleep(0.02)  # so that it is another packet
            wire.say(body[cut:])
            assert wire.answer()[0] == 202
    wire.say(head(f"Content-Length: {len(BODY)}") + BODY)
    assert wire.answer()[0] == 202, "the connection goes on"
    get = (
        b"GET /livez HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    wire.say(get + get)
    assert [wire.answer()[0], wire.answer()[0]] == [200, 200]


@pytest.mark.parametrize("together", [True, False])
def test_a_body_beside_an_upgrade_is_never_read_as_a_request(
    wire: Wire, head: Callable[..., bytes], together: bool
) -> None:
    inside = b"GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n"
    wire.say(head(*H2C, f"Content-Length: {len(inside)}") + (inside if together else b""))
    if not together:
        time.sleep(0.02)
        wire.say(inside)
    assert wire.answer()[0] == 400
    wire.say(head(f"Content-Length: {len(BODY)}") + BODY)
    assert wire.answer()[0] == 202, "no other answer came between"


def test_a_request_right_behind_the_body_of_an_upgrade_is_refused(
    wire: Wire, head: Callable[..., bytes]
) -> None:
    wire.say(
        head(*H2C, f"Content-Length: {len(BODY)}")
        + BODY
        + b"GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n"
    )
    assert wire.answer()[0] in {202, 400}
    assert wire.closed()
