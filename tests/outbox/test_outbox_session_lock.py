"""The liveness lock on PostgreSQL: what ends a session and not its process takes nobody for dead."""

import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import psycopg
import pytest

from app.database.postgresql import Connection, session_on
from app.outbox import liveness_lock
from app.outbox.session_lock import GONE_SECONDS, SPACE, Look, Session, SessionLock
from app.urls import PostgresUrl, parse_database_url
from tests.support.clock import Clock
from tests.support.pgbouncer import needs_pgbouncer, pgbouncer
from tests.support.postgres import Server
from tests.support.wait import until

from .harness import gone_ids

HOLDERS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = %s"


class Door:
    """The way of one process to the database, which can be closed."""

    def __init__(self, url: str) -> None:
        parsed = parse_database_url(url)
        assert isinstance(parsed, PostgresUrl)
        self._connect = partial(session_on, parsed)
        self.closed = False

    def connect(self) -> Connection:
        if self.closed:
            raise psycopg.OperationalError("the door is closed")
        return self._connect()


class Stepped:
    """A lock whose thread does nothing: a test takes its steps, on a clock of its own."""

    def __init__(self, url: str, owner: str, clock: Clock) -> None:
        self.door = Door(url)
        self.lock = SessionLock(self.door.connect, owner, clock)
        assert self.lock.step()

    def close(self) -> None:
        self.lock._lose()


@pytest.fixture
def url(postgresql_server: Server) -> Iterator[str]:
    found = postgresql_server.empty()
    yield found
    postgresql_server.drop(found)


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def one(url: str, clock: Clock) -> Iterator[Stepped]:
    with closing(Stepped(url, "one", clock)) as made:
        yield made


@pytest.fixture
def two(url: str, clock: Clock) -> Iterator[Stepped]:
    with closing(Stepped(url, "two", clock)) as made:
        yield made


def cut(url: str) -> None:
    """End the sessions that hold a liveness lock, and wait until they have ended."""
    with psycopg.connect(url, autocommit=True) as connection:
        for (pid,) in connection.execute(HOLDERS, (SPACE,)).fetchall():
            connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        until(lambda: not connection.execute(HOLDERS, (SPACE,)).fetchall(), 20)


def lose(stepped: Stepped, url: str) -> None:
    """End one session, and wait until the server has released its lock."""
    connection = stepped.lock._connection
    assert connection is not None
    connection.close()
    stepped.lock.step()
    wait_until_one_holds(url)


def wait_until_one_holds(url: str) -> None:
    """Wait until the server has released the locks of all sessions but one."""
    with psycopg.connect(url, autocommit=True) as other:
        until(lambda: len(other.execute(HOLDERS, (SPACE,)).fetchall()) == 1, 20)


def looks(*stepped: Stepped, clock: Clock, seconds: float = GONE_SECONDS) -> None:
    """Let processes look at the locks for so long."""
    for _ in range(int(seconds)):
        for each in stepped:
            each.lock.step()
        clock.now += 1
    for each in stepped:
        each.lock.step()


def test_a_session_that_is_cut_is_opened_again_and_nobody_is_taken_for_dead(
    url: str, one: Stepped, two: Stepped, clock: Clock
) -> None:
    others = {"two": two.lock.identity()}
    looks(one, two, clock=clock)
    cut(url)
    for _ in range(2):  # they notice, and take the locks again
        one.lock.step()
        two.lock.step()
        clock.now += 1
    looks(one, two, clock=clock)
    assert gone_ids(one.lock, others) == []
    assert gone_ids(one.lock, {"two": two.lock.identity()}) == []
    assert (one.lock.lapses(), two.lock.lapses()) == (0, 0)


def test_who_cannot_take_the_lock_again_is_taken_for_dead_only_when_its_own_calls_are_ended(
    url: str, one: Stepped, two: Stepped, clock: Clock
) -> None:
    others = {"two": two.lock.identity()}
    assert gone_ids(one.lock, others) == []
    looks(one, two, clock=clock)
    two.door.closed = True
    cut(url)
    two.lock.step()
    assert two.lock.identity() is None, "what it renews from here on ends by time"
    one.lock.step()
    one.lock.step()
    while not gone_ids(one.lock, others):
        clock.now += 0.5
        one.lock.step()
        two.lock.step()
        assert two.lock.lapses() == 1 or gone_ids(one.lock, others) == []
    two.door.closed = False
    two.lock.step()
    looks(one, two, clock=clock)
    assert gone_ids(one.lock, others) == []
    assert two.lock.lapses() == 1, "each loss counts once"


@pytest.mark.parametrize("taken_again", [False, True])
def test_the_calls_in_flight_are_ended_by_whoever_counts_a_lapse_first_and_only_once(
    url: str, two: Stepped, clock: Clock, taken_again: bool
) -> None:
    """A call that begins at the new count must not be ended by it."""
    ended = list[str]()
    two.lock.on_lapse.append(lambda: ended.append("calls"))
    two.door.closed = True
    cut(url)
    two.lock.step()
    clock.now += GONE_SECONDS
    if taken_again:
        two.door.closed = False
        two.lock.step()
    assert (two.lock.lapses(), ended) == (1, ["calls"])
    assert (two.lock.lapses(), ended) == (1, ["calls"])


def test_one_look_that_came_late_takes_nobody_for_dead(
    url: str, one: Stepped, two: Stepped, clock: Clock
) -> None:
    others = {"two": two.lock.identity()}
    looks(one, clock=clock)
    two.lock._disconnect()  # for a moment
    clock.now += 10 * GONE_SECONDS  # one did not look meanwhile
    until(lambda: not has_key(one, two), 20)
    assert gone_ids(one.lock, others) == []


def test_a_lock_is_taken_again_whatever_was_wrong(url: str, one: Stepped) -> None:
    def broken() -> Connection:
        raise RuntimeError("unforeseen")

    connect, one.lock._connect = one.lock._connect, broken
    cut(url)
    assert [one.lock.step() for _ in range(2)] == [True, True]
    assert one.lock.identity() is None
    one.lock._connect = connect
    one.lock.step()
    assert one.lock.identity() is not None


def test_the_time_that_an_answer_takes_is_not_time_in_which_a_lock_was_free() -> None:
    session = Session("server/one/1", 0.0, 0.0)
    for asked_at, at in [(0.0, 0.0), (1.2, 1.2), (2.4, 3.1)]:
        session = session.with_look(Look(asked_at, at, frozenset()))
    assert not session.is_free("two", since=0.0)
    assert session.with_look(Look(3.2, 3.2, frozenset())).is_free("two", since=0.0)


def has_key(one: Stepped, two: Stepped) -> bool:
    """Whether the first sees the other's lock in one more look."""
    one.lock.step()
    session = one.lock._session
    assert session is not None
    return len(session.looks[-1].held) > 1


def test_a_process_that_has_just_begun_is_not_judged_by_looks_from_before(
    url: str, one: Stepped, clock: Clock
) -> None:
    looks(one, clock=clock)
    with closing(Stepped(url, "two", clock)) as two:
        others = {"two": two.lock.identity()}
        assert gone_ids(one.lock, others) == []
    wait_until_one_holds(url)
    looks(one, clock=clock)
    clock.now += 1
    one.lock.step()
    assert gone_ids(one.lock, others) == ["two"]


def test_a_lock_that_is_held_too_shortly_to_be_seen_does_not_put_the_lapse_off(
    url: str, one: Stepped, two: Stepped, clock: Clock
) -> None:
    others = {"two": two.lock.identity()}
    assert gone_ids(one.lock, others) == []
    looks(one, two, clock=clock)
    for _ in range(int(GONE_SECONDS) + 1):
        lose(two, url)
        one.lock.step()
        assert two.lock.lapses() > 0 or gone_ids(one.lock, others) == []
        clock.now += 1
        two.lock.step()
        assert two.lock.identity() is not None
    assert gone_ids(one.lock, others) == ["two"]
    assert two.lock.lapses() == 2, "before it took the lock for the last time, and after"


def test_on_a_restarted_server_leases_end_by_time(one: Stepped, clock: Clock) -> None:
    identity = one.lock.identity()
    assert identity is not None
    server, owner, _ = identity.split("/")
    assert owner == "one"
    others = {"two": f"{int(server) - 1}/two/1", "three": f"{server}/three/1"}
    assert gone_ids(one.lock, others) == []
    looks(one, clock=clock)
    assert gone_ids(one.lock, others) == ["three"]


def test_without_a_database_there_is_no_lock_until_there_is_one(url: str) -> None:
    door = Door(url)
    door.closed = True
    with closing(SessionLock(door.connect, "one")) as lock:
        lock.start()
        assert lock.identity() is None
        assert gone_ids(lock, {"two": "1/two"}) == []
        door.closed = False
        until(lock.identity, 20)
        assert lock.lapses() == 0


def test_a_former_session_that_the_server_still_keeps_is_waited_for(
    url: str, one: Stepped, clock: Clock
) -> None:
    again = SessionLock(one.door.connect, "one", clock)
    assert again.step()
    assert again.identity() is None
    one.close()
    until(lambda: again.step() and again.identity() is not None, 20)
    again._lose()


def test_closing_ends_the_thread_and_the_session(url: str) -> None:
    with liveness_lock.held(url, "one") as lock:
        assert lock.identity() is not None
    assert "liveness" not in {thread.name for thread in threading.enumerate()}
    with psycopg.connect(url) as connection:
        until(lambda: not connection.execute(HOLDERS, (SPACE,)).fetchall(), 20)


@needs_pgbouncer
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_behind_a_pooler_there_is_no_lock_and_none_stays_in_its_sessions(
    url: str, mode: str
) -> None:
    with pgbouncer(url, mode) as through, liveness_lock.held(through, "one") as lock:
        assert lock.identity() is None
        assert gone_ids(lock, {"two": "1/two"}) == []
        with psycopg.connect(url) as connection:
            assert connection.execute(HOLDERS, (SPACE,)).fetchall() == []
