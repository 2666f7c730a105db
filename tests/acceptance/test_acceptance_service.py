"""The main job as callers and operators meet it: accept, deliver, be killed, stop in order, the
sandbox.
"""

import json
import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.audit.signing_keys import load_keys_to_write
from app.callers.store import KeyStore
from app.clock import now_ms
from app.database.engine import connect
from app.errors import StartRefused
from app.model import Scope
from app.server.sandbox_database import sandbox_key
from app.settings import Settings
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.processes import (
    APP_ID,
    PRODUCTION_KEY,
    Process,
    command,
    environment,
    plan,
    requests,
    serving,
    stats,
    values,
)
from tests.support.wait import free_port, until


@pytest.fixture
def simulator() -> Iterator[str]:
    with BackgroundServer() as server:
        yield server.url


def test_an_event_is_accepted_then_delivered_in_one_multi_with_the_key_in_the_body_alone(
    tmp_path: Path, simulator: str
) -> None:
    with serving(tmp_path, simulator) as gateway:
        answer = gateway.event("ann", 7)
        assert answer.status_code == 202
        assert answer.json()["status"] == "accepted"
        assert answer.headers["location"] == answer.json()["href"] == "/v1/receipts/ann-7"
        until(lambda: gateway.status("ann-7") == "delivered")
        receipt = gateway.call("GET", "/v1/receipts/ann-7").json()
        assert (receipt["userId"], receipt["attempts"], receipt["leanplum"]) == (
            "ann",
            1,
            {"success": True},
        )
    (call,) = requests(simulator)
    assert (call["method"], call["path"], call["query"]) == ("POST", "/api", "action=multi")
    assert (call["args"]["appId"], call["args"]["clientKey"]) == (APP_ID, PRODUCTION_KEY)
    assert [(one["action"], one["userId"], one["event"]) for one in call["args"]["data"]] == [
        ("track", "ann", "E")
    ]
    assert PRODUCTION_KEY not in call["query"] + json.dumps(call["headers"])
    assert gateway.key not in call["query"] + json.dumps(call["headers"]) + call["body"]


def test_prefer_wait_answers_with_the_final_receipt_or_202_when_the_time_is_over(
    tmp_path: Path, simulator: str
) -> None:
    with serving(tmp_path, simulator) as gateway:
        answer = gateway.event("ann", 0, Prefer="wait=10")
        assert (answer.status_code, answer.json()["status"]) == (200, "delivered")
        assert answer.headers["preference-applied"] == "wait=10"
        plan(simulator, {"mode": "503", "times": None})
        started = time.monotonic()
        answer = gateway.event("ann", 1, Prefer="wait=1")
        assert (answer.status_code, answer.json()["status"]) == (202, "retrying")
        assert 0.9 < time.monotonic() - started < 3


def test_killed_right_after_its_last_202_it_delivers_everything_in_order_after_its_restart(
    tmp_path: Path,
) -> None:
    with (
        BackgroundServer(SimulatorConfig(latency_seconds=0.2)) as server,
        serving(tmp_path, server.url) as gateway,
    ):
        codes = [gateway.event(f"user{number % 5}", number).status_code for number in range(50)]
        gateway.kill()
        assert codes == [202] * 50
        gateway.start()
        until(
            lambda: all(
                gateway.status(f"user{number % 5}-{number}") == "delivered" for number in range(50)
            )
        )
        for user in range(5):
            assert values(server.url, f"user{user}") == list(range(user, 50, 5))
        assert stats(server.url)["overlaps"] == 0


def write(
    gateway: Process, user: str, over: threading.Event, promised: dict[str, list[int]]
) -> None:
    """Send one event after the other, each until it is acknowledged; what is acknowledged is
    promised.
    """
    value = 0
    with httpx.Client(base_url=gateway.url, timeout=5, trust_env=False) as http:
        while not over.is_set():
            body = {"userId": user, "event": "E", "value": value, "id": f"{user}-{value}"}
            try:
                answer = http.post(
                    "/v1/events", json=body, headers={"Authorization": f"Bearer {gateway.key}"}
                )
            except httpx.TransportError:
                time.sleep(0.02)
                continue
            if answer.status_code in {200, 202}:
                promised[user].append(value)
                value += 1


def test_killed_again_and_again_under_load_it_loses_repeats_and_reorders_nothing(
    tmp_path: Path,
) -> None:
    users = [f"user{number}" for number in range(4)]
    promised: dict[str, list[int]] = {user: [] for user in users}
    over = threading.Event()
    config = SimulatorConfig(latency_seconds=0.02)
    with (
        BackgroundServer(config) as server,
        serving(tmp_path, server.url) as gateway,
        ThreadPoolExecutor(len(users)) as threads,
    ):
        writers = [threads.submit(write, gateway, user, over, promised) for user in users]
        for _ in range(3):
            before = sum(map(len, promised.values()))
            until(lambda before=before: sum(map(len, promised.values())) > before + 40)  # type: ignore[misc]
            gateway.kill()
            gateway.start()
        over.set()
        for writer in writers:
            writer.result(timeout=20)
        gateway.until_nothing_waits(40)
        for user in users:
            assert values(server.url, user)[: len(promised[user])] == promised[user]
            assert len(promised[user]) > 10
        assert stats(server.url)["overlaps"] == 0


def test_on_sigterm_readiness_goes_first_what_is_in_flight_is_finished_and_the_exit_code_is_0(
    tmp_path: Path, simulator: str
) -> None:
    plan(simulator, {"mode": "slow", "delay": 1.0})
    with serving(tmp_path, simulator, GATEWAY_DRAIN_SECONDS="0.6") as gateway:
        assert gateway.event("ann", 0).status_code == 202
        until(lambda: stats(simulator)["calls"] == 1)
        gateway.process.terminate()
        until(lambda: gateway.http.get("/readyz").status_code == 503)
        parts = gateway.http.get("/readyz").json()["parts"]
        assert parts["process"] == {"ok": False, "detail": "stopping"}
        assert gateway.event("ann", 1).status_code == 202, (
            "what comes while it drains is still taken"
        )
        assert gateway.process.wait(timeout=20) == 0
        assert values(simulator, "ann") == [0]
        gateway.start()
        until(lambda: gateway.status("ann-1") == "delivered")
        assert gateway.status("ann-0") == "delivered"
    assert values(simulator, "ann") == [0, 1]
    assert stats(simulator)["duplicates"] == 0, (
        "what was in flight was settled, so it is not sent again"
    )


def test_a_second_sigterm_cuts_the_drain_short(tmp_path: Path, simulator: str) -> None:
    with serving(tmp_path, simulator, GATEWAY_DRAIN_SECONDS="25") as gateway:
        gateway.process.terminate()
        until(lambda: gateway.http.get("/readyz").status_code == 503)
        started = time.monotonic()
        assert gateway.terminate() == 0
        assert time.monotonic() - started < 10


def test_the_sandbox_prints_a_line_that_delivers_an_event_when_it_is_run(tmp_path: Path) -> None:
    output, port = tmp_path / "output", free_port()
    with output.open("wb") as file:
        process = subprocess.Popen(
            command("serve", "--sandbox", "--port", str(port)),
            cwd=tmp_path,
            env=environment(tmp_path, GATEWAY_DRAIN_SECONDS="0", GATEWAY_SANDBOX_PORT="0"),
            stdout=file,
            stderr=file,
        )
    try:
        until(lambda: _ready(port))
        (line,) = [
            line.strip()
            for line in output.read_text().splitlines()
            if line.strip().startswith("curl ")
        ]
        answer = json.loads(_run(line))
        assert answer["status"] == "delivered", answer
        assert re.search(r"lpgw_[0-9A-Za-z]{36}\b", output.read_text())
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0


def test_a_sandbox_in_which_somebody_made_a_key_starts_again_and_that_key_goes_on(
    settings: Callable[..., Settings],
) -> None:
    given = settings(gateway_bootstrap_key=None)
    first = sandbox_key(given)
    made = store(given).create("mine", [Scope.EVENTS_WRITE], None, now_ms())[1].caller.key_id
    second = sandbox_key(given)
    assert first != second
    usable = [one.caller.key_id for one in store(given).all() if one.usable(now_ms())]
    assert made in usable
    assert len(usable) == 3, "the first sandbox's own key goes on, too"


@pytest.mark.parametrize("name", ["bootstrap", "mine", "sandbox"])
def test_a_sandbox_refuses_the_database_of_a_real_gateway(
    settings: Callable[..., Settings], name: str
) -> None:
    given = settings(gateway_bootstrap_key=None)
    for of in (name, "sandbox"):
        store(given).create(of, [Scope.EVENTS_WRITE], None, now_ms())
        time.sleep(0.002)  # they have an order
    for _ in range(2):
        with pytest.raises(StartRefused, match="is not marked as a sandbox's"):
            sandbox_key(given)
    assert all(one.usable(now_ms()) for one in store(given).all()), "none was revoked"


def store(settings: Settings) -> KeyStore:
    engine = connect(settings.gateway_database_url)
    return KeyStore(engine, load_keys_to_write(engine, settings.audit_root_key).macs)


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _run(line: str) -> str:
    """What the curl line prints; where there is no curl, what it would."""
    if shutil.which("curl") and shutil.which("bash"):
        found = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, timeout=30, check=True
        )
        return found.stdout
    words = shlex.split(line)
    url = next(word for word in words if word.startswith("http"))
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    return httpx.post(url, content=words[words.index("-d") + 1], headers=headers, timeout=30).text


def test_a_client_that_never_ends_its_body_does_not_keep_the_process(tmp_path: Path) -> None:
    with serving(tmp_path, "http://127.0.0.1:9", GATEWAY_SHUTDOWN_SECONDS="1") as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port)) as slow:
            head = f"POST /v1/events HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {gateway.key}\r\n"
            slow.sendall(
                f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode()
            )
            assert gateway.event("ann", 1).status_code == 202
            started = time.monotonic()
            assert gateway.terminate() == 0
            assert time.monotonic() - started < 10
        gateway.start()
        assert gateway.status("ann-1") in {"accepted", "retrying"}


def test_what_is_no_http_is_answered_as_a_problem(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "http://127.0.0.1:9") as gateway,
        socket.create_connection(("127.0.0.1", gateway.port)) as wire,
    ):
        wire.sendall(b"rubbish\r\n\r\n")
        head, _, body = b"".join(iter(lambda: wire.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["type"] == "/problems/malformed"
    assert f"x-request-id: {json.loads(body)['instance']}\r\n".encode() in head
    assert b"\r\ndate: " in head
