"""The one thread that writes: group commit.

Whatever asks to be written while a transaction is being committed goes together into the next one, so that many
callers share one fsync. Each is told only after the commit: this is what makes 202 both true and fast.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Protocol, TypeVar, cast

import structlog
from sqlalchemy import Engine

from app.database.dialect import Cursor
from app.database.engine import dialect, reason, storage_errors
from app.errors import StorageUnavailable

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
GROUP_LIMIT = 4_000  # rows that go into one transaction: bounds how long a commit may take
GATHER_SECONDS = 0.0004  # where the last commit had company, wait for more: PostgreSQL's commit_delay, commit_siblings
PROMPT_SECONDS = 1.0  # that a transaction may be open before what is asked for next is taken to have long to wait
ALONG_SECONDS = 0.02  # that a write waits for the one that is to follow
CHUNKS = (128, 64, 32, 16, 8, 4, 2, 1)

log = structlog.get_logger("writer")


class Write(Protocol[T_co]):
    """Something to be written."""

    @property
    def rows(self) -> int:
        """Its weight in a group."""
        ...

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence[Any]) -> Sequence[T_co]:
        """Write all of one kind inside the transaction that the writer has open; one result for each."""
        ...


@dataclass(frozen=True, slots=True)
class Probe:
    """A commit that changes nothing of meaning: proof that one can be made."""

    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["Probe"]) -> Sequence[None]:
        """Make the database write a page."""
        cursor.execute("UPDATE sequence SET last = last")
        return [None] * len(writes)


class _Asked(Generic[T]):
    __slots__ = ("error", "future", "result", "write")

    def __init__(self, write: Write[T], future: "asyncio.Future[T]") -> None:
        self.write, self.future = write, future
        self.result: T | None = None
        self.error: BaseException | None = None


class Writer:
    """Commits writes in groups, on a thread and a connection of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dialect, self._storage_errors = dialect(engine), storage_errors(engine)
        self._asked: deque[_Asked[Any]] = deque()
        self._wake = threading.Semaphore(0)
        self._awake = False
        self._stopping = False
        self._siblings = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._connection: Any = None
        self._cursor: Cursor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.healthy = True
        self._began: float | None = None  # when the transaction was begun that is open, by the monotonic clock

    @property
    def prompt(self) -> bool:
        """Whether a write can be expected to be done soon: the last one was, and none hangs."""
        began = self._began
        return self.healthy and (began is None or time.monotonic() - began < PROMPT_SECONDS)

    def start(self) -> None:
        """Start the thread; `write` may be called from this event loop from now on."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Write what was asked for until now, then end the thread and close its connection."""
        self._stopping = True
        self._wake.release()
        await asyncio.to_thread(self._thread.join)

    def write(self, write: Write[T], *, along: bool = False) -> "asyncio.Future[T]":
        """Commit `write`; the future has its result once it is on disk, or StorageUnavailable. `along`: another is
        about to follow, which it may go together with."""
        assert self._loop is not None, "the writer is not started"
        future: asyncio.Future[T] = self._loop.create_future()
        if self._stopping:
            future.set_exception(StorageUnavailable("The gateway is stopping."))
            return future
        self._asked.append(_Asked(write, future))
        if along:
            self._loop.call_later(ALONG_SECONDS, self._hurry)
        else:
            self._hurry()
        return future

    def _hurry(self) -> None:
        if not self._awake:
            self._awake = True
            self._wake.release()

    # --- on the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            if self._siblings:
                time.sleep(GATHER_SECONDS)
            self._awake = False  # before looking, so that what is asked for from here on wakes us again
            while self._asked:
                self._commit(self._group())
            if self._stopping and not self._asked:
                self._close()
                return

    def _group(self) -> list[_Asked[Any]]:
        group, rows = [], 0
        while self._asked and rows < GROUP_LIMIT:
            asked = self._asked.popleft()
            rows += asked.write.rows
            group.append(asked)
        return group

    def _commit(self, group: list[_Asked[Any]]) -> None:
        self._siblings = len(group) > 1
        self._began = time.monotonic()
        error, of_a_write = self._transact(group)
        for asked in group:
            asked.error = error
        if of_a_write and len(group) > 1:
            for asked in group:  # one that can't be written must not take its neighbours with it
                asked.error, _ = self._transact([asked])
        self._began = None
        self.healthy = any(asked.error is None for asked in group)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._tell, group)

    def _transact(self, group: Sequence[_Asked[Any]]) -> tuple[BaseException | None, bool]:
        """Commit the group; the error, if any, and whether it came of what was written, not of the database's state."""
        writing = False
        try:
            cursor = self._begin()
            writing = True
            for kind, alike in _by_kind(group).items():
                results = kind.run_all(cursor, [asked.write for asked in alike])
                for asked, result in zip(alike, results, strict=True):
                    asked.result = result
            writing = False
            self._connection.commit()
        except Exception as error:  # the thread must live on: the waiter is told, and the log
            log.error("write.failed", reason=reason(error), kind=type(error).__name__, writes=len(group))
            self._close()
            return error, writing
        return None, False

    def _begin(self) -> Cursor:
        """A transaction; on a new connection, where the server has closed the old one since the last: nothing was asked
        of it yet."""
        kept = self._cursor is not None
        cursor = self._open()
        try:
            cursor.execute(self._dialect.begin)
        except self._storage_errors as error:
            if not (
                kept and self._engine.dialect.is_disconnect(cast(Any, error), self._connection.dbapi_connection, None)
            ):
                raise
            self._close()
            cursor = self._open()
            cursor.execute(self._dialect.begin)
        return cursor

    def _open(self) -> Cursor:
        if self._cursor is None:
            self._connection = self._engine.raw_connection()
            self._cursor = Cursor(self._connection.cursor(), self._dialect)
        return self._cursor

    def _close(self) -> None:
        """Give the connection up, and first what is open on it: an error that somebody holds keeps its cursor alive,
        and with that the database's write lock."""
        if self._connection is not None:
            with contextlib.suppress(*self._storage_errors):
                self._connection.rollback()
            self._connection.invalidate()
        self._connection = self._cursor = None

    # --- on the event loop ---------------------------------------------------------------------------------------

    def _tell(self, group: Sequence[_Asked[Any]]) -> None:
        for asked in group:
            if asked.future.cancelled():
                continue
            if isinstance(asked.error, self._storage_errors):
                asked.future.set_exception(StorageUnavailable("The database can't commit now; nothing was taken."))
            elif asked.error is not None:
                asked.future.set_exception(asked.error)
            else:
                asked.future.set_result(asked.result)


def _by_kind(group: Sequence[_Asked[Any]]) -> dict[type[Write[Any]], list[_Asked[Any]]]:
    kinds: dict[type[Write[Any]], list[_Asked[Any]]] = {}
    for asked in group:
        kinds.setdefault(type(asked.write), []).append(asked)
    return kinds


def insert_rows(cursor: Cursor, head: str, width: int, values: list[Any], tail: str = "") -> None:
    """Insert rows given as one flat list, many to a statement: one step of the driver for up to 128 rows.

    `head` is `INSERT INTO t (…)`, `width` the columns, `tail` what follows the values. (executemany would take the
    interpreter's lock once a row.)
    """
    at = 0
    left = len(values) // width
    for size in CHUNKS:
        while left >= size:
            end = at + size * width
            cursor.execute(_statement(head, width, size, tail), values[at:end])
            at, left = end, left - size


@cache
def _statement(head: str, width: int, size: int, tail: str) -> str:
    row = "(" + ", ".join("?" * width) + ")"
    return f"{head} VALUES {', '.join([row] * size)}{tail}"
