"""One simulator for each module, as new for each test; a migrated database file for each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.database.engine import connect
from app.simulator.server import BackgroundServer

from .delivering import Leanplum


@pytest.fixture(scope="module")
def simulator() -> Iterator[str]:
    with BackgroundServer() as server:
        yield server.url


@pytest.fixture
def leanplum(simulator: str) -> Iterator[Leanplum]:
    found = Leanplum(simulator)
    yield found
    found.close()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("delivery") / "g.db"
    connect(f"sqlite:///{path}").dispose()
    return path


@pytest.fixture
def path(tmp_path: Path, empty_database: Path) -> Path:
    copied = tmp_path / "g.db"
    shutil.copy(empty_database, copied)
    return copied
