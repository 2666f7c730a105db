"""The database of a sandbox: its file, its mark, its caller key, and emptying it.

A database with the mark is a sandbox's. Any other one with keys is a real gateway's: a sandbox
neither uses nor empties it.
"""

import contextlib
import itertools
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path

import structlog
from sqlalchemy import Engine, inspect, select

from app.audit.signing_keys import load_keys_to_write
from app.callers import key_format
from app.callers.store import ALL_SCOPES, KeyStore, StoredKey, every_key
from app.clock import now_ms
from app.database.engine import (
    connect,
    connect_as_is,
    drop_tables,
    reading,
    scrub,
    transaction,
)
from app.database.tables import deliverers, metadata, own_secrets
from app.errors import StartRefused, StorageUnavailable
from app.outbox import liveness_lock
from app.outbox.liveness_lock import KnownProcess
from app.settings import Settings
from app.urls import SqliteUrl, parse_database_url

# The name of the sandbox's own keys, and of the row that marks a database as a sandbox's
SANDBOX = "sandbox"
# Never the database of a real gateway: what waits there must not be delivered to the simulator
DATABASE_URL = "sqlite:///data/sandbox.db"
KEPT_KEYS = 10  # of the latest starts, so that a command that was copied from one still works
FROM_BEFORE = f"if an earlier sandbox created the database ({DATABASE_URL}), delete the file"
NOT_A_SANDBOX = (
    "GATEWAY_DATABASE_URL: this database has keys and is not marked as a sandbox's; the sandbox "
    f"would deliver a real gateway's queue to the simulator. Unset it; {FROM_BEFORE}"
)
NOT_EMPTIED = (
    "--reset: this database is not marked as a sandbox's, so nothing in it is deleted. Unset "
    f"GATEWAY_DATABASE_URL; {FROM_BEFORE}"
)
IN_USE = "--reset: another process uses the sandbox's database; stop it, then try again"
OTHER_TABLES = (
    "GATEWAY_DATABASE_URL: the sandbox's database is of a build with other tables; empty it with "
    "`serve --sandbox --reset`"
)

log = structlog.get_logger("sandbox")


def free_database_url() -> str:
    """Return the URL of the sandboxes' default database, or of another one while that is in use."""
    for number in itertools.count(1):
        name = SANDBOX if number == 1 else f"{SANDBOX}-{number}"
        url = DATABASE_URL.replace(SANDBOX, name)
        with _opened(url) as engine:
            if engine is None or not _is_in_use(engine, url):
                break
    if url != DATABASE_URL:
        reason = f"another sandbox uses {DATABASE_URL}"
        log.warning("sandbox.database_taken", reason=reason, advice=f"this one uses {url}")
    return url


def empty_database(url: str) -> None:
    """Delete everything in a sandbox's database.

    Raises StartRefused if the database is not marked as a sandbox's, or is in use.
    """
    with _opened(url) as engine:
        if engine is None or not inspect(engine).get_table_names():
            return
        if not _is_marked(engine):
            raise StartRefused(NOT_EMPTIED)
        if _is_in_use(engine, url):
            raise StartRefused(IN_USE)
        drop_tables(engine)
        scrub(engine)


def sandbox_key(settings: Settings) -> str:
    """Return the sandbox's own caller key: a new one at each start, since none can be read again.

    Keys of the latest starts keep working, and so do keys that somebody created in a sandbox.
    Raises StartRefused if the database is a real gateway's.
    """
    engine = connect(settings.gateway_database_url)
    try:
        if _is_marked(engine):
            _check_tables(engine)
        stored = every_key(engine)
        _claim(engine, fresh=not stored)
        store = KeyStore(engine, load_keys_to_write(engine, settings.audit_root_key).macs)
        bootstrap_key = settings.gateway_bootstrap_key
        key = bootstrap_key.get_secret_value() if bootstrap_key else None
        _revoke_old_keys(store, stored, key)
        return _take_key(store, stored, key)
    finally:
        engine.dispose()


def _revoke_old_keys(store: KeyStore, stored: list[StoredKey], key: str | None) -> None:
    """Revoke the keys of all but the latest starts; `key` is the bootstrap key."""
    now = now_ms()
    own = [
        row
        for row in stored
        if row.caller.name == SANDBOX and row.usable(now) and not _has_key(row, key)
    ]
    own.sort(key=lambda row: row.created_at, reverse=True)
    for row in own[KEPT_KEYS - 1 :]:
        store.revoke(row.caller.key_id, now)


def _take_key(store: KeyStore, stored: list[StoredKey], key: str | None) -> str:
    """Return the bootstrap key `key` if it may still do everything, else a new key."""
    now = now_ms()
    standing = "ended" if key is None else store.standing(key, now)
    if standing == "unknown":
        return store.create(SANDBOX, ALL_SCOPES, None, now, key=key)[0]
    unlimited = any(_has_key(row, key) and _is_unlimited(row) for row in stored)
    if key is not None and standing == "usable" and unlimited:
        return key
    return store.create(SANDBOX, ALL_SCOPES, None, now)[0]


def _is_unlimited(row: StoredKey) -> bool:
    """Return whether a key has every scope for every app, and no limits of its own."""
    caller = row.caller
    limits = (caller.apps, caller.rate_per_second, caller.rate_burst, row.expires_at)
    return caller.scopes == ALL_SCOPES and all(limit is None for limit in limits)


def _claim(engine: Engine, *, fresh: bool) -> None:
    """Mark a fresh database as a sandbox's. Raises StartRefused if it is neither fresh nor marked.

    The name of a key would be no mark: anybody may give a key that name.
    """
    with transaction(engine) as cursor:
        cursor.execute("SELECT 1 FROM own_secrets WHERE name = ?", (SANDBOX,))
        if cursor.fetchone() is not None:
            return
        if not fresh:
            raise StartRefused(NOT_A_SANDBOX)
        cursor.execute("INSERT INTO own_secrets (name, value) VALUES (?, ?)", (SANDBOX, b""))


def _has_key(stored: StoredKey, key: str | None) -> bool:
    if key is None:
        return False
    digest = key_format.digest(key)
    return any(secrets.compare_digest(secret.hash, digest) for secret in stored.secrets)


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Engine | None]:
    """Open a database as it is; None if there is no file, or an empty one.

    Raises StartRefused if it cannot be read.
    """
    parsed = parse_database_url(url)
    if isinstance(parsed, SqliteUrl):
        path = Path(parsed.path)
        if not path.exists() or not path.stat().st_size:
            yield None
            return
    engine = connect_as_is(url)
    try:
        yield engine
    except StorageUnavailable as error:
        raise StartRefused(f"GATEWAY_DATABASE_URL: {error.detail}") from error
    finally:
        engine.dispose()


def _is_marked(engine: Engine) -> bool:
    if not inspect(engine).has_table(own_secrets.name):
        return False
    mark = select(own_secrets.c.name).where(own_secrets.c.name == SANDBOX)
    with reading(engine) as connection:
        return connection.execute(mark).first() is not None


def _is_in_use(engine: Engine, url: str) -> bool:
    """Return whether a deliverer that still runs uses the database."""
    if not inspect(engine).has_table(deliverers.name):
        return False
    with reading(engine) as connection:
        rows = connection.execute(select(deliverers)).all()
    with liveness_lock.held(url, str(uuid.uuid4())) as liveness:
        lock = liveness.identity()
        gone = liveness.gone(KnownProcess(row.id, row.lock) for row in rows)
    living = [row for row in rows if (row.id, row.lock) not in gone]
    return any(
        (lock is not None and row.lock == lock) or row.expires_at > now_ms() for row in living
    )


def _check_tables(engine: Engine) -> None:
    """Raise StartRefused if a table or a column is missing.

    A build from between two releases may have made the database: no migration knows of it.
    """
    inspector = inspect(engine)
    existing = set(inspector.get_table_names())
    for table in metadata.sorted_tables:
        columns = inspector.get_columns(table.name) if table.name in existing else []
        if {column.name for column in table.columns} - {column["name"] for column in columns}:
            raise StartRefused(OTHER_TABLES)
