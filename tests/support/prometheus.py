"""A real Prometheus that scrapes gateways."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.wait import free_port, until

INTERVAL = "1s"  # between scrapes, and between evaluations of the rules
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None and "GATEWAY_TESTS_NEED_PROMETHEUS" not in os.environ,
    reason="Prometheus is not installed",
)


class Prometheus:
    """A running server."""

    def __init__(self, port: int) -> None:
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10)
        self.at: float | None = None  # the time of queries, in seconds since the epoch; None: now

    def ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return the samples of an expression at a time. Raises AssertionError if it is refused."""
        time = at or self.at
        when = {} if time is None else {"time": str(time)}
        answer = self._http.get("/api/v1/query", params={"query": expression, **when})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        samples: list[dict[str, Any]] = answer.json()["data"]["result"]
        return samples

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        alerts = self._http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def close(self) -> None:
        self._http.close()


@contextmanager
def prometheus(
    folder: Path, ports: Sequence[int], rules: Path | None = None, *, interval: str = INTERVAL
) -> Iterator[Prometheus]:
    """Start a Prometheus in `folder` that scrapes the gateways at these ports."""
    port, config = free_port(), folder / "prometheus.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": interval, "evaluation_interval": interval},
                "rule_files": [] if rules is None else [str(rules)],
                "scrape_configs": [
                    {
                        "job_name": "leanplum-gateway",
                        "static_configs": [{"targets": [f"127.0.0.1:{one}" for one in ports]}],
                    }
                ],
            }
        )
    )
    words = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output)
    server = Prometheus(port)
    try:
        until(server.ready, 60)
        yield server
    finally:
        server.close()
        process.terminate()
        process.wait(timeout=30)
