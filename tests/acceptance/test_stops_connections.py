"""A stop in order breaks no connection: clients that keep theirs open lose no request, and are told
to come back on another one; idle connections end at once.
"""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.support.http_server import Wire
from tests.support.processes import Process, serving
from tests.support.wait import until

NOWHERE = "http://127.0.0.1:9"
CLIENTS, SECONDS = 16, 0.6
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: g\r\n\r\n"
Sending = Callable[[int, Callable[[], bool]], Counter[str]]
Clients = Callable[[Process], Sending]


class Draining(NamedTuple):
    """A gateway that drains."""

    gateway: Process
    wires: dict[str, Wire]
    told_at: float


@contextmanager
def sending(send: Sending) -> Iterator[Counter[str]]:
    """Clients that send one request after the other until the end of the context; what came of all,
    after that.
    """
    over, found = threading.Event(), Counter[str]()
    results = list[Counter[str]]()
    threads = [
        threading.Thread(target=lambda at=number: results.append(send(at, over.is_set)))
        for number in range(CLIENTS)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join(20)
        for result in results:
            found.update(result)


def body(client: int, number: int) -> bytes:
    return json.dumps({"userId": f"c{client}", "event": "E", "value": number}).encode()


def by_http_client(gateway: Process) -> Sending:
    """A client of the standard library's, which opens a connection anew only where it was told
    to.
    """
    headers = {"Authorization": f"Bearer {gateway.key}", "Content-Type": "application/json"}

    def send(client: int, over: Callable[[], bool]) -> Counter[str]:
        found, number = Counter[str](), 0
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        while not over():
            number += 1
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                found["refused"] += 1
                time.sleep(0.02)
                continue
            except OSError as error:
                found[f"connecting: {type(error).__name__}"] += 1
                continue
            try:
                connection.request("POST", "/v1/events", body(client, number), headers)
                answer = connection.getresponse()
                answer.read()
                found[str(answer.status)] += 1
            except (http.client.HTTPException, OSError) as error:
                found[f"broken: {type(error).__name__}"] += 1
                connection.close()
            time.sleep(0.001 * (client % 4))
        connection.close()
        return found

    return send


def by_httpx(gateway: Process) -> Sending:
    """A client with a pool of connections, one for all threads."""
    pool = httpx.Client(base_url=gateway.url, timeout=20, trust_env=False)
    headers = {"Authorization": f"Bearer {gateway.key}", "Content-Type": "application/json"}

    def send(client: int, over: Callable[[], bool]) -> Counter[str]:
        found, number = Counter[str](), 0
        while not over():
            number += 1
            try:
                answer = pool.post("/v1/events", content=body(client, number), headers=headers)
                found[str(answer.status_code)] += 1
            except httpx.ConnectError:
                found["refused"] += 1
                time.sleep(0.02)
            except httpx.TransportError as error:
                found[f"broken: {type(error).__name__}"] += 1
            time.sleep(0.001 * (client % 4))
        return found

    return send


@pytest.mark.parametrize(("client", "drain"), [(by_http_client, "0.5"), (by_httpx, "0")])
def test_clients_that_keep_their_connections_lose_no_request_when_the_gateway_stops(
    tmp_path: Path, client: Clients, drain: str
) -> None:
    rate = {"GATEWAY_RATE_PER_SECOND": "100000"}
    with serving(
        tmp_path, NOWHERE, "--no-delivery", GATEWAY_DRAIN_SECONDS=drain, **rate
    ) as gateway:
        with sending(client(gateway)) as found:
            time.sleep(SECONDS)
            assert gateway.terminate() == 0
            time.sleep(0.1)
        assert found.pop("202") > 5 * CLIENTS, found
        assert found.pop("refused") > 0
        assert not found, found


@pytest.fixture(scope="module")
def draining(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Draining]:
    """A gateway that drains for long, what was opened to it before, and when it was told to
    stop.
    """
    folder = tmp_path_factory.mktemp("draining")
    with (
        serving(folder, NOWHERE, "--no-delivery", GATEWAY_DRAIN_SECONDS="60") as gateway,
        ExitStack() as stack,
    ):
        wires = {
            name: Wire(gateway.port) for name in ("idle", "used", "used-late", "unused", "half")
        }
        for wire in wires.values():
            stack.callback(wire.close)
        wires["half"].say(b"GET /livez HTTP/1.1\r\nHost: g\r\n")
        for name in ("idle", "used", "used-late"):
            wires[name].say(LIVEZ)
            assert "connection" not in wires[name].answer()[1]
        told_at = time.monotonic()
        gateway.process.terminate()
        until(lambda: gateway.http.get("/readyz").status_code == 503)
        yield Draining(gateway, wires, told_at)


def test_a_request_on_a_kept_connection_is_answered_and_told_that_the_connection_ends(
    draining: Draining,
) -> None:
    wire = draining.wires["used"]
    wire.say(LIVEZ)
    status, headers, _ = wire.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert wire.closed()


def test_a_head_that_had_begun_is_answered_likewise(draining: Draining) -> None:
    wire = draining.wires["half"]
    wire.say(b"\r\n")
    status, headers, _ = wire.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert wire.closed()


@pytest.mark.parametrize("name", ["idle", "unused"])
def test_an_idle_connection_ends_within_moments_of_the_signal(
    draining: Draining, name: str
) -> None:
    assert draining.wires[name].closed()
    assert time.monotonic() - draining.told_at < 5, "long before the drain time is over"


def test_every_answer_says_that_the_connection_ends_whatever_it_is(draining: Draining) -> None:
    gateway = draining.gateway
    answers = [
        gateway.http.get("/readyz"),
        gateway.http.get("/v1/nothing"),
        gateway.http.post("/v1/events", json={}),
        gateway.event("ann", 1),
        gateway.call("POST", "/v1/batch", json={"items": []}),
        gateway.http.get("/docs"),
        gateway.http.head("/livez"),
        gateway.http.post("/api", json={}),
        gateway.http.post("/segment/v1/track", json={}),
    ]
    assert [answer.status_code for answer in answers[:4]] == [503, 404, 401, 202]
    assert {answer.headers["connection"] for answer in answers} == {"close"}


def test_of_pipelined_requests_each_is_answered_and_only_the_last_ends_the_connection(
    draining: Draining,
) -> None:
    wire = Wire(draining.gateway.port)
    wire.say(LIVEZ * 3)
    heads = [wire.answer()[1] for _ in range(3)]
    assert [head.get("connection") for head in heads] == [None, None, "close"]
    assert wire.closed()
    wire.close()
