"""The database drivers: their SQL dialects, what their errors mean, and deadlines of their work.

Statements are written once for both databases, with `?` for a parameter; a `Dialect` has what
differs. Lists travel as one JSON parameter: a statement for each element would cost a step of the
driver each.

A thread may have a deadline. PostgreSQL's driver asks for it whenever it waits for the server
(`postgresql.py`). A connection whose response did not come in time is closed, since nobody can know
what would arrive on it next.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

import orjson
from sqlalchemy import Connection

from app.errors import CommitUnknown, StorageUnavailable

# --- dialects ---

Type = Literal["bigint", "text"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """The SQL of one database, where it differs."""

    name: str
    begin: str  # opens a transaction that writes; writers take turns from here on, in every process
    begin_migration: str
    placeholder: str
    json_each: str
    json_value: str
    json_at: str
    hex_seq: str  # the sequence number of item `i` as the last twelve digits of an id made here
    contains: str  # whether the text of an audit record has these words
    clock: str | None
    # Statements that make the server allocate as many new bytes on disk as their parameter says, to
    # find out whether the disk has room. PostgreSQL fills a temporary table: space that is free
    # inside another table would prove nothing for `items`.
    take_room: tuple[str, ...]
    give_room_back: str | None
    room: int  # bytes that each check allocates
    # Sets the writer's connection up. The items of one delivery are spread over more pages than
    # SQLite's 2 MB of cache hold, and reading them again from the file took a tenth of the time
    # that recording a delivery takes.
    set_up_writer: str | None
    # True: select many rows as one, in JSON. SQLite's driver releases and takes the interpreter's
    # lock for each row, which costs milliseconds each while the event loop is busy.
    one_row: bool

    def values(self, kind: Type) -> str:
        """Return a subquery for the values of a JSON array, which is its one parameter."""
        return f"(SELECT CAST({self.json_value} AS {kind}) FROM {self.json_each})"

    def rows(self, **columns: Type) -> str:
        """Return a subquery for the rows of a JSON array of arrays, which is its one parameter."""
        told = [
            f"CAST({self.json_at.format(index=index)} AS {kind}) AS {name}"
            for index, (name, kind) in enumerate(columns.items())
        ]
        return f"(SELECT {', '.join(told)} FROM {self.json_each})"

    def now(self, cursor: "Cursor", now: int) -> int:
        """Return the time in milliseconds by which leases are judged.

        It is the server's where processes on several machines share the database, since their
        clocks differ; otherwise it is `now`.
        """
        if self.clock is None:
            return now
        cursor.execute(self.clock)
        return int(cursor.fetchone()[0])

    def sql(self, statement: str) -> str:
        """Return a statement with the placeholders of the driver."""
        return statement if self.placeholder == "?" else _with(statement, self.placeholder)


@cache
def _with(statement: str, placeholder: str) -> str:
    return statement.replace("%", "%%").replace("?", placeholder)


SQLITE = Dialect(
    name="sqlite",
    begin="BEGIN IMMEDIATE",
    begin_migration="BEGIN IMMEDIATE",
    placeholder="?",
    json_each="json_each(?)",
    json_value="value",
    json_at="json_extract(value, '$[{index}]')",
    hex_seq="printf('%012x', i.seq)",
    contains="instr(record, ?) > 0",
    clock=None,
    take_room=("INSERT INTO own_secrets (name, value) VALUES ('room', zeroblob(?))",),
    give_room_back="DELETE FROM own_secrets WHERE name = 'room'",
    room=64 * 1024,  # an item changes some ten pages, wherever it is small
    set_up_writer="PRAGMA cache_size=-8192",  # KiB
    one_row=True,
)
# One advisory lock for all that write: what SQLite's one writer gives, so that the same reasoning
# holds for both. The numbers mean nothing; they only must differ.
POSTGRESQL = Dialect(
    name="postgresql",
    # The server ends a transaction whose process has fallen silent, and a statement that takes too
    # long: neither may hold the lock for good.
    begin=(
        "SELECT set_config('idle_in_transaction_session_timeout', '15s', true), "
        "set_config('statement_timeout', '15s', true), pg_advisory_xact_lock(7303014)"
    ),
    begin_migration="SELECT pg_advisory_xact_lock(7303015)",
    placeholder="%s",
    json_each="json_array_elements(CAST(? AS json)) AS value",
    json_value="(value #>> '{}')",
    json_at="(value ->> {index})",
    hex_seq="lpad(to_hex(i.seq), 12, '0')",
    contains="strpos(record, ?) > 0",
    clock="SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
    take_room=(
        "CREATE TEMPORARY TABLE room (value bytea) ON COMMIT DROP",
        "ALTER TABLE room ALTER COLUMN value SET STORAGE EXTERNAL",  # not compressed
        "INSERT INTO room (value) VALUES (decode(repeat('00', ?), 'hex'))",
    ),
    give_room_back=None,
    room=0,  # a check creates a table, so it is made only after a write found no room
    set_up_writer=None,
    one_row=False,
)
DIALECTS = {dialect.name: dialect for dialect in (SQLITE, POSTGRESQL)}


def read_rows(
    connection: Connection, columns: str, statement: str, values: tuple[Any, ...]
) -> list[list[Any]]:
    """Return the columns of the rows of a query, which has `?` for each of the values.

    Their order is that of the query. SQLite's many rows come as one (`Dialect.one_row`).
    """
    dialect = DIALECTS[connection.dialect.name]
    if dialect.one_row:
        one = f"SELECT json_group_array(json_array({columns})) FROM ({statement})"
        found: list[list[Any]] = orjson.loads(connection.exec_driver_sql(one, values).scalar_one())
        return found
    many = f"SELECT {columns} FROM ({statement}) AS found"
    return [list(row) for row in connection.exec_driver_sql(dialect.sql(many), values)]


class Cursor:
    """A driver's cursor with the dialect that it speaks."""

    __slots__ = ("_cursor", "_execute", "dialect")

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self._cursor, self.dialect = cursor, dialect
        self._execute = cursor.execute

    def execute(self, statement: str, parameters: Any = ()) -> None:
        """Run one statement."""
        self._execute(self.dialect.sql(statement), parameters)

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        """Return all remaining rows."""
        found: list[Any] = self._cursor.fetchall()
        return found

    @property
    def rowcount(self) -> int:
        """The number of rows that the last statement changed."""
        return int(self._cursor.rowcount)


# --- errors ---

# Of PostgreSQL: connection lost; out of disk, memory, connections; shut down or canceled; I/O.
DATABASE_CLASSES = frozenset({"08", "53", "57", "58"})
# Read-only transaction; a lock that was not given up; corrupted data and indexes.
READ_ONLY_STATE = "25006"
DATABASE_STATES = frozenset({READ_ONLY_STATE, "55P03", "XX001", "XX002"})
SQLITE_STATES = frozenset(
    [
        "BUSY",
        "CANTOPEN",
        "CORRUPT",
        "FULL",
        "INTERRUPT",
        "IOERR",
        "LOCKED",
        "NOMEM",
        "NOTADB",
        "PERM",
        "PROTOCOL",
        "READONLY",
    ]
)
CLIENT_SIDE = frozenset({"OperationalError", "InterfaceError"})


def is_of_database(error: BaseException) -> bool:
    """Return whether the state of the database is at fault, so that other writes would fail too."""
    name = getattr(error, "sqlite_errorname", None)
    if name is not None:
        return str(name).split("_")[1] in SQLITE_STATES
    if not hasattr(error, "sqlstate"):
        return isinstance(error, OSError)
    state: str | None = error.sqlstate
    if state is None:  # the driver itself says so: the connection is gone, or a value can't be sent
        return any(kind.__name__ in CLIENT_SIDE for kind in type(error).__mro__)
    return state[:2] in DATABASE_CLASSES or state in DATABASE_STATES


def is_of_standby(error: BaseException) -> bool:
    """Return whether a server of PostgreSQL takes no writes: it is, or became, a standby."""
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlstate", None) == READ_ONLY_STATE


def may_have_committed(connection: Any, error: BaseException) -> bool:
    """Return whether a commit that failed may have been made all the same.

    Either the connection broke before the response came, or the disk failed while it was written.
    """
    name = getattr(error, "sqlite_errorname", None)
    if name is not None:
        return str(name).startswith("SQLITE_IOERR")
    return bool(getattr(connection, "closed", True))


# --- deadlines ---

T = TypeVar("T")
CALLER_SECONDS = 10.0  # that somebody waits for a thread, a connection and the answer, all together
LONG_SECONDS = 60.0  # for what walks through whole tables
GRACE_SECONDS = 0.5  # beyond the deadline: the thread itself usually tells first, and knows more
# Apart, so that hanging background work takes no thread from callers and leases. A thread costs
# nothing until it is used; with the writer they take all the connections that the engine's pool may
# have (15).
_CALLERS = ThreadPoolExecutor(8, "database")
_BACKGROUND = ThreadPoolExecutor(6, "database-background")


class _Awaited:
    """Work that somebody waits for until a time, by the monotonic clock."""

    __slots__ = ("sent", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.sent = False  # a commit


class _Thread(threading.local):
    until = math.inf  # by the monotonic clock
    awaited = _Awaited(math.inf)


_thread = _Thread()


def seconds_left() -> float | None:
    """Return the seconds until this thread's deadline, not below zero; None where it has none."""
    until = _thread.until
    return None if until == math.inf else max(0.0, until - time.monotonic())


def set_deadline(until: float) -> None:
    """Give this thread a deadline, by the monotonic clock, in place of the one it has."""
    _thread.until = until


def late_answer() -> StorageUnavailable:
    """Return the error for a response that did not come in time."""
    return StorageUnavailable("The database did not respond in time.")


def may_commit() -> bool:
    """Note that a commit is about to be sent; return False if it must not be.

    That is so after the deadline: the caller has already been answered that nothing was written.
    """
    awaited = _thread.awaited
    awaited.sent = True
    if seconds_left() == 0:
        awaited.sent = False
    return awaited.sent


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Give the work inside `seconds`, or less if an earlier deadline applies."""
    outer = _thread.until
    _thread.until = min(outer, time.monotonic() + seconds)
    try:
        yield
    finally:
        _thread.until = outer


async def in_time(work: Callable[[], T], seconds: float = CALLER_SECONDS) -> T:
    """Run `work` on a thread for a caller who waits.

    Raises StorageUnavailable at the deadline, and CommitUnknown if a commit was sent by then.
    """
    return await _run(_CALLERS, work, seconds)


async def in_background(work: Callable[[], T], seconds: float = CALLER_SECONDS) -> T:
    """Run `work` on a thread of its own pool.

    Raises StorageUnavailable at the deadline.
    """
    return await _run(_BACKGROUND, work, seconds)


async def _run(threads: ThreadPoolExecutor, work: Callable[[], T], seconds: float) -> T:
    awaited = _Awaited(time.monotonic() + seconds)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds + GRACE_SECONDS):
            return await loop.run_in_executor(threads, _work, work, awaited)
    except TimeoutError:
        raise CommitUnknown() if awaited.sent else late_answer() from None


def _work(work: Callable[[], T], awaited: _Awaited) -> T:
    left = awaited.until - time.monotonic()
    if left <= 0:  # it waited for a thread; the caller has been told
        raise late_answer()
    _thread.awaited = awaited
    with time_limit(left):
        return work()
