"""One simulator for each module, as new for each test."""

from collections.abc import Iterator

import pytest

from app.simulator.server import BackgroundServer

from .harness import Leanplum


@pytest.fixture(scope="module")
def simulator() -> Iterator[str]:
    with BackgroundServer() as server:
        yield server.url


@pytest.fixture
def leanplum(simulator: str) -> Iterator[Leanplum]:
    found = Leanplum(simulator)
    yield found
    found.close()
