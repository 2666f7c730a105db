"""Database connections: opening, migrating and reading; unsuitable databases are refused."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import URL, Connection, Engine, MetaData, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.database.advice import advice_on
from app.database.driver import (
    DIALECTS,
    Cursor,
    Dialect,
    is_of_standby,
    may_commit,
    may_have_committed,
    time_limit,
)
from app.database.sqlite_files import FilesChanged, SqliteFiles, share_with_group
from app.database.tables import metadata
from app.errors import CommitUnknown, StartRefused, StorageUnavailable
from app.urls import MASK, PostgresUrl, SqliteUrl, is_secret, mask_url, parse_database_url

SETTING = "GATEWAY_DATABASE_URL"
BUSY_SECONDS = 5.0
SCRUB_MS = 200
VACUUM_BYTES = 64_000_000  # within a second
PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    # A commit is on the disk, not in the kernel's memory, before 202 is sent
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA wal_autocheckpoint=4000",
    "PRAGMA journal_size_limit=67108864",
    # What is deleted, a delivered item's body too, is overwritten with zeros
    "PRAGMA secure_delete=ON",
    "PRAGMA temp_store=MEMORY",  # and never was in a file of its own
)
CREATE_IT = "start the gateway, or run `python -m app migrate`"
NO_TABLES = f"the database has no tables yet; {CREATE_IT}"
UNKNOWN_SCHEMA = (
    "the database has a schema that this version doesn't know: a newer version of the gateway has "
    "migrated it. Start that version, or restore a backup"
)
FIRST_SECONDS = 15.0  # for the first connection at the start: migrating may take longer

log = structlog.get_logger("database")


def connect(url: str) -> Engine:
    """Return an engine on the database at `url`, migrated to the newest schema.

    Raises StartRefused, with one line that says what is wrong, if the database cannot be opened,
    written or understood.
    """
    return _connected(url, migrate)


def connect_to_read(url: str) -> Engine:
    """Return an engine for commands that only read: it creates and migrates nothing.

    Raises StartRefused if there is no database with the newest schema.
    """
    _check_existence(url)
    return _connected(url, _refuse_other_schema)


def connect_existing(url: str) -> Engine:
    """Return an engine for commands that change an existing database, which is migrated.

    Raises StartRefused if there is no database, and as `connect` does.
    """
    _check_existence(url)
    return _connected(url, migrate)


def connect_as_is(url: str) -> Engine:
    """Return an engine on a database with whatever tables it has: none is created or migrated.

    Raises StartRefused as `connect` does.
    """
    return _connected(url, lambda engine: None)


def _check_existence(url: str) -> None:
    """Refuse a SQLite file that is missing or empty, before SQLite makes one or writes to it."""
    parsed = _parsed(url)
    if not isinstance(parsed, SqliteUrl):
        return
    try:
        size = Path(parsed.path).stat().st_size
    except FileNotFoundError:
        raise StartRefused(
            f"{SETTING}: there is no database at {parsed.path}; set it to the gateway's "
            f"database (a sandbox prints its own), or {CREATE_IT}"
        ) from None
    except OSError as error:
        raise StartRefused(f"{SETTING}: {parsed.path} can't be used: {error.strerror}") from error
    if not size:
        raise StartRefused(f"{SETTING}: {NO_TABLES}")


def _parsed(url: str) -> SqliteUrl | PostgresUrl:
    try:
        return parse_database_url(url)
    except ValueError as error:
        raise StartRefused(f"{SETTING}: {error}") from None


def _connected(url: str, prepare: Callable[[Engine], None]) -> Engine:
    parsed = _parsed(url)
    try:
        engine = _sqlite(parsed) if isinstance(parsed, SqliteUrl) else _postgresql(parsed)
        with time_limit(FIRST_SECONDS), engine.connect() as connection:
            _check_encoding(connection)
        prepare(engine)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        why = "; ".join(filter(None, [reason(error), advice_on(str(error))]))
        raise StartRefused(f"{SETTING}: {_unusable(url, parsed, why)}") from error
    return engine


def _unusable(url: str, parsed: SqliteUrl | PostgresUrl, why: str) -> str:
    if isinstance(parsed, SqliteUrl):
        return f"{parsed.path} can't be used: {why}"
    for name, value in parsed.parameters.items():
        if is_secret(name) and value:
            why = why.replace(value, MASK)
    return f"{mask_url(url)} can't be used: {why}"


def _sqlite(url: SqliteUrl) -> Engine:
    path = Path(url.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    share_with_group(path)
    files = SqliteFiles(path)
    timeout = BUSY_SECONDS if url.timeout is None else url.timeout
    engine = create_engine(
        URL.create("sqlite", database=url.path),
        connect_args={"timeout": timeout, "check_same_thread": False, "cached_statements": 512},
        execution_options={"files": files},
    )

    def check_place(*_: object) -> None:
        """SQLite would make a new file where there is none."""
        files.check()

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        _prepare(connection)
        files.open()

    event.listen(engine, "do_connect", check_place)
    event.listen(engine, "connect", prepare)
    event.listen(engine, "engine_disposed", lambda _: files.close())
    return engine


def sqlite_files(engine: Engine) -> SqliteFiles | None:
    """Return the files of the engine's database; None if a server keeps them."""
    files: SqliteFiles | None = engine.get_execution_options().get("files")
    return files


def _postgresql(url: PostgresUrl) -> Engine:
    from app.database import postgresql  # the driver is loaded where it is used

    return postgresql.engine_on(url)


def _check_encoding(connection: Connection) -> None:
    """Refuse a SQLite file in UTF-16; PostgreSQL's encoding is looked at on each connection."""
    if connection.dialect.name == "sqlite":
        encoding = connection.exec_driver_sql("PRAGMA encoding").scalar_one()
        if encoding != "UTF-8":
            raise OSError(
                f"its encoding is {encoding}, and the gateway needs UTF-8; use a new file"
            )


def _prepare(connection: sqlite3.Connection) -> None:
    # Transactions are begun and ended by our own words, never by the driver's guess
    connection.isolation_level = None
    for pragma in PRAGMAS:
        connection.execute(pragma)


def dialect(engine: Engine) -> Dialect:
    """Return the dialect of the engine's database."""
    return DIALECTS[engine.dialect.name]


@contextmanager
def transaction(engine: Engine) -> Iterator[Cursor]:
    """Open a transaction for a rare write; commit it at the end, roll it back on an error.

    Frequent writes go through the `Writer`. Raises StorageUnavailable, and CommitUnknown if the
    response to the commit was lost.
    """
    files = sqlite_files(engine)
    with reading(engine) as connection:
        if files is not None:
            files.check()
        cursor = Cursor(connection.connection.cursor(), dialect(engine))
        cursor.execute(cursor.dialect.begin)
        yield cursor
        if not may_commit():
            raise StorageUnavailable("The database did not respond in time; nothing was changed.")
        try:
            connection.connection.commit()
        except storage_errors(engine) as error:
            if may_have_committed(connection.connection.dbapi_connection, error):
                raise CommitUnknown() from error
            raise
        try:
            if files is not None:
                files.check()
        except FilesChanged as error:
            raise CommitUnknown() from error


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a connection for reading.

    Raises StorageUnavailable if the database cannot be used now.
    """
    try:
        with engine.connect() as connection:
            yield connection
    except storage_errors(engine) as error:
        leave_standby(engine, error)
        raise StorageUnavailable(f"The database is unavailable: {reason(error)}.") from error


def leave_standby(engine: Engine, error: Exception) -> None:
    """Open new connections from now on, if a server became a standby: another may be primary."""
    if is_of_standby(error):
        engine.get_execution_options()["connector"].leave()


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """Open a connection for reading on which the database stays as it is now.

    SQLite's texts may have any bytes: those that are not UTF-8 come as surrogates (PEP 383) instead
    of an error. Raises StorageUnavailable.
    """
    with reading(engine) as connection:
        if engine.dialect.name == "sqlite":
            raw: Any = connection.connection.driver_connection
            raw.text_factory = _any_text
            try:
                connection.exec_driver_sql("BEGIN")
                yield connection
            finally:
                raw.text_factory = str
        else:
            yield connection.execution_options(isolation_level="REPEATABLE READ")


def _any_text(raw: bytes) -> str:
    return raw.decode(errors="surrogateescape")


def scrub(engine: Engine) -> bool:
    """Remove deleted content from SQLite's files; return False if others are using them now.

    VACUUM rewrites the database, since moved rows leave copies in its pages in spite of
    `secure_delete`; then the log is truncated. A database that is too large for that is reported in
    the log. PostgreSQL cleans up by itself.
    """
    if engine.dialect.name != "sqlite":
        return True
    with reading(engine) as connection:
        say = connection.exec_driver_sql
        size = _bytes(connection)
        say(f"PRAGMA busy_timeout={SCRUB_MS}")  # writers wait meanwhile
        try:
            if size <= VACUUM_BYTES:
                say("VACUUM")
            else:
                log.warning(
                    "database.not_vacuumed",
                    bytes=size,
                    advice="VACUUM at a quiet hour removes what was erased",
                )
            busy, *_ = say("PRAGMA wal_checkpoint(TRUNCATE)").one()
        except OperationalError:  # it is locked
            return False
        finally:
            say(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
    return not busy


def too_large_to_scrub(engine: Engine) -> bool:
    """Return whether `scrub` leaves VACUUM to the operator."""
    if engine.dialect.name != "sqlite":
        return False
    with reading(engine) as connection:
        return _bytes(connection) > VACUUM_BYTES


def _bytes(connection: Connection) -> int:
    say = connection.exec_driver_sql
    return int(say("PRAGMA page_count").scalar_one() * say("PRAGMA page_size").scalar_one())


def storage_errors(engine: Engine) -> tuple[type[Exception], ...]:
    """Return the error types of the database's driver and of the layers around it."""
    dbapi: Any = engine.dialect.loaded_dbapi
    return (dbapi.Error, DBAPIError, PoolTimeout, OSError)


def reason(error: BaseException) -> str:
    """Return the database's own message, without the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return str(cause).partition("\n")[0] or type(cause).__name__


def drop_tables(engine: Engine) -> None:
    """Drop the gateway's tables, those of another version too; all or none."""
    names = {*metadata.tables, "alembic_version"}
    existing = MetaData()
    with engine.connect() as connection:
        connection.exec_driver_sql(dialect(engine).begin_migration)
        existing.reflect(connection, only=lambda name, _: name in names)
        existing.drop_all(connection)
        connection.commit()


def _migrations() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(files("app.database") / "migrations"))
    return config


def _refuse_other_schema(engine: Engine) -> None:
    """Raise StartRefused unless the database has the newest schema."""
    from alembic.script import ScriptDirectory

    newest = ScriptDirectory.from_config(_migrations()).get_current_head()
    found = schema_version(engine)
    if found is None:
        raise StartRefused(f"{SETTING}: {NO_TABLES}")
    if found != newest:
        raise StartRefused(f"{SETTING}: the database has another version's schema; {CREATE_IT}")


def schema_version(engine: Engine) -> str | None:
    """Return the number of the last migration of the database; None if it has no tables."""
    from alembic.runtime.migration import MigrationContext

    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def migrate(engine: Engine) -> None:
    """Apply the missing migrations, all or none."""
    from alembic import command
    from alembic.util import CommandError

    config = _migrations()
    with engine.connect() as connection:
        # two processes that start at once: the second waits, then finds it done
        connection.exec_driver_sql(dialect(engine).begin_migration)
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError:
            raise StartRefused(f"{SETTING}: {UNKNOWN_SCHEMA}") from None
        connection.commit()
