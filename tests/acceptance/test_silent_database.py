"""A gateway whose PostgreSQL falls silent: every caller hears in time, nothing acknowledged is
lost, and what is sent again as advised is there once.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.database_proxy import Proxy, proxied
from tests.support.postgres import Server
from tests.support.processes import APP_ID, PRODUCTION_KEY, Process, serving, values
from tests.support.wait import until

DEVELOPMENT_KEY = "dev_sandbox"
CALLER_SECONDS, READY_SECONDS = 12.0, 6.0
EVENT = {"userId": "ann", "event": "E", "value": 1}
Call = Callable[[], httpx.Response]
Note = Callable[[str, object], None]


@pytest.fixture
def leanplum() -> Iterator[str]:
    config = SimulatorConfig(
        app_id=APP_ID,
        production_key=PRODUCTION_KEY,
        development_key=DEVELOPMENT_KEY,
        deduplicate=False,
    )
    with BackgroundServer(config) as server:
        yield server.url


@pytest.fixture
def url(postgresql_server: Server) -> str:
    return postgresql_server.empty()


def running(folder: Path, leanplum: str, url: str) -> AbstractContextManager[Process]:
    return serving(
        folder, leanplum, GATEWAY_DATABASE_URL=url, LEANPLUM_DEVELOPMENT_KEY=DEVELOPMENT_KEY
    )


def every_kind_of_call(gateway: Process) -> dict[str, Call]:
    """A call of each kind that needs the database."""
    segment = {"userId": "ann", "event": "E", "messageId": "m-1"}
    sdk = {
        "appId": APP_ID,
        "clientKey": gateway.key,
        "action": "track",
        "userId": "ann",
        "event": "E",
    }
    wait = {"Prefer": "wait=5"}
    return {
        "event": lambda: gateway.call("POST", "/v1/events", json=EVENT),
        "event that waits": lambda: gateway.call("POST", "/v1/events", json=EVENT, headers=wait),
        "user": lambda: gateway.call("PATCH", "/v1/users/ann", json={"userAttributes": {"a": 1}}),
        "batch": lambda: gateway.call(
            "POST", "/v1/batch", json={"items": [EVENT | {"action": "track"}] * 20}
        ),
        "erasure": lambda: gateway.call("DELETE", "/v1/users/bob", params={"fullErasure": "true"}),
        "receipt": lambda: gateway.call("GET", "/v1/receipts/first"),
        "dead letters": lambda: gateway.call("GET", "/v1/dead-letters"),
        "audit": lambda: gateway.call("GET", "/v1/audit"),
        "keys": lambda: gateway.call("GET", "/v1/keys"),
        "new key": lambda: gateway.call(
            "POST", "/v1/keys", json={"name": "late", "scopes": ["sdk"]}
        ),
        "segment": lambda: gateway.http.post(
            "/segment/v1/track", json=segment, auth=(gateway.key, "")
        ),
        "sdk": lambda: gateway.http.post("/api", json=sdk),
    }


def answered(call: Call) -> tuple[float, httpx.Response]:
    began = time.monotonic()
    answer = call()
    return time.monotonic() - began, answer


def not_ready_in_time(gateway: Process) -> float:
    """How long `/readyz` took to say so."""
    seconds, answer = answered(lambda: gateway.http.get("/readyz"))
    assert (answer.status_code, answer.json()["parts"]["database"]["ok"]) == (503, False)
    assert seconds <= READY_SECONDS
    alive_after, alive = answered(lambda: gateway.http.get("/livez"))
    assert alive.status_code == 200
    assert alive_after < 1
    return seconds


def everybody_hears_in_time(gateway: Process, note: Note) -> None:
    """While the database says nothing: three callers of each kind at once, and again."""
    calls, slowest, not_ready = every_kind_of_call(gateway), 0.0, 0.0
    with ThreadPoolExecutor(3 * len(calls) + 1) as callers:
        for _ in range(2):
            ready = callers.submit(not_ready_in_time, gateway)
            waiting = [
                (name, callers.submit(answered, call))
                for name, call in calls.items()
                for _ in range(3)
            ]
            for name, one in waiting:
                seconds, answer = one.result()
                assert answer.status_code == 503, (name, answer.text)
                assert seconds <= CALLER_SECONDS, name
                assert "may have been" not in answer.text, "no commit was sent"
                slowest = max(slowest, seconds)
            not_ready = max(not_ready, ready.result())
    note("callers", 2 * 3 * len(calls))
    note("slowest", slowest)
    note("not ready", not_ready)


def recovered(gateway: Process, leanplum: str, url: str) -> None:
    """By itself; and all that was acknowledged, before and after, arrives once and in its order."""
    until(gateway.ready, 30)
    assert gateway.event("eve", 3).status_code == 202
    until(lambda: values(leanplum, "eve") == [1, 2, 3], 60)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (4,), (
            "nothing was taken meanwhile"
        )
    for name, call in every_kind_of_call(gateway).items():
        assert call().status_code < 300, name


def before(gateway: Process, leanplum: str) -> None:
    assert gateway.call("POST", "/v1/events", json=EVENT | {"id": "first"}).status_code == 202
    for value in (1, 2):
        assert gateway.event("eve", value).status_code == 202
    until(lambda: values(leanplum, "eve") == [1, 2])


def test_behind_a_proxy_that_stops_forwarding_every_caller_hears_in_time_and_all_recovers(
    tmp_path: Path, leanplum: str, url: str, record_property: Note
) -> None:
    with proxied(url) as proxy, running(tmp_path, leanplum, proxy.url) as gateway:
        before(gateway, leanplum)
        proxy.fall_silent()
        everybody_hears_in_time(gateway, record_property)
        proxy.speak()
        recovered(gateway, leanplum, url)


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """Every process of the server, stopped."""
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.pid)], capture_output=True, text=True, check=True
    )
    pids = [server.pid, *map(int, children.stdout.split())]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_of_a_server_that_is_stopped_every_caller_hears_in_time_and_all_recovers(
    tmp_path: Path, leanplum: str, url: str, postgresql_server: Server, record_property: Note
) -> None:
    with running(tmp_path, leanplum, url) as gateway:
        before(gateway, leanplum)
        with frozen(postgresql_server):
            everybody_hears_in_time(gateway, record_property)
        recovered(gateway, leanplum, url)


ITEMS: list[dict[str, Any]] = [
    {"action": "track", "userId": "ann", "event": "E", "params": {"z": 1, "a": 2}},
    {"action": "track", "userId": "", "event": "E"},  # refused
    {"action": "setUserAttributes", "userId": "bob", "userAttributes": {"b": 1}, "id": "own"},
]


@pytest.mark.parametrize(
    "reach", [True, False], ids=["the commit was made", "the commit was lost too"]
)
def test_what_may_have_been_taken_is_there_once_after_the_repeat_that_the_answer_advises(
    tmp_path: Path, leanplum: str, url: str, reach: bool
) -> None:
    with (
        proxied(url) as proxy,
        serving(
            tmp_path,
            leanplum,
            "--no-delivery",
            GATEWAY_DATABASE_URL=proxy.url,
            GATEWAY_COMMIT_SECONDS="3",
        ) as gateway,
    ):
        assert gateway.call("POST", "/v1/events", json=EVENT | {"id": "first"}).status_code == 202
        repeated = 200 if reach else 202

        single = lost(proxy, lambda: gateway.call("POST", "/v1/events", json=EVENT), reach)
        (own_id,) = single["ids"]
        assert f"Idempotency-Key: {own_id}" in single["detail"]
        until(gateway.ready)
        again = gateway.call("POST", "/v1/events", json=EVENT, headers={"Idempotency-Key": own_id})
        assert (again.status_code, again.json()["id"]) == (repeated, own_id)
        assert again.json().get("duplicate", False) is reach

        batch = lost(proxy, lambda: gateway.call("POST", "/v1/batch", json={"items": ITEMS}), reach)
        assert [one is None for one in batch["ids"]] == [False, True, False]
        assert batch["ids"][2] == "own"
        until(gateway.ready)
        items = [
            item | ({"id": one} if one else {})
            for item, one in zip(ITEMS, batch["ids"], strict=True)
        ]
        again = gateway.call("POST", "/v1/batch", json={"items": items})
        told = "duplicate" if reach else "accepted"
        assert [one["status"] for one in again.json()["results"]] == [told, "rejected", told]

        segment = {"userId": "cat", "event": "E", "messageId": "m-1"}
        of_segment = lost(
            proxy,
            lambda: gateway.http.post("/segment/v1/track", json=segment, auth=(gateway.key, "")),
            reach,
        )
        assert of_segment["code"] == "storage-unavailable"
        until(gateway.ready)
        assert (
            gateway.http.post("/segment/v1/track", json=segment, auth=(gateway.key, "")).status_code
            == 200
        )

        entry = {"action": "track", "userId": "dan", "event": "E", "reqId": "r-1", "uuid": "x-1"}
        sdk = {"appId": APP_ID, "clientKey": gateway.key, "action": "multi", "data": [entry]}
        lost(proxy, lambda: gateway.http.post("/api", json=sdk), reach)
        until(gateway.ready)
        assert gateway.http.post("/api", json=sdk).status_code == 200

        with psycopg.connect(url) as connection:
            found = connection.execute(
                "SELECT subject, count(*) FROM items GROUP BY subject"
            ).fetchall()
    assert dict(found) == {"uann": 3, "ubob": 1, "ucat": 1, "udan": 1}


def lost(proxy: Proxy, call: Call, reach: bool) -> dict[str, Any]:
    """The answer to a write whose own commit got none. Where another commit of the gateway's was
    struck before, the call is told that nothing was taken, and made again.
    """
    for _ in range(5):
        proxy.lose_commits(reach=reach)
        seconds, answer = answered(call)
        proxy.speak()
        assert answer.status_code == 503, answer.text
        assert "retry-after" in answer.headers
        assert seconds <= CALLER_SECONDS
        if "nothing was accepted" not in answer.text:
            break
    assert "may have been accepted" in answer.text
    found: dict[str, Any] = answer.json()
    return found
