"""What one item costs: fill a database through a gateway, then let a deliverer drain it.

Threads have their names (servers/named_threads.py), and the kernel counts what each uses.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import make_url

from app.database.engine import connect, reading
from bench.bodies import BATCH, EVENT, Traffic
from bench.capacity import SECOND
from bench.children import Child, ChildFailed
from bench.figures import Slice, ratio
from bench.load import Load
from bench.postgres import PostgresServer
from bench.scenarios.setting import Setting, read_counts
from bench.stage import Stage
from bench.usage import Usage, read_usage

NAMED_THREADS = ("bench.servers.named_threads",)
TRAFFIC = {"single event": EVENT, "item of a batch": BATCH}
FLOWING = 0.25  # of the greatest rate of accepting
POLL = 0.02
AUDIT_BYTES_ON_SQLITE = "SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name LIKE 'audit%%'"
AUDIT_BYTES_ON_POSTGRESQL = """
SELECT sum(pg_table_size(oid) + pg_indexes_size(oid))
FROM pg_class WHERE relkind = 'r' AND relname LIKE 'audit%%'
"""
DELIVERY_LIMIT = 300.0


@dataclass(frozen=True)
class Phase:
    """What one item cost while items were accepted, or while they were delivered.

    `surroundings` are the processor microseconds of the load generator, or of the upstream.
    """

    items: int
    rate: float
    gateway: Usage
    database: Usage
    surroundings: float
    memory_mb: float = 0.0
    calls: float = 0.0


@dataclass(frozen=True)
class Cost:
    """What one item cost, and its bytes in the database: when it waits, and once delivered.

    `flowing` is one process that accepts and delivers, at a quarter of the greatest rate.
    `audit_bytes` are those of the audit records, which are kept for longer, and are in both.
    """

    accepting: Phase
    delivering: Phase
    flowing: Phase
    waiting_bytes: float
    delivered_bytes: float
    audit_bytes: float


class Database:
    """The database of a measurement: its size, its items, and what its server has used."""

    def __init__(self, stage: Stage, server: PostgresServer | None) -> None:
        self._server = server
        self.url = server.new_database() if server else stage.new_sqlite()
        self._engine = connect(self.url)
        self.write_out()
        self._empty = self._size()

    def close(self) -> None:
        """Close its connections."""
        self._engine.dispose()

    def usage(self) -> Usage:
        """Return what the server has used; nothing for SQLite, which has none."""
        return Usage() if self._server is None else read_usage(self._server.pids())

    def write_out(self) -> None:
        """Let a server write to its files what it keeps in memory so far."""
        if self._server is not None:
            self._server.run("CHECKPOINT")

    def growth(self) -> float:
        """Return by how many bytes for each of its items it has grown."""
        return (self._size() - self._empty) / self._items()

    def audit_bytes(self) -> float:
        """Return the bytes of audit records, their tree and indexes for each of its items."""
        statement = AUDIT_BYTES_ON_SQLITE if self._server is None else AUDIT_BYTES_ON_POSTGRESQL
        return self._count(statement) / self._items()

    def is_delivered(self) -> bool:
        """Return whether a deliverer has started."""
        return self._count("SELECT count(*) FROM deliverers") > 0

    def unsettled(self) -> int:
        """Return how many items wait or are in flight."""
        return self._count("SELECT count(*) FROM items WHERE settled_at IS NULL")

    def _items(self) -> int:
        return max(1, self._count("SELECT count(*) FROM items"))

    def _size(self) -> int:
        if self._server is not None:
            return self._count("SELECT pg_database_size(current_database())")
        self._count("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(str(make_url(self.url).database)).stat().st_size

    def _count(self, statement: str) -> int:
        with reading(self._engine) as connection:
            return int(connection.exec_driver_sql(statement).scalar_one())


@contextmanager
def opened(stage: Stage, server: PostgresServer | None) -> Iterator[Database]:
    """Open a new database; close its connections, and stop the processes that use it."""
    with stage.fleet.scope():
        database = Database(stage, server)
        try:
            yield database
        finally:
            database.close()


def measure(setting: Setting, traffic: Traffic, server: PostgresServer | None) -> Cost:
    """Measure accepting alone, delivering alone, and both at once."""
    stage = setting.stage
    with opened(stage, server) as database:
        upstream = stage.upstream(delay=setting.plan.upstream_delay, pinned=False)
        gateway = stage.gateway(
            upstream, database=database.url, pinned=False, program=NAMED_THREADS
        )
        setting.load.warm(gateway, traffic)
        accepting = _accept(setting.load, gateway, traffic, database)
        stage.fleet.stop(gateway)
        waiting = database.growth()
        delivering = _deliver(stage, upstream, database)
        delivered, audit = database.growth(), database.audit_bytes()
    with opened(stage, server) as database:
        flowing = _flow(setting, traffic, database, FLOWING * accepting.rate)
    return Cost(accepting, delivering, flowing, waiting, delivered, audit)


def _accept(load: Load, gateway: Child, traffic: Traffic, database: Database) -> Phase:
    of_gateway, of_database = _usage(gateway), database.usage()
    accepted = load.slice(gateway, traffic, pinned=False)
    return Phase(
        items=accepted.items,
        rate=accepted.rate,
        gateway=_usage(gateway).since(of_gateway).per(accepted.items),
        database=database.usage().since(of_database).per(accepted.items),
        surroundings=load_cost(accepted),
        memory_mb=accepted.pss,
    )


def _flow(setting: Setting, traffic: Traffic, database: Database, rate: float) -> Phase:
    """Measure one process while items arrive at a rate, until all are settled."""
    stage = setting.stage
    upstream = stage.upstream(delay=setting.plan.upstream_delay, pinned=False)
    gateway = stage.gateway(
        upstream, database=database.url, delivery=True, pinned=False, program=NAMED_THREADS
    )
    setting.load.warm(gateway, traffic)
    _wait(lambda: database.unsettled() == 0)
    of_gateway, of_database, before = _usage(gateway), database.usage(), read_counts(upstream)
    accepted = setting.load.paced(
        gateway, traffic, rate=rate / traffic.size, seconds=setting.plan.slice, pinned=False
    )
    _wait(lambda: database.unsettled() == 0)
    of_gateway, after = _usage(gateway).since(of_gateway), read_counts(upstream)
    database.write_out()
    return Phase(
        items=accepted.items,
        rate=accepted.rate,
        gateway=of_gateway.per(accepted.items),
        database=database.usage().since(of_database).per(accepted.items),
        surroundings=load_cost(accepted),
        memory_mb=accepted.pss,
        calls=ratio(after["calls"] - before["calls"], accepted.items),
    )


def _deliver(stage: Stage, upstream: Child, database: Database) -> Phase:
    """Measure from when the deliverer has started until all is settled."""
    items, of_database, of_upstream = database.unsettled(), database.usage(), _usage(upstream)
    deliverer = stage.deliverer(upstream, database.url, program=NAMED_THREADS)
    _wait(database.is_delivered)
    of_gateway = _usage(deliverer)
    _wait(lambda: read_counts(upstream)["distinct"] >= items)
    _wait(lambda: database.unsettled() == 0)
    of_gateway, seen = _usage(deliverer).since(of_gateway), read_counts(upstream)
    database.write_out()
    phase = Phase(
        items=items,
        rate=ratio(items, seen["last_new"] - seen["first_new"]),
        gateway=of_gateway.per(items),
        database=database.usage().since(of_database).per(items),
        surroundings=_usage(upstream).since(of_upstream).per(items).processor,
        memory_mb=deliverer.pss(),
        calls=ratio(seen["calls"], items),
    )
    stage.fleet.stop(deliverer)
    return phase


def _usage(child: Child) -> Usage:
    """Return what a process has used; its log is no part of what it wrote."""
    usage = read_usage(child.pids())
    return replace(usage, written=usage.written - child.log.stat().st_size)


def load_cost(accepted: Slice) -> float:
    """Return the processor microseconds that the load generator needed for an item."""
    return ratio(accepted.processor * SECOND, accepted.items)


def _wait(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DELIVERY_LIMIT
    while not true():
        if time.monotonic() > deadline:
            raise ChildFailed(f"items were not delivered within {DELIVERY_LIMIT:.0f} s")
        time.sleep(POLL)
