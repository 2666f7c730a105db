"""The tables and the migrations that make them say the same, and migrating is safe whenever it
happens.
"""

import subprocess
import sys
import zlib
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect

from app.database.engine import connect
from app.database.tables import metadata

ROOT = Path(__file__).resolve().parents[2]
CONNECT = "import sys; from app.database.engine import connect; connect(sys.argv[1]).dispose()"


def test_the_migrations_make_exactly_the_tables_that_the_code_works_with(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/g.db")
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_each_table_has_the_same_indexes_and_keys_in_both(tmp_path: Path) -> None:
    """What alembic's comparison leaves out: partial indexes' conditions, primary keys, WITHOUT
    ROWID.
    """
    made, described = (
        connect(f"sqlite:///{tmp_path}/made.db"),
        connect(f"sqlite:///{tmp_path}/described.db"),
    )
    metadata.drop_all(described)
    metadata.create_all(described)
    for table in metadata.tables:
        assert shape(made, table) == shape(described, table)
    made.dispose()
    described.dispose()


def shape(engine: Engine, table: str) -> object:
    found = inspect(engine)
    columns = [
        (one["name"], str(one["type"]), one["nullable"], one["default"])
        for one in found.get_columns(table)
    ]
    indexes = [
        (
            one["name"],
            one["column_names"],
            {name: str(value) for name, value in one["dialect_options"].items()},
        )
        for one in found.get_indexes(table)
    ]
    return (
        columns,
        indexes,
        found.get_pk_constraint(table)["constrained_columns"],
        found.get_table_options(table),
    )


def test_migrating_again_changes_nothing_and_keeps_what_is_there(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/g.db"
    engine = connect(url)
    with engine.connect() as connection:
        connection.exec_driver_sql("UPDATE sequence SET last = 41")
        connection.commit()
    engine.dispose()
    again = connect(url)
    with again.connect() as connection:
        assert connection.exec_driver_sql("SELECT last FROM sequence").scalar() == 41
        assert connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar() == 1
    again.dispose()


def test_processes_that_migrate_at_the_same_time_all_find_it_done(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/g.db"
    command = [sys.executable, "-W", "error", "-c", CONNECT, url]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    engine = connect(url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM sequence").scalar() == 1
    engine.dispose()


def test_every_connection_is_durable(tmp_path: Path) -> None:
    """A commit is on the disk before 202 is sent: WAL with synchronous=FULL (2), on each connection
    of the pool.
    """
    engine = connect(f"sqlite:///{tmp_path}/g.db")
    with engine.connect() as one, engine.connect() as two:
        for connection in (one, two):
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    engine.dispose()


def at_revision(url: str, revision: str, *statements: str) -> None:
    """Make a database as an earlier gateway left it."""
    from alembic import command
    from alembic.config import Config

    old = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(ROOT / "app/database/migrations"))
    with old.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.commit()
    old.dispose()


def test_what_waits_in_a_database_from_before_lanes_gets_its_lane_and_its_open_attempt_is_kept(
    tmp_path: Path,
) -> None:
    from app import ids

    url = f"sqlite:///{tmp_path}/g.db"
    at_revision(
        url,
        "0001",
        "INSERT INTO acceptances VALUES (1, 'p', 'default', 'key_1', 'r', 1)",
        "INSERT INTO items (seq, acceptance, subject, action, body) VALUES (1, 1, 'uann', 'track', '{}')",
        "INSERT INTO items (seq, acceptance, subject, action, settled_at) VALUES (2, 1, 'ubob', 'track', 5)",
        "INSERT INTO attempts VALUES ('open', 'default', '[1]', 7, NULL, NULL)",
        "INSERT INTO attempts VALUES ('done', 'default', '[2]', 7, 8, '{}')",
    )
    engine = connect(url)
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT seq, lane, caller FROM items ORDER BY seq").all()
        assert found == [(1, ids.lane("default", "uann"), zlib.crc32(b"key_1")), (2, 0, 0)]
        assert connection.exec_driver_sql(
            "SELECT id, owner, items, started_at FROM attempts"
        ).all() == [("open", "", "[1]", 7)]
    engine.dispose()


def test_a_key_from_before_keys_were_for_several_apps_is_for_the_one_it_was_for(
    tmp_path: Path,
) -> None:
    from app.audit.record_macs import Marks
    from app.callers import key_format
    from app.callers.store import KeyStore

    url = f"sqlite:///{tmp_path}/g.db"
    key = key_format.make()
    at_revision(
        url,
        "0002",
        "INSERT INTO caller_keys (id, hash, last_four, name, scopes, app, created_at) "
        f"VALUES ('key_1', x'{key_format.digest(key).hex()}', '{key[-4:]}', 'old', 'sdk', 'default', 7)",
    )
    engine = connect(url)
    (found,) = KeyStore(engine, Marks(bytes(32))).all()
    assert (found.caller.key_id, found.caller.apps, found.created_at) == (
        "key_1",
        frozenset({"default"}),
        7,
    )
    assert [(one.hash, one.last_four) for one in found.secrets] == [
        (key_format.digest(key), key[-4:])
    ]
    engine.dispose()
