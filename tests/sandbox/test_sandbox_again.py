"""The printed command delivers again, whatever was tried in the sandbox before."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.callers import key_format
from tests.support.processes import bearer, ended, plan, stats
from tests.support.sandbox import Sandbox, sandbox
from tests.support.wait import until

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox(tmp_path_factory.mktemp("sandbox")) as started:
        yield started


def call(
    at: Sandbox, method: str, path: str, headers: dict[str, str] | None = None, **given: Any
) -> httpx.Response:
    url, headers = f"{at.gateway.url}{path}", bearer(at.key) | (headers or {})
    return httpx.request(method, url, headers=headers, timeout=30, **given)


def post(at: Sandbox, user: str) -> None:
    call(at, "POST", "/v1/events", json={"userId": user, "event": "E"}).raise_for_status()


def remove_faults(at: Sandbox) -> None:
    httpx.delete(f"{at.simulator}/_simulator/faults").raise_for_status()


def fault(mode: str, **parameters: Any) -> Callable[[Sandbox], None]:
    """Return what plans a fault that strikes the user of the printed command, and others."""

    def strike(at: Sandbox) -> None:
        before = stats(at.simulator)["calls"]
        plan(at.simulator, {"mode": mode, "times": None, **parameters})
        for user in (at.user, "user-1", "user-2"):
            post(at, user)
        until(lambda: stats(at.simulator)["calls"] > before)

    strike.__name__ = f"fault {mode}"
    return strike


def send_wrong_keys(at: Sandbox) -> None:
    wrong = bearer("lpgw_wrong")
    answers = {at.gateway.http.get("/v1/apps", headers=wrong).status_code for _ in range(60)}
    assert 429 in answers


def erase(at: Sandbox) -> None:
    for user in (at.user, "user-1"):
        call(at, "DELETE", f"/v1/users/{user}?fullErasure=true").raise_for_status()


def block_and_unblock(at: Sandbox) -> None:
    call(at, "PUT", f"/v1/users/{at.user}/block").raise_for_status()
    call(at, "DELETE", f"/v1/users/{at.user}/block").raise_for_status()


def block_and_reset(at: Sandbox) -> None:
    remove_faults(at)
    blocked = call(at, "PUT", f"/v1/users/{at.user}/block", headers={"Prefer": "wait=30"})
    assert blocked.status_code == 200, blocked.text
    httpx.post(f"{at.simulator}/_simulator/reset").raise_for_status()


def log_in(at: Sandbox) -> None:
    call(at, "PATCH", f"/v1/users/{at.user}", json={"newUserId": "user-2"}).raise_for_status()


def revoke_a_key_of_its_name(at: Sandbox) -> None:
    made = call(at, "POST", "/v1/keys", json={"name": "sandbox", "scopes": ["sdk"]}).json()["id"]
    call(at, "DELETE", f"/v1/keys/{made}").raise_for_status()


def start_another_on_its_port(at: Sandbox) -> None:
    port = str(at.gateway.port)
    done = ended(at.gateway.folder, "serve", "--sandbox", "--port", port, GATEWAY_SANDBOX_PORT="0")
    assert (done.returncode, "GATEWAY_PORT: cannot listen" in done.stderr) == (2, True)


def start_another_on_its_database(at: Sandbox) -> None:
    """As `GATEWAY_PORT=8010 make run` does beside a sandbox that runs."""
    with sandbox(at.gateway.folder) as other:
        assert other.facts["Database"] != at.facts["Database"]
        assert other.example()["status"] == "delivered"


def fill_the_queue(at: Sandbox) -> None:
    items = [{"action": "track", "userId": f"many-{n}", "event": "E"} for n in range(1000)]
    for _ in range(3):
        call(at, "POST", "/v1/batch", json={"items": items}).raise_for_status()


TRIED: list[Callable[[Sandbox], None]] = [
    fault("503"),
    fault("403-key"),
    fault("403-html"),
    fault("429", retryAfter=0.1),
    fault("slow", delay=300),
    fault("disconnect"),
    send_wrong_keys,
    erase,
    block_and_unblock,
    block_and_reset,
    log_in,
    revoke_a_key_of_its_name,
    start_another_on_its_port,
    start_another_on_its_database,
    fill_the_queue,
]


@pytest.mark.parametrize("tried", TRIED, ids=lambda tried: tried.__name__)
def test_the_printed_command_delivers_once_faults_are_removed(
    running: Sandbox, tried: Callable[[Sandbox], None]
) -> None:
    tried(running)
    remove_faults(running)
    assert running.example()["status"] == "delivered"


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(TRIED), min_size=2, max_size=4))
def test_the_printed_command_delivers_after_any_sequence(
    running: Sandbox, sequence: list[Callable[[Sandbox], None]]
) -> None:
    for tried in sequence:
        tried(running)
    remove_faults(running)
    assert running.example()["status"] == "delivered"


def revoke_its_key(at: Sandbox) -> None:
    (own,) = call(at, "GET", "/v1/keys").json()["keys"]
    call(at, "DELETE", f"/v1/keys/{own['id']}").raise_for_status()


def take_its_scopes(at: Sandbox) -> None:
    (own,) = call(at, "GET", "/v1/keys").json()["keys"]
    call(at, "PATCH", f"/v1/keys/{own['id']}", json={"scopes": ["sdk"]}).raise_for_status()


def erase_for_a_day(at: Sandbox) -> None:
    erase(at)
    assert call(at, "POST", "/v1/events", json={"userId": at.user, "event": "E"}).status_code == 403


@pytest.mark.parametrize(
    ("bootstrap_key", "signal_number"),
    [(None, signal.SIGKILL), (key_format.make(), signal.SIGTERM)],
    ids=["own key", "set key"],
)
@pytest.mark.parametrize(
    "sequence",
    [[revoke_its_key], [fault("403-key"), fault("503"), erase_for_a_day, take_its_scopes]],
    ids=["revoked", "all else"],
)
def test_after_a_start_the_newly_printed_command_delivers(
    tmp_path: Path,
    sequence: list[Callable[[Sandbox], None]],
    bootstrap_key: str | None,
    signal_number: signal.Signals,
) -> None:
    chosen = {"GATEWAY_ERASED_SECONDS": "86400", "GATEWAY_BOOTSTRAP_KEY": bootstrap_key}
    with sandbox(tmp_path, **chosen) as first:
        for tried in sequence:
            tried(first)
        first.gateway.process.send_signal(signal_number)
        first.gateway.process.wait(timeout=30)
    with sandbox(tmp_path, **chosen) as second:
        assert second.facts["Database"] == first.facts["Database"]
        for each in (first, second):
            origin = "GATEWAY_BOOTSTRAP_KEY" if each.key == bootstrap_key else "new at each start"
            assert each.notes["Your key"] == f"({origin})"
        assert (first.key == bootstrap_key) == (bootstrap_key is not None)
        assert second.example()["status"] == "delivered"


def test_commands_with_the_key_of_an_earlier_start_go_on_working(tmp_path: Path) -> None:
    with sandbox(tmp_path) as first:
        pass
    with sandbox(tmp_path) as second:
        assert second.key != first.key
        body = {"userId": "user-1", "event": "E"}
        url = f"{second.gateway.url}/v1/events"
        assert httpx.post(url, json=body, headers=bearer(first.key)).status_code == 202
