"""What the tests of pages share."""

from collections.abc import Iterator

import pytest

from tests.support.processes import Process, serving
from tests.support.simulator import KEYS, simulated


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A gateway that delivers to a simulated Leanplum, for a module."""
    keys = {name.upper(): key for name, key in KEYS.items()}
    folder = tmp_path_factory.mktemp("site")
    with simulated() as leanplum, serving(folder, leanplum.url, **keys) as gateway:
        yield gateway
