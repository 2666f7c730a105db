"""The turn to write, which the workers of one gateway take one after the other.

It is a lock of the operating system on a file that they share: whoever waits sleeps until it is
released, also by the end of a process.
"""

import fcntl
import os
from types import TracebackType


class WriteTurn:
    """The turn of one process. It is for one thread."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor` is of the file, which is opened anew: each opening has its own lock."""
        self._descriptor = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

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
