"""The size of a database on disk."""

from sqlalchemy import Connection

SQLITE = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
POSTGRESQL = "SELECT pg_database_size(current_database())"


def database_bytes(connection: Connection) -> int:
    """Return how many bytes a database takes; SQLite's log is not counted."""
    statement = SQLITE if connection.dialect.name == "sqlite" else POSTGRESQL
    return int(connection.exec_driver_sql(statement).scalar_one())
