"""docs/operations.md: its commands do what it says, and what it promises of a restored backup
holds.
"""

import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.pages import run, shell_blocks, succeed
from tests.support.postgres import Server, programs
from tests.support.processes import (
    APP_ID,
    PRODUCTION_KEY,
    ROOT,
    Process,
    ended,
    requests,
    serving,
    values,
)
from tests.support.simulator import Leanplum
from tests.support.wait import until

PAGE = "docs/operations.md"
BLOCKS = shell_blocks(PAGE)
RUN_BY_OTHERS = {"TLS and proxies"}  # tests/packaging/test_proxies.py
SECRETS = {"PRODUCTION_KEY": PRODUCTION_KEY}
# So that the restored gateway need not wait long for the leases of the lost one
SOON = {"GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "2", "GATEWAY_RETRY_MAX_SECONDS": "1"}
USERS = ("u0", "u1", "u2", "u3")


def test_the_tests_run_every_block() -> None:
    assert {title: len(found) for title, found in BLOCKS.items()} == {
        "A production start": 2, "TLS and proxies": 1, "Back up": 2, "Restore": 3,
        "Upgrade and rollback": 1, "Rolling restart": 1, "Replacing keys": 1,
    }  # fmt: skip


# --- a start with deploy/gateway.env ---------------------------------------------------------------------------------


def env_file() -> dict[str, str]:
    """Return the settings of deploy/gateway.env, as Docker reads such a file."""
    lines = (ROOT / "deploy/gateway.env").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def test_the_example_for_production_has_plain_values_and_no_secret() -> None:
    assert len(env_file()) > 5
    for name, value in env_file().items():
        assert re.fullmatch(r"[A-Z_]+", name)
        assert re.fullmatch(r"[^\s\"'#]+", value)
        assert not name.endswith("_KEY")


def test_a_production_start(tmp_path: Path) -> None:
    make_secrets, first_steps = BLOCKS["A production start"]
    succeed(make_secrets, tmp_path, **SECRETS)
    unset = dict.fromkeys(
        ("LEANPLUM_PRODUCTION_KEY", "GATEWAY_DATABASE_URL", "GATEWAY_BOOTSTRAP_KEY", "GATEWAY_RATE_BURST")
    )  # fmt: skip
    chosen = env_file() | {
        "GATEWAY_SECRETS_DIR": str(tmp_path / "secrets"),
        "GATEWAY_DRAIN_SECONDS": "0",
    }
    with (
        BackgroundServer(SimulatorConfig(app_id=chosen["LEANPLUM_APP_ID"])) as simulator,
        serving(tmp_path, simulator.url, **unset, **chosen) as gateway,
    ):
        printed = succeed(first_steps, tmp_path, **gateway.settings)
        (gateway.key,) = re.findall(r"\blpgw_\w{36}\b", printed)
        waits = {"Prefer": "wait=20"}
        answer = until(lambda: accepted(gateway.event("user-1", 1, **waits)))
        assert answer.json()["status"] == "delivered"
        assert gateway.terminate() == 0
    logged = gateway.output.read_text()
    assert '"bodies.encrypted"' in logged
    assert '"audit.key_in_database"' not in logged
    assert '"settings.ignored"' not in logged
    assert (tmp_path / "data/gateway.db").exists()


def accepted(answer: httpx.Response) -> httpx.Response | None:
    """Return the answer once the key is known to the process that gives it."""
    if answer.status_code == 401:
        return None
    assert answer.status_code in {200, 202}, answer.text
    return answer


# --- backup and restore ----------------------------------------------------------------------------------------------


class Load:
    """Callers that send events without a pause, and remember the acknowledged ones."""

    def __init__(self, gateway: Process) -> None:
        self._gateway = gateway
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(user,)) for user in USERS]
        self.acknowledged: dict[str, list[int]] = {user: [] for user in USERS}
        self.broken: list[str] = []  # users whose call got no answer; they send no more

    def _send(self, user: str) -> None:
        headers = {"Authorization": f"Bearer {self._gateway.key}"}
        with httpx.Client(
            base_url=self._gateway.url, headers=headers, timeout=40, trust_env=False
        ) as client:
            number = 0
            while not self._stopped.is_set():
                number += 1
                body = {"userId": user, "event": "E", "value": number, "id": f"{user}-{number}"}
                try:
                    status = client.post("/v1/events", json=body).status_code
                except httpx.TransportError:
                    self.broken.append(user)
                    return
                if status == 202:
                    self.acknowledged[user].append(number)

    def counts(self) -> dict[str, int]:
        return {user: len(numbers) for user, numbers in self.acknowledged.items()}

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join(timeout=60)


class Machine:
    """A place with a database: where it is, how it is backed up, and where it is restored."""

    def __init__(self, folder: Path, url: str, new_url: str, kind: int) -> None:
        self.folder, self.url, self.new_url = folder, url, new_url
        self._kind = kind  # the place of its commands on the page: SQLite's come first

    def back_up(self) -> None:
        succeed(
            BLOCKS["Back up"][self._kind], self.folder, programs(), GATEWAY_DATABASE_URL=self.url
        )

    def restore(self) -> Path:
        """Restore the backup; return the folder of the restored gateway."""
        succeed(
            BLOCKS["Restore"][self._kind], self.folder, programs(), NEW_DATABASE_URL=self.new_url
        )
        return self.folder / "restored"


@pytest.fixture(params=["sqlite", "postgresql"])
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    (tmp_path / "data").mkdir()
    if request.param == "sqlite":
        relative = "sqlite:///data/gateway.db"
        yield Machine(tmp_path, relative, relative, 0)
        return
    server: Server = request.getfixturevalue("postgresql_server")
    url, new_url = server.empty(), server.url("restored")
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE restored")
    yield Machine(tmp_path, url, new_url, 1)
    server.drop(url)
    server.drop(new_url)


def test_a_backup_under_load_is_continued_elsewhere(machine: Machine) -> None:
    succeed(BLOCKS["A production start"][0], machine.folder, **SECRETS)
    with ExitStack() as stack:
        simulator = stack.enter_context(BackgroundServer(SimulatorConfig()))
        leanplum = stack.enter_context(closing(Leanplum(simulator.url)))
        backed_up, some_receipt = lose_a_machine(machine, simulator.url, leanplum)
        leanplum.mend()
        folder = machine.restore()
        settings = SOON | {
            "LEANPLUM_PRODUCTION_KEY": None,
            "GATEWAY_BOOTSTRAP_KEY": None,
            "GATEWAY_DATABASE_URL": machine.new_url,
            "GATEWAY_SECRETS_DIR": str(folder / "secrets"),
        }
        gateway = Process(folder, simulator.url, **settings)
        stack.callback(gateway.close)
        printed = succeed(BLOCKS["Restore"][2], folder, **gateway.settings)
        assert '"waitingFor"' in printed
        refuses_without_its_keys(gateway)
        gateway.start()
        for user, numbers in backed_up.items():
            until(lambda user=user, numbers=numbers: set(numbers) <= arrived(simulator.url, user))  # type: ignore[misc]
            assert in_order(values(simulator.url, user))
        gateway.key = some_receipt[0]
        assert gateway.status(some_receipt[1]) == "delivered"
        assert gateway.terminate() == 0
        verified = ended(folder, "audit", "verify", **gateway.settings)
        assert verified.returncode == 0, verified.stderr


def lose_a_machine(
    machine: Machine, upstream: str, leanplum: Leanplum
) -> tuple[dict[str, list[int]], tuple[str, str]]:
    """Run a gateway under load, back it up while items wait, and kill it.

    Returns what was acknowledged before the backup began, by user; and a caller key with the id of
    an item that had been delivered.
    """
    settings = SOON | {
        "LEANPLUM_PRODUCTION_KEY": None,
        "GATEWAY_DATABASE_URL": machine.url,
        "GATEWAY_SECRETS_DIR": str(machine.folder / "secrets"),
    }
    with serving(machine.folder, upstream, **settings) as gateway:
        load = Load(gateway)
        with load.running():
            until(lambda: all(arrived(upstream, user) for user in USERS))
            leanplum.fault(mode="503", times=None)
            before = load.counts()
            until(lambda: all(load.counts()[user] > before[user] + 5 for user in USERS))
            until(lambda: any(call["status"] == 503 for call in requests(upstream)))
            backed_up = {user: list(numbers) for user, numbers in load.acknowledged.items()}
            machine.back_up()
            during = load.counts()
            until(lambda: all(load.counts()[user] > during[user] for user in USERS))
            assert load.broken == []
            gateway.kill()
    assert all(len(numbers) < load.counts()[user] for user, numbers in backed_up.items())
    return backed_up, (gateway.key, "u0-1")


def arrived(simulator: str, user: str) -> set[int]:
    return {int(value) for value in values(simulator, user)}


def in_order(numbers: list[float]) -> bool:
    """Tell whether numbers came in order, where what was sent again does not count."""
    first = list(dict.fromkeys(numbers))
    return first == sorted(first)


def refuses_without_its_keys(gateway: Process) -> None:
    """Hold what the page says of lost keys: no start, but commands that read still work."""
    given = {name: value for name, value in gateway.settings.items() if value}
    secrets = Path(given["GATEWAY_SECRETS_DIR"])
    leanplum_key = {"LEANPLUM_PRODUCTION_KEY": PRODUCTION_KEY}
    keys = {
        name: (secrets / name).read_text().strip()
        for name in ("GATEWAY_DATA_KEY", "GATEWAY_AUDIT_KEY")
    }
    without = given | leanplum_key | {"GATEWAY_SECRETS_DIR": str(gateway.folder)}
    for lost, kept in (keys.keys(), reversed(keys.keys())):
        refused = ended(gateway.folder, "serve", **without, **{kept: keys[kept]})
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert lost in refused.stderr
    no_data_key = without | {"GATEWAY_AUDIT_KEY": keys["GATEWAY_AUDIT_KEY"]}
    for words, code in (
        (("audit", "verify"), 0),
        (("receipts", "find", "--since", "2000-01-01T00:00:00Z"), 0),
        (("dead-letters", "list"), 1),  # there are none
    ):
        done = ended(gateway.folder, *words, **no_data_key)
        assert done.returncode == code, (words, done.stderr)


# --- what the other commands do --------------------------------------------------------------------------------------


def test_keys_are_replaced_as_the_page_says(tmp_path: Path) -> None:
    (block,) = BLOCKS["Replacing keys"]
    with (
        BackgroundServer(SimulatorConfig()) as simulator,
        serving(tmp_path, simulator.url, "--no-delivery") as gateway,
    ):
        (rotated, old_key), (revoked, lost_key) = (
            gateway.create_key("receipts:read") for _ in "12"
        )
        printed = succeed(block, tmp_path, **gateway.settings, KEY_ID=rotated, OLD_KEY_ID=revoked)
        created, new_key = re.findall(r"\blpgw_\w{36}\b", printed)

        def status(key: str) -> int:
            gateway.key = key
            return gateway.call("GET", "/v1/receipts", params={"userId": "u"}).status_code

        until(lambda: status(lost_key) == 401)
        assert [status(key) for key in (old_key, new_key, created)] == [200, 200, 200]


def test_a_rolling_restart_replaces_the_processes(tmp_path: Path) -> None:
    (block,) = BLOCKS["Rolling restart"]
    with serving(tmp_path, "http://127.0.0.1:9", "--no-delivery", "--workers", "2") as gateway:
        load = Load(gateway)
        with load.running():
            succeed(block, tmp_path, GATEWAY_PID=str(gateway.process.pid))
            until(lambda: '"workers.replaced"' in gateway.output.read_text(), 120)
            before = load.counts()
            until(lambda: all(load.counts()[user] > before[user] for user in USERS))
    assert load.broken == []


def test_a_database_is_migrated_beforehand_and_a_newer_one_is_refused(tmp_path: Path) -> None:
    (block,) = BLOCKS["Upgrade and rollback"]
    settings = {"GATEWAY_DATABASE_URL": "sqlite:///g.db", "LEANPLUM_APP_ID": APP_ID} | {
        "LEANPLUM_PRODUCTION_KEY": PRODUCTION_KEY
    }
    assert "newest schema" in succeed(block, tmp_path, **settings)
    with closing(sqlite3.connect(tmp_path / "g.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    refused = run("python -m app serve", tmp_path, **settings)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "a newer version of the gateway has migrated it" in line


def test_the_page_names_the_defaults(tmp_path: Path) -> None:
    """The durations that it names are those of the settings."""
    shown = ended(tmp_path, "settings", "--json")
    defaults = {row["name"]: row["value"] for row in json.loads(shown.stdout)}
    days = {"one day": 86_400, "30 days": 30 * 86_400, "90 days": 90 * 86_400}
    rows = re.findall(
        r"^\| .* \| .*?(one day|30 days|90 days).* \| `(GATEWAY_\w+)` \|$|"
        r"^\| .* \| .* \| `(GATEWAY_\w+)`, (one day) \|$",
        (ROOT / PAGE).read_text(), re.MULTILINE,
    )  # fmt: skip
    found = {name or other: text or last for text, name, other, last in rows}
    assert len(found) == 5
    assert {name: float(defaults[name]) for name in found} == {
        name: days[text] for name, text in found.items()
    }
