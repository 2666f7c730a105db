"""Liveness locks: processes on one database notice soon when another one ends.

On SQLite, each process locks a byte of its own in one file beside the database. The kernel releases
the lock with the process, however that ends. On PostgreSQL, each process holds a lock of a session
(`session_lock.py`).
"""

import asyncio
import fcntl
import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import structlog

from app.database.sqlite_files import share_with_group
from app.errors import StartRefused
from app.urls import SqliteUrl, parse_database_url

LAPSE_SECONDS = 0.25  # between looks whether the lock has lapsed
LOCK = "hhqqi"  # struct flock (fcntl(2)): type, whence, start, length, pid
# Of the open file, not of the process: closing another handle on the same file doesn't give these
# up (fcntl(2)).
SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)

log = structlog.get_logger("outbox")


class KnownProcess(NamedTuple):
    """A process as a row names it: its id, and the identity of the liveness lock that it had.

    On PostgreSQL, a process that has lost its lock takes another one. So what is known of a process
    holds for the rows that name the lock that was looked at.
    """

    id: str
    lock: str | None


class LivenessLock(Protocol):
    """The lock of one process, `owner`, by which others know whether it lives.

    Leases and user locks in the database name it by its identity. One that names the identity of
    whoever looks does not end by time.
    """

    owner: str
    on_lapse: list[Callable[[], None]]

    def lapses(self) -> int:
        """Return how often this process may have been taken for dead, and lives.

        Others send the items of its calls in flight again. So the functions in `on_lapse`, which
        end these calls, are called before a new count is returned: a call that begins at one count
        is ended only by the next. To be called on the event loop.
        """
        ...

    def identity(self) -> str | None:
        """Return the identity of the lock; None if there is none now, and leases end by time."""
        ...

    def gone(self, others: Iterable[KnownProcess]) -> list[KnownProcess]:
        """Return which other processes have ended."""
        ...

    def close(self) -> None:
        """Release the lock."""
        ...


class FileLock:
    """A lock in a file. Without a path there is none, and leases end by time."""

    def __init__(self, path: Path | None, owner: str) -> None:
        self._path, self.owner, self.on_lapse = path, owner, list[Callable[[], None]]()
        self._file: BinaryIO | None = None
        # Kept open, so that no later file gets the inode of one that rows name
        self._former: list[BinaryIO] = []

    def lapses(self) -> int:
        """Return 0: the kernel keeps the lock as long as the process lives."""
        return 0

    def identity(self) -> str | None:
        """Return the locked file as `device:inode`; None if there are no such locks.

        If somebody deleted or replaced the file, the new one is locked: only processes that lock
        the same file see each other.
        """
        while self._path is not None:
            if self._file is not None and (there := _identity(self._path)) == _identity(
                self._file.fileno()
            ):
                return there
            self._take(self._path)
        return None

    def gone(self, others: Iterable[KnownProcess]) -> list[KnownProcess]:
        """Return which other processes have ended.

        This process is never among them: testing its own lock would succeed, and then release it.
        """
        mine = self.identity()
        if mine is None or self._file is None:
            return []
        file = self._file.fileno()
        seen = [other for other in others if other.lock == mine and other.id != self.owner]
        return [other for other in seen if _is_free(file, other.id)]

    def close(self) -> None:
        """Release the lock."""
        for file in (*self._former, self._file):
            if file is not None:
                file.close()

    def _take(self, path: Path) -> None:
        if self._file is not None:
            self._former.append(self._file)
        there = _identity(path)
        for file in self._former:
            # It was moved away and back; this process has its lock still
            if _identity(file.fileno()) == there:
                self._former.remove(file)
                self._file = file
                return
        try:
            share_with_group(path)
            self._file = path.open("ab")
            _lock(self._file.fileno(), self.owner, fcntl.F_WRLCK)
        except OSError as error:
            # not every file system has such locks; then none of its processes has one
            log.warning("liveness_lock.unavailable", path=str(path), reason=error.strerror)
            self._path = None


@contextmanager
def held(database_url: str, owner: str) -> Iterator[LivenessLock]:
    """Hold the liveness lock of process `owner`.

    Raises StartRefused if the file of the locks cannot be written.
    """
    with closing(_taken(database_url, owner)) as lock:
        yield lock


async def act_at_lapses(lock: LivenessLock, act: Callable[[], None]) -> None:
    """Act whenever this process may have been taken for dead; until cancelled."""
    lock.on_lapse.append(act)
    try:
        while True:
            lock.lapses()
            await asyncio.sleep(LAPSE_SECONDS)
    finally:
        lock.on_lapse.remove(act)


def check(database_url: str) -> None:
    """Make the file of the locks, if the database needs one. Raises StartRefused."""
    url = parse_database_url(database_url)
    if isinstance(url, SqliteUrl):
        _lock_file(url)


def _taken(database_url: str, owner: str) -> LivenessLock:
    url = parse_database_url(database_url)
    if isinstance(url, SqliteUrl):
        lock = FileLock(_lock_file(url), owner)
        lock.identity()
        return lock
    # The driver is loaded where it is used
    from app.database.postgresql import session_on
    from app.outbox.session_lock import SessionLock

    session_lock = SessionLock(partial(session_on, url), owner)
    session_lock.start()
    return session_lock


def _lock_file(url: SqliteUrl) -> Path | None:
    if SET_LOCK is None:
        return None
    path = Path(f"{url.path}-deliverers")
    try:
        share_with_group(path)
        path.touch()
    except OSError as error:
        raise StartRefused(
            f"GATEWAY_DATABASE_URL: {path} can't be written: {error.strerror}"
        ) from None
    return path


def _identity(file: Path | int) -> str | None:
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return f"{status.st_dev}:{status.st_ino}"


def _is_free(file: int, owner: str) -> bool:
    try:
        _lock(file, owner, fcntl.F_WRLCK)
    except OSError:
        return False
    _lock(file, owner, fcntl.F_UNLCK)
    return True


def _lock(file: int, owner: str, kind: int) -> None:
    assert SET_LOCK is not None
    place = int.from_bytes(hashlib.blake2b(owner.encode(), digest_size=7).digest(), "big")
    fcntl.fcntl(file, SET_LOCK, struct.pack(LOCK, kind, 0, place, 1, 0))
