"""PostgreSQL over TLS, as Debian's server speaks it: which servers a URL accepts, and what is said
of the others.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.database.engine import connect, reading
from app.errors import StartRefused
from tests.support import tls_simulator
from tests.support.postgres_cluster import Node, node

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin/postgres"), default=None)
NEEDED = bool(os.environ.get("GATEWAY_TESTS_NEED_POSTGRESQL"))
pytestmark = pytest.mark.skipif(
    PROGRAMS is None and not NEEDED, reason="there is no PostgreSQL with TLS here"
)
IN_USE = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tls_simulator.Files:
    """The certificate of a server on 127.0.0.1, and the authority that signed it."""
    return tls_simulator.make_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(files: tls_simulator.Files) -> Iterator[Node]:
    """A server that takes only connections with TLS."""
    assert PROGRAMS is not None, "GATEWAY_TESTS_NEED_POSTGRESQL is set, and there is none"
    with node(PROGRAMS.parent, certificate=files.server) as running:
        yield running


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tls_simulator.make_files(tmp_path_factory.mktemp("other")).authority


def with_tls(url: str) -> object:
    """Connect, and return whether the server uses TLS on the connection."""
    engine = connect(url)
    with reading(engine) as connection:
        found = connection.exec_driver_sql(IN_USE).scalar_one()
    engine.dispose()
    return found


def refused(url: str) -> str:
    with pytest.raises(StartRefused) as caught:
        connect(url)
    (line,) = caught.value.lines
    return line


def test_with_the_right_authority_the_connection_is_encrypted(
    server: Node, files: tls_simulator.Files
) -> None:
    assert with_tls(f"{server.url}?sslmode=require") is True
    assert with_tls(f"{server.url}?sslmode=verify-full&sslrootcert={files.authority}") is True


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_server_of_another_authority_is_refused_with_what_to_do(
    server: Node, other_authority: Path, mode: str
) -> None:
    line = refused(f"{server.url}?sslmode={mode}&sslrootcert={other_authority}")
    assert "certificate verify failed" in line
    assert f"sslrootcert={other_authority}" in line
    assert "sslrootcert must name the authority that signed the server's certificate" in line


def test_a_server_of_another_name_is_refused_with_what_to_do(
    server: Node, files: tls_simulator.Files
) -> None:
    url = server.url.replace("127.0.0.1", "localhost")
    line = refused(f"{url}?sslmode=verify-full&sslrootcert={files.authority}")
    assert "does not match host name" in line
    assert "the URL must name the server as its certificate does" in line


def test_a_server_that_wants_tls_is_not_talked_to_without_it(server: Node) -> None:
    line = refused(f"{server.url}?sslmode=disable")
    assert "no encryption" in line
    assert "sslmode=require" in line


def test_an_authority_s_file_that_is_missing_is_refused_with_its_name(server: Node) -> None:
    line = refused(f"{server.url}?sslmode=verify-full&sslrootcert=/none/ca.pem")
    assert "/none/ca.pem" in line


def test_a_server_without_tls_is_refused_where_tls_is_required() -> None:
    with node() as plain:
        line = refused(f"{plain.url}?sslmode=require")
    assert "server does not support SSL" in line
    assert "ssl = on" in line
