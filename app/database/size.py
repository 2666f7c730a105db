"""The size of a database on disk, and the room that is left there."""

import shutil
from pathlib import Path

from sqlalchemy import Connection

SQLITE = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
POSTGRESQL = "SELECT pg_database_size(current_database())"


def database_bytes(connection: Connection) -> int:
    """Return how many bytes a database takes; SQLite's log is not counted."""
    statement = SQLITE if connection.dialect.name == "sqlite" else POSTGRESQL
    return int(connection.exec_driver_sql(statement).scalar_one())


def free_bytes(connection: Connection) -> int | None:
    """Return how many bytes are free on the disk of an SQLite database; None on PostgreSQL."""
    file = connection.engine.url.database
    if connection.dialect.name != "sqlite" or not file:
        return None
    return shutil.disk_usage(Path(file).parent).free
