"""A stop ends in time with exit code 0 whatever hangs, and whoever waits is answered."""

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.database_proxy import proxied
from tests.support.http_server import Wire
from tests.support.processes import Deliverer, Process, command, environment, serving
from tests.support.wait import until

SHUTDOWN = 4
SETTINGS = {"GATEWAY_DRAIN_SECONDS": "0", "GATEWAY_SHUTDOWN_SECONDS": str(SHUTDOWN)}
SLACK = 3.0  # for a busy machine


@contextmanager
def silent_leanplum() -> Iterator[tuple[str, list[socket.socket]]]:
    """A Leanplum that takes every call and never answers: its URL, and the connections to it."""
    connections = list[socket.socket]()

    def accept() -> None:
        while True:
            try:
                connections.append(listener.accept()[0])
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", connections
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(5)
            for one in connections:
                one.close()


def stopped_in(gateway: Process | Deliverer) -> float:
    """The seconds from SIGTERM to an exit with code 0."""
    started = time.monotonic()
    assert gateway.terminate() == 0, gateway.output.read_text()
    return time.monotonic() - started


def sdk(action: str, **arguments: Any) -> dict[str, Any]:
    return {"json": {"action": action, "appId": "app_sandbox", "userId": "bob", **arguments}}


def test_whoever_waits_is_answered_when_leanplum_never_answers_and_the_stop_ends_in_time(
    tmp_path: Path,
) -> None:
    with (
        silent_leanplum() as (url, connections),
        serving(tmp_path, url, GATEWAY_RELAY_TIMEOUT_SECONDS="60", **SETTINGS) as gateway,
        ThreadPoolExecutor(10) as threads,
    ):
        key = {"clientKey": gateway.key}
        waits = {
            "single": threads.submit(gateway.event, "ann", 1, Prefer="wait=30"),
            "read": threads.submit(gateway.call, "GET", "/v1/users/cid/variables"),
            "start": threads.submit(gateway.call, "POST", "/v1/users/dan/sessions", json={}),
            "seldom": threads.submit(gateway.call, "GET", "/v1/notification-channels"),
            "file": threads.submit(gateway.call, "GET", "/v1/files/a.txt"),
            "sdk": threads.submit(gateway.http.post, "/api", **sdk("getVars", **key)),
        }
        until(lambda: len(connections) >= len(waits), 40)
        begun = time.monotonic()
        seconds = stopped_in(gateway)
        answers = {name: one.result(5) for name, one in waits.items()}
        assert seconds < SHUTDOWN + SLACK, time.monotonic() - begun
        assert answers["single"].status_code == 202
        assert answers["single"].json()["id"] == "ann-1"
        for name in ("read", "start", "seldom", "file"):
            answer = answers[name]
            assert (name, answer.status_code) == (name, 503)
            assert answer.json()["type"] == "/problems/upstream-unavailable"
            assert answer.headers["retry-after"]
        assert answers["sdk"].status_code == 503
        assert answers["sdk"].json()["response"][0]["success"] is False
        assert answers["sdk"].headers["retry-after"]
        gateway.start()
        until(lambda: gateway.status("ann-1") == "retrying")


def test_a_waiting_call_is_answered_202_as_soon_as_draining_begins(tmp_path: Path) -> None:
    with (
        serving(
            tmp_path, "http://127.0.0.1:9", "--no-delivery", GATEWAY_DRAIN_SECONDS="60"
        ) as gateway,
        ThreadPoolExecutor(2) as threads,
    ):
        waiting: Future[httpx.Response] = threads.submit(gateway.event, "ann", 1, Prefer="wait=30")
        until(
            lambda: (
                b'leanplum_gateway_items_accepted_total{action="track",app="default"} 1.0'
                in gateway.http.get("/metrics").content
            )
        )
        time.sleep(0.2)  # it reads its receipt, and waits
        assert not waiting.done()
        started = time.monotonic()
        gateway.process.terminate()
        answer = waiting.result(10)
        assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
        assert answer.headers["preference-applied"] == "wait=30"
        assert gateway.event("ann", 2, Prefer="wait=30").status_code == 202
        assert time.monotonic() - started < 5


def test_requests_that_hang_are_answered_503_in_their_own_form_and_the_stop_ends_in_time(
    tmp_path: Path,
) -> None:
    """Bodies that never end; a client that never reads what it asked for."""
    with serving(tmp_path, "http://127.0.0.1:9", **SETTINGS) as gateway, ExitStack() as stack:
        slow = {
            path: Wire(gateway.port)
            for path in ("/v1/events", "/v1/users/ann", "/api", "/segment/v1/track")
        }
        deaf = Wire(gateway.port, window=1024)
        for wire in (deaf, *slow.values()):
            stack.callback(wire.close)
        for path, wire in slow.items():
            method = "PATCH" if path == "/v1/users/ann" else "POST"
            head = f"{method} {path} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {gateway.key}\r\n"
            wire.say(
                f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode()
            )
        deaf.say(b"GET /openapi.json HTTP/1.1\r\nHost: g\r\n\r\n" * 30)
        assert gateway.event("ann", 1).status_code == 202
        assert stopped_in(gateway) < SHUTDOWN + SLACK
        for path, wire in slow.items():
            status, headers, body = wire.answer()
            assert (path, status, headers["connection"]) == (path, 503, "close")
            assert headers["retry-after"]
            form = "response" if path == "/api" else "success" if "segment" in path else "detail"
            assert form in json.loads(body)


@pytest.mark.parametrize("words", [("serve",), ("deliver",)])
def test_a_stop_ends_in_time_beside_a_database_that_is_silent(
    tmp_path: Path, postgresql_server: Any, words: tuple[str, ...]
) -> None:
    with proxied(postgresql_server.empty()) as proxy:
        settings = {"GATEWAY_DATABASE_URL": proxy.url, **SETTINGS}
        with (
            serving(tmp_path, "http://127.0.0.1:9", **settings) as gateway,
            ThreadPoolExecutor(2) as threads,
        ):
            process: Process | Deliverer = gateway
            if words == ("deliver",):
                process = Deliverer(gateway, "one")
                process.start()
                until(lambda: process.logged(b"leases.changed"), 60)
            proxy.fall_silent()
            asked = threads.submit(gateway.event, "ann", 1)
            time.sleep(0.3)
            seconds = stopped_in(process)
            assert seconds < SHUTDOWN + SLACK
            if words == ("serve",):
                answer = asked.result(5)
                assert answer.status_code == 503
                assert answer.json()["type"] == "/problems/storage-unavailable"


def test_a_deliverer_settles_what_leanplum_never_answered_and_ends_in_time(tmp_path: Path) -> None:
    with (
        silent_leanplum() as (url, connections),
        serving(tmp_path, url, "--no-delivery", **SETTINGS) as gateway,
    ):
        deliverer = Deliverer(gateway, "one")
        deliverer.start()
        assert gateway.event("ann", 1).status_code == 202
        until(lambda: bool(connections), 60)
        assert stopped_in(deliverer) < SHUTDOWN + SLACK
        receipt = gateway.call("GET", "/v1/receipts/ann-1").json()
        assert (receipt["status"], receipt["attempts"]) == ("retrying", 1)


def test_the_third_signal_gives_up_what_is_in_flight(tmp_path: Path) -> None:
    longer = SETTINGS | {"GATEWAY_SHUTDOWN_SECONDS": "30", "GATEWAY_DRAIN_SECONDS": "30"}
    with (
        silent_leanplum() as (url, connections),
        serving(tmp_path, url, **longer) as gateway,
    ):
        assert gateway.event("ann", 1).status_code == 202
        until(lambda: bool(connections))
        started = time.monotonic()
        for _ in range(2):
            gateway.process.terminate()
            time.sleep(0.5)
        assert gateway.process.poll() is None
        assert gateway.terminate() == 0
        assert time.monotonic() - started < 10
        gateway.start()
        assert gateway.status("ann-1") == "retrying"


@pytest.mark.parametrize("sign", ["SIGTERM", "SIGINT"])
def test_a_simulator_that_is_stopped_ends_with_0_though_a_call_hangs(
    tmp_path: Path, sign: str
) -> None:
    output = (tmp_path / "output").open("wb+")
    words = command("simulate", "--port", "0", "--latency", "60")
    with subprocess.Popen(words, cwd=tmp_path, env=environment(tmp_path), stdout=output) as process:
        until(lambda: b"simulator: " in (tmp_path / "output").read_bytes())
        url = (tmp_path / "output").read_text().split()[1]
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        wire = Wire(port)
        wire.say(b"POST /api HTTP/1.1\r\nHost: s\r\nContent-Length: 2\r\n\r\n{}")
        time.sleep(0.2)
        started = time.monotonic()
        process.send_signal(getattr(signal, sign))
        assert process.wait(20) == 0
        assert time.monotonic() - started < 5
        wire.close()
    output.close()
