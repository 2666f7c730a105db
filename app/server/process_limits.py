"""Limits of this process at the operating system: open files."""

import resource

import structlog

from app.settings import Settings

# Open files beside callers' connections: the database, connections to Leanplum, uploads, the log
RESERVED_FILES = 256


def allowed_connections(settings: Settings) -> int:
    """Return how many connections callers may open: as configured, if the open files suffice.

    The soft limit of open files is raised as far as needed and permitted. Without this bound,
    callers could use up the files that the database needs.
    """
    wanted = settings.gateway_max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    needed = wanted + RESERVED_FILES
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        soft = needed
    allowed = max(1, min(wanted, soft - RESERVED_FILES))
    if allowed < wanted:
        structlog.get_logger("start").warning(
            "connections.limited", allowed=allowed, wanted=wanted, open_files=soft
        )
    return allowed
