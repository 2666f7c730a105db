"""Who may write a new SQLite file: in a directory that its group may write, the group may."""

import stat
from pathlib import Path

import pytest

from app.database.engine import connect
from app.outbox import liveness_lock


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("directory", "file"), [(0o2770, 0o660), (0o775, 0o660), (0o755, 0o644), (0o700, 0o644)]
)
def test_a_new_database_is_for_the_group_where_its_directory_is(
    tmp_path: Path, directory: int, file: int
) -> None:
    place = tmp_path / "data"
    place.mkdir()
    place.chmod(directory)
    url = f"sqlite:///{place}/g.db"
    engine = connect(url)
    with liveness_lock.held(url, "owner"), engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")
        connection.commit()
        assert {path.name: mode(path) for path in place.glob("g.db*")} == {
            "g.db": file, "g.db-wal": file, "g.db-shm": file, "g.db-deliverers": file
        }  # fmt: skip
    engine.dispose()


def test_the_mode_of_a_database_that_is_there_stays(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    path = tmp_path / "g.db"
    path.touch()
    path.chmod(0o600)
    connect(f"sqlite:///{path}").dispose()
    assert mode(path) == 0o600
