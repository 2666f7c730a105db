"""The liveness lock: processes on one SQLite file notice at once when another one ends.

Each process locks a byte of its own in one file beside the database. The kernel releases the lock
with the process, however that ends. Processes on a database server may be on several machines:
there only the time of a lease decides.
"""

import fcntl
import hashlib
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import structlog

from app.database.sqlite_files import share_with_group
from app.errors import StartRefused
from app.urls import SqliteUrl, parse_database_url

LOCK = "hhqqi"  # struct flock (fcntl(2)): type, whence, start, length, pid
# Of the open file, not of the process: closing another handle on the same file doesn't give these
# up (fcntl(2)).
SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)

log = structlog.get_logger("outbox")


class LivenessLock:
    """The lock of one process, `owner`. Without a path there is none, and leases end by time."""

    def __init__(self, path: Path | None, owner: str) -> None:
        self._path, self.owner = path, owner
        self._file: BinaryIO | None = None
        # Kept open, so that no later file gets the inode of one that rows name
        self._former: list[BinaryIO] = []

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

    def gone(self, others: Mapping[str, str | None]) -> list[str]:
        """Return which other processes have ended, of those given with their locks' identities.

        This process is never among them: testing its own lock would succeed, and then release it.
        """
        mine = self.identity()
        if mine is None or self._file is None:
            return []
        file = self._file.fileno()
        seen = [
            other for other, identity in others.items() if identity == mine and other != self.owner
        ]
        return [other for other in seen if _is_free(file, other)]

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

    Raises StartRefused if the file cannot be written.
    """
    lock = LivenessLock(_path(database_url), owner)
    try:
        lock.identity()
        yield lock
    finally:
        lock.close()


def _path(database_url: str) -> Path | None:
    url = parse_database_url(database_url)
    if not isinstance(url, SqliteUrl) or SET_LOCK is None:
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
