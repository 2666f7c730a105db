"""`serve --sandbox --reset`: it empties a sandbox's database, and no other one."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import inspect

from app.audit.signing_keys import load_keys_to_write
from app.callers.store import KeyStore, every_key
from app.clock import now_ms
from app.database.engine import connect, connect_as_is
from app.errors import StartRefused
from app.model import Scope
from app.server.sandbox_database import KEPT_KEYS, empty_database, sandbox_key
from app.settings import Settings
from tests.support.processes import ended
from tests.support.sandbox import sandbox
from tests.support.wait import until

Make = Callable[..., Settings]


def keys(url: str) -> list[str]:
    """Return the names of the keys that may be used."""
    engine = connect(url)
    try:
        return [row.caller.name for row in every_key(engine) if row.usable(now_ms())]
    finally:
        engine.dispose()


def create_key(url: str, name: str = "mine") -> None:
    engine = connect(url)
    try:
        store = KeyStore(engine, load_keys_to_write(engine, None).macs)
        store.create(name, [Scope.EVENTS_WRITE], None, now_ms())
    finally:
        engine.dispose()


def test_everything_in_a_sandboxs_database_is_deleted(database: str, settings: Make) -> None:
    given = settings(gateway_bootstrap_key=None, gateway_database_url=database)
    sandbox_key(given)
    create_key(database)
    empty_database(database)
    engine = connect_as_is(database)
    assert inspect(engine).get_table_names() == []
    engine.dispose()
    sandbox_key(given)
    assert keys(database) == ["sandbox"]


def test_a_database_without_the_mark_is_left_as_it_is(database: str) -> None:
    create_key(database, "sandbox")
    with pytest.raises(
        StartRefused, match="not marked as a sandbox's, so nothing in it is deleted"
    ):
        empty_database(database)
    assert keys(database) == ["sandbox"]


def test_a_database_with_no_tables_needs_no_emptying(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    empty_database(f"sqlite:///{path}")
    assert not path.exists()
    path.touch()
    empty_database(f"sqlite:///{path}")


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("notes " * 1000)
    with pytest.raises(StartRefused, match="not a database"):
        empty_database(f"sqlite:///{path}")
    assert path.read_text() == "notes " * 1000


def test_a_database_of_another_build_is_refused_until_it_is_emptied(
    path: Path, settings: Make
) -> None:
    given = settings(gateway_bootstrap_key=None, gateway_database_url=f"sqlite:///{path}")
    sandbox_key(given)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE plan_violations")
    with pytest.raises(StartRefused, match="serve --sandbox --reset"):
        sandbox_key(given)
    empty_database(f"sqlite:///{path}")
    sandbox_key(given)


def test_the_keys_of_the_latest_starts_are_kept(path: Path, settings: Make) -> None:
    given = settings(gateway_bootstrap_key=None, gateway_database_url=f"sqlite:///{path}")
    printed = [sandbox_key(given) for _ in range(KEPT_KEYS + 2)]
    engine = connect(given.gateway_database_url)
    store = KeyStore(engine, load_keys_to_write(engine, None).macs)
    usable = [store.standing(key, now_ms()) == "usable" for key in printed]
    engine.dispose()
    assert usable.count(True) == KEPT_KEYS
    assert usable[-1]


def test_reset_without_sandbox_is_refused(tmp_path: Path) -> None:
    done = ended(tmp_path, "serve", "--reset")
    assert done.returncode == 2
    assert "--reset: empties a sandbox's database, so it needs --sandbox" in done.stderr


def test_a_database_that_a_sandbox_uses_is_not_emptied(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/g.db"
    with sandbox(tmp_path, GATEWAY_DATABASE_URL=url) as running:
        until(lambda: '"leases.changed"' in running.gateway.output.read_text())
        words = ("serve", "--sandbox", "--reset", "--port", "0")
        settings = {"GATEWAY_DATABASE_URL": url, "GATEWAY_SANDBOX_PORT": "0"}
        done = ended(tmp_path, *words, **settings)
        assert done.returncode == 2
        assert "another process uses the sandbox's database" in done.stderr
        assert running.example()["status"] == "delivered"


def test_after_a_reset_the_sandbox_knows_nothing_of_before(tmp_path: Path) -> None:
    with sandbox(tmp_path) as first:
        receipt = first.example()
        first.gateway.kill()
    with sandbox(tmp_path, "--reset") as second:
        assert second.facts["Database"] == first.facts["Database"]
        second.gateway.key = second.key
        assert second.gateway.call("GET", f"/v1/receipts/{receipt['id']}").status_code == 404
        assert len(second.gateway.call("GET", "/v1/keys").json()["keys"]) == 1
        assert second.example()["status"] == "delivered"


def test_the_sandbox_refuses_to_empty_a_real_gateways_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/g.db"
    create_key(url)
    settings = {"GATEWAY_DATABASE_URL": url, "GATEWAY_SANDBOX_PORT": "0"}
    done = ended(tmp_path, "serve", "--sandbox", "--reset", "--port", "0", **settings)
    assert done.returncode == 2
    assert "--reset: this database is not marked as a sandbox's" in done.stderr
    assert keys(url) == ["mine"]
