"""A stop in order breaks no connection: clients that keep theirs open lose no request, and are told to come back on
another one; idle connections end at once."""

import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.acceptance.processes import Process, serving, until
from tests.api.serve import Wire

NOWHERE = "http://127.0.0.1:9"
CLIENTS, SECONDS = 16, 0.6


@contextmanager
def sending(send: Callable[[int, Callable[[], bool]], Counter[str]]) -> Iterator[Counter[str]]:
    """Clients that send one request after the other until the end of the context; what came of all, after that."""
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


def by_http_client(gateway: Process) -> Callable[[int, Callable[[], bool]], Counter[str]]:
    """A client of the standard library's, which opens a connection anew only where it was told to."""
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


def by_httpx(gateway: Process) -> Callable[[int, Callable[[], bool]], Counter[str]]:
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


@pytest.mark.parametrize("client", [by_http_client, by_httpx])
@pytest.mark.parametrize("drain", ["0", "0.5"])
def test_clients_that_keep_their_connections_lose_no_request_when_the_gateway_stops(
    tmp_path: Path, client: Callable[[Process], Callable[[int, Callable[[], bool]], Counter[str]]], drain: str
) -> None:
    with serving(
        tmp_path, NOWHERE, "--no-delivery", GATEWAY_DRAIN_SECONDS=drain, GATEWAY_RATE_PER_SECOND="100000"
    ) as gateway:
        for _ in range(3):
            with sending(client(gateway)) as found:
                time.sleep(SECONDS)
                assert gateway.terminate() == 0
                time.sleep(0.1)
            assert found.pop("202") > 10 * CLIENTS, found
            assert found.pop("refused") > 0
            assert not found, found
            gateway.start()
