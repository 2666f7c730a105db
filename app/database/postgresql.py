"""The PostgreSQL driver, set up to notice a silent server and to work behind a pooler.

TCP's own means (keepalives, the user timeout) find a peer that acknowledges nothing. A proxy that
acknowledges and forwards nothing, or a stopped server process, is found by the thread's deadline.

Behind a pooler (PgBouncer), each transaction may run in another session of the server. So nothing
is kept in the session then: there are no prepared statements, and each transaction begins with the
settings.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Self, TypeVar

import psycopg
import structlog
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError

from app.database.driver import POSTGRESQL, seconds_left
from app.urls import PostgresUrl

RV = TypeVar("RV")
INTERVAL_SECONDS = 0.1  # between looks for signals while waiting: the driver's own default
LEAST_CONNECT_SECONDS = 2  # libpq takes less for this
POOL_SECONDS = 5.0  # that a thread waits for a connection of the pool
LEAST_VERSION = 11  # the first with sha256()
# Who waits for a lock, or for an answer that doesn't come, is told so, as SQLite's busy timeout
# does.
SETTINGS = {
    "lock_timeout": "5s",
    "statement_timeout": "60s",
    "synchronous_commit": "on",
    "timezone": "UTC",
    # A queue changes faster than its statistics. Where they say that nearly all items wait, or that
    # a table is small, the planner would read millions of rows for a few that an index finds.
    "enable_seqscan": "off",
    "jit": "off",  # a table without an index (`sequence`) seems so expensive then that it would pay
}
PARAMETERS: dict[str, Any] = {  # of libpq; a dead peer is noticed in about ten seconds
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}
SETTING = re.compile(r"\s*(?:-c\s*|--)(?P<name>[\w.-]+)=(?P<value>(?:\\.|[^\\\s])*)(?=\s|$)")
# What PgBouncer, and the poolers of clouds, say of `options`.
OPTIONS_REFUSED = re.compile("startup parameter|command-line options", re.IGNORECASE)
STATEMENT_POOLING = re.compile("statement pooling", re.IGNORECASE)
PROBE = "SELECT pg_backend_pid(), current_setting('server_encoding')"

log = structlog.get_logger("database")


class Connection(psycopg.Connection[Any]):
    """A connection that waits no longer than the thread's deadline, and is closed after that."""

    each_transaction: tuple[str, list[str]] | None = None  # what a transaction is to begin with
    generation = 0  # of the pool, as it was opened

    @property
    def pooled(self) -> bool:
        """Tell whether a pooler is in front of the server, so that sessions are shared."""
        return self.each_transaction is not None

    def wait(
        self, gen: PQGen[RV], interval: float = INTERVAL_SECONDS, timeout: float | None = None
    ) -> RV:
        """Wait for the server's answer. Raises OperationalError at the deadline."""
        left = seconds_left()
        if left is not None:
            timeout = left if timeout is None else min(left, timeout)
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()  # its answer may still come, and would be taken for another's
            raise

    def commit(self) -> None:
        """Commit. Raises OperationalError if the server warns that no standby has confirmed it.

        It does that instead of failing if somebody cancels the wait for a synchronous standby: the
        commit is lost if the standby is promoted now.
        """
        warnings = list[str]()

        def note(notice: psycopg.errors.Diagnostic) -> None:
            if notice.severity_nonlocalized == "WARNING":
                warnings.append(notice.message_primary or "")

        self.add_notice_handler(note)
        try:
            super().commit()
        finally:
            self.remove_notice_handler(note)
        if warnings:
            self.close()  # so that the commit counts as one whose result is unknown
            raise psycopg.OperationalError(warnings[0])


class PooledCursor(psycopg.Cursor[Any]):
    """A cursor that begins each transaction with the settings that a session would have kept."""

    def execute(self, *args: Any, **kwargs: Any) -> Self:
        """Run one statement."""
        self._begin()
        return super().execute(*args, **kwargs)

    def executemany(self, *args: Any, **kwargs: Any) -> None:
        """Run one statement with each of the parameters."""
        self._begin()
        super().executemany(*args, **kwargs)

    def _begin(self) -> None:
        connection = self.connection
        assert isinstance(connection, Connection)
        idle = connection.info.transaction_status == TransactionStatus.IDLE
        if idle and not connection.autocommit and connection.each_transaction is not None:
            super().execute(*connection.each_transaction)


class Connector:
    """Opens the connections of one engine, and detects a pooler in front of the server.

    Connections of an earlier generation are closed when they would be used next.
    """

    def __init__(self, url: PostgresUrl) -> None:
        self._hosts = max(
            len(url.parameters.get(name, "").split(",")) for name in ("host", "hostaddr")
        )
        self._own_options = url.parameters.get("options", "")
        self._takes_options = True
        self._told = False
        self._generation = 0

    def leave(self) -> None:
        """Use no connection again that is open now."""
        self._generation += 1

    def check(self, connection: Connection, _record: object, _proxy: object) -> None:
        """Raise DisconnectionError for an earlier generation, so that the pool opens another."""
        if connection.generation != self._generation:
            raise DisconnectionError

    def connect(
        self, _dialect: object, _record: object, args: Any, parameters: dict[str, Any]
    ) -> Connection:
        """Open a connection. Raises psycopg.Error."""
        left, generation = seconds_left(), self._generation
        if left is not None:
            if left == 0:
                raise psycopg.OperationalError("there is no time left for a connection")
            share = left / self._hosts  # each is tried for this long
            parameters = {**parameters, "connect_timeout": _bounded(parameters, share)}
        connection = self._open(args, parameters)
        try:
            self._look(connection)
        except BaseException:
            connection.close()
            raise
        connection.generation = generation
        return connection

    def _open(self, args: Any, parameters: dict[str, Any]) -> Connection:
        if self._takes_options:
            try:
                return Connection.connect(*args, **parameters)
            except psycopg.OperationalError as error:
                if not OPTIONS_REFUSED.search(str(error)):
                    raise
            self._takes_options = False
        rest = {name: value for name, value in parameters.items() if name != "options"}
        return Connection.connect(*args, **rest)

    def _look(self, connection: Connection) -> None:
        """Check that the server can be used, and whether a pooler is in front of it."""
        connection.autocommit = True
        pid, encoding = connection.execute(PROBE).fetchone() or (0, "")
        connection.autocommit = False
        # Whatever is the default of the role: what is read after a lock must be what is true then
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        check_server(connection.info.server_version, encoding)
        # A pooler gives each client a number of its own: it does not have one server process for
        # it.
        pooled = pid != connection.info.backend_pid
        if not pooled and self._takes_options:
            return
        connection.prepare_threshold = None
        connection.each_transaction = _each_transaction(
            {**SETTINGS, **settings_of(self._own_options)}
        )
        connection.cursor_factory = PooledCursor
        _check_transactions(connection)
        if not self._told:
            log.debug(
                "database.pooled",
                note="a pooler stands before PostgreSQL: nothing is kept in sessions",
            )
            self._told = True


def engine_on(url: PostgresUrl) -> Engine:
    """Make an engine on the server at `url`; what the URL itself says of the connection wins."""
    connector = Connector(url)
    engine = create_engine(
        "postgresql+psycopg://",
        connect_args=connect_args(url),
        pool_pre_ping=True,  # one that the server closed while nobody looked is opened anew
        pool_timeout=POOL_SECONDS,
        execution_options={"connector": connector},
    )
    event.listen(engine, "do_connect", connector.connect)
    event.listen(engine, "checkout", connector.check)
    return engine


def session_on(url: PostgresUrl) -> Connection:
    """Open a connection of its own, on which each statement is a transaction.

    Raises psycopg.Error.
    """
    connection = Connector(url).connect(None, None, (), connect_args(url))
    connection.autocommit = True
    return connection


def connect_args(url: PostgresUrl) -> dict[str, Any]:
    """Return the connection parameters: the URL's, and defaults for the others."""
    given = url.parameters
    settings = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
    several = "," in given.get("host", "") + given.get("hostaddr", "")
    writable = {"target_session_attrs": "read-write"} if several else {}
    return {
        **PARAMETERS,
        **writable,
        **given,
        # Of two the server takes the later
        "options": f"{settings} {given.get('options', '')}".rstrip(),
        "client_encoding": "UTF8",  # whatever the URL says: items may have any character
    }


def server_time_ms(connection: Any) -> int:
    """Return the server's own time, in milliseconds since the epoch."""
    assert POSTGRESQL.clock is not None
    return int(connection.exec_driver_sql(POSTGRESQL.clock).scalar_one())


def check_server(version: int, encoding: str) -> None:
    """Check the server's version and encoding. Raises OperationalError."""
    if version // 10_000 < LEAST_VERSION:
        raise psycopg.OperationalError(
            f"the server is PostgreSQL {version // 10_000}, and the gateway needs "
            f"{LEAST_VERSION} or newer"
        )
    if encoding != "UTF8":
        raise psycopg.OperationalError(
            f"the database's encoding is {encoding}, and the gateway needs UTF8: make one with "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def settings_of(options: str) -> dict[str, str]:
    """Read `options` of a URL as settings.

    Raises OperationalError for other options, which no pooler accepts.
    """
    found, at = dict[str, str](), 0
    while options[at:].strip():
        one = SETTING.match(options, at)
        if one is None:
            raise psycopg.OperationalError(
                "the pooler takes no options, and these are not all of the form -c name=value: "
                "set them for the role with ALTER ROLE … SET"
            )
        found[one["name"].replace("-", "_")] = re.sub(r"\\(.)", r"\1", one["value"])
        at = one.end()
    return found


def _each_transaction(settings: Mapping[str, str]) -> tuple[str, list[str]]:
    calls = ", ".join("set_config(%s, %s, true)" for _ in settings)
    return f"SELECT {calls}", [word for pair in settings.items() for word in pair]


def _check_transactions(connection: Connection) -> None:
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except psycopg.Error as error:
        if not STATEMENT_POOLING.search(str(error)):
            raise
        raise psycopg.OperationalError(
            "the pooler pools single statements, and the gateway needs transactions: "
            "set pool_mode to transaction or session"
        ) from None


def _bounded(parameters: dict[str, Any], left: float) -> int:
    most = max(LEAST_CONNECT_SECONDS, math.ceil(left))
    wanted = int(parameters.get("connect_timeout", 0))
    return min(wanted, most) if wanted > 0 else most
