"""The Grafana dashboards: a real Prometheus answers each of their queries."""

import itertools
import json
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.simulator.server import BackgroundServer
from tests.support.postgres import Server
from tests.support.processes import Process, serving
from tests.support.prometheus import Prometheus, needs_prometheus, prometheus
from tests.support.simulator import Leanplum
from tests.support.wait import until

DASHBOARDS = sorted((Path(__file__).parents[2] / "deploy/grafana/dashboards").glob("*.json"))
VARIABLES = {"$app": "default", "$__rate_interval": "4m"}
MINUTES = 60
# Nothing has happened that these count, and so Prometheus has no such series
SILENT = {"plan_violations_total"}


def queries(file: Path) -> Iterator[str]:
    for panel in json.loads(file.read_text())["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield expression


def work(gateway: Process, minute: int) -> None:
    """Accept, refuse and deliver: what callers do in a minute of the hour."""
    for number in range(3):
        gateway.event(f"user-{number}", minute)
    gateway.call("POST", "/v1/events", json={"userId": "a"})
    if minute % 5 == 0:
        gateway.call("GET", "/v1/users/user-1/variables")
    gateway.http.get("/v1/receipts", headers={"Authorization": "Bearer wrong"})


def samples(gateway: Process, instance: str, at: float) -> Iterator[tuple[str, str]]:
    """Yield the name of each metric, and its line with a time (OpenMetrics)."""
    for family in text_string_to_metric_families(gateway.http.get("/metrics").text):
        for sample in family.samples:
            labels = sample.labels | {"job": "leanplum-gateway", "instance": instance}
            text = ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items())
            yield sample.name, f"{sample.name}{{{text}}} {sample.value} {at:.3f}"


@pytest.fixture(scope="module")
def hour(
    tmp_path_factory: pytest.TempPathFactory, postgresql_server: Server
) -> Iterator[Prometheus]:
    """A Prometheus with an hour of two gateways: each minute's work takes a part of a second.

    The app's calls to Leanplum fail for ten of the minutes, and the requests of a few are more than
    the key may send.
    """
    folder = tmp_path_factory.mktemp("hour")
    (folder / "other").mkdir()
    began = time.time() - MINUTES * 60
    lines = defaultdict[str, list[str]](list)
    limits = {"GATEWAY_RATE_PER_SECOND": "5", "GATEWAY_RATE_BURST": "20"}
    with (
        BackgroundServer() as leanplum,
        serving(folder, leanplum.url, GATEWAY_RETRY_MAX_SECONDS="1", **limits) as gateway,
        serving(
            folder / "other", leanplum.url, GATEWAY_DATABASE_URL=postgresql_server.empty()
        ) as other,
        closing(Leanplum(leanplum.url)) as simulator,
    ):
        for minute in range(MINUTES):
            if minute == 20:
                simulator.fault(mode="503", times=None)
            if minute == 30:
                simulator.mend()
            for running in (gateway, other):
                work(running, minute)
            if minute > MINUTES - 4:
                until(lambda: gateway.call("GET", "/v1/receipts").status_code == 429, pause=0)
            time.sleep(0.1)  # the database is read for the metrics from time to time
            for running, instance in ((gateway, "one"), (other, "two")):
                for name, line in samples(running, instance, began + minute * 60):
                    lines[name].append(line)
    text = folder / "hour.txt"
    text.write_text("\n".join([*itertools.chain(*lines.values()), "# EOF", ""]))
    promtool = shutil.which("promtool")
    assert promtool is not None
    subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "openmetrics", text, folder / "data"],
        check=True,
        capture_output=True,
    )
    with prometheus(folder, []) as server:
        server.at = began + (MINUTES - 1) * 60
        yield server


@needs_prometheus
@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_prometheus_has_an_answer_to_each_query(file: Path, hour: Prometheus) -> None:
    empty = [query for query in queries(file) if not hour.query(query)]
    unexpected = [query for query in empty if not any(name in query for name in SILENT)]
    assert unexpected == []


@needs_prometheus
def test_the_hour_shows_the_minutes_in_which_leanplum_was_down(hour: Prometheus) -> None:
    assert hour.at is not None
    rate = 'sum(increase(leanplum_gateway_calls_total{outcome="unavailable"}[10m]))'
    counts = [
        float(sample["value"][1])
        for at in (hour.at - 30 * 60, hour.at)
        for sample in hour.query(rate, at)
    ]
    assert counts[0] > 0
    assert counts[1] == 0


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
