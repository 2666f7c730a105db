"""The tables and the migrations that make them say the same, and migrating is safe whenever it
happens.
"""

import subprocess
import sys
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect

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
