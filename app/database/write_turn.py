"""The turn to write, which the workers of one gateway take one after the other on SQLite.

It is a lock of the operating system on a file that they share, released also by the end of a
process. It is about fairness alone: SQLite's own lock keeps writers apart, but waits with growing
pauses, so that one process could keep the others from it for seconds.
"""

import fcntl
import os
import time
from types import TracebackType

WAIT_SECONDS = 1.0  # for a turn; then SQLite's lock alone decides, as with a stopped process
PAUSE_SECONDS = 0.0002  # between two tries; a commit takes several times as long


class WriteTurn:
    """The turn of one process. It is for one thread."""

    def __init__(self, descriptor: int, wait_seconds: float = WAIT_SECONDS) -> None:
        """`descriptor` is of the file, which is opened anew: each opening has its own lock."""
        self._descriptor = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
        self._wait_seconds = wait_seconds

    def __enter__(self) -> None:
        until = time.monotonic() + self._wait_seconds
        while not self._take() and time.monotonic() < until:
            time.sleep(PAUSE_SECONDS)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _take(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
