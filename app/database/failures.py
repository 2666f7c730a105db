"""Tells what a failure of the database's driver means. Pure.

The drivers are told apart by what their errors carry: PostgreSQL's a `sqlstate`, SQLite's a name.
"""

from typing import Any

# Of PostgreSQL: connection lost; out of disk, memory, connections; shut down or canceled; I/O.
DATABASE_CLASSES = frozenset({"08", "53", "57", "58"})
# Read-only transaction; a lock that was not given up; corrupted data and indexes.
DATABASE_STATES = frozenset({"25006", "55P03", "XX001", "XX002"})
SQLITE_STATES = frozenset(
    [
        "BUSY",
        "CANTOPEN",
        "CORRUPT",
        "FULL",
        "INTERRUPT",
        "IOERR",
        "LOCKED",
        "NOMEM",
        "NOTADB",
        "PERM",
        "PROTOCOL",
        "READONLY",
    ]
)
CLIENT_SIDE = frozenset({"OperationalError", "InterfaceError"})


def is_of_database(error: BaseException) -> bool:
    """Tell whether the database's own state is at fault, so that another write would fail too."""
    name = getattr(error, "sqlite_errorname", None)
    if name is not None:
        return str(name).split("_")[1] in SQLITE_STATES
    if not hasattr(error, "sqlstate"):
        return isinstance(error, OSError)
    state: str | None = error.sqlstate
    if state is None:  # the driver itself says so: the connection is gone, or a value can't be sent
        return any(kind.__name__ in CLIENT_SIDE for kind in type(error).__mro__)
    return state[:2] in DATABASE_CLASSES or state in DATABASE_STATES


def may_have_committed(connection: Any, error: BaseException) -> bool:
    """Tell whether a commit that failed on this driver's connection may have been made all the
    same: the connection broke before the answer, or the disk failed while it was written.
    """
    name = getattr(error, "sqlite_errorname", None)
    if name is not None:
        return str(name).startswith("SQLITE_IOERR")
    return bool(getattr(connection, "closed", True))
