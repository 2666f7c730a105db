"""A migrated database file for each test: copying one is faster than migrating each time."""

import shutil
from pathlib import Path

import pytest

from app.database.engine import connect


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outbox") / "g.db"
    connect(f"sqlite:///{path}").dispose()
    return path


@pytest.fixture
def path(tmp_path: Path, empty_database: Path) -> Path:
    copied = tmp_path / "g.db"
    shutil.copy(empty_database, copied)
    return copied
