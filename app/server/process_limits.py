"""What the operating system gives this process, and what it may tell of it: open files, and no
memory dumps.
"""

import ctypes
import resource
import sys

import structlog

from app.settings import Settings

OWN_FILES = 256  # beside callers' connections: the database's, those to Leanplum, uploads, the log
PR_SET_DUMPABLE = 4  # prctl(2)


def without_dumps() -> None:
    """Never write memory to disk, where Leanplum's keys would lie in it: no core file, nor one
    handed to a collector of them; and no other process of the same user may look into this one.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def connections(settings: Settings) -> int:
    """How many connections of callers may be open: as set, or as the limit of open files allows,
    which is raised where it may be. Without this an outsider could use up what the database
    needs.
    """
    wanted = settings.gateway_max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    most = wanted + OWN_FILES if hard == resource.RLIM_INFINITY else min(wanted + OWN_FILES, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    allowed = max(1, min(wanted, soft - OWN_FILES))
    if allowed < wanted:
        structlog.get_logger("start").warning(
            "connections.limited", allowed=allowed, wanted=wanted, open_files=soft
        )
    return allowed
