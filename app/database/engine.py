"""Opens the database, brings it to the newest schema, and refuses one that can't keep a promise."""

import sqlite3
from importlib.resources import files
from pathlib import Path

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from app.errors import StartRefused

BUSY_SECONDS = 5.0
PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # a commit is on the disk, not in the kernel's memory, before 202 is sent
    "PRAGMA foreign_keys=ON",
    "PRAGMA wal_autocheckpoint=4000",
    "PRAGMA journal_size_limit=67108864",
)


def connect(url: str) -> Engine:
    """An engine on the database at `url`, migrated to the newest schema.

    Raises StartRefused, with one line that says what is wrong, where the file can't be opened, written or understood.
    """
    path = Path(make_url(url).database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False, "cached_statements": 512}
        )
        event.listen(engine, "connect", _prepare)
        migrate(engine)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise StartRefused(f"GATEWAY_DATABASE_URL: {path} can't be used: {reason(error)}") from error
    return engine


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun and ended by our own words, never by the driver's guess
    for pragma in PRAGMAS:
        connection.execute(pragma)


def reason(error: BaseException) -> str:
    """What the database said, in its own words, without the statement and its values."""
    cause = error.orig if isinstance(error, DatabaseError) and error.orig else error
    return str(cause) or type(cause).__name__


def migrate(engine: Engine) -> None:
    """Apply the migrations that are missing, all or none."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(files("app.database") / "migrations"))
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE"
        )  # two processes that start at once: the second waits, then finds it done
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError:
            raise StartRefused(
                "GATEWAY_DATABASE_URL: the database was made by a newer gateway; start that one"
            ) from None
        connection.commit()
