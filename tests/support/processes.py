"""The gateway as a process of its own, on a free port, with its output in a file; stopped by its
own pid.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx

from app.callers import key_format
from app.ids import SHARDS
from tests.support.fork_server import ROOT as ROOT
from tests.support.fork_server import fork_server
from tests.support.wait import free_port, until

APP_ID, PRODUCTION_KEY = "app_sandbox", "prod_sandbox"


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """What a process of the gateway sees: nothing of this machine's own settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GATEWAY_", "LEANPLUM_"))
    }
    return kept | {"PYTHONPATH": str(ROOT), "GATEWAY_SECRETS_DIR": str(folder)} | settings


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "app", *words]


class Running(Protocol):
    """A process that was started, as `subprocess.Popen` has it."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


Spawn = Callable[[Sequence[str], Path, Mapping[str, str], Path], Running]


def spawn(words: Sequence[str], folder: Path, env: Mapping[str, str], output: Path) -> Running:
    """Start a command in a folder, with its output appended to a file: by a fork where it is one of
    the gateway's own.
    """
    own = command()
    if list(words[: len(own)]) == own:
        return fork_server().fork(words[len(own) :], folder, env, output)
    return spawn_fresh(words, folder, env, output)


def spawn_fresh(
    words: Sequence[str], folder: Path, env: Mapping[str, str], output: Path
) -> Running:
    """Start a command with an interpreter of its own, for tests that look at the process itself."""
    with output.open("ab") as opened:
        return subprocess.Popen(words, cwd=folder, env=env, stdout=opened, stderr=opened)


def ended(folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself, run in `folder`."""
    with tempfile.TemporaryDirectory(prefix="command") as printed:
        output, errors = Path(printed) / "output", Path(printed) / "errors"
        env = environment(folder, **settings)
        process = fork_server().fork(words, folder, env, output, errors)
        try:
            code = process.wait(timeout=60)
        finally:
            process.kill()
        return subprocess.CompletedProcess(
            command(*words), code, output.read_text(), errors.read_text()
        )


def bearer(key: str) -> dict[str, str]:
    """Return the header that has a caller key."""
    return {"Authorization": f"Bearer {key}"}


class Process:
    """One gateway that can be killed and started again on the same database."""

    def __init__(self, folder: Path, upstream: str, *words: str, **settings: str | None) -> None:
        """Settings that are None are not set, whatever they are here."""
        self.folder, self.words, self.port = folder, words, free_port()
        self.spawn: Spawn = spawn
        self.key = settings.get("GATEWAY_BOOTSTRAP_KEY") or key_format.make()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = folder / "output"
        chosen = {
            "LEANPLUM_APP_ID": APP_ID,
            "LEANPLUM_PRODUCTION_KEY": PRODUCTION_KEY,
            "LEANPLUM_API_URL": f"{upstream}/api",
            "GATEWAY_DATABASE_URL": f"sqlite:///{folder}/g.db",
            "GATEWAY_BOOTSTRAP_KEY": self.key,
            "GATEWAY_RATE_BURST": "1000000",
            "GATEWAY_DRAIN_SECONDS": "0",
        } | settings
        self.settings = {name: value for name, value in chosen.items() if value is not None}
        self.http = httpx.Client(base_url=self.url, timeout=40, trust_env=False)

    def start(self) -> None:
        self.launch()
        until(self.ready, 60)

    def launch(self) -> None:
        """Start it, and don't wait until it is ready."""
        words = self.command("serve", "--port", str(self.port), *self.words)
        self.process = self.spawn(
            words, self.folder, environment(self.folder, **self.settings), self.output
        )

    def command(self, *words: str) -> list[str]:
        return command(*words)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def call(self, method: str, path: str, **given: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | given.pop("headers", {})
        return self.http.request(method, path, headers=headers, **given)

    def until_nothing_waits(self, seconds: float = 90.0) -> None:
        """Wait until the metrics show an empty queue, as it is from now on."""
        since = time.time()
        until(lambda: self._queued_after(since) == 0, seconds)

    def _queued_after(self, since: float) -> float:
        """Return how many items wait; -1 if the queue was not read after a time."""
        text = self.http.get("/metrics").text
        read_at = re.findall(
            r"^leanplum_gateway_database_read_timestamp_seconds (\S+)$", text, re.M
        )
        if not read_at or float(read_at[0]) < since:
            return -1
        return sum(map(float, re.findall(r"^leanplum_gateway_queue_items{.*} (\S+)$", text, re.M)))

    def event(self, user: str, value: int, **headers: str) -> httpx.Response:
        body = {"userId": user, "event": "E", "value": value, "id": f"{user}-{value}"}
        return self.call("POST", "/v1/events", json=body, headers=headers)

    def create_key(self, *scopes: str, **limits: int) -> tuple[str, str]:
        """Return a new key's id and the key, which has the scope of SDKs unless others are named."""
        fields = {"name": os.urandom(4).hex(), "scopes": list(scopes) or ["sdk"], **limits}
        answer = self.call("POST", "/v1/keys", json=fields)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"], answer.json()["key"]

    def status(self, item_id: str) -> str:
        found: str = self.call("GET", f"/v1/receipts/{item_id}").json()["status"]
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=20)

    def terminate(self) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def close(self) -> None:
        if hasattr(self, "process") and self.process.poll() is None:
            self.kill()
        self.http.close()


@contextmanager
def serving(folder: Path, upstream: str, *words: str, **settings: str | None) -> Iterator[Process]:
    """A gateway that is ready; killed at the end, if it still runs."""
    with _started(Process(folder, upstream, *words, **settings)) as process:
        yield process


@contextmanager
def serving_fresh(
    folder: Path, upstream: str, *words: str, **settings: str | None
) -> Iterator[Process]:
    """A gateway that an interpreter of its own runs, not a fork."""
    process = Process(folder, upstream, *words, **settings)
    process.spawn = spawn_fresh
    with _started(process):
        yield process


@contextmanager
def _started(process: Process) -> Iterator[Process]:
    try:
        process.start()
        yield process
    finally:
        process.close()


def values(simulator: str, user: str) -> list[float]:
    """The values of the user's events in the order in which the simulator applied them."""
    seen = httpx.get(f"{simulator}/_simulator/users/{user}", trust_env=False)
    return (
        [one["value"] for one in seen.json()["events"]["E"]["occurrences"]]
        if seen.status_code == 200
        else []
    )


def requests(simulator: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(
        f"{simulator}/_simulator/requests", trust_env=False
    ).json()["requests"]
    return found


def stats(simulator: str) -> dict[str, int]:
    found: dict[str, int] = httpx.get(f"{simulator}/_simulator/stats", trust_env=False).json()
    return found


def plan(simulator: str, *faults: dict[str, Any]) -> None:
    httpx.post(
        f"{simulator}/_simulator/faults", json={"faults": list(faults)}, trust_env=False
    ).raise_for_status()


class Deliverer:
    """`python -m app deliver` beside a gateway, on its database; killed at the end of the context,
    if it still runs.
    """

    def __init__(self, gateway: Process, name: str) -> None:
        self._gateway, self.output = gateway, gateway.folder / f"deliver-{name}"
        self.spawn: Spawn = gateway.spawn

    def start(self) -> None:
        folder = self._gateway.folder
        env = environment(folder, **self._gateway.settings)
        self.process = self.spawn(command("deliver"), folder, env, self.output)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=20)

    def terminate(self) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def logged(self, event: bytes) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        return event in self.output.read_bytes()


@contextmanager
def delivering(gateway: Process, name: str) -> Iterator[Deliverer]:
    """A deliverer that holds leases."""
    deliverer = Deliverer(gateway, name)
    deliverer.start()
    try:
        until(lambda: deliverer.logged(b"leases.changed"))
        yield deliverer
    finally:
        deliverer.kill()


@contextmanager
def fleet(
    folder: Path, upstream: str, *, apis: int, deliverers: int, **settings: str
) -> Iterator[list[Process]]:
    """Run `apis` processes that only accept and relay and `deliverers` that deliver, on one
    database and with one key.

    They are ready, and each deliverer has its part of the shards.
    """
    common = {"GATEWAY_BOOTSTRAP_KEY": key_format.make()} | settings
    part = f'"gateway.shards":{SHARDS // deliverers}'.encode() if deliverers else b""
    gateways = [Process(folder, upstream, "--no-delivery", **common) for _ in range(apis)]
    beside = [Deliverer(gateways[0], str(number)) for number in range(deliverers)]
    with ExitStack() as stack:
        for gateway in gateways:
            stack.callback(gateway.close)
            gateway.launch()
        for deliverer in beside:
            deliverer.start()
            stack.callback(deliverer.kill)
        until(lambda: all(gateway.ready() for gateway in gateways), 60)
        until(lambda: all(deliverer.logged(part) for deliverer in beside), 60)
        yield gateways
