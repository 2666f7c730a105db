"""Databases as their URLs name them: PostgreSQL as libpq reads it, and what is refused."""

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from app.database.engine import connect, reading
from app.database.postgresql import check_server, connect_args
from app.errors import StartRefused
from app.outbox import liveness_lock
from app.urls import PostgresUrl, parse_database_url
from tests.support.database_proxy import proxied
from tests.support.postgres import Server
from tests.support.processes import ended
from tests.support.wait import free_port


@pytest.fixture(scope="module")
def server(postgresql_server: Server) -> dict[str, Any]:
    """Where the tests' PostgreSQL is, and a database in it with a name that needs care."""
    where = conninfo_to_dict(postgresql_server.empty())
    with psycopg.connect(
        make_conninfo("", **{**where, "dbname": "postgres"}), autocommit=True
    ) as admin:
        admin.execute('CREATE DATABASE "d b%?/@" TEMPLATE migrated')
        admin.execute("CREATE ROLE \"us:er@\" SUPERUSER LOGIN PASSWORD 'p'")
        admin.execute(
            "CREATE DATABASE ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )
        admin.execute(
            "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )
    return where


@contextmanager
def asked(url: str, *names: str) -> Iterator[list[str]]:
    """What the database at `url` says of itself."""
    engine = connect(url)
    with reading(engine) as connection:
        yield [connection.exec_driver_sql(f"SELECT {name}").scalar_one() for name in names]
    engine.dispose()


def socket_of(server: dict[str, Any]) -> str:
    return quote(str(server["host"]), safe="")


def test_a_socket_a_role_and_a_database_are_percent_encoded(server: dict[str, Any]) -> None:
    url = (
        f"postgres://us%3Aer%40:p%40ss@{socket_of(server)}/d%20b%25%3F%2F%40?application_name=a%20b"
    )
    with asked(
        url, "current_user", "current_database()", "current_setting('application_name')"
    ) as said:
        assert said == ["us:er@", "d b%?/@", "a b"]


@pytest.mark.parametrize(
    "form",
    [
        "postgresql:///{db}?host={host}&user={user}",
        "postgresql+psycopg://{user}@/{db}?host={socket}",
    ],
)
def test_a_socket_may_be_named_in_the_query(server: dict[str, Any], form: str) -> None:
    url = form.format(
        db=server["dbname"], host=server["host"], user=server["user"], socket=socket_of(server)
    )
    with asked(f"{url}&options=-c search_path=public,x", "current_setting('search_path')") as said:
        assert said == ["public,x"]


def test_the_next_host_is_tried_where_one_is_not_there(
    server: dict[str, Any], postgresql_server: Server
) -> None:
    with proxied(postgresql_server.empty()) as proxy:
        target = parse_database_url(proxy.url)
        assert isinstance(target, PostgresUrl)
        port, user, db = (target.parameters[name] for name in ("port", "user", "dbname"))
        url = f"postgresql://{user}@127.0.0.1:{free_port()},127.0.0.1:{port}/{db}?target_session_attrs=read-write"
        with asked(url, "current_database()") as said:
            assert said == [db]


def test_the_next_host_is_tried_where_one_is_silent(postgresql_server: Server) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        proxied(postgresql_server.empty()) as proxy,
    ):
        target = parse_database_url(proxy.url)
        assert isinstance(target, PostgresUrl)
        port, user, db = (target.parameters[name] for name in ("port", "user", "dbname"))
        first = silent.getsockname()[1]
        url = f"postgresql://{user}@127.0.0.1:{first},127.0.0.1:{port}/{db}?connect_timeout=2"
        with asked(url, "current_database()") as said:
            assert said == [db]


def test_of_several_hosts_the_one_that_takes_writes_is_wanted() -> None:
    def made(url: str) -> dict[str, Any]:
        parsed = parse_database_url(url)
        assert isinstance(parsed, PostgresUrl)
        return connect_args(parsed)

    assert made("postgresql://a,b/db")["target_session_attrs"] == "read-write"
    assert made("postgresql://a,b/db?target_session_attrs=any")["target_session_attrs"] == "any"
    assert "target_session_attrs" not in made("postgresql://a/db")
    assert made("postgresql://a/db?client_encoding=latin1")["client_encoding"] == "UTF8"


@pytest.mark.parametrize(("name", "encoding"), [("ascii", "SQL_ASCII"), ("latin", "LATIN1")])
def test_a_database_that_is_not_utf_8_is_refused_in_one_line(
    server: dict[str, Any], tmp_path: Path, name: str, encoding: str
) -> None:
    url = f"postgresql://{server['user']}:pa55-word@{socket_of(server)}/{name}"
    done = ended(tmp_path, "migrate", GATEWAY_DATABASE_URL=url)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert f"the database's encoding is {encoding}, and the gateway needs UTF8" in line
    assert "pa55-word" not in line
    with psycopg.connect(make_conninfo("", **{**server, "dbname": name})) as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone() == (0,)


def test_a_sqlite_file_in_utf_16_is_refused_in_one_line(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "g.db")) as made, made:
        made.execute("PRAGMA encoding = 'UTF-16le'")
        made.execute("CREATE TABLE t (c)")
    with pytest.raises(
        StartRefused, match=r"its encoding is UTF-16le, and the gateway needs UTF-8"
    ):
        connect(f"sqlite:///{tmp_path}/g.db")


def test_a_server_that_is_too_old_is_refused() -> None:
    check_server(110_000, "UTF8")
    with pytest.raises(psycopg.OperationalError, match="PostgreSQL 10, and the gateway needs 11"):
        check_server(100_023, "UTF8")


@pytest.mark.parametrize(
    "rest", ["u:pa55-word@127.0.0.1:1/db", "127.0.0.1:1/db?user=u&password=pa55-word"]
)
@pytest.mark.parametrize(
    "more",
    ["", "sslmode=pa55", "target_session_attrs=odd", "sslmode=verify-full&sslrootcert=/none"],
)
def test_a_database_that_cannot_be_reached_is_one_line_without_the_password(
    rest: str, more: str
) -> None:
    with pytest.raises(StartRefused) as refused:
        connect(f"postgresql://{rest}{'&' if '?' in rest else '?'}{more}".rstrip("?&"))
    (line,) = refused.value.lines
    assert "\n" not in line
    assert "***" in line
    assert "pa55-word" not in line


def test_a_sqlite_path_may_have_spaces_and_percent_encoding(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/my%20data/g b.db?timeout=1"
    connect(url).dispose()
    with liveness_lock.held(url, "one"):
        assert (tmp_path / "my data" / "g b.db-deliverers").exists()
    assert (tmp_path / "my data" / "g b.db").exists()
