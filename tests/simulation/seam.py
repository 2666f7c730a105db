"""The database of a simulation: a real one, whose driver can fail where drivers fail."""

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, cast

import psycopg
from psycopg.errors import LockNotAvailable
from sqlalchemy import Engine, event, make_url

from app.database.driver import POSTGRESQL, SQLITE
from app.database.engine import connect
from tests.support.postgres import Server

Point = Literal["connect", "begin", "statement", "commit", "committed", "read"]
How = Literal["locked", "lost"]
BEGINS = {SQLITE.begin, POSTGRESQL.begin}
QUICK = "PRAGMA synchronous=OFF"  # nothing here loses the machine's power
SLOTS = 3


@dataclass
class Fault:
    """Something that goes wrong at a point, `count` times at most, until a time."""

    point: Point
    how: How
    count: int
    until: float


class Seam:
    """What goes wrong between one process and the database."""

    def __init__(self, clock: Callable[[], float], server_ms: Callable[[], int]) -> None:
        self._clock, self.server_ms = clock, server_ms
        self.faults: list[Fault] = []
        self.struck: list[tuple[Point, How]] = []

    def strikes(self, point: Point) -> How | None:
        """What goes wrong now at this point, if anything."""
        now = self._clock()
        for fault in self.faults:
            if fault.point == point and fault.count > 0 and now < fault.until:
                fault.count -= 1
                self.struck.append((point, fault.how))
                return fault.how
        return None

    def lasts(self, point: Point) -> float:
        """Seconds until nothing goes wrong any more at this point."""
        now = self._clock()
        ends = [
            one.until - now for one in self.faults if one.point == point and one.how == "locked"
        ]
        return max([0.0, *ends])


Holder = dict[str, Seam]  # by "now": the seam of the process that uses an engine at present


class _SqliteCursor(sqlite3.Cursor):
    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        connection = cast(_SqliteConnection, self.connection)
        connection.strike("begin" if sql in BEGINS else "statement")
        super().execute(sql, parameters)
        return self


class _SqliteConnection(sqlite3.Connection):
    holder: Holder | None = None

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(_SqliteCursor)

    def strike(self, point: Point) -> None:
        if point == "statement" and not self.in_transaction:
            point = "read"
        how = self.holder["now"].strikes(point) if self.holder else None
        if how is not None:
            busy = how == "locked"
            error = sqlite3.OperationalError("database is locked" if busy else "disk I/O error")
            error.sqlite_errorname = "SQLITE_BUSY" if busy else "SQLITE_IOERR"
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY if busy else sqlite3.SQLITE_IOERR
            raise error

    def commit(self) -> None:
        writes = self.in_transaction
        if writes:
            self.strike("commit")
        super().commit()
        if writes:
            self.strike("committed")


class _PostgresCursor(psycopg.Cursor[Any]):
    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        connection = cast(_PostgresSeam, self.connection)
        text = query if isinstance(query, str) else ""
        if "clock_timestamp()" in text and "now" in connection.holder:
            now = connection.holder["now"].server_ms() / 1000
            query = text.replace("clock_timestamp()", f"to_timestamp({now:.3f})")
        connection.strike("begin" if text in BEGINS else "statement")
        return super().execute(query, params, **options)


class _PostgresSeam(psycopg.Connection[Any]):
    """What is put before the class of the gateway's connections, whatever that is."""

    holder: Holder
    writes: bool

    def strike(self, point: Point) -> None:
        if point == "begin":
            self.writes = True
        elif point == "statement" and not self.writes:
            point = "read"
        how = self.holder["now"].strikes(point) if "now" in self.holder else None
        if how == "locked":
            raise LockNotAvailable("canceling statement due to lock timeout")
        if how == "lost":
            self.pgconn.finish()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    def commit(self) -> None:
        if self.writes:
            self.strike("commit")
        super().commit()
        if self.writes:
            self.writes = False
            self.strike("committed")

    def rollback(self) -> None:
        self.writes = False
        super().rollback()


@cache
def _with_seam(kind: Any) -> Any:
    return type(f"Seam{kind.__name__}", (_PostgresSeam, kind), {})


class Database:
    """One database with an engine for each process that a history may have at once. Engines and the
    server are kept from history to history; what is in the tables is not."""

    kind: Literal["sqlite", "postgresql"]
    url: str

    def __init__(self, url: str) -> None:
        self.url = url
        self.holders: list[Holder] = [{} for _ in range(SLOTS)]
        self.engines: list[Engine] = []
        for holder in self.holders:
            engine = connect(url)
            engine.dispose()
            self._put_seam(engine, holder)
            self.engines.append(engine)

    def _put_seam(self, engine: Engine, holder: Holder) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        """Empty the tables, and let go of what is open."""
        for holder, engine in zip(self.holders, self.engines, strict=True):
            holder.clear()
            engine.dispose()

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database itself, past every process."""
        raise NotImplementedError


class Sqlite(Database):
    """A file."""

    kind = "sqlite"

    def __init__(self, path: Path, template: Path) -> None:
        self._path, self._template = path, template
        shutil.copy(template, path)
        super().__init__(f"sqlite:///{path}")

    def _put_seam(self, engine: Engine, holder: Holder) -> None:
        def connect_with_seam(
            _dialect: Any, _record: Any, cargs: Sequence[Any], cparams: dict[str, Any]
        ) -> Any:
            made = sqlite3.connect(*cargs, **cparams, factory=_SqliteConnection)
            made.execute(QUICK)
            made.holder = holder
            return made

        event.listen(engine, "do_connect", connect_with_seam, insert=True)

    def reset(self) -> None:
        super().reset()
        for name in ("-wal", "-shm", "-deliverers"):
            Path(f"{self._path}{name}").unlink(missing_ok=True)
        shutil.copy(self._template, self._path)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self._path)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()


class Postgresql(Database):
    """A database of a server."""

    kind = "postgresql"

    def __init__(self, server: Server) -> None:
        url = server.empty()
        super().__init__(url)
        plain = make_url(url).render_as_string(hide_password=False)
        self._own = psycopg.connect(plain, autocommit=True)
        self._own.execute("SET synchronous_commit = off")
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        names = [name for (name,) in self._own.execute(tables).fetchall()]
        self._rows = {name: self._own.execute(f"SELECT * FROM {name}").fetchall() for name in names}

    def _put_seam(self, engine: Engine, holder: Holder) -> None:
        def before(_dialect: Any, _record: Any, _args: Any, _parameters: Any) -> None:
            if (seam := holder.get("now")) is not None and seam.strikes("connect") is not None:
                raise psycopg.OperationalError("connection refused")

        def after(made: Any, _record: Any) -> None:
            made.execute("SET synchronous_commit = off")
            made.commit()
            made.__class__ = _with_seam(made.__class__)
            made.holder, made.writes = holder, False
            made.cursor_factory = _PostgresCursor

        event.listen(engine, "do_connect", before, insert=True)
        event.listen(engine, "connect", after)

    def reset(self) -> None:
        super().reset()
        for name, rows in self._rows.items():
            self._own.execute(f"DELETE FROM {name}")
            for row in rows:
                places = ", ".join(["%s"] * len(row))
                self._own.execute(f"INSERT INTO {name} VALUES ({places})", row)

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._own.execute(cast(Any, statement.replace("?", "%s")), values).fetchall()
