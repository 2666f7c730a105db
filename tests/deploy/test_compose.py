"""The compose file: its files exist, and its services, started by hand, show an event in time."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from app.simulator.server import BackgroundServer
from tests.deploy.test_dashboards import DASHBOARDS, queries
from tests.support.postgres import Server
from tests.support.processes import Process, serving
from tests.support.prometheus import needs_prometheus, prometheus
from tests.support.valkey import valkey
from tests.support.wait import until

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SIMULATED: dict[str, dict[str, Any]] = yaml.safe_load(
    (DEPLOY / "compose.simulator.yaml").read_text()
)["services"]
GATEWAYS = ("gateway-1", "gateway-2")
SECONDS = 120.0  # until an event is shown


def settings_of(service: str) -> dict[str, str]:
    """Return the variables that a service of a gateway gets."""
    lines = (DEPLOY / SERVICES[service]["env_file"]).read_text().splitlines()
    listed = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    environment: dict[str, str] = SERVICES[service]["environment"]
    simulated: dict[str, str] = SIMULATED[service]["environment"]
    return listed | environment | simulated


def test_each_file_that_a_service_mounts_is_in_the_tree() -> None:
    mounted = [volume for one in SERVICES.values() for volume in one.get("volumes", [])]
    places = {volume.split(":")[0] for volume in mounted if volume.startswith("./")}
    assert [place for place in places - {"./secrets"} if not (DEPLOY / place).exists()] == []
    assert "/deploy/secrets/" in (DEPLOY.parent / ".gitignore").read_text().splitlines()


def test_each_named_volume_is_declared() -> None:
    mounted = [volume for one in SERVICES.values() for volume in one.get("volumes", [])]
    named = {volume.split(":")[0] for volume in mounted if not volume.startswith(".")}
    assert named == set(COMPOSE["volumes"])


@pytest.mark.parametrize("service", GATEWAYS)
def test_the_settings_of_a_gateway_are_accepted(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ:
        if name.startswith(("GATEWAY_", "LEANPLUM_")):
            monkeypatch.delenv(name)
    for name, value in settings_of(service).items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(\w+)\}", r"\1", value))
    settings = Settings(_env_file=None)
    grace = int(SERVICES[service]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.gateway_drain_seconds + settings.gateway_shutdown_seconds


def test_prometheus_scrapes_each_gateway_of_the_file() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    (targets,) = job["static_configs"]
    assert targets["targets"] == [f"{name}:8000" for name in GATEWAYS]
    assert all((DEPLOY / "prometheus" / rules).exists() for rules in config["rule_files"])


@pytest.fixture
def gateways(tmp_path: Path, postgresql_server: Server) -> Iterator[list[Process]]:
    """The gateways of the file, on servers of this machine."""
    url = postgresql_server.empty()
    with ExitStack() as stack:
        limits = stack.enter_context(valkey())
        simulator = stack.enter_context(BackgroundServer())
        running = list[Process]()
        for name in GATEWAYS:
            settings = settings_of(name) | {
                "GATEWAY_DATABASE_URL": url,
                "GATEWAY_SHARED_LIMITS_URL": limits.url,
                "LEANPLUM_API_URL": f"{simulator.url}/api",
            }
            if running:
                settings["GATEWAY_BOOTSTRAP_KEY"] = running[0].key
            (tmp_path / name).mkdir()
            running.append(stack.enter_context(serving(tmp_path / name, simulator.url, **settings)))
        yield running


@needs_prometheus
def test_the_dashboard_shows_an_event_within_two_minutes_of_the_start(
    tmp_path: Path, gateways: list[Process]
) -> None:
    """Prometheus has the interval of the file; what Grafana would ask is asked directly."""
    began = time.monotonic()
    interval = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())["global"][
        "scrape_interval"
    ]
    (overview,) = (file for file in DASHBOARDS if file.stem == "overview")
    accepted = next(query for query in queries(overview) if "items_accepted_total" in query)
    (tmp_path / "prometheus").mkdir()
    ports = [gateway.port for gateway in gateways]
    with prometheus(tmp_path / "prometheus", ports, interval=interval) as server:
        until(lambda: len(server.query("leanplum_gateway_build_info")) == len(ports), SECONDS)
        assert gateways[0].event("newcomer", 1).status_code == 202
        until(
            lambda: any(float(sample["value"][1]) > 0 for sample in server.query(accepted)),
            SECONDS,
            pause=1,
        )
        assert time.monotonic() - began < SECONDS
