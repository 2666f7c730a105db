"""A server that becomes a standby, or whose standby does not confirm: what is written goes to the
new primary, and no commit is taken for safe that is not.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest
from sqlalchemy import Engine

from app.database.driver import Cursor
from app.database.engine import connect, reading, transaction
from app.database.writer import Writer
from app.errors import CommitUnknown, StorageUnavailable
from tests.support.gateway import Talk, problem
from tests.support.postgres_cluster import DATABASE, ROLE, Node, node
from tests.support.wait import until

RELOAD = "SELECT pg_reload_conf()"
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
CANCEL = WAITING.replace("pid", "pg_cancel_backend(pid)", 1)
INSERT = "INSERT INTO deliverers (id, expires_at) VALUES (?, 0)"
Servers = tuple[Node, Node]


@dataclass(frozen=True)
class Add:
    """A write of one row."""

    id: str
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Add"]) -> Sequence[None]:
        for write in writes:
            cursor.execute(INSERT, (write.id,))
        return [None] * len(writes)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Two servers that take writes, each with its own rows: a test sees where it writes."""
    with node() as one, node() as two:
        for server in (one, two):
            connect(server.url).dispose()
        yield one, two


@pytest.fixture
def url(servers: Servers) -> Iterator[str]:
    """The URL that names both."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    yield f"postgresql://{ROLE}@{hosts}/{DATABASE}"
    for server in servers:
        set_read_only(server, "off")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    made = connect(url)
    yield made
    made.dispose()


def set_read_only(server: Node, value: str) -> None:
    """Make the next transaction of each session one that takes writes or not, as a demotion does
    that keeps the connections.
    """
    server.run(f"ALTER SYSTEM SET default_transaction_read_only = '{value}'", RELOAD)
    until(lambda: server.run("SHOW default_transaction_read_only") == [(value,)], 20)


def port(engine: Engine) -> int:
    """Where a reader is connected."""
    with reading(engine) as connection:
        return int(connection.exec_driver_sql("SHOW port").scalar_one())


def add(engine: Engine, name: str) -> None:
    with transaction(engine) as cursor:
        cursor.execute(INSERT, (name,))


def names(server: Node) -> set[object]:
    return {row[0] for row in server.run("SELECT id FROM deliverers")}


def with_writer(engine: Engine, do: Callable[[Writer], Awaitable[None]]) -> None:
    async def run() -> None:
        writer = Writer(engine)
        writer.start()
        try:
            await do(writer)
        finally:
            await writer.stop()

    asyncio.run(run())


def test_a_transaction_that_a_standby_refuses_sends_the_next_one_to_the_primary(
    servers: Servers, engine: Engine
) -> None:
    one, two = servers
    add(engine, "t1")
    assert port(engine) == one.port
    set_read_only(one, "on")
    with pytest.raises(StorageUnavailable, match="read-only"):
        add(engine, "t2")
    add(engine, "t3")
    assert port(engine) == two.port, "what reads has left the standby as well"
    assert names(one) >= {"t1"}
    assert "t2" not in names(one) | names(two)
    assert "t3" in names(two)


def test_the_writer_and_the_readers_follow_a_failover_that_keeps_connections_open(
    servers: Servers, engine: Engine
) -> None:
    one, two = servers

    async def do(writer: Writer) -> None:
        await writer.write(Add("w1"))
        assert await asyncio.to_thread(port, engine) == one.port
        await asyncio.to_thread(set_read_only, one, "on")
        with pytest.raises(StorageUnavailable) as refused:
            await writer.write(Add("w2"))
        assert not isinstance(refused.value, CommitUnknown)
        await writer.write(Add("w3"))
        assert await asyncio.to_thread(port, engine) == two.port

    with_writer(engine, do)
    assert "w2" not in names(one) | names(two)
    assert "w3" in names(two)


def test_without_a_primary_callers_get_503_and_the_first_one_is_used(
    servers: Servers, url: str, start: Callable[..., Talk]
) -> None:
    one, two = servers
    talk = start(gateway_database_url=url)
    assert talk.event().status_code == 202
    set_read_only(one, "on")
    set_read_only(two, "on")
    for _ in range(3):
        problem(talk.event(), 503, "storage-unavailable")
    assert talk.get("/readyz").status_code == 503
    set_read_only(one, "off")
    until(lambda: talk.event().status_code == 202, 20)
    until(lambda: talk.get("/readyz").status_code == 200, 20)


@pytest.fixture
def unconfirmed() -> Iterator[Node]:
    """A server whose commits wait for a standby that is not there."""
    with node() as server:
        connect(server.url).dispose()
        server.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", RELOAD)
        until(lambda: server.run("SHOW synchronous_standby_names") == [("nobody",)], 20)
        yield server


def cancel_the_wait(server: Node) -> None:
    """Cancel the wait of a commit, as an operator may: the server says that it has succeeded."""
    until(lambda: server.run(WAITING), 20)
    assert server.run(CANCEL) == [(True,)]


def test_a_commit_that_no_standby_has_confirmed_is_not_taken_for_safe(unconfirmed: Node) -> None:
    engine = connect(unconfirmed.url)

    async def do(writer: Writer) -> None:
        writing = writer.write(Add("w1"))
        await asyncio.to_thread(cancel_the_wait, unconfirmed)
        with pytest.raises(CommitUnknown):
            await writing

    with_writer(engine, do)
    with ThreadPoolExecutor(1) as thread:
        adding = thread.submit(partial(add, engine, "t1"))
        cancel_the_wait(unconfirmed)
        with pytest.raises(CommitUnknown):
            adding.result(20)
    engine.dispose()
