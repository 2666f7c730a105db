"""How deliverers of one SQLite file know of each other's end at once, not only when a lease expires.

Each holds a lock on a byte of its own in one file beside the database; the kernel gives it up with the process, however
that ends. Deliverers of a database server may be on several machines: there only the lease tells.
"""

import fcntl
import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog
from sqlalchemy import make_url

from app.errors import StartRefused

LOCK = "hhqqi"  # struct flock (fcntl(2)): type, whence, start, length, pid
# Of the open file, not of the process: closing another handle on the same file doesn't give these up (fcntl(2)).
SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)

log = structlog.get_logger("lifeline")
Dead = Callable[[Sequence[str]], list[str]]


@contextmanager
def held(database_url: str, owner: str) -> Iterator[Dead]:
    """Hold the lock of deliverer `owner`; gives what tells which of other deliverers are gone. Raises
    StartRefused where the file can't be written."""
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite" or SET_LOCK is None:
        yield lambda _: []
        return
    path = Path(f"{url.database}-deliverers")
    try:
        path.touch()
    except OSError as error:
        raise StartRefused(f"GATEWAY_DATABASE_URL: {path} can't be written: {error.strerror}") from None
    with path.open("wb") as file:
        try:
            _take(file.fileno(), owner)
        except OSError as error:  # not every file system has such locks; then none of its deliverers has one
            log.warning("lifeline.missing", path=str(path), reason=error.strerror)
            yield lambda _: []
            return
        yield lambda others: [one for one in others if _gone(file.fileno(), one)]


def _gone(file: int, owner: str) -> bool:
    try:
        _take(file, owner)
    except OSError:
        return False
    _lock(file, owner, fcntl.F_UNLCK)
    return True


def _take(file: int, owner: str) -> None:
    _lock(file, owner, fcntl.F_WRLCK)


def _lock(file: int, owner: str, kind: int) -> None:
    assert SET_LOCK is not None
    place = int.from_bytes(hashlib.blake2b(owner.encode(), digest_size=7).digest(), "big")
    fcntl.fcntl(file, SET_LOCK, struct.pack(LOCK, kind, 0, place, 1, 0))
