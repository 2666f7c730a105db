"""The Grafana dashboards: a real Prometheus answers each of their queries."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.simulator.server import BackgroundServer
from tests.support.processes import Process, serving
from tests.support.prometheus import Prometheus, needs_prometheus, prometheus
from tests.support.wait import until

DASHBOARDS = sorted((Path(__file__).parents[2] / "deploy/grafana/dashboards").glob("*.json"))
VARIABLES = {"$app": "default", "$__rate_interval": "10s"}
# Nothing has happened that these count, and so Prometheus has no such series
SILENT = {"plan_violations_total", "retries_total", "rate_limited_requests_total"}


def queries(file: Path) -> Iterator[str]:
    for panel in json.loads(file.read_text())["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield expression


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("dashboards")
    with BackgroundServer() as leanplum, serving(folder, leanplum.url) as running:
        yield running


@pytest.fixture(scope="module")
def scraped(gateway: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the gateway while it accepted, refused and delivered."""
    folder = tmp_path_factory.mktemp("prometheus")
    with prometheus(folder, [gateway.port]) as server:
        number = 0

        def delivered() -> bool:
            nonlocal number
            number += 1
            gateway.event(f"user-{number}", number)
            gateway.call("POST", "/v1/events", json={"userId": "a"})
            gateway.http.get("/v1/receipts", headers={"Authorization": "Bearer wrong"})
            rate = "sum(rate(leanplum_gateway_items_settled_total[10s]))"
            return any(float(sample["value"][1]) > 0 for sample in server.query(rate))

        until(delivered, 60, pause=0.2)
        yield server


@needs_prometheus
@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_prometheus_has_an_answer_to_each_query(file: Path, scraped: Prometheus) -> None:
    empty = [query for query in queries(file) if not scraped.query(query)]
    unexpected = [query for query in empty if not any(name in query for name in SILENT)]
    assert unexpected == []


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_each_panel_says_what_it_shows(file: Path) -> None:
    document: dict[str, Any] = json.loads(file.read_text())
    assert document["uid"].startswith("lpgw-")
    for panel in document["panels"]:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_each_dashboard_has_an_id_of_its_own() -> None:
    uids = [json.loads(file.read_text())["uid"] for file in DASHBOARDS]
    assert len(set(uids)) == len(uids) == 4


def metric_names(text: str) -> set[str]:
    """Return the names of the gateway's metrics in an expression, without suffixes of histograms."""
    names = re.findall(r"leanplum_gateway_[a-z_]+", text)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
