"""A lock that processes share: a byte of a file, locked by the operating system (`lockf`).

It is released by the end of a process, however that happens. It is not for several threads of one
process, which hold such locks together.
"""

import fcntl
import time
from types import TracebackType


class ProcessLock:
    """The lock of one byte.

    Who waits for longer than `wait_seconds` goes on without the lock: a process that was stopped
    while it had the lock holds nobody up for ever. So the lock must not be all that keeps data
    whole.
    """

    def __init__(
        self, descriptor: int, byte: int, *, wait_seconds: float, pause_seconds: float
    ) -> None:
        """`descriptor` is the open file's; `pause_seconds` are between two tries."""
        self._descriptor, self._byte = descriptor, byte
        self._wait_seconds, self._pause_seconds = wait_seconds, pause_seconds

    def __enter__(self) -> None:
        if self._take():
            return
        until = time.monotonic() + self._wait_seconds
        while time.monotonic() < until:
            time.sleep(self._pause_seconds)
            if self._take():
                return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, self._byte)

    def _take(self) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._byte)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
        return True
