"""The thread that commits writes in groups.

Writes that are requested during a commit go together into the next transaction, so many callers
share one fsync. Each is answered only after the commit: this makes 202 both true and fast.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, runtime_checkable

import structlog
from sqlalchemy import Engine

from app.database.driver import (
    Cursor,
    is_of_database,
    may_have_committed,
    seconds_left,
    set_deadline,
    time_limit,
)
from app.database.engine import dialect, leave_standby, reason, sqlite_files, storage_errors
from app.database.sqlite_files import FilesChanged
from app.errors import CommitUnknown, StorageUnavailable

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
GROUP_LIMIT = 4_000  # rows that go into one transaction: bounds how long a commit may take
# How long to wait for further writes before a commit, if the last commit had several: the same
# idea as PostgreSQL's commit_delay and commit_siblings
GATHER_SECONDS = 0.0004
# A transaction that is open for longer than this counts as slow: new writes expect to wait
PROMPT_SECONDS = 1.0
ALONG_SECONDS = 0.02  # how long a write waits to share the transaction of the one that follows it
COMMIT_SECONDS = 10.0  # how long a caller waits for the result of its write
# How long a check of SQLite's files stays valid for the begin of a write. A result is reported only
# after another check.
FOUND_SECONDS = 0.1
LOOK_SECONDS = 0.2  # between checks for writes whose time limit has passed
EARLY_SECONDS = 0.02  # by which the event loop's clock may be early
HANGS_SECONDS = 4.0  # a transaction that is open for longer than this counts as hanging
# Time limit of BEGIN on a connection from the pool. It exceeds the wait for the lock, at most 5 s.
KEPT_SECONDS = 6.0
# Time limit of ROLLBACK. After it the connection is closed, which rolls back as well.
ROLLBACK_SECONDS = 1.0
MOST_ROOM = 32 * 1024 * 1024  # bytes
ROWS_PER_INSERT = 128

# How a transaction ended. `refused`: for something that was written; `failed`: for the database's
# state.
End = Literal["committed", "refused", "failed", "given up"]

log = structlog.get_logger("writer")


class DatabaseWrite(Protocol[T_co]):
    """Something to be written."""

    @property
    def rows(self) -> int:
        """The number of rows written; counts against `GROUP_LIMIT`."""
        ...

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence[Any]) -> Sequence[T_co]:
        """Run all writes of one kind in the open transaction, and return the result of each."""
        ...


@runtime_checkable
class Sized(Protocol):
    """A write that knows how many bytes it needs."""

    @property
    def size(self) -> int:
        """The bytes that the write needs on disk."""
        ...


@dataclass(frozen=True, slots=True)
class Probe:
    """A commit without content: proof that commits work and that there is room for `size` bytes."""

    size: int = 0
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Probe"]) -> Sequence[None]:
        """Make the database write a page, and as many more as `size` asks for."""
        cursor.execute("UPDATE sequence SET last = last")
        size = max(write.size for write in writes)
        if size > 0:
            _take_room(cursor, size)
        return [None] * len(writes)


def _take_room(cursor: Cursor, size: int) -> None:
    """Write so many bytes and delete them again.

    They are part of the commit: what is rolled back may never reach the disk.
    """
    for statement in cursor.dialect.take_room:
        cursor.execute(statement, (size,) if "?" in statement else ())
    if cursor.dialect.give_room_back is not None:
        cursor.execute(cursor.dialect.give_room_back)


class _Asked(Generic[T]):
    __slots__ = ("error", "future", "result", "sent", "until", "write")

    def __init__(self, write: DatabaseWrite[T], future: "asyncio.Future[T]", until: float) -> None:
        self.write, self.future, self.until = write, future, until
        self.result: T | None = None
        self.error: BaseException | None = None
        self.sent = False  # the commit was asked for, and no answer has said that it failed


class _GivenUp(Exception):
    """Somebody in the group no longer waits, so it must not be committed as it is."""


class Writer:
    """Commits writes in groups, on a thread and a connection of its own.

    Every caller is answered by a deadline. Until the COMMIT is sent, a write that is given up (its
    time is over, or its caller was canceled) is left out, and its caller learns that nothing was
    written. Afterwards the outcome is unknown, and the caller learns that.
    """

    def __init__(
        self,
        engine: Engine,
        seconds: float = COMMIT_SECONDS,
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        """Wait at most `seconds` for each write.

        `turn` is entered for each transaction, by one of several processes at a time. SQLite's own
        lock is polled with growing pauses, so that one process can keep others from it for long.
        """
        self._turn = turn or contextlib.nullcontext()
        self._engine, self._seconds = engine, seconds
        self._dialect, self._storage_errors = dialect(engine), storage_errors(engine)
        self._files = sqlite_files(engine)
        self._asked: deque[_Asked[Any]] = deque()
        self._lock = threading.Lock()  # between giving writes up and sending their COMMIT
        self._group: Sequence[_Asked[Any]] = ()  # that the thread is at work on
        self._look: asyncio.TimerHandle | None = None  # for writes whose time is over
        self._wake = threading.Semaphore(0)
        self._awake = False
        self._stopping = False
        self._siblings = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._connection: Any = None
        self._cursor: Cursor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._committed = True  # the last group, or some of it
        # Bytes of the largest write that failed, until a look shows that there is room for it
        self._failed_size = 0
        # When the transaction was begun that is open, by the monotonic clock
        self._began: float | None = None
        # Called on the thread with the seconds that a commit of a group took
        self.on_commit: Callable[[float], None] = lambda seconds: None

    @property
    def healthy(self) -> bool:
        """True if the last group was committed and the current one does not hang."""
        return self._committed and not self._open_for(HANGS_SECONDS)

    @property
    def prompt(self) -> bool:
        """True if a write can be expected to finish soon."""
        return self._committed and not self._open_for(PROMPT_SECONDS)

    def _open_for(self, seconds: float) -> bool:
        began = self._began
        return began is not None and time.monotonic() - began >= seconds

    def start(self) -> None:
        """Start the thread; `write` may be called from this event loop from now on."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, seconds: float | None = None) -> None:
        """Commit the pending writes, end the thread and close its connection, within `seconds`."""
        self._stopping = True
        self._wake.release()
        await asyncio.to_thread(self._thread.join, seconds)
        if self._look is not None:
            self._look.cancel()

    def write(
        self, write: DatabaseWrite[T], *, along: bool = False, seconds: float | None = None
    ) -> "asyncio.Future[T]":
        """Commit a write. The future has its result once it is on disk.

        The future may raise StorageUnavailable (nothing was written) or CommitUnknown. `along`:
        another write is about to follow, to be committed together with this one. `seconds`: wait no
        longer than this, if that is less than usual.
        """
        assert self._loop is not None, "the writer is not started"
        future: asyncio.Future[T] = self._loop.create_future()
        if self._stopping:
            future.set_exception(StorageUnavailable("The gateway is shutting down."))
            return future
        patience = self._seconds if seconds is None else min(seconds, self._seconds)
        self._asked.append(_Asked(write, future, time.monotonic() + patience))
        if self._look is None:
            self._look = self._loop.call_later(LOOK_SECONDS, self._give_up)
        if along:
            self._loop.call_later(ALONG_SECONDS, self._wake_up)
        else:
            self._wake_up()
        return future

    async def probe(self, seconds: float) -> None:
        """Show that a commit works, and that there is room for an item.

        The room is that of a small item, and of the largest write that has failed since. Raises
        StorageUnavailable.
        """
        await self.write(Probe(max(self._dialect.room, self._failed_size)), seconds=seconds)

    def hurry(self, seconds: float) -> None:
        """Let no caller wait longer than `seconds` from now on."""
        self._seconds = min(self._seconds, seconds)
        latest = time.monotonic() + self._seconds
        with self._lock:
            for asked in (*self._asked, *self._group):
                asked.until = min(asked.until, latest)
        if self._look is not None:
            self._look.cancel()
            assert self._loop is not None
            # The loop's clock may be a moment early: a look before the limit would be the last one
            # before a stop cancels the callers.
            pause = min(LOOK_SECONDS, self._seconds) + EARLY_SECONDS
            self._look = self._loop.call_later(pause, self._give_up)

    def _wake_up(self) -> None:
        if not self._awake:
            self._awake = True
            self._wake.release()

    # --- on the thread ---

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            if self._siblings:
                time.sleep(GATHER_SECONDS)
            # Before looking, so that what is asked for from here on wakes us again
            self._awake = False
            while group := self._next_group():
                self._commit(group)
            if self._stopping and not self._asked:
                self._close()
                return

    def _next_group(self) -> Sequence[_Asked[Any]]:
        """Take the next group, without writes whose caller no longer waits."""
        group, rows = [], 0
        with self._lock:
            while self._asked and rows < GROUP_LIMIT:
                asked = self._asked.popleft()
                if not asked.future.done():
                    rows += asked.write.rows
                    group.append(asked)
            self._group = group
        return group

    def _commit(self, group: Sequence[_Asked[Any]]) -> None:
        self._siblings = len(group) > 1
        began = self._began = time.monotonic()
        ends = [self._transact(group)]
        if ends == ["refused"] and len(group) > 1:
            ends = self._one_by_one(group)
        self._began = None
        if ends == ["committed"]:
            self.on_commit(time.monotonic() - began)
        if ends != ["given up"]:
            self._committed = "committed" in ends
            self._remember_size(group)
        with self._lock:
            self._group = ()
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._tell, group)

    def _remember_size(self, group: Sequence[_Asked[Any]]) -> None:
        """Remember the size of the largest write that failed.

        A disk that is full for it may have room for a smaller one, which proves nothing about the
        larger.
        """
        failed = [asked for asked in group if isinstance(asked.error, self._storage_errors)]
        sizes = [size for asked in failed if (size := _size(asked.write)) > 0]
        if sizes:
            self._failed_size = min(MOST_ROOM, max(self._failed_size, *sizes))
            return
        probes = [
            asked.write for asked in group if asked.error is None and isinstance(asked.write, Probe)
        ]
        if any(probe.size >= self._failed_size for probe in probes):
            self._failed_size = 0

    def _one_by_one(self, group: Sequence[_Asked[Any]]) -> list[End]:
        """Commit each write by itself, so that one that cannot be written fails alone.

        If the database itself fails, the remaining writes fail without a try.
        """
        ends = list[End]()
        for index, asked in enumerate(group):
            ends.append(self._transact([asked]))
            if ends[-1] == "failed":
                for other in group[index + 1 :]:
                    other.error = asked.error
                break
        return ends

    def _transact(self, group: Sequence[_Asked[Any]]) -> End:
        """Commit the group, without callers who give up meanwhile; note the error of each write."""
        while group := [asked for asked in group if not asked.future.done()]:
            set_deadline(max([asked.until for asked in group]))
            writing = False
            try:
                self._check_files(FOUND_SECONDS)
                with self._turn:
                    cursor = self._begin()
                    writing = True
                    self._write(cursor, group)
                    writing = False
                    self._send_commit(group)
                self._check_files()
            except _GivenUp:
                self._close()
            except FilesChanged as error:  # what is open is kept: the files may come back
                self._note(group, error)
                return "failed"
            except Exception as error:  # the thread must live on: the waiter is told, and the log
                self._note(group, error)
                self._close()
                leave_standby(self._engine, error)
                return "refused" if writing and not is_of_database(error) else "failed"
            else:
                for asked in group:
                    asked.error = None
                return "committed"
        return "given up"

    def _check_files(self, seconds: float = 0.0) -> None:
        if self._files is not None:
            self._files.check(seconds)

    def _note(self, group: Sequence[_Asked[Any]], error: Exception) -> None:
        log.error(
            "write.failed", reason=reason(error), kind=type(error).__name__, writes=len(group)
        )
        for asked in group:
            asked.error = error

    def _write(self, cursor: Cursor, group: Sequence[_Asked[Any]]) -> None:
        for kind, alike in _by_kind(group).items():
            results = kind.run_all(cursor, [asked.write for asked in alike])
            for asked, result in zip(alike, results, strict=True):
                asked.result = result

    def _send_commit(self, group: Sequence[_Asked[Any]]) -> None:
        """Commit. Raises _GivenUp, and sends nothing, if a caller has given up."""
        with self._lock:
            for asked in group:
                if asked.future.done():
                    raise _GivenUp
            for asked in group:
                asked.sent = True
        try:
            self._connection.commit()
        except Exception as error:
            if not may_have_committed(self._connection.dbapi_connection, error):
                for asked in group:
                    asked.sent = False
            raise

    def _begin(self) -> Cursor:
        """Open a transaction, on a new connection if the old one is lost.

        That is safe: no statement of the transaction was sent yet.
        """
        if self._cursor is None:
            return self._execute_begin()
        try:
            with time_limit(KEPT_SECONDS):
                return self._execute_begin()
        except self._storage_errors as error:
            lost = self._engine.dialect.is_disconnect(
                cast(Any, error), self._connection.dbapi_connection, None
            )
            if not lost or seconds_left() == 0:
                raise
        self._close()
        return self._execute_begin()

    def _execute_begin(self) -> Cursor:
        if self._cursor is None:
            self._connection = self._engine.raw_connection()
            self._cursor = Cursor(self._connection.cursor(), self._dialect)
            if self._dialect.set_up_writer is not None:
                self._cursor.execute(self._dialect.set_up_writer)
        self._cursor.execute(self._dialect.begin)
        return self._cursor

    def _close(self) -> None:
        """Close the connection, after rolling back what is open on it.

        An error that is still referenced keeps its cursor alive, and with that the database's write
        lock.
        """
        if self._connection is not None:
            with contextlib.suppress(*self._storage_errors), time_limit(ROLLBACK_SECONDS):
                self._connection.rollback()
            self._connection.invalidate()
        self._connection = self._cursor = None

    # --- on the event loop ---

    def _give_up(self) -> None:
        """Answer callers whose time is over. Writes not sent yet will not be committed."""
        assert self._loop is not None
        now = time.monotonic()
        with self._lock:
            waiting = [*self._asked, *self._group]
            for asked in waiting:
                if asked.until <= now and not asked.future.done():
                    asked.future.set_exception(_unanswered(asked))
        self._look = self._loop.call_later(LOOK_SECONDS, self._give_up) if waiting else None

    def _tell(self, group: Sequence[_Asked[Any]]) -> None:
        for asked in group:
            if asked.future.done():  # given up
                continue
            if isinstance(asked.error, self._storage_errors):
                asked.future.set_exception(_unanswered(asked))
            elif asked.error is not None:
                asked.future.set_exception(asked.error)
            else:
                asked.future.set_result(asked.result)


def _unanswered(asked: _Asked[Any]) -> StorageUnavailable:
    """Return the error for the caller, which says whether the write may have been committed."""
    made = StorageUnavailable("The database cannot commit now; nothing was accepted.")
    if asked.sent:
        made = CommitUnknown(result=asked.result)
    made.__cause__ = asked.error
    return made


def _size(write: object) -> int:
    return write.size if isinstance(write, Sized) else 0


def _by_kind(group: Sequence[_Asked[Any]]) -> dict[type[DatabaseWrite[Any]], list[_Asked[Any]]]:
    kinds: dict[type[DatabaseWrite[Any]], list[_Asked[Any]]] = {}
    for asked in group:
        kinds.setdefault(type(asked.write), []).append(asked)
    return kinds


def insert_rows(cursor: Cursor, head: str, rows: Sequence[tuple[Any, ...]], tail: str = "") -> None:
    """Insert rows. `head` is `INSERT INTO t (…)`, `tail` what follows the values."""
    if rows:
        insert_values(cursor, head, len(rows[0]), list(chain.from_iterable(rows)), tail)


def insert_values(cursor: Cursor, head: str, width: int, values: list[Any], tail: str = "") -> None:
    """Insert rows of `width` columns, whose values are in one flat list.

    A statement inserts up to 128 rows: `executemany` would give up the interpreter's lock and wait
    for it again once a row. Only powers of two are used, so that few statements are prepared.
    """
    start, rows_left = 0, len(values) // width
    while rows_left:
        size = min(ROWS_PER_INSERT, 1 << (rows_left.bit_length() - 1))
        end = start + size * width
        cursor.execute(_statement(head, width, size, tail), values[start:end])
        start, rows_left = end, rows_left - size


@cache
def _statement(head: str, width: int, size: int, tail: str) -> str:
    row = "(" + ", ".join("?" * width) + ")"
    return f"{head} VALUES {', '.join([row] * size)}{tail}"
