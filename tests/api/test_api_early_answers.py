"""Answers that are sent while the body is still arriving: they reach the caller, whatever it sends
with.
"""

import http.client
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from app.server import http1
from tests.support.gateway import make_settings
from tests.support.http_server import Wire, served
from tests.support.nginx import needs_nginx, nginx

ATTEMPTS = 8
LARGE = b"x" * (16 * 1024 * 1024)
GOOD = "the key"
# path, content type, and what is sent as a key: each is answered before its body is read.
REFUSED = {
    "401": ("/v1/events", "application/json", "nonsense"),
    "413": ("/v1/events", "application/json", GOOD),
    "415": ("/v1/events", "text/plain", GOOD),
    "404": ("/v1/nothing", "application/json", GOOD),
    "405": ("/v1/audit", "application/json", GOOD),
}


class Running:
    """A server's port, and the headers of a refused call."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self._key = port, key

    def headers(self, status: str, *, close: bool) -> dict[str, str]:
        _, kind, key = REFUSED[status]
        found = {
            "Content-Type": kind,
            "Authorization": f"Bearer {self._key if key == GOOD else key}",
        }
        return found | ({"Connection": "close"} if close else {})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Running]:
    more = {"gateway_failed_auth_per_minute": 10_000}
    settings = make_settings(tmp_path_factory.mktemp("early"), migrated, more)
    assert settings.gateway_bootstrap_key is not None
    with served(settings) as port:
        yield Running(port, settings.gateway_bootstrap_key.get_secret_value())


def head(path: str, headers: dict[str, str], *, version: str = "1.1") -> bytes:
    lines = [
        f"POST {path} HTTP/{version}",
        "Host: gateway",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def by_socket(port: int, path: str, headers: dict[str, str], body: bytes) -> int:
    """As the plainest client does: everything is sent, then the answer is read."""
    with closing(Wire(port)) as wire:
        wire.say(head(path, headers | {"Content-Length": str(len(body))}) + body)
        return wire.answer()[0]


def by_socket_in_chunks(port: int, path: str, headers: dict[str, str], body: bytes) -> int:
    with closing(Wire(port)) as wire:
        wire.say(head(path, headers | {"Transfer-Encoding": "chunked"}))
        for at in range(0, len(body), 500_000):
            piece = body[at : at + 500_000]
            wire.say(b"%x\r\n%s\r\n" % (len(piece), piece))
        wire.say(b"0\r\n\r\n")
        return wire.answer()[0]


def by_http_client(port: int, path: str, headers: dict[str, str], body: bytes) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", path, body, headers)
        return connection.getresponse().status


def by_httpx(port: int, path: str, headers: dict[str, str], body: bytes) -> int:
    return httpx.post(
        f"http://127.0.0.1:{port}{path}", content=body, headers=headers, timeout=20
    ).status_code


def by_curl(port: int, path: str, headers: dict[str, str], body: bytes) -> int:
    """curl asks for `100 Continue` before so large a body."""
    options = [option for name, value in headers.items() for option in ("-H", f"{name}: {value}")]
    command = [
        "curl",
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--data-binary",
        "@-",
        *options,
    ]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{path}"], input=body, capture_output=True, check=True
    )
    return int(done.stdout)


def by_curl_that_does_not_ask(port: int, path: str, headers: dict[str, str], body: bytes) -> int:
    return by_curl(port, path, headers | {"Expect": ""}, body)


Client = Callable[[int, str, dict[str, str], bytes], int]
CLIENTS: list[Client] = [
    by_socket, by_socket_in_chunks, by_http_client, by_httpx, by_curl, by_curl_that_does_not_ask,
]  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("close", [True, False], ids=["close", "keep"])
def test_a_refusal_reaches_whoever_still_sends_its_body(
    server: Running, client: Client, close: bool
) -> None:
    headers = server.headers("413", close=close)
    assert [client(server.port, "/v1/events", headers, LARGE) for _ in range(ATTEMPTS)] == [
        413
    ] * ATTEMPTS


@pytest.mark.parametrize("close", [True, False], ids=["close", "keep"])
@pytest.mark.parametrize("status", REFUSED)
def test_each_refusal_reaches_the_caller(server: Running, status: str, close: bool) -> None:
    headers, path = server.headers(status, close=close), REFUSED[status][0]
    found = [by_socket(server.port, path, headers, LARGE[:4_000_000]) for _ in range(ATTEMPTS)]
    if status == "413":
        found = [by_socket(server.port, path, headers, LARGE) for _ in range(ATTEMPTS)]
    assert found == [int(status)] * ATTEMPTS


def test_a_large_body_that_nobody_reads_ends_the_connection_and_a_small_one_does_not(
    server: Running,
) -> None:
    for size, expected in ((4_000_000, "close"), (400_000, None)):
        headers = server.headers("401", close=False) | {"Content-Length": str(size)}
        with closing(Wire(server.port)) as wire:
            wire.say(head("/v1/events", headers))
            status, told, _ = wire.answer()
            assert (status, told.get("connection")) == (401, expected)
            wire.say(LARGE[:size])
            if expected is None:
                wire.say(b"GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n")
                assert wire.answer()[0] == 200


def test_a_large_body_that_is_read_whole_keeps_the_connection(server: Running) -> None:
    headers = server.headers("413", close=False)
    body = b'{"items":[%s]}' % b",".join(
        [b'{"action":"track","userId":"u","event":"%s"}' % (b"e" * 4_000)] * 500
    )
    with closing(Wire(server.port)) as wire:
        for _ in range(2):
            wire.say(head("/v1/batch", headers | {"Content-Length": str(len(body))}) + body)
            status, told, _ = wire.answer()
            assert (status, told.get("connection")) in {(202, None), (422, None)}


def test_who_asks_before_it_sends_is_refused_at_once_and_sends_nothing(server: Running) -> None:
    headers = server.headers("401", close=False) | {
        "Content-Length": "1000000000",
        "Expect": "100-continue",
    }
    with closing(Wire(server.port)) as wire:
        began = time.monotonic()
        wire.say(head("/v1/events", headers))
        status, told, _ = wire.answer()
        assert (status, told["connection"]) == (401, "close")
        assert wire.closed()
        assert time.monotonic() - began < 1


def test_who_asks_before_it_sends_and_is_welcome_is_told_to_go_on(server: Running) -> None:
    body = b'{"userId":"u","event":"e"}'
    headers = server.headers("413", close=False) | {
        "Content-Length": str(len(body)),
        "Expect": "100-continue",
    }
    with closing(Wire(server.port)) as wire:
        for _ in range(2):
            wire.say(head("/v1/events", headers))
            assert wire.answer()[0] == 100
            wire.say(body)
            status, told, _ = wire.answer()
            assert (status, told.get("connection")) == (202, None)


def test_what_never_ends_behind_an_answer_is_cut_off(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "LINGER_BYTES", 4_000_000)
    headers = server.headers("413", close=False) | {"Content-Length": str(10**12)}
    with closing(Wire(server.port)) as wire:
        wire.say(head("/v1/events", headers))
        assert wire.answer()[0] == 413
        with pytest.raises(ConnectionError):
            wire.say(LARGE * 3)


@pytest.mark.parametrize(
    ("silent", "most"), [(0.0, "LINGER_SECONDS"), (2.5, "LINGER_IDLE_SECONDS")]
)
def test_who_drips_or_says_nothing_behind_an_answer_is_cut_off(
    server: Running, monkeypatch: pytest.MonkeyPatch, silent: float, most: str
) -> None:
    monkeypatch.setattr(http1, most, 0.3)
    headers = server.headers("413", close=True) | {"Content-Length": str(10**9)}
    with closing(Wire(server.port)) as wire:
        wire.say(head("/v1/events", headers))
        assert wire.answer()[0] == 413
        began = time.monotonic()
        time.sleep(silent)
        ended = _cut_off(wire)
        while not ended and not silent and time.monotonic() - began < 6:
            ended = _cut_off(wire)
        assert ended, "it was not cut off"


def _cut_off(wire: Wire) -> bool:
    """Whether the server has reset the connection, of which it has closed its own side long ago."""
    try:
        wire.say(b"x")
        time.sleep(0.05)
        wire.say(b"x")
    except ConnectionError:
        return True
    return False


# --- through nginx ----------------------------------------------------------------------------------------------------


@needs_nginx
@pytest.mark.parametrize(
    ("more", "statuses"),
    [("client_max_body_size 0;", REFUSED), ("client_max_body_size 0; proxy_request_buffering off;", REFUSED),
     ("", ["401", "415", "404", "405"])],
    ids=["any size", "unbuffered", "defaults"],
)  # fmt: skip
def test_a_refusal_passes_nginx(server: Running, more: str, statuses: list[str]) -> None:
    """With its defaults nginx refuses bodies of more than a megabyte by itself."""
    body = LARGE if more else LARGE[:1_000_000]
    with nginx(f"{more} location / {{ proxy_pass http://127.0.0.1:{server.port}; }}") as port:
        for status in statuses:
            path, headers = REFUSED[status][0], server.headers(status, close=False)
            found = [by_http_client(port, path, headers, body) for _ in range(ATTEMPTS)]
            assert found == [int(status)] * ATTEMPTS
