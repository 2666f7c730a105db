"""PostgreSQL's driver, set up so that a server that falls silent is noticed.

TCP's own means (keepalives, the user timeout) find a peer that acknowledges nothing. A proxy that
acknowledges and forwards nothing, or a stopped server process, is found by the thread's deadline.
"""

import math
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Engine, create_engine, event

from app.database import deadline

RV = TypeVar("RV")
INTERVAL_SECONDS = 0.1  # between looks for signals while waiting: the driver's own default
LEAST_CONNECT_SECONDS = 2  # libpq takes less for this
POOL_SECONDS = 5.0  # that a thread waits for a connection of the pool
# Who waits for a lock, or for an answer that doesn't come, is told so, as SQLite's busy timeout does.
OPTIONS = "-c lock_timeout=5s -c statement_timeout=60s -c synchronous_commit=on -c timezone=UTC"
PARAMETERS: dict[str, Any] = {  # of libpq; a dead peer is noticed in about ten seconds
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}


class Connection(psycopg.Connection[Any]):
    """A connection that waits no longer than the thread's deadline, and is closed after that."""

    def wait(self, gen: PQGen[RV], interval: float = INTERVAL_SECONDS, timeout: float | None = None) -> RV:
        """Wait for the server's answer. Raises OperationalError at the deadline."""
        left = deadline.seconds_left()
        if left is not None:
            timeout = left if timeout is None else min(left, timeout)
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()  # its answer may still come, and would be taken for another's
            raise


def engine_on(url: URL) -> Engine:
    """Make an engine on the server at `url`; what the URL itself says of the connection wins."""
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args=connect_args(url),
        pool_pre_ping=True,  # one that the server closed while nobody looked is opened anew
        pool_timeout=POOL_SECONDS,
    )
    event.listen(engine, "do_connect", _connect)
    return engine


def connect_args(url: URL) -> dict[str, Any]:
    """Return what the connection is made with beside what the URL says."""
    given = url.query
    chosen = {name: value for name, value in PARAMETERS.items() if name not in given}
    options = given.get("options", "")
    own = options if isinstance(options, str) else " ".join(options)
    return {**chosen, "options": f"{OPTIONS} {own}".rstrip()}  # of two the server takes the later


def _connect(_dialect: object, _record: object, args: Any, parameters: dict[str, Any]) -> Connection:
    left = deadline.seconds_left()
    if left is not None:
        if left == 0:
            raise psycopg.OperationalError("there is no time left for a connection")
        parameters = {**parameters, "connect_timeout": _bounded(parameters, left)}
    return Connection.connect(*args, **parameters)


def _bounded(parameters: dict[str, Any], left: float) -> int:
    most = max(LEAST_CONNECT_SECONDS, math.ceil(left))
    wanted = int(parameters.get("connect_timeout", 0))
    return min(wanted, most) if wanted > 0 else most
