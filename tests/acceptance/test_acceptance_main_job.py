"""The main job as an operator sees it: real processes, real HTTP, real SQLite, and `kill -9`."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from app.callers import key_format
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.wait import free_port, until

ROOT = Path(__file__).resolve().parents[2]
PRODUCTION_KEY = "prod_canary_7391"


class Gateway:
    """A gateway process that can be killed and started again on the same database."""

    def __init__(self, upstream: str, folder: Path) -> None:
        self.port, self.key, self.folder = free_port(), key_format.make(), folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")
        } | {
            "LEANPLUM_APP_ID": "app_sandbox",
            "LEANPLUM_PRODUCTION_KEY": PRODUCTION_KEY,
            "LEANPLUM_API_URL": f"{upstream}/api",
            "GATEWAY_DATABASE_URL": f"sqlite:///{folder}/g.db",
            "GATEWAY_BOOTSTRAP_KEY": self.key,
            "GATEWAY_DRAIN_SECONDS": "0",
        }
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "app", "serve", "--port", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        until(self.ready)

    def ready(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def call(self, method: str, path: str, **given: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}", **given.pop("headers", {})}
        return httpx.request(
            method, f"http://127.0.0.1:{self.port}{path}", headers=headers, **given
        )

    def end(self, sent: signal.Signals) -> int:
        self.process.send_signal(sent)
        return self.process.wait(timeout=20)


def test_what_was_answered_202_is_delivered_in_order_after_kill_9_and_no_key_leaks(
    tmp_path: Path,
) -> None:
    config = SimulatorConfig(production_key=PRODUCTION_KEY, latency_seconds=0.3)
    with BackgroundServer(config) as simulator:
        gateway = Gateway(simulator.url, tmp_path)
        answers = [
            gateway.call(
                "POST",
                "/v1/events",
                json={"userId": f"u{number % 5}", "event": "E", "value": number},
            )
            for number in range(40)
        ]
        gateway.end(signal.SIGKILL)
        assert {answer.status_code for answer in answers} == {202}
        gateway.start()
        hrefs = [answer.json()["href"] for answer in answers]
        until(
            lambda: all(gateway.call("GET", href).json()["status"] == "delivered" for href in hrefs)
        )
        assert gateway.end(signal.SIGTERM) == 0
        for user in range(5):
            found = httpx.get(f"{simulator.url}/_simulator/users/u{user}").json()["events"]["E"][
                "occurrences"
            ]
            assert [one["value"] for one in found] == [
                number for number in range(40) if number % 5 == user
            ]
        assert httpx.get(f"{simulator.url}/_simulator/stats").json()["overlaps"] == 0
    seen = b"".join(path.read_bytes() for path in tmp_path.iterdir()) + b"".join(
        answer.content for answer in answers
    )
    assert PRODUCTION_KEY.encode() not in seen
    assert gateway.key.encode() not in seen


def test_a_start_without_settings_is_refused_in_one_line_for_each(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "app", "serve"]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "LEANPLUM_APP_ID" in ended.stderr
    assert "LEANPLUM_PRODUCTION_KEY" in ended.stderr
    assert "Traceback" not in ended.stderr
