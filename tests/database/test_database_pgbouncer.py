"""PgBouncer before PostgreSQL: pooling by session and by transaction work, by statement is
refused.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from app.database.engine import connect, reading, transaction
from app.database.postgresql import settings_of
from app.errors import StartRefused
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.gateway import Talk
from tests.support.pgbouncer import needs_pgbouncer, pgbouncer
from tests.support.postgres import Server

pytestmark = needs_pgbouncer
IGNORING = "ignore_startup_parameters = options,extra_float_digits"


@pytest.fixture
def url(postgresql_server: Server) -> str:
    return postgresql_server.empty()


@pytest.fixture(params=["session", "transaction", "transaction, ignoring options"])
def pooled(request: pytest.FixtureRequest, url: str) -> Iterator[str]:
    mode, _, ignoring = request.param.partition(",")
    size = 20 if mode == "session" else 3
    with pgbouncer(url, mode, size=size, more=IGNORING if ignoring else "") as through:
        yield through


def test_a_gateway_accepts_and_delivers_through_a_pooler(
    pooled: str, start: Callable[..., Talk]
) -> None:
    production = "prod_pooled"
    with BackgroundServer(SimulatorConfig(production_key=production)) as leanplum:
        config = {"leanplum_api_url": f"{leanplum.url}/api", "leanplum_production_key": production}
        talk = start(
            gateway_database_url=pooled,
            delivery=True,
            leanplum_app_id="app_sandbox",
            gateway_rate_burst=10**6,
            **config,
        )
        ids = [f"i{number}" for number in range(60)]
        with ThreadPoolExecutor(16) as threads:
            answers = list(
                threads.map(lambda id_: talk.event({"userId": id_, "event": "E", "id": id_}), ids)
            )
        assert {answer.status_code for answer in answers} == {202}
        for id_ in ids[:10]:
            waited = talk.event({"userId": id_, "event": "F"}, headers={"Prefer": "wait=20"})
            assert (waited.status_code, waited.json()["status"]) == (200, "delivered")
            assert talk.get(f"/v1/receipts/{id_}").json()["status"] == "delivered"
        assert talk.get("/readyz").status_code == 200


def test_nothing_is_left_in_the_sessions_of_a_transaction_pooler(url: str) -> None:
    """With one server process for all, another client would find it there."""
    with pgbouncer(url, "transaction", size=1) as through:
        engine = connect(through)
        for _ in range(8):  # the driver prepares what it runs the sixth time
            with transaction(engine) as cursor:
                cursor.execute("SELECT count(*) FROM items WHERE seq = ?", (1,))
                cursor.execute("SELECT count(*) FROM items WHERE seq = ?", (2,))
            with reading(engine) as connection:
                connection.exec_driver_sql("SELECT count(*) FROM items WHERE seq = %s", (3,))
        with psycopg.connect(through, prepare_threshold=None, autocommit=True) as other:
            pid = other.execute("SELECT pg_backend_pid()").fetchone()
            assert other.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
            own = "SELECT count(*) FROM pg_settings WHERE source = 'session' AND name LIKE '%timeout%'"
            assert other.execute(own).fetchone() == (0,)
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"
            assert other.execute(locks, pid).fetchone() == (0,)
        engine.dispose()


def test_each_transaction_has_the_gateway_s_settings_and_those_of_the_url(pooled: str) -> None:
    engine = connect(f"{pooled}?options=-c search_path=public,x -c lock_timeout=2s --work_mem=1MB")
    names = (
        "lock_timeout",
        "statement_timeout",
        "synchronous_commit",
        "TimeZone",
        "search_path",
        "work_mem",
    )
    for _ in range(2):
        with reading(engine) as connection:
            shown = [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]
        assert shown == ["2s", "1min", "on", "UTC", "public,x", "1MB"]
        with transaction(engine) as cursor:
            cursor.execute("SHOW lock_timeout")
            assert cursor.fetchone() == ("2s",)
    engine.dispose()


def test_pooling_by_statement_is_refused_in_one_line(url: str) -> None:
    with pgbouncer(url, "statement") as through, pytest.raises(StartRefused) as refused:
        connect(through)
    (line,) = refused.value.lines
    assert line.endswith("set pool_mode to transaction or session")
    assert "pa55-word" not in line


def test_options_of_another_form_are_refused_in_one_line(url: str) -> None:
    with pgbouncer(url, "transaction") as through, pytest.raises(StartRefused) as refused:
        connect(f"{through}?options=-B 100")
    (line,) = refused.value.lines
    assert "ALTER ROLE" in line


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("", {}),
        ("-c a=b", {"a": "b"}),
        (" -ca=b  --c-d=e\\ f -c x.y= ", {"a": "b", "c_d": "e f", "x.y": ""}),
    ],
)
def test_options_are_read_as_settings(options: str, settings: dict[str, str]) -> None:
    assert settings_of(options) == settings
