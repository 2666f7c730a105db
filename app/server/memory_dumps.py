"""Memory dumps of this process, which would contain Leanplum's keys."""

import ctypes
import resource
import sys

PR_SET_DUMPABLE = 4  # prctl(2)


def disable() -> None:
    """Forbid memory dumps.

    No core file is written or passed to a crash collector, and no other process of the same user
    may read the memory of this one.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
