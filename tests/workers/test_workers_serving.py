"""`serve --workers N`: the processes together are one gateway."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.simulator.server import BackgroundServer
from tests.support.postgres import Server
from tests.support.processes import Process, ended, values
from tests.support.wait import until

from .worker_processes import (
    Worker,
    descendants,
    forkserver,
    is_running,
    lines,
    pids,
    workers_serving,
)

pytestmark = pytest.mark.process
EVENT = {"userId": "ann", "event": "E"}
ALL = ("delivering", "accepting-1", "accepting-2")


@pytest.fixture(scope="module")
def leanplum() -> Iterator[str]:
    with BackgroundServer() as server:
        yield server.url


@pytest.fixture(scope="module", params=["SQLite", "PostgreSQL"])
def gateway(
    tmp_path_factory: pytest.TempPathFactory, leanplum: str, request: pytest.FixtureRequest
) -> Iterator[Process]:
    """Two accepting workers and a delivering one, which no test here stops."""
    settings: dict[str, str | None] = {"LEANPLUM_DEVELOPMENT_KEY": "dev_sandbox"}
    if request.param == "PostgreSQL":
        server: Server = request.getfixturevalue("postgresql_server")
        settings["GATEWAY_DATABASE_URL"] = server.empty()
    folder = tmp_path_factory.mktemp("workers")
    with workers_serving(folder, leanplum, 2, **settings) as found:
        yield found


def calls(gateway: Process, count: int, path: str = "/v1/events", key: str = "") -> list[int]:
    """Make calls at the same time, each on a connection of its own; return the statuses."""
    headers = {"Authorization": f"Bearer {key or gateway.key}"}

    def call(_: int) -> int:
        url = f"{gateway.url}{path}"
        return httpx.post(url, json=EVENT, headers=headers, timeout=30).status_code

    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(call, range(count)))


def metric(gateway: Process, sample: str) -> float:
    text = httpx.get(f"{gateway.url}/metrics").text
    values_found = re.findall(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(values_found[0]) if values_found else 0.0


def test_every_item_that_any_worker_accepts_is_delivered(gateway: Process, leanplum: str) -> None:
    numbers, mark = range(1, 61), f"{gateway.port}"
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda number: gateway.event(f"{mark}-{number}", number), numbers)
        )
    assert [answer.status_code for answer in answers] == [202] * 60
    until(lambda: all(values(leanplum, f"{mark}-{number}") == [number] for number in numbers))


def test_a_worker_that_seals_nothing_itself_tells_the_statement_of_an_erasure(
    gateway: Process,
) -> None:
    found = gateway.call("DELETE", "/v1/users/erased-by-a-worker?fullErasure=true").json()
    assert ("statement" in found) != ("statementPending" in found)
    href = found["statementHref"]
    until(lambda: gateway.call("GET", href).status_code == 200)
    (erasure,) = gateway.call("GET", href).json()["erasures"]
    assert (erasure["removed"], erasure["fullErasure"]) == (found["erased"], True)


def test_metrics_are_those_of_all_workers(gateway: Process) -> None:
    accepted = 'leanplum_gateway_items_accepted_total{action="track",app="default"}'
    settled = 'leanplum_gateway_items_settled_total{app="default",status="delivered"}'
    gateway.event("first", 1)
    until(lambda: f"\n{settled} " in httpx.get(f"{gateway.url}/metrics").text)
    before, settled_before = metric(gateway, accepted), metric(gateway, settled)
    calls(gateway, 40)
    for _ in range(6):  # whichever worker is asked
        assert metric(gateway, accepted) == before + 40
    until(lambda: metric(gateway, settled) >= settled_before + 40)
    text = httpx.get(f"{gateway.url}/metrics").text
    assert text.count("# TYPE leanplum_gateway_http_requests_total counter") == 1


@pytest.mark.parametrize("name", ALL)
def test_no_counter_falls_when_a_worker_is_killed(gateway: Process, name: str) -> None:
    accepted = 'leanplum_gateway_items_accepted_total{action="track",app="default"}'
    settled = 'leanplum_gateway_items_settled_total{app="default",status="delivered"}'
    calls(gateway, 1)
    until(lambda: f"{settled} " in httpx.get(f"{gateway.url}/metrics").text)
    delivered = metric(gateway, settled)
    assert calls(gateway, 20) == [202] * 20
    until(lambda: metric(gateway, settled) >= delivered + 20)
    before = {sample: metric(gateway, sample) for sample in (accepted, settled)}
    Worker(gateway, name).kill()
    assert {sample: metric(gateway, sample) for sample in before} == before


def test_each_process_shows_its_own_memory_and_processor_time(gateway: Process) -> None:
    for worker in (*ALL, "supervisor"):
        assert metric(gateway, f'process_resident_memory_bytes{{worker="{worker}"}}') > 0
        assert metric(gateway, f'process_cpu_seconds_total{{worker="{worker}"}}') > 0


def test_a_limit_holds_for_all_workers_together(gateway: Process) -> None:
    _, key = gateway.create_key("events:write", ratePerSecond=1, rateBurst=20)
    began = time.monotonic()
    statuses = calls(gateway, 120, key=key)
    allowed = 20 + time.monotonic() - began
    assert 20 <= statuses.count(202) <= allowed + 1
    assert statuses.count(202) + statuses.count(429) == 120


def test_a_revoked_key_is_refused_by_every_worker_within_a_second(gateway: Process) -> None:
    key_id, key = gateway.create_key("events:write")
    assert calls(gateway, 4, key=key) == [202] * 4
    assert gateway.call("DELETE", f"/v1/keys/{key_id}").is_success
    time.sleep(1.0)  # what is promised
    assert calls(gateway, 40, key=key) == [401] * 40


def test_readiness_says_what_the_delivering_worker_knows(tmp_path: Path, leanplum: str) -> None:
    wrong = {"LEANPLUM_PRODUCTION_KEY": "wrong"}
    with workers_serving(tmp_path, leanplum, 2, **wrong) as gateway:
        assert gateway.event("ann", 1).status_code == 202

        def detail() -> str:
            parts = httpx.get(f"{gateway.url}/readyz").json()["parts"]
            return str(parts["delivery"].get("detail", ""))

        until(lambda: "held" in detail())
        assert all("held" in detail() for _ in range(6)), "whichever worker is asked"


@pytest.mark.parametrize("name", ALL)
def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(
    gateway: Process, leanplum: str, name: str
) -> None:
    before = pids(gateway, name)
    Worker(gateway, name).kill()
    assert len(pids(gateway, name)) == len(before) + 1
    ended_lines = [
        line for line in lines(gateway, "worker.ended") if line["gateway.worker"] == name
    ]
    assert ended_lines[-1]["gateway.how"] == "the signal SIGKILL"
    user = f"after-{name}-{gateway.port}"
    assert gateway.event(user, 1).status_code == 202
    until(lambda: values(leanplum, user) == [1])


def test_a_stop_ends_all_workers_in_order_with_exit_code_0(tmp_path: Path, leanplum: str) -> None:
    with workers_serving(tmp_path, leanplum, 2) as gateway:
        processes = {name: pids(gateway, name)[-1] for name in ALL}
        for number in range(30):
            assert gateway.event(f"stop-{number}", number).status_code == 202
        assert gateway.terminate() == 0
        (stopped,) = lines(gateway, "gateway.stopped")
        assert (stopped["gateway.why"], stopped["gateway.queued"]) == ("SIGTERM", 0)
        (started,) = lines(gateway, "gateway.started")
        assert started["gateway.workers"] == 2
        assert not any(is_running(pid) for pid in processes.values())
        assert all(values(leanplum, f"stop-{number}") == [number] for number in range(30))


def test_a_second_signal_ends_the_drain_time(tmp_path: Path, leanplum: str) -> None:
    with workers_serving(tmp_path, leanplum, 2, GATEWAY_DRAIN_SECONDS="60") as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: len(lines(gateway, "stop.draining")) == 2)
        assert gateway.event("drained", 1).status_code == 202
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(timeout=30) == 0


def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path, leanplum: str) -> None:
    with workers_serving(tmp_path, leanplum, 2) as gateway:
        processes = [pids(gateway, name)[-1] for name in ALL]
        gateway.kill()
        until(lambda: not any(is_running(pid) for pid in processes))
        gateway.start()  # the port is free, and the database is
        assert gateway.event("again", 1).status_code == 202


def test_sighup_replaces_all_workers_and_no_request_fails(tmp_path: Path, leanplum: str) -> None:
    with workers_serving(tmp_path, leanplum, 2, GATEWAY_DRAIN_SECONDS="1") as gateway:
        before = {name: pids(gateway, name) for name in ALL}
        failed, done, stop = list[object](), list[int](), threading.Event()

        def post(name: str) -> None:
            with httpx.Client(base_url=gateway.url, timeout=30) as client:
                number = 0
                while not stop.is_set():
                    number += 1
                    body = {"userId": name, "event": "E", "value": number}
                    headers = {"Authorization": f"Bearer {gateway.key}"}
                    try:
                        answer = client.post("/v1/events", json=body, headers=headers)
                    except httpx.TransportError as error:
                        failed.append(error)
                        continue
                    if answer.status_code != 202:
                        failed.append(answer.text)
                    done.append(number)

        threads = [threading.Thread(target=post, args=(f"roll-{one}",)) for one in range(4)]
        for thread in threads:
            thread.start()
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: lines(gateway, "workers.replaced"), 120)
        stop.set()
        for thread in threads:
            thread.join()
        assert failed == []
        assert len(done) > 20
        for name in ALL:
            assert len(pids(gateway, name)) == len(before[name]) + 1
            assert not is_running(before[name][-1])


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.5])
def test_a_stop_during_the_start_ends_with_exit_code_0(
    tmp_path: Path, leanplum: str, seconds: float
) -> None:
    with workers_serving(tmp_path, leanplum, 2) as gateway:
        assert gateway.terminate() == 0
        gateway.launch()
        began = len(lines(gateway, "worker.ready"))
        until(lambda: forkserver(gateway) is not None)
        time.sleep(seconds)  # at several moments of the start, with or without a ready worker
        gateway.process.send_signal(signal.SIGTERM)
        code = gateway.process.wait(timeout=60)
        # Before it has set up its handlers, the process is like any other
        assert code == 0 or (
            code == -signal.SIGTERM and len(lines(gateway, "worker.ready")) == began
        )


def test_a_signal_for_all_processes_is_an_orderly_stop(tmp_path: Path, leanplum: str) -> None:
    with workers_serving(tmp_path, leanplum, 2) as gateway:
        everyone = [gateway.process.pid, *descendants(gateway.process.pid)]
        for number in range(30):
            assert gateway.event(f"group-{number}", number).status_code == 202
        for pid in everyone:
            os.kill(pid, signal.SIGTERM)
        assert gateway.process.wait(timeout=60) == 0
        assert all(values(leanplum, f"group-{number}") == [number] for number in range(30))
        assert not lines(gateway, "worker.ended")


@pytest.mark.parametrize("name", ALL)
def test_a_worker_that_hangs_does_not_keep_the_gateway_from_stopping(
    tmp_path: Path, leanplum: str, name: str
) -> None:
    with workers_serving(tmp_path, leanplum, 2, GATEWAY_SHUTDOWN_SECONDS="2") as gateway:
        os.kill(pids(gateway, name)[-1], signal.SIGSTOP)
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(timeout=60) == 1
        assert [line["gateway.worker"] for line in lines(gateway, "worker.killed")] == [name]


def test_workers_outlive_the_process_that_forked_them(tmp_path: Path, leanplum: str) -> None:
    with workers_serving(tmp_path, leanplum, 2) as gateway:
        pid = forkserver(gateway)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_running(pid))
        assert gateway.event("orphan", 1).status_code == 202
        Worker(gateway, "accepting-1").kill()  # another such process forks the next one
        assert [line["gateway.worker"] for line in lines(gateway, "worker.ended")] == [
            "accepting-1"
        ]
        assert gateway.terminate() == 0
        assert values(leanplum, "orphan") == [1]


def test_readiness_holds_while_workers_are_replaced(tmp_path: Path, leanplum: str) -> None:
    with workers_serving(tmp_path, leanplum, 2, GATEWAY_DRAIN_SECONDS="1") as gateway:
        gateway.process.send_signal(signal.SIGHUP)
        statuses = list[int]()

        def replaced() -> bool:
            statuses.append(httpx.get(f"{gateway.url}/readyz").status_code)
            return bool(lines(gateway, "workers.replaced"))

        until(replaced, 120)
        assert set(statuses) == {200}


def test_no_workers_at_all_is_refused(tmp_path: Path) -> None:
    done = ended(tmp_path, "serve", "--workers", "0")
    assert done.returncode == 2
    assert "GATEWAY_WORKERS" in done.stderr
