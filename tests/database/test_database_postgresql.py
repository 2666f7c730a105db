"""PostgreSQL in trouble: never a false 202, never a hung request, and back to work without a
restart.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import make_url

from app.database.driver import POSTGRESQL
from app.database.engine import connect, snapshot, transaction
from app.database.tables import metadata
from tests.support.gateway import Talk
from tests.support.postgres import Server
from tests.support.processes import command, ended, environment, spawn
from tests.support.wait import until

REPLICAS = 6


@pytest.fixture
def url(postgresql_server: Server) -> str:
    return postgresql_server.empty()


@pytest.fixture
def beside(url: str) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """Another connection to the same database."""
    with psycopg.connect(url) as connection:
        yield connection


def count(url: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM items").fetchone()
        return row[0] if row else None


def test_after_every_connection_was_cut_the_next_calls_are_taken_and_recorded(
    start: Callable[..., Talk], url: str, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    talk = start(gateway_database_url=url)
    assert talk.event().status_code == 202
    calls: list[Callable[[], httpx.Response]] = [
        talk.event,
        lambda: talk.get("/v1/receipts/none"),
        talk.event,
    ]
    for call in calls:
        beside.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        beside.commit()
        answer = call()
        assert answer.status_code in {202, 404}
        assert until(partial(recorded, url, answer.headers["x-request-id"]))


def recorded(url: str, request_id: str) -> bool:
    """Return whether a request has its audit record; one that only reads may be recorded later."""
    query = "SELECT count(*) FROM audit_records WHERE record LIKE %s"
    with psycopg.connect(url) as connection:
        return connection.execute(query, (f"%{request_id}%",)).fetchone() == (1,)


def test_while_another_holds_the_turn_to_write_calls_are_refused_in_time_and_nothing_is_taken(
    start: Callable[..., Talk], url: str, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    talk = start(gateway_database_url=url)
    beside.execute(POSTGRESQL.begin)
    began = time.monotonic()
    assert talk.event().status_code == 503
    assert time.monotonic() - began < 8
    assert talk.get("/livez").status_code == 200
    beside.rollback()
    assert count(url) == 0
    assert talk.event().status_code == 202
    assert count(url) == 1


def test_a_server_that_is_not_there_refuses_the_start_in_one_line_without_the_password(
    tmp_path: Path,
) -> None:
    done = ended(
        tmp_path,
        "migrate",
        GATEWAY_DATABASE_URL="postgresql://gateway:pa55-word@127.0.0.1:1/gateway",
    )
    assert done.returncode == 2
    assert done.stderr.startswith("leanplum-gateway: GATEWAY_DATABASE_URL: ")
    assert len(done.stderr.splitlines()) == 1
    shown = ended(
        tmp_path,
        "settings",
        GATEWAY_DATABASE_URL="postgresql://gateway:pa55-word@127.0.0.1:1/gateway",
    )
    assert "gateway:***@127.0.0.1:1/gateway" in shown.stdout
    assert "pa55-word" not in done.stderr + done.stdout + shown.stdout + shown.stderr


@pytest.mark.parametrize(
    "bad", ["postgresql://", "postgresql://host/", "postgresql://host:x/db", "mysql://host/db"]
)
def test_an_address_that_cannot_be_one_is_refused(tmp_path: Path, bad: str) -> None:
    done = ended(tmp_path, "migrate", GATEWAY_DATABASE_URL=bad)
    assert (done.returncode, "GATEWAY_DATABASE_URL" in done.stderr) == (2, True)


def test_replicas_that_migrate_at_the_same_time_all_find_it_done(
    postgresql_server: Server, tmp_path: Path
) -> None:
    with psycopg.connect(postgresql_server.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE untouched")
    url = postgresql_server.url("untouched")
    env = environment(tmp_path, GATEWAY_DATABASE_URL=url)
    outputs = [tmp_path / f"output{number}" for number in range(REPLICAS)]
    replicas = [spawn(command("migrate"), tmp_path, env, output) for output in outputs]
    codes = [replica.wait(60) for replica in replicas]
    assert codes == [0] * REPLICAS, [output.read_text() for output in outputs]
    with psycopg.connect(url) as connection:
        made = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        assert made.fetchone() == (len(metadata.tables) + 1,)
        for table in ("sequence", "alembic_version"):
            count = connection.execute(f"SELECT count(*) FROM {table}".encode())
            assert count.fetchone() == (1,)


def test_the_migrations_make_exactly_the_tables_that_the_code_works_with(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = connect(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_a_role_whose_transactions_are_repeatable_read_does_not_change_the_gateways(
    url: str, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    """What is read after a lock must be what is true then."""
    name = make_url(url).database
    beside.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    beside.commit()
    engine = connect(url)
    show = "SHOW transaction_isolation"
    try:
        with snapshot(engine) as connection:
            assert connection.exec_driver_sql(show).scalar() == "repeatable read"
        with engine.connect() as connection:
            assert connection.exec_driver_sql(show).scalar() == "read committed"
        with transaction(engine) as cursor:
            cursor.execute(show)
            assert cursor.fetchone() == ("read committed",)
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("15s",)
    finally:
        engine.dispose()
