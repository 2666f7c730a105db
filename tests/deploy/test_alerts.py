"""The alert rules: real faults of a gateway fire each of them in a real Prometheus, and their end
clears it.

The rules have shorter ranges, waits and thresholds here; `deploy/prometheus/alerts_test.yaml` tests
them as they are.
"""

import re
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from app.simulator.server import BackgroundServer
from app.telemetry import Metrics
from tests.support.disks import file_system
from tests.support.postgres import Server
from tests.support.processes import APP_ID, PRODUCTION_KEY, Process, serving
from tests.support.prometheus import Prometheus, needs_prometheus, prometheus
from tests.support.simulator import Leanplum
from tests.support.valkey import Valkey
from tests.support.valkey import valkey as running_valkey
from tests.support.wait import until

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus/alerts.yaml"
DASHBOARDS = DEPLOY / "grafana/dashboards"
RUNBOOK = (DEPLOY.parent / "docs/operations.md").read_text()
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
}
# Patterns of the rules, and what stands for them here: a fault of seconds, not of minutes
SHORTER = {
    r"\[6h\], 86400": "[20s], 80",
    r"offset 1h": "offset 5s",
    r"\[\d+m\]": "[6s]",
    r"for: \d+m": "for: 1s",
    r"> 900": "> 3",
}
NAMES = {"GATEWAY_TAXONOMY_LIMITS": "events=20"}
SECONDS = 60.0  # an alert takes as long at most to fire, or to clear


@dataclass
class World:
    """Two gateways, the servers that they need, and a Prometheus with the rules."""

    gateway: Process
    on_postgresql: Process
    leanplum: Leanplum
    valkey: Valkey
    prometheus: Prometheus
    folder: Path
    disk: Path
    server_url: str

    def sqlite(self) -> AbstractContextManager[sqlite3.Connection]:
        return closing(sqlite3.connect(self.disk / "g.db", timeout=30, isolation_level=None))

    def postgresql(self, statement: str) -> None:
        with psycopg.connect(self.server_url, autocommit=True) as connection:
            connection.execute(statement)


def apps(key: str = PRODUCTION_KEY) -> str:
    """Return an apps file."""
    return f'[apps.default]\napp_id = "{APP_ID}"\nproduction_key = "{key}"\n'


# A clock of the server's that a test can set: the schema comes before the server's own
OWN_CLOCK = """
CREATE TABLE public.clock_offset AS SELECT interval '0 seconds' AS value;
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
  'SELECT pg_catalog.clock_timestamp() + value FROM public.clock_offset';
"""
OWN_CLOCK_FIRST = "options=-c%20search_path%3Dpublic%2Cpg_catalog"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, postgresql_server: Server) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("alerts")
    rules = RULES.read_text()
    for pattern, shorter in SHORTER.items():
        rules = re.sub(pattern, shorter, rules)
    (folder / "alerts.yaml").write_text(rules)
    (folder / "apps.toml").write_text(apps())
    (folder / "other").mkdir()
    url = postgresql_server.empty()
    with ExitStack() as stack:
        disk = stack.enter_context(file_system(folder / "disk", "1400m"))
        leanplum = stack.enter_context(BackgroundServer())
        valkey = stack.enter_context(running_valkey())
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(OWN_CLOCK)
        gateway = stack.enter_context(
            serving(
                folder,
                leanplum.url,
                LEANPLUM_APP_ID=None,
                LEANPLUM_PRODUCTION_KEY=None,
                GATEWAY_APPS_FILE=str(folder / "apps.toml"),
                GATEWAY_DATABASE_URL=f"sqlite:///{disk}/g.db",
                GATEWAY_SHARED_LIMITS_URL=valkey.url,
                GATEWAY_RATE_PER_SECOND="1000",
                GATEWAY_RETRY_MAX_SECONDS="1",
                **NAMES,
            )
        )
        on_postgresql = stack.enter_context(
            serving(
                folder / "other",
                leanplum.url,
                GATEWAY_DATABASE_URL=f"{url}{'&' if '?' in url else '?'}{OWN_CLOCK_FIRST}",
                **NAMES,
            )
        )
        server = stack.enter_context(
            prometheus(folder, [gateway.port, on_postgresql.port], folder / "alerts.yaml")
        )
        simulator = stack.enter_context(closing(Leanplum(leanplum.url)))
        until(lambda: server.query("leanplum_gateway_build_info"))
        yield World(gateway, on_postgresql, simulator, valkey, server, folder, disk, url)


Fault = Callable[[World], AbstractContextManager[object]]


@contextmanager
def again_and_again(work: Callable[[], object]) -> Iterator[None]:
    """Do some work in the background, with a short rest each time."""
    ending = threading.Event()

    def run() -> None:
        while not ending.wait(0.2):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(60)


@contextmanager
def gateways_stopped(world: World) -> Iterator[None]:
    for gateway in (world.gateway, world.on_postgresql):
        assert gateway.terminate() == 0
    yield
    for gateway in (world.gateway, world.on_postgresql):
        gateway.start()


@contextmanager
def one_stopped(world: World) -> Iterator[None]:
    assert world.on_postgresql.terminate() == 0
    yield
    world.on_postgresql.start()


@contextmanager
def leanplum_down(world: World) -> Iterator[None]:
    """Leanplum answers 503, to items that wait and to a relayed call in every moment."""
    world.leanplum.fault(mode="503", times=None)
    numbers = iter(range(10**6))

    def call() -> None:
        world.gateway.event(f"waits-{next(numbers)}", 1)
        world.gateway.call("GET", "/v1/users/someone/variables")

    with again_and_again(call):
        yield
    world.leanplum.mend()


@contextmanager
def slow_database(world: World) -> Iterator[None]:
    """Another process holds the lock of the database for longer than a second, again and again."""
    numbers = iter(range(10**6))

    def hold() -> None:
        with world.sqlite() as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(1.5)
            connection.execute("ROLLBACK")

    def call() -> None:
        world.gateway.event(f"slow-{next(numbers)}", 1)

    with again_and_again(hold), again_and_again(call):
        yield
    # Only further commits move the quantile
    for _ in range(200):
        call()


@contextmanager
def wrong_key(world: World) -> Iterator[None]:
    (world.folder / "apps.toml").write_text(apps("not the key"))
    time.sleep(2)
    world.gateway.event("held", 1)
    yield
    (world.folder / "apps.toml").write_text(apps())


@contextmanager
def rejected_items(world: World) -> Iterator[None]:
    """One batch, so all are rejected between two scrapes."""
    world.leanplum.fault(mode="success-false", times=None)
    items = [{"action": "track", "userId": f"rejected-{n}", "event": "E"} for n in range(50)]
    assert world.gateway.call("POST", "/v1/batch", json={"items": items}).status_code == 202
    yield
    world.leanplum.mend()


@contextmanager
def disk_nearly_full(world: World) -> Iterator[None]:
    filler = world.disk / "filler"
    with filler.open("wb") as file:
        file.truncate(0)
        for _ in range(500):
            file.write(bytes(1024 * 1024))
    yield
    filler.unlink()


@contextmanager
def changed_audit_tree(world: World) -> Iterator[None]:
    """Somebody changes the number of records that are sealed."""
    with world.sqlite() as connection:
        connection.execute("UPDATE audit_tree SET size = size + 1000")
    yield
    with world.sqlite() as connection:
        connection.execute("UPDATE audit_tree SET size = size - 1000")


@contextmanager
def sealing_fails(world: World) -> Iterator[None]:
    """Whoever writes a checkpoint gets an error."""
    with world.sqlite() as connection:
        connection.execute(
            "CREATE TRIGGER no_seal BEFORE UPDATE ON audit_tree BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    world.gateway.event("not-sealed", 1)
    yield
    with world.sqlite() as connection:
        connection.execute("DROP TRIGGER no_seal")


@contextmanager
def damaged_apps_file(world: World) -> Iterator[None]:
    (world.folder / "apps.toml").write_text("{")
    yield
    (world.folder / "apps.toml").write_text(apps())


@contextmanager
def no_valkey(world: World) -> Iterator[None]:
    world.valkey.kill()
    with again_and_again(lambda: world.gateway.call("GET", "/v1/receipts")):
        yield
        world.valkey.start()


@contextmanager
def wrong_clock(world: World) -> Iterator[None]:
    world.postgresql("UPDATE clock_offset SET value = interval '20 seconds'")
    yield
    world.postgresql("UPDATE clock_offset SET value = interval '0 seconds'")


@contextmanager
def many_names(world: World) -> Iterator[None]:
    names = [f"Name{number}" for number in range(19)]
    items = [{"action": "track", "userId": "names", "event": name} for name in names]
    assert world.gateway.call("POST", "/v1/batch", json={"items": items}).status_code == 202
    yield
    for name in names:
        world.gateway.call("DELETE", f"/v1/taxonomy/events/{name}")


FAULTS: dict[str, Fault] = {
    "GatewayDown": gateways_stopped,
    "ReplicaDown": one_stopped,
    "ErrorRate": leanplum_down,
    "SlowCommits": slow_database,
    "OldestItemTooOld": leanplum_down,
    "AppHeld": wrong_key,
    "CircuitOpen": leanplum_down,
    "DeadLettersGrowing": rejected_items,
    "DiskFilling": disk_nearly_full,
    "AuditTampering": changed_audit_tree,
    "AuditNotSealed": sealing_fails,
    "AppsFileRefused": damaged_apps_file,
    "SharedLimitsDown": no_valkey,
    "ClockSkew": wrong_clock,
    "NamesNearLimit": many_names,
}


@needs_prometheus
@pytest.mark.parametrize("alert", FAULTS)
def test_a_fault_fires_its_alert_and_the_end_of_the_fault_clears_it(
    alert: str, world: World
) -> None:
    until(lambda: alert not in world.prometheus.firing(), SECONDS, pause=0.3)
    with FAULTS[alert](world):
        until(lambda: alert in world.prometheus.firing(), SECONDS, pause=0.3)
    until(lambda: alert not in world.prometheus.firing(), SECONDS, pause=0.3)


def test_each_alert_has_a_fault_that_fires_it() -> None:
    assert FAULTS.keys() == ALERTS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_section_in_the_runbook(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{alert.lower()}"
    assert re.search(rf"^#+ {alert}$", RUNBOOK, re.MULTILINE)
    assert rule["labels"]["severity"] in {"page", "ticket"}


@pytest.mark.parametrize(
    "file", [RULES, *sorted(DASHBOARDS.glob("*.json"))], ids=lambda file: str(file.stem)
)
def test_each_metric_of_rules_and_dashboards_exists(file: Path) -> None:
    defined = Metrics()
    defined.define_shared_limit_metrics()
    known = set[str]()
    for metric in defined.registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        known |= {metric.name + suffix for suffix in suffixes.get(metric.type, [""])}
    assert set(re.findall(r"leanplum_gateway_\w+", file.read_text())) <= known


@needs_prometheus
def test_promtool_finds_the_rules_right_and_their_tests_pass() -> None:
    promtool = shutil.which("promtool")
    assert promtool is not None
    for words in (["check", "rules", str(RULES)], ["test", "rules", "alerts_test.yaml"]):
        ran: Any = subprocess.run(
            [promtool, *words], cwd=RULES.parent, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
