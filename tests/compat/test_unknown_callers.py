"""Who shows no known key costs little, and is refused unread once the address has failed too
often.
"""

import asyncio
import base64
import gzip
import itertools
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import orjson
import pytest
import zstandard

from app.callers import key_format
from app.errors import Overloaded
from app.http import decompression
from app.http.decompression import PlaceQueue
from app.server.application import Application, create_app
from tests.support.gateway import WIDE, make_settings
from tests.support.http_server import Wire, served
from tests.support.wait import until

APP, JSON = "app_tests", "Content-Type: application/json"
MOST_FAILURES = 3
SDK_LIMIT, LIMIT = 24 * 1024 * 1024, 5 * 1024 * 1024
LARGE = b"x" * 200_000
Answer = tuple[int, dict[str, str], bytes]


class Sent(NamedTuple):
    """A body, and the headers that say what it is."""

    body: bytes
    headers: tuple[str, ...]


class Server(NamedTuple):
    """A running gateway that trusts what is said of the sender's address."""

    port: int
    key: str
    revoked: str
    app: Application


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("unknown")
    given = {
        "gateway_failed_auth_per_minute": MOST_FAILURES,
        "gateway_trusted_proxies": "127.0.0.0/8",
        "gateway_max_held_bytes": 2_000_000,
    }
    settings = make_settings(folder, migrated, WIDE | given)
    assert settings.gateway_bootstrap_key is not None
    key = settings.gateway_bootstrap_key.get_secret_value()
    app = create_app(settings, delivery=False)
    with served(settings, app) as port:
        yield Server(port, key, _revoked(port, key), app)


def _revoked(port: int, key: str) -> str:
    made = sent_from(
        "10.9.9.9", port, "POST", "/v1/keys", b'{"name":"r","scopes":["sdk"]}', JSON, bearer(key)
    )
    found: dict[str, str] = orjson.loads(made[2])
    assert (
        sent_from("10.9.9.9", port, "DELETE", f"/v1/keys/{found['id']}", b"", bearer(key))[0] == 204
    )
    return found["key"]


_addresses = itertools.count(1)


@pytest.fixture
def address() -> str:
    """An address that nobody else has called from."""
    number = next(_addresses)
    return f"10.1.{number // 250}.{number % 250 + 1}"


def bearer(key: str) -> str:
    return f"Authorization: Bearer {key}"


def head(address: str, method: str, path: str, *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway", f"X-Forwarded-For: {address}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def sent_from(
    address: str, port: int, method: str, path: str, body: bytes, *headers: str
) -> Answer:
    with closing(Wire(port)) as wire:
        wire.say(head(address, method, path, f"Content-Length: {len(body)}", *headers) + body)
        return wire.answer()


def unread(address: str, port: int, path: str, *headers: str) -> Answer:
    """The answer to a request of which nothing but its head ever comes."""
    with closing(Wire(port)) as wire:
        wire.say(head(address, "POST", path, *headers))
        return wire.answer()


def spend(address: str, port: int) -> None:
    for _ in range(MOST_FAILURES):
        assert sent_from(address, port, "GET", "/v1/keys", b"")[0] == 401


def call(key: str, **arguments: object) -> bytes:
    fields = {"appId": APP, "clientKey": key, "action": "track", "userId": "u", "event": "E"}
    return orjson.dumps(fields | arguments)


@cache
def packed(size: int, encoding: str = "gzip", start: bytes = b'{"data":"') -> bytes:
    text = start + b"a" * (size - len(start) - 2) + b'"}'
    return (
        gzip.compress(text, 9) if encoding == "gzip" else zstandard.ZstdCompressor().compress(text)
    )


def multipart(*lines: str) -> Sent:
    return Sent("\r\n".join(lines).encode(), ("Content-Type: multipart/form-data; boundary=b",))


def chunked(body: bytes) -> Sent:
    pieces = [body[at : at + 60_000] for at in range(0, len(body), 60_000)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return Sent(framed, ("Transfer-Encoding: chunked",))


GZIP, ZSTD = "Content-Encoding: gzip", "Content-Encoding: zstd"
BROKEN = b'{"clientKey":'
REFUSED: dict[str, tuple[str, int, Callable[[], Sent]]] = {
    "24 MB in a gzip": ("/api", 403, lambda: Sent(packed(SDK_LIMIT - 10), (GZIP,))),
    "24 MB in a zstd": ("/api", 403, lambda: Sent(packed(SDK_LIMIT - 10, "zstd"), (ZSTD,))),
    "a gzip over the limit": ("/api", 413, lambda: Sent(packed(SDK_LIMIT + 9), (GZIP,))),
    "a zstd over the limit": ("/api-batch", 413, lambda: Sent(packed(SDK_LIMIT + 9, "zstd"), (ZSTD,))),
    "a gzip in chunks": ("/api", 413, lambda: chunked(packed(SDK_LIMIT + 9))._replace(
        headers=("Transfer-Encoding: chunked", GZIP))),
    "no gzip": ("/api", 400, lambda: Sent(b"nothing of the kind" * 10, (GZIP,))),
    "a gzip in a gzip": ("/api", 415, lambda: Sent(b"x", ("Content-Encoding: gzip, gzip",))),
    "deflate": ("/api", 415, lambda: Sent(b"x", ("Content-Encoding: deflate",))),
    "br": ("/api", 415, lambda: Sent(b"x", ("Content-Encoding: br",))),
    "broken JSON": ("/api", 400, lambda: Sent(BROKEN, (JSON,))),
    "broken JSON in chunks": ("/api", 403, lambda: chunked(BROKEN)),
    "a list of too much depth": ("/api", 400, lambda: Sent(b"[" * 50_000, (JSON,))),
    "a form of too many fields": ("/api", 400, lambda: Sent(b"a&" * 20_000, ())),
    "a form that is none": ("/api", 400, lambda: multipart("--b", "no header", "")),
    "an unknown key": ("/api", 403, lambda: Sent(call(key_format.make()), (JSON,))),
    "an unknown key in a gzip": ("/api", 403, lambda: Sent(gzip.compress(call(key_format.make())), (GZIP,))),
    "Segment: an unknown key": ("/segment/v1/track", 401, lambda: Sent(
        orjson.dumps({"writeKey": key_format.make(), "userId": "u", "event": "e"}), (JSON,))),
    "Segment: 5 MB in a gzip": ("/segment/v1/batch", 401, lambda: Sent(packed(LIMIT - 10), (GZIP,))),
    "Segment: 24 MB in a gzip": ("/segment/v1/batch", 413, lambda: Sent(packed(SDK_LIMIT - 10), (GZIP,))),
    "Segment: broken JSON": ("/segment/v1/batch", 400, lambda: Sent(b'{"batch":[', (JSON,))),
    "Segment: deflate": ("/segment/v1/identify", 415, lambda: Sent(b"x", ("Content-Encoding: deflate",))),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_every_refusal_without_a_known_key_counts_as_a_failed_authentication(
    server: Server, address: str, name: str
) -> None:
    path, expected, make = REFUSED[name]
    found = make()
    length = (
        ()
        if "Transfer-Encoding: chunked" in found.headers
        else (f"Content-Length: {len(found.body)}",)
    )

    def asked() -> Answer:
        with closing(Wire(server.port)) as wire:
            wire.say(head(address, "POST", path, *found.headers, *length) + found.body)
            return wire.answer()

    assert [asked()[0] for _ in range(MOST_FAILURES)] == [expected] * MOST_FAILURES
    status, headers, _ = asked()
    assert (status, "retry-after" in headers) == (429, True)


@pytest.mark.parametrize("path", ["/api", "/segment/v1/batch"])
def test_a_length_over_the_limit_counts_as_well(server: Server, address: str, path: str) -> None:
    statuses = [
        unread(address, server.port, path, "Content-Length: 30000000")[0]
        for _ in range(MOST_FAILURES + 1)
    ]
    assert statuses == [413] * MOST_FAILURES + [429]


UNREAD = {
    "a small body": ("Content-Length: 100", JSON),
    "a large body": ("Content-Length: 4000000", JSON),
    "a gzip": ("Content-Length: 23000", GZIP),
    "chunks": ("Transfer-Encoding: chunked",),
    "a form": ("Content-Length: 90000", "Content-Type: multipart/form-data; boundary=b"),
    "an unknown key in a header": (
        "Content-Length: 23000",
        GZIP,
        f"X-API-Key: {key_format.make()}",
    ),
}


@pytest.mark.parametrize("path", ["/api", "/segment/v1/batch"])
@pytest.mark.parametrize("name", UNREAD)
def test_an_address_that_failed_too_often_is_refused_before_its_body_comes(
    server: Server, address: str, name: str, path: str
) -> None:
    spend(address, server.port)
    began = time.monotonic()
    status, headers, _ = unread(address, server.port, path, *UNREAD[name])
    assert (status, "retry-after" in headers) == (429, True)
    assert time.monotonic() - began < 5


def test_the_refusal_is_read_by_a_caller_that_sends_its_body_all_the_same(
    server: Server, address: str
) -> None:
    spend(address, server.port)
    body = packed(SDK_LIMIT - 10) * 200
    with closing(Wire(server.port)) as wire:
        wire.say(head(address, "POST", "/api", f"Content-Length: {len(body)}", GZIP))
        wire.say(body)
        assert wire.answer()[0] == 429
        assert wire.closed()


def test_a_good_key_passes_behind_such_an_address(server: Server, address: str) -> None:
    spend(address, server.port)
    keyless = call("", params={"a": LARGE.decode()}).replace(b'"clientKey":"",', b"")

    def asked(path: str, body: bytes, *headers: str) -> int:
        return sent_from(address, server.port, "POST", path, body, *headers)[0]

    assert asked("/api", keyless, bearer(server.key)) == 200
    assert asked(f"/api?clientKey={server.key}", keyless) == 200
    assert asked(f"/api?clientKey={server.key}", gzip.compress(keyless), GZIP) == 200
    assert asked("/api", call(server.key)) == 200
    form = f"appId={APP}&action=track&userId=u&event=E&clientKey={server.key}".encode()
    assert asked("/api", form, "Content-Type: application/x-www-form-urlencoded") == 200
    message = {"userId": "u", "event": "e", "writeKey": server.key}
    assert asked("/segment/v1/track", orjson.dumps(message), JSON) == 200
    assert asked("/api", call(server.key, params={"a": LARGE.decode()})) == 200, (
        "it is at the start"
    )
    assert (
        asked("/api", orjson.dumps({"params": {"a": LARGE.decode()}, "clientKey": server.key}))
        == 429
    )
    assert asked("/api", gzip.compress(call(server.key)), GZIP) == 429, (
        "nothing is decompressed for a key"
    )


def test_a_small_body_that_comes_late_is_waited_for_where_its_address_is_good(
    server: Server, address: str
) -> None:
    body = call(server.key)
    with closing(Wire(server.port)) as wire:
        wire.say(head(address, "POST", "/api", f"Content-Length: {len(body)}"))
        for piece in (body[:10], body[10:60], body[60:]):
            time.sleep(0.4)  # longer together than an address that failed too often is given
            wire.say(piece)
        assert wire.answer()[0] == 200


@pytest.mark.parametrize("which", ["unknown", "revoked"])
@pytest.mark.parametrize("where", ["query", "Authorization", "X-API-Key"])
def test_a_key_before_the_body_that_is_not_known_is_refused_before_a_large_body_comes(
    server: Server, address: str, which: str, where: str
) -> None:
    key = server.revoked if which == "revoked" else key_format.make()
    path = f"/api?clientKey={key}" if where == "query" else "/api"
    header = {"query": (), "Authorization": (bearer(key),), "X-API-Key": (f"X-API-Key: {key}",)}[
        where
    ]
    for more in (
        ("Content-Length: 20000000",),
        ("Content-Length: 23000", GZIP),
        ("Transfer-Encoding: chunked",),
    ):
        assert unread(address, server.port, path, *header, *more)[0] == 403


PROXYS = (
    "X-API-Key: of-the-proxy", "Authorization: Bearer of-the-proxy", "Authorization: Basic cHJveHk6cHJveHk=",
    "Authorization: Basic !!!", "Authorization: Basic", "Authorization: Basic /w==", "Authorization: Digest x",
)  # fmt: skip


@pytest.mark.parametrize("header", PROXYS)
def test_a_header_of_a_proxy_s_own_is_no_key_and_the_body_is_searched(
    server: Server, address: str, header: str
) -> None:
    for more in ("", LARGE.decode()):
        message = {"userId": "u", "event": "e", "writeKey": server.key, "properties": {"a": more}}
        for path, body in (
            ("/api", call(server.key, params={"a": more})),
            ("/segment/v1/track", orjson.dumps(message)),
        ):
            assert sent_from(address, server.port, "POST", path, body, header)[0] == 200
            assert (
                sent_from(address, server.port, "POST", path, gzip.compress(body), header, GZIP)[0]
                == 200
            )


NOWHERE = [
    ("GET", "/favicon.ico", 404), ("POST", "/nope", 404), ("POST", "/segment/v1/zz", 404),
    ("GET", "/segment/v1/track", 405), ("PUT", "/api", 405),
]  # fmt: skip


@pytest.mark.parametrize("header", PROXYS)
def test_a_header_of_a_proxy_s_own_changes_nothing_where_no_key_is_needed(
    server: Server, address: str, header: str
) -> None:
    for method, path, status in NOWHERE:
        assert sent_from(address, server.port, method, path, b"", header)[0] == status
    assert sent_from(address, server.port, "GET", "/v1/keys", b"")[0] == 401, "nothing was counted"


WRONG: dict[str, tuple[str, str, str, int]] = {
    "Basic that can't be read, without a writeKey": ("POST", "/segment/v1/track", "Authorization: Basic !!!", 401),
    "Basic of a proxy's own, without a writeKey": ("POST", "/segment/v1/track", PROXYS[2], 401),
    "a Bearer of no form under /v1": ("GET", "/v1/nothing", PROXYS[1], 401),
    "an X-API-Key of no form under /v1": ("PUT", "/v1/events", PROXYS[0], 401),
    "a clientKey of no form": ("PUT", "/api?clientKey=wrong", JSON, 403),
    "Basic with a caller key that is not known": (
        "POST", "/segment/v1/zz", "Authorization: Basic " + base64.b64encode(b"lpgw_wrong:").decode(), 401,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_key_counts_where_a_key_is_needed(server: Server, address: str, name: str) -> None:
    method, path, header, status = WRONG[name]
    body = orjson.dumps({"userId": "u", "event": "e"})
    found = [
        sent_from(address, server.port, method, path, body, header)[0]
        for _ in range(MOST_FAILURES + 1)
    ]
    assert found == [status] * MOST_FAILURES + [429]


# --- good callers whose key is inside a compressed body ---------------------------------------------------------------

GOOD: dict[str, Callable[[str], bytes]] = {
    "/api": call,
    "/segment/v1/track": lambda key: orjson.dumps({"userId": "u", "event": "e", "writeKey": key}),
}


@contextmanager
def all_at_once(
    server: Server, path: str, bodies: Iterable[tuple[str, bytes]]
) -> Iterator[list[Wire]]:
    """Connections over each of which one compressed body has been sent: from its address."""
    with ExitStack() as stack:
        wires = list[Wire]()
        for address, body in bodies:
            wires.append(stack.enter_context(closing(Wire(server.port))))
            wires[-1].say(
                head(address, "POST", path, f"Content-Length: {len(body)}", GZIP, JSON) + body
            )
        yield wires


@pytest.mark.parametrize("path", GOOD)
def test_many_small_compressed_bodies_with_the_key_in_them_pass_at_once(
    server: Server, address: str, path: str
) -> None:
    body = gzip.compress(GOOD[path](server.key))
    with all_at_once(server, path, [(address, body)] * 150) as wires:
        assert Counter(wire.answer()[0] for wire in wires) == {200: 150}


@pytest.mark.parametrize("path", GOOD)
def test_a_compressed_body_with_a_key_waits_for_no_one_s_large_body(
    server: Server, address: str, path: str
) -> None:
    bombs = [(f"10.2.0.{number}", packed(SDK_LIMIT - 10)) for number in range(1, 21)]
    good = (address, gzip.compress(GOOD[path](server.key)))
    with (
        all_at_once(server, "/api", bombs) as waiting,
        all_at_once(server, path, [good]) as (wire,),
    ):
        assert wire.answer()[0] == 200
        assert select.select([waiting[-1].socket], [], [], 0)[0] == [], (
            "a bomb that came earlier is still unpacked"
        )
        assert {one.answer()[0] for one in waiting} == {403}


# --- bodies that are cut off ------------------------------------------------------------------------------------------


def half_closed(wire: Wire, server: Server, expected: int = 400) -> None:
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.answer()[0] == expected


def reset(wire: Wire, server: Server) -> None:
    """End a connection as a phone that is gone: nothing is said or read any more."""
    until(lambda: server.app.handlers.credentials.held.count > 0)
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()
    until(lambda: server.app.handlers.credentials.held.count == 0)


def cut_off(
    address: str,
    server: Server,
    end: Callable[[Wire, Server], None],
    path: str,
    body: bytes,
    *headers: str,
) -> None:
    with closing(Wire(server.port)) as wire:
        wire.say(head(address, "POST", path, f"Content-Length: {len(body) + 30}", *headers) + body)
        end(wire, server)


@pytest.mark.parametrize("end", [half_closed, reset])
@pytest.mark.parametrize("path", ["/api", "/segment/v1/track"])
def test_a_body_that_was_cut_off_does_not_count(
    server: Server, address: str, path: str, end: Callable[[Wire, Server], None]
) -> None:
    late = {
        "userId": "u",
        "event": "e",
        "appId": APP,
        "action": "track",
        "properties": {"a": LARGE.decode()},
    }
    body = orjson.dumps(late | {"clientKey": server.key, "writeKey": server.key})
    for _ in range(MOST_FAILURES + 2):
        cut_off(address, server, end, path, body[:100_000], JSON)
    for _ in range(MOST_FAILURES + 2):
        cut_off(address, server, end, path, gzip.compress(call(""))[:-30], GZIP)
    assert sent_from(address, server.port, "POST", path, body, JSON)[0] == 200


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/api", LIMIT, 400), ("/segment/v1/batch", LIMIT - 10, 400),
        ("/api", SDK_LIMIT + 900_000, 413), ("/segment/v1/batch", SDK_LIMIT, 413),
    ],
)  # fmt: skip
def test_a_large_compressed_body_that_was_cut_off_counts(
    server: Server, address: str, path: str, size: int, status: int
) -> None:
    for _ in range(MOST_FAILURES):
        cut_off(
            address,
            server,
            partial(half_closed, expected=status),
            path,
            packed(size)[:-12],
            GZIP,
        )
    assert sent_from(address, server.port, "POST", path, packed(1_000), GZIP)[0] == 429


# --- what comes out of compressed bodies ------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("path", ["/api", "/v1/batch", "/v1/events", "/segment/v1/track"])
def test_decompressed_bytes_count_against_what_may_be_held(
    server: Server, address: str, path: str, encoding: str
) -> None:
    def asked(size: int) -> int:
        body = packed(size, encoding, b'{"x":"')
        named = f"Content-Encoding: {encoding}"
        authorization = bearer(server.key)
        return sent_from(address, server.port, "POST", path, body, named, JSON, authorization)[0]

    if path.startswith("/segment"):
        assert asked(100_000) == 400
    for _ in range(3):
        assert asked(3_000_000) == 503
    assert asked(1_500_000) not in {413, 503}
    until(lambda: server.app.services.bodies.held_bytes == 0)


def test_decompressing_keeps_no_other_work_waiting() -> None:
    body, counted, turns = gzip.compress(b"a" * 20_000_000), list[int](), 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> bytes:
        beside = asyncio.create_task(others())
        try:
            return await decompression.decompress_in_thread(
                body, "gzip", 20_000_000, counted.append
            )
        finally:
            beside.cancel()

    assert len(asyncio.run(run())) == sum(counted) == 20_000_000
    assert max(counted) <= decompression.SLICE + 256 * 1024
    assert turns > len(counted)


def test_what_must_not_be_held_is_not_decompressed_any_further() -> None:
    body, counted = gzip.compress(b"a" * 20_000_000), list[int]()

    def count(size: int) -> None:
        counted.append(size)
        if sum(counted) > 1_000_000:
            raise Overloaded("full")

    with pytest.raises(Overloaded):
        asyncio.run(decompression.decompress_in_thread(body, "gzip", 20_000_000, count))
    assert sum(counted) < 3_000_000


def test_what_is_small_when_it_is_decompressed_waits_for_no_place() -> None:
    async def run(size: int) -> bytes:
        async with decompression.KNOWN_CALLERS.place(), decompression.KNOWN_CALLERS.place():
            packed_body = gzip.compress(b"ab" * size, 1)
            return await asyncio.wait_for(
                decompression.decompress_in_thread(
                    packed_body, "gzip", 3 * size, list[int]().append
                ),
                1,
            )

    assert len(asyncio.run(run(300_000))) == 600_000
    with pytest.raises(TimeoutError):
        asyncio.run(run(3_000_000))


def test_a_place_is_waited_for_only_so_long() -> None:
    async def run() -> None:
        queue = PlaceQueue(1, 5, seconds=0.05)
        async with queue.place():
            with pytest.raises(Overloaded):
                async with queue.place():
                    pytest.fail("there is one place")
        async with queue.place():
            pass

    asyncio.run(run())


def test_only_so_many_wait_for_a_place() -> None:
    async def run() -> list[str]:
        queue, may_end, told = PlaceQueue(1, 2), asyncio.Event(), list[str]()

        async def work(name: str) -> None:
            async with queue.place():
                await may_end.wait()
                told.append(name)

        tasks = [asyncio.create_task(work(name)) for name in ("first", "second", "third", "fourth")]
        await asyncio.wait([tasks[3]])
        assert isinstance(tasks[3].exception(), Overloaded)
        may_end.set()
        await asyncio.gather(*tasks[:3])
        return told

    assert asyncio.run(run()) == ["first", "second", "third"]
