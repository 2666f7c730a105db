"""Detection of SQLite files that were deleted, replaced or truncated while they are in use.

SQLite goes on writing to a file that has lost its name, and what is written there is gone with the
process. So each commit checks the files: before it, so that nothing is begun, and after it, before
any caller is answered.

SQLite finds the log by the file's real name: a file that is only reached by another name, such as a
link to where it was moved, has lost its log for whoever opens it next.
"""

import contextlib
import math
import os
import sqlite3
import stat
import threading
import time
from pathlib import Path

import structlog

MOVED = (
    "the database's file is not at its place: it was moved, deleted or replaced while the gateway "
    "ran. Put it back, or restart the gateway on the file that is there"
)
LOG_MOVED = (
    "the database's log (its -wal or -shm file) was moved, deleted or replaced while the gateway "
    "ran. Put it back, or restart every process that uses the database"
)
CUT_OFF = (
    "the database's file was cut off or overwritten while the gateway ran. "
    "Restore it from a backup, and restart the gateway"
)
GROUP_MODE = 0o660
LARGE_BYTES = 64_000_000  # a file that has become smaller and is still larger is not looked through

log = structlog.get_logger("database")


class FilesChanged(OSError):
    """The files at the database's place are not those that are open; the text says what to do."""


Identity = tuple[int, int]  # device and inode


class SqliteFiles:
    """The files of one database, as they were when it was opened."""

    def __init__(self, path: Path) -> None:
        self._path = os.path.abspath(path)
        self._by_links = False  # whether the path led over links when it was opened
        self._lock = threading.Lock()
        self._known: Identity | None = None  # of the database's own file
        # Of its log and of the log's index, by the ending of their names
        self._logs: dict[str, Identity | None] = {}
        self._size = 0
        self._checked = -math.inf
        # Never used to write: while it is open nobody removes the log in order.
        self._anchor: sqlite3.Connection | None = None
        self._saved = False

    def open(self) -> None:
        """Remember the files, unless that is done. Raises FilesChanged."""
        with self._lock:
            if self._anchor is not None:
                return
            self._check_file()
            self._anchor = sqlite3.connect(self._path, check_same_thread=False)
            self._anchor.execute("PRAGMA journal_mode=WAL")
            self._anchor.execute("SELECT count(*) FROM sqlite_master").fetchall()
            real, status = self._look()
            self._logs = {ending: _identity(real + ending) for ending in ("-wal", "-shm")}
            self._by_links = os.path.realpath(self._path) != self._path
            self._known, self._size = _of(status), status.st_size

    def close(self) -> None:
        """Let the log be removed in order. What file it is stays known."""
        with self._lock:
            if self._anchor is not None:
                self._anchor.close()
            self._anchor, self._logs = None, {}

    def check(self, seconds: float = 0.0) -> None:
        """Raise FilesChanged if the files at their place are not the open ones.

        Files that were in order are not checked again for `seconds`: each check gives up the
        interpreter's lock.
        """
        now = time.monotonic()
        if now - self._checked < seconds:
            return
        self._checked = -math.inf
        real, size = self._check_file()
        for ending, known in self._logs.items():
            if _identity(real + ending) != known:
                self._save(Path(real + ending))
                raise FilesChanged(LOG_MOVED)
        if size < self._size:
            self._look_through(size)
        self._size, self._saved, self._checked = size, False, now

    def _check_file(self) -> tuple[str, int]:
        """Return the real path and the size of the database's file. Raises FilesChanged."""
        try:
            real, status = self._look()
        except OSError:
            if self._known is None:
                return self._path, 0
            raise FilesChanged(MOVED) from None
        if self._known not in (None, _of(status)):
            raise FilesChanged(MOVED)
        return real, status.st_size

    def _look(self) -> tuple[str, os.stat_result]:
        """Return where the path leads, and the status of the file there. Raises OSError.

        To follow links costs ten times as much as to see that there is none.
        """
        path = os.path.realpath(self._path) if self._by_links else self._path
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            path = os.path.realpath(path)
            status = os.lstat(path)
        return path, status

    def _look_through(self, size: int) -> None:
        """Check the pages of a file that has become smaller, which VACUUM does, too."""
        if size > LARGE_BYTES:
            return
        with self._lock:
            if self._anchor is None:
                return
            try:
                (found,) = self._anchor.execute("PRAGMA quick_check(1)").fetchone()
            except sqlite3.OperationalError:  # locked: it is looked at again the next time
                raise
            except sqlite3.DatabaseError:
                found = ""
            if found != "ok":
                raise FilesChanged(CUT_OFF)

    def _save(self, place: Path) -> None:
        """Move what is only in a log without a name into the database's file, once."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            if self._anchor is None or self._saved or place.exists():
                return
            self._saved = True
            _, frames, moved = self._anchor.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
            log.warning("database.log_saved", pages=moved, of=frames)


def share_with_group(path: Path) -> None:
    """Create a new file writable for the group if its directory is.

    SQLite gives its other files the same mode. A container's user may be another one after an
    update, with only the group in common.
    """
    if path.exists() or not path.parent.stat().st_mode & stat.S_IWGRP:
        return
    with path.open("ab") as made:
        os.fchmod(made.fileno(), GROUP_MODE)


def _identity(path: str) -> Identity | None:
    try:
        return _of(os.stat(path))
    except OSError:
        return None


def _of(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino
