"""A database that falls silent, is gone, or can't write: every waiter hears in time, and hears the
truth.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from app.database.driver import Cursor, in_time, time_limit
from app.database.engine import connect, reading, transaction
from app.database.postgresql import connect_args
from app.database.writer import Probe, Writer
from app.errors import CommitUnknown, StorageUnavailable
from app.urls import PostgresUrl, parse_database_url
from tests.support.database_proxy import Proxy, proxied
from tests.support.postgres import Server

SECONDS = 1.5  # that the writer of these tests waits for a commit
# A busy machine may stand still for ten seconds; twenty writes one after the other would take 30.
SOON = SECONDS + 13.0
Doing = Callable[[Writer], Awaitable[None]]


@dataclass(frozen=True)
class Add:
    """Adds a row, so that a test can see which writes were committed. `fault`: a statement run
    after it.
    """

    id: str
    fault: str = ""
    runs: list[str] = field(default_factory=list)
    entered: threading.Event | None = None
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Add"]) -> Sequence[str]:
        for write in writes:
            write.runs.append(write.id)
            cursor.execute("INSERT INTO deliverers (id, expires_at) VALUES (?, 0)", (write.id,))
            if write.entered is not None:
                write.entered.set()
            if write.fault:
                cursor.execute(write.fault)
        return [write.id for write in writes]


def with_writer(url: str, do: Doing, seconds: float = SECONDS) -> None:
    engine = connect(url)

    async def run() -> None:
        writer = Writer(engine, seconds)
        writer.start()
        try:
            await do(writer)
        finally:
            await writer.stop()

    try:
        asyncio.run(run())
    finally:
        engine.dispose()


def committed(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {str(row[0]) for row in connection.execute("SELECT id FROM deliverers")}


async def failed(writing: Awaitable[Any], within: float = SOON) -> StorageUnavailable:
    """The error of a write, which must come in time."""
    began = time.monotonic()
    with pytest.raises(StorageUnavailable) as caught:
        await asyncio.wait_for(writing, 30)
    assert time.monotonic() - began < within
    return caught.value


async def recovered(writer: Writer) -> None:
    """Wait until a commit can be made again, which must need nobody's help."""
    async with asyncio.timeout(30):
        while True:
            try:
                await writer.write(Probe())
            except StorageUnavailable:
                continue
            assert writer.healthy
            return


@pytest.fixture
def url(postgresql_server: Server) -> str:
    return postgresql_server.empty()


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    with proxied(url) as proxy:
        yield proxy


# --- silence ---------------------------------------------------------------------------------------------------------


def test_writes_to_a_silent_server_are_answered_in_time_and_never_committed_later(
    proxy: Proxy, url: str
) -> None:
    async def do(writer: Writer) -> None:
        await writer.write(Add("before"))
        proxy.fall_silent()
        errors = await asyncio.gather(
            *(failed(writer.write(Add(f"lost-{number}"))) for number in range(20))
        )
        assert not any(isinstance(error, CommitUnknown) for error in errors)
        assert not writer.healthy
        later = await failed(writer.write(Add("lost-later")))
        assert "nothing was accepted" in later.detail
        proxy.speak()
        await recovered(writer)
        await writer.write(Add("after"))

    with_writer(proxy.url, do)
    assert committed(url) == {"before", "after"}


def test_a_silence_in_the_middle_of_a_transaction_is_told_as_nothing_taken(
    proxy: Proxy, url: str
) -> None:
    async def do(writer: Writer) -> None:
        entered = threading.Event()
        writing = writer.write(Add("half", fault="SELECT pg_sleep(0.5)", entered=entered))
        await asyncio.to_thread(entered.wait, 5)
        proxy.fall_silent()
        error = await failed(writing)
        assert not isinstance(error, CommitUnknown)
        proxy.speak()
        await recovered(writer)

    with_writer(proxy.url, do)
    assert committed(url) == set()


def test_a_commit_whose_answer_is_lost_is_told_as_perhaps_made_with_what_it_would_have_returned(
    proxy: Proxy, url: str
) -> None:
    async def do(writer: Writer) -> None:
        await writer.write(Add("before"))
        proxy.lose_commits()
        error = await failed(writer.write(Add("perhaps")))
        assert isinstance(error, CommitUnknown)
        assert error.result == "perhaps"
        proxy.speak()
        await recovered(writer)

    with_writer(proxy.url, do)
    assert proxy.commits_lost == 1
    assert committed(url) == {"before", "perhaps"}


def test_a_rare_transaction_whose_commit_got_no_answer_is_told_as_perhaps_made(
    proxy: Proxy, url: str
) -> None:
    engine = connect(proxy.url)
    proxy.lose_commits()
    with pytest.raises(CommitUnknown), time_limit(1), transaction(engine) as cursor:
        cursor.execute("INSERT INTO deliverers (id, expires_at) VALUES ('perhaps', 0)")
    engine.dispose()
    assert committed(url) == {"perhaps"}


def test_a_connection_that_a_firewall_forgot_is_replaced_before_the_waiter_gives_up(
    proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.writer.KEPT_SECONDS", 0.3)

    async def do(writer: Writer) -> None:
        await writer.write(Add("before"))
        proxy.forget()
        await writer.write(Add("after"))

    with_writer(proxy.url, do)
    assert committed(url) == {"before", "after"}


def test_a_transaction_that_the_server_was_left_alone_with_blocks_nobody_for_long(
    proxy: Proxy, url: str
) -> None:
    """The server doesn't learn that the connection is gone, and holds the lock by which writers
    take turns.
    """

    async def do(writer: Writer) -> None:
        entered = threading.Event()
        writing = writer.write(Add("half", fault="SELECT pg_sleep(0.5)", entered=entered))
        await asyncio.to_thread(entered.wait, 5)
        proxy.forget()
        await failed(writing)
        await recovered(writer)

    with_writer(proxy.url, do)
    assert committed(url) == set()


def test_reads_of_a_silent_server_are_answered_in_time_and_their_threads_come_free(
    proxy: Proxy,
) -> None:
    engine = connect(proxy.url)

    def look() -> int:
        with reading(engine) as connection:
            return int(connection.exec_driver_sql("SELECT 1").scalar_one())

    async def run() -> None:
        assert await in_time(look) == 1
        proxy.fall_silent()
        for _ in range(2):  # the second time every thread has been in use
            errors = await asyncio.gather(*(failed(in_time(look, SECONDS)) for _ in range(40)))
            assert len(errors) == 40
        proxy.speak()
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await in_time(look) == 1
                    return
                except StorageUnavailable:
                    continue

    asyncio.run(run())
    engine.dispose()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process of the server that is there and does nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def pid_of_the_writer(url: str) -> int:
    found = (
        "SELECT pid FROM pg_stat_activity WHERE query = 'COMMIT' AND datname = current_database()"
    )
    with psycopg.connect(url) as connection:
        row = connection.execute(found).fetchone()
    assert row is not None
    return int(row[0])


def test_a_stopped_server_process_holds_nobody_up_and_the_next_connection_works(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.writer.KEPT_SECONDS", 0.3)

    async def do(writer: Writer) -> None:
        await writer.write(Add("before"))
        with stopped(await asyncio.to_thread(pid_of_the_writer, url)):
            await writer.write(Add("meanwhile"))
        await writer.write(Add("after"))

    with_writer(url, do)
    assert committed(url) == {"before", "meanwhile", "after"}


def test_a_stopped_server_makes_no_connection_and_that_is_told_in_time(
    url: str, postgresql_server: Server
) -> None:
    async def do(writer: Writer) -> None:
        with psycopg.connect(url) as beside:
            await writer.write(Add("before"))
            with stopped(postgresql_server.pid):
                beside.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                error = await failed(writer.write(Add("lost")), SECONDS + 2)
                assert not isinstance(error, CommitUnknown)
        await recovered(writer)

    with_writer(url, do)
    assert committed(url) == {"before"}


# --- what nobody waits for -------------------------------------------------------------------------------------------


def test_what_was_canceled_before_its_transaction_is_dropped(database: str) -> None:
    runs = list[str]()

    async def do(writer: Writer) -> None:
        first = writer.write(Add("canceled", runs=runs), along=True)
        first.cancel()
        await writer.write(Add("kept", runs=runs))

    with_writer(database, do)
    assert runs == ["kept"]


def test_what_is_canceled_while_its_transaction_is_open_is_rolled_back_and_its_neighbor_is_committed(
    url: str,
) -> None:
    async def do(writer: Writer) -> None:
        entered = threading.Event()
        slow = writer.write(
            Add("canceled", fault="SELECT pg_sleep(0.3)", entered=entered), along=True
        )
        neighbor = writer.write(Add("kept"))
        await asyncio.to_thread(entered.wait, 5)
        slow.cancel()
        assert await neighbor == "kept"

    with_writer(url, do)
    assert committed(url) == {"kept"}


# --- groups ----------------------------------------------------------------------------------------------------------


def test_callers_of_a_database_that_is_gone_hear_it_together_after_one_attempt(
    proxy: Proxy,
) -> None:
    async def do(writer: Writer) -> None:
        await writer.write(Add("before"))
        made = proxy.connections
        proxy.refuse()
        await asyncio.gather(
            *(failed(writer.write(Add(f"lost-{number}"))) for number in range(200))
        )
        assert proxy.connections - made <= 4, "an attempt for each of them"

    with_writer(proxy.url, do)


def test_a_connection_that_is_lost_in_the_middle_is_not_tried_again_for_each(proxy: Proxy) -> None:
    runs = list[str]()

    async def do(writer: Writer) -> None:
        entered = threading.Event()
        first = writer.write(Add("slow", "SELECT pg_sleep(0.3)", runs, entered), along=True)
        others = [writer.write(Add(f"w{number}", runs=runs)) for number in range(5)]
        await asyncio.to_thread(entered.wait, 5)
        made = proxy.connections
        proxy.refuse()
        await asyncio.gather(*(failed(one) for one in (first, *others)))
        assert proxy.connections == made, "a connection for another attempt"

    with_writer(proxy.url, do)
    assert len(runs) == len(set(runs)), "some were tried twice"


RAISE = "DO 'BEGIN RAISE EXCEPTION USING ERRCODE = ''{}''; END'"
STATES = {
    "disk full": "53100",
    "too many connections": "53300",
    "read only": "25006",
    "shutting down": "57P01",
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_state_of_the_whole_database_is_told_to_all_at_once(url: str, state: str) -> None:
    runs = list[str]()

    async def do(writer: Writer) -> None:
        bad = writer.write(Add("w0", RAISE.format(state), runs), along=True)
        others = [writer.write(Add(f"w{number}", runs=runs)) for number in range(1, 6)]
        await asyncio.gather(*(failed(one) for one in (bad, *others)))

    with_writer(url, do)
    assert len(runs) == len(set(runs)), "some were tried twice"


def test_a_full_sqlite_file_is_told_to_all_at_once(path: Path) -> None:
    runs = list[str]()

    async def do(writer: Writer) -> None:
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9)"
        filling = f"{numbers} INSERT INTO deliverers (id, expires_at) SELECT hex(randomblob(100000)), i FROM n"
        await writer.write(Add("before", "PRAGMA max_page_count=1"))  # no page more than there are
        bad = writer.write(Add("w0", filling, runs), along=True)
        others = [writer.write(Add(f"w{number}", runs=runs)) for number in range(1, 6)]
        await asyncio.gather(*(failed(one) for one in (bad, *others)))

    with_writer(f"sqlite:///{path}", do)
    assert len(runs) == len(set(runs)), "some were tried twice"


def test_one_bad_write_does_not_take_its_neighbors_with_it(database: str) -> None:
    async def do(writer: Writer) -> None:
        bad = writer.write(Add("bad", "SELECT no_such_column FROM deliverers"), along=True)
        good = [writer.write(Add(f"good-{number}")) for number in range(3)]
        await failed(bad)
        assert await asyncio.gather(*good) == ["good-0", "good-1", "good-2"]
        assert writer.healthy

    with_writer(database, do)


# --- how a connection is made ----------------------------------------------------------------------------------------


def postgres(url: str) -> PostgresUrl:
    parsed = parse_database_url(url)
    assert isinstance(parsed, PostgresUrl)
    return parsed


def test_a_dead_peer_is_noticed_in_about_ten_seconds() -> None:
    made = connect_args(postgres("postgresql://host/db"))
    assert made["tcp_user_timeout"] == 10_000
    assert made["keepalives_idle"] + made["keepalives_interval"] * made["keepalives_count"] == 10
    assert made["connect_timeout"] == 5


def test_what_the_url_says_of_the_connection_wins(url: str) -> None:
    own = make_url(url).update_query_dict(
        {"connect_timeout": "7", "tcp_user_timeout": "3000", "options": "-c lock_timeout=1s"}
    )
    made = connect_args(postgres(own.render_as_string(hide_password=False)))
    assert (made["connect_timeout"], made["tcp_user_timeout"]) == ("7", "3000")
    engine = connect(own.render_as_string(hide_password=False))
    with reading(engine) as connection:
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "1s"
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "1min"
    engine.dispose()
