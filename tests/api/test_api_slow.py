"""Callers that are slow, on purpose or not: to send a head, to send a body, to read an answer; and
too many of them.
"""

import selectors
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.pages import asset_path
from app.server.application import create_app
from app.settings import Settings
from tests.support.gateway import make_settings
from tests.support.http_server import Wire, served
from tests.support.wait import until

pytestmark = pytest.mark.timed
BODY = b'{"userId":"u","event":"e"}'
ASK = b"GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n"
QUICK = {
    "gateway_head_seconds": 0.4,
    "gateway_slow_seconds": 0.6,
    "leanplum_development_key": "dev_tests_secret",
}


@contextmanager
def gateway(folder: Path, migrated: Path, **given: Any) -> Iterator[tuple[int, Settings]]:
    settings = make_settings(folder, migrated, QUICK | given)
    with served(settings) as port:
        yield port, settings


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[tuple[int, Settings]]:
    with gateway(tmp_path_factory.mktemp("slow"), migrated) as found:
        yield found


@pytest.fixture
def wire(server: tuple[int, Settings]) -> Iterator[Wire]:
    with closing(Wire(server[0])) as connection:
        yield connection


def head(
    settings: Settings, length: int, url: str = "/v1/events", kind: str = "application/json"
) -> bytes:
    assert settings.gateway_bootstrap_key is not None
    key = settings.gateway_bootstrap_key.get_secret_value()
    return (
        f"POST {url} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def test_a_head_that_drips_is_answered_408_and_the_connection_closed(wire: Wire) -> None:
    began = time.monotonic()
    with suppress(ConnectionError):
        for byte in ASK[:-2] * 50:
            wire.say(bytes([byte]))
            time.sleep(0.05)
            if time.monotonic() - began > 1:
                break
    status, headers, body = wire.answer()
    assert (status, orjson.loads(body)["type"]) == (408, "/problems/request-timeout")
    assert (headers["connection"], headers["content-type"]) == ("close", "application/problem+json")
    assert wire.closed()
    assert time.monotonic() - began < 5


def test_a_head_that_stops_on_a_used_connection_is_answered_408(wire: Wire) -> None:
    wire.say(ASK)
    assert wire.answer()[0] == 200
    wire.say(ASK[:20])
    assert wire.answer()[0] == 408


def test_a_slow_head_behind_a_call_in_flight_does_not_answer_that_call(
    tmp_path: Path, migrated: Path, wire: Wire, server: tuple[int, Settings]
) -> None:
    call = head(server[1], len(BODY)).replace(b"\r\n\r\n", b"\r\nPrefer: wait=2\r\n\r\n")
    wire.say(call + BODY + ASK[:20])
    with suppress(ConnectionError):
        assert wire.answer()[0] == 202
    assert wire.closed()


def test_a_body_that_stops_is_answered_408_and_the_connection_closed(
    wire: Wire, server: tuple[int, Settings]
) -> None:
    wire.say(head(server[1], len(BODY)) + BODY[:-1])
    status, headers, body = wire.answer()
    assert (status, orjson.loads(body)["type"]) == (408, "/problems/request-timeout")
    assert headers["connection"] == "close"
    assert orjson.loads(body)["instance"] == headers["x-request-id"]
    assert wire.closed()


def test_a_body_that_drips_is_answered_408_where_it_is_slower_than_the_least_rate(
    wire: Wire, server: tuple[int, Settings]
) -> None:
    wire.say(head(server[1], 100_000))
    began = time.monotonic()
    with suppress(ConnectionError):
        while time.monotonic() - began < 2.5:
            wire.say(b"x" * 20)
            time.sleep(0.05)
    with suppress(ConnectionResetError):  # what was sent behind the answer resets the connection
        assert wire.answer()[0] == 408
    assert wire.closed()


def test_a_body_that_comes_at_the_least_rate_is_waited_for(tmp_path: Path, migrated: Path) -> None:
    """A whole second, where 0.6 would be allowed for nothing: each byte buys time."""
    body = orjson.dumps({"userId": "u", "event": "e", "info": "x" * 30_000})
    with (
        gateway(tmp_path, migrated, gateway_least_bytes_per_second=20_000) as (port, settings),
        closing(Wire(port)) as wire,
    ):
        wire.say(head(settings, len(body)))
        for at in range(0, len(body), 1_500):
            wire.say(body[at : at + 1_500])
            time.sleep(0.06)
        assert wire.answer()[0] == 202


@pytest.mark.parametrize(
    ("url", "kind"),
    [("/v1/files", "multipart/form-data; boundary=b"), ("/api", "application/json"),
     ("/api", "multipart/form-data; boundary=b"), ("/v1/keys", "application/json"), ("/v1/batch", "application/json")],
    ids=["upload", "SDK", "SDK's form", "keys", "batch"],
)  # fmt: skip
def test_every_kind_of_body_that_stops_is_answered_408(
    wire: Wire, server: tuple[int, Settings], url: str, kind: str
) -> None:
    start = (
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\nabc'
        if "boundary" in kind
        else b"{"
    )
    wire.say(head(server[1], 100_000, url, kind) + start)
    status, headers, body = wire.answer()
    assert (status, headers["connection"]) == (408, "close")
    assert orjson.loads(body).keys() >= ({"response"} if url == "/api" else {"type"})
    assert wire.closed()


def test_a_body_that_nobody_wants_any_more_and_that_stops_ends_the_connection(
    wire: Wire, server: tuple[int, Settings]
) -> None:
    wire.say(head(server[1], 6_000_000) + b"x" * 100)
    assert wire.answer()[0] == 413
    assert wire.closed()


def test_a_caller_that_says_nothing_at_all_is_let_go(tmp_path: Path, migrated: Path) -> None:
    with gateway(tmp_path, migrated) as (port, _), ExitStack() as stack:
        silent = stack.enter_context(closing(Wire(port)))
        blank = stack.enter_context(closing(Wire(port)))
        blank.say(b"\r\n")
        assert silent.closed()  # `served` keeps idle connections for five seconds
        assert blank.closed()


def test_a_caller_that_does_not_read_its_answer_is_cut_off(tmp_path: Path, migrated: Path) -> None:
    asked = f"GET {asset_path('scalar.js')} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode()
    with gateway(tmp_path, migrated) as (port, _), closing(Wire(port, window=4_096)) as wire:
        wire.say(asked * 5)
        began = time.monotonic()
        wire.socket.settimeout(0.1)
        with suppress(OSError):  # it is reset: nothing else shows it without reading
            while time.monotonic() - began < 8:
                wire.say(b"GET /livez HTTP/1.1\r\n\r\n")
                time.sleep(0.1)
        assert time.monotonic() - began < 6


def test_a_caller_that_reads_slowly_but_steadily_gets_its_whole_answer(
    tmp_path: Path, migrated: Path
) -> None:
    asked = f"GET {asset_path('scalar.js')} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode()
    with gateway(tmp_path, migrated) as (port, _), closing(Wire(port, window=65_536)) as wire:
        wire.say(asked)
        seen, length, began = b"", 10**9, time.monotonic()
        while len(seen) < length:
            seen += wire.socket.recv(65_536)
            time.sleep(0.08)
            if length == 10**9 and b"\r\n\r\n" in seen:
                start = seen.lower().index(b"content-length: ") + 16
                length = (
                    seen.index(b"\r\n\r\n") + 4 + int(seen[start : start + 9].split(b"\r\n")[0])
                )
        assert time.monotonic() - began > 1, "it was not slow"


def drip(port: int, count: int, ended: threading.Event) -> list[bytes]:
    """Open so many connections and send a byte of a head on each, again and again; what each was
    answered.
    """
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    answers = dict.fromkeys(sockets, b"")
    with selectors.DefaultSelector() as chosen:
        for opened in sockets:
            opened.setblocking(False)
            chosen.register(opened, selectors.EVENT_READ)
        sent = 0
        while chosen.get_map() and not ended.is_set():
            for found, _ in chosen.select(0.02):
                one, said = found.fileobj, b""
                assert isinstance(one, socket.socket)
                with suppress(OSError):
                    said = one.recv(65_536)
                answers[one] += said
                if not said:
                    chosen.unregister(one)
                    one.close()
            for key in list(chosen.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                with suppress(OSError):
                    key.fileobj.send(ASK[:8][sent : sent + 1] or b"z")
            sent += 1
    for opened in sockets:
        opened.close()
    return list(answers.values())


def latencies(port: int, settings: Settings, count: int) -> list[float]:
    found = []
    with closing(Wire(port)) as wire:
        for _ in range(count):
            began = time.perf_counter()
            wire.say(head(settings, len(BODY)) + BODY)
            assert wire.answer()[0] == 202
            found.append(time.perf_counter() - began)
    return found


def test_two_hundred_dripping_connections_are_all_refused_and_good_calls_keep_their_time(
    tmp_path: Path, migrated: Path
) -> None:
    with gateway(tmp_path, migrated, gateway_head_seconds=1.5) as (port, settings):
        calm = latencies(port, settings, 100)
        answers: list[bytes] = []
        ended = threading.Event()
        attack = threading.Thread(target=lambda: answers.extend(drip(port, 200, ended)))
        attack.start()
        try:
            time.sleep(0.2)
            under = latencies(port, settings, 100)
            assert attack.is_alive(), "the attack was over before the good calls were"
            attack.join(10)
        finally:
            ended.set()
            attack.join(10)
    assert len(answers) == 200
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers)
    assert statistics.median(under) < statistics.median(calm) * 5 + 0.02


def test_a_connection_too_many_takes_the_place_of_the_one_idle_for_longest(
    tmp_path: Path, migrated: Path
) -> None:
    with gateway(tmp_path, migrated, gateway_max_connections=3) as (port, _), ExitStack() as stack:
        wires = [stack.enter_context(closing(Wire(port))) for _ in range(3)]
        for wire in (wires[1], wires[0], wires[2]):
            wire.say(ASK)
            assert wire.answer()[0] == 200
            time.sleep(0.02)
        more = stack.enter_context(closing(Wire(port)))
        more.say(ASK)
        assert more.answer()[0] == 200
        assert wires[1].closed()
        for wire in (wires[0], wires[2]):
            wire.say(ASK)
            assert wire.answer()[0] == 200


def test_a_connection_too_many_where_none_is_idle_is_refused_and_told_when_to_come_again(
    tmp_path: Path, migrated: Path
) -> None:
    bounds = {"gateway_max_connections": 2, "gateway_slow_seconds": 5}
    with gateway(tmp_path, migrated, **bounds) as (port, settings), ExitStack() as stack:
        wires = [stack.enter_context(closing(Wire(port))) for _ in range(2)]
        for wire in wires:
            wire.say(head(settings, len(BODY)) + BODY[:5])
        time.sleep(0.2)
        more = stack.enter_context(closing(Wire(port)))
        status, headers, body = more.answer()
        assert (status, headers["retry-after"], headers["connection"]) == (503, "5", "close")
        assert orjson.loads(body)["type"] == "/problems/overloaded"
        assert more.closed()
        for wire in wires:
            wire.say(BODY[5:])
            assert wire.answer()[0] == 202


@pytest.mark.parametrize("what", ["heads", "bodies of nobody"])
def test_who_holds_all_connections_with_heads_or_bodies_that_never_end_keeps_nobody_out(
    tmp_path: Path, migrated: Path, what: str
) -> None:
    never = b"GET / HTTP/1.1\r\nHost:"
    if what != "heads":
        never = b"POST /api HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000000\r\n\r\n{"
    with (
        gateway(tmp_path, migrated, gateway_max_connections=5) as (port, settings),
        ExitStack() as stack,
    ):
        for _ in range(10):
            for _ in range(5):
                stack.enter_context(closing(Wire(port))).say(never)
            with closing(Wire(port)) as wire:
                wire.say(head(settings, len(BODY)) + BODY)
                assert wire.answer()[0] == 202


def test_bodies_of_all_callers_together_have_a_limit_and_what_is_answered_counts_no_longer(
    tmp_path: Path, migrated: Path
) -> None:
    part = b'{"data":"' + b"x" * 700_000
    limits = {"gateway_max_held_bytes": 1_000_000, "gateway_slow_seconds": 5}
    settings = make_settings(tmp_path, migrated, QUICK | limits)
    app = create_app(settings, delivery=False)
    with served(settings, app) as port:
        with closing(Wire(port)) as first, closing(Wire(port)) as second:
            first.say(head(settings, 800_000, "/api") + part)
            time.sleep(0.3)
            second.say(head(settings, 800_000, "/api") + part)
            assert second.answer()[0] == 503
        until(lambda: app.services.bodies.held_bytes == 0)
        body = orjson.dumps({"userId": "u", "event": "e", "info": "x" * 700_000})
        for _ in range(3):
            with closing(Wire(port)) as wire:
                wire.say(head(settings, len(body)) + body)
                assert wire.answer()[0] == 202
