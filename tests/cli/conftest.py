"""One gateway for the tests of commands, which delivers to a simulator."""

from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pytest

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.processes import Process, serving
from tests.support.simulator import Leanplum


class Served(NamedTuple):
    """A gateway as a process, and the simulator that it delivers to."""

    gateway: Process
    leanplum: Leanplum

    def database(self) -> dict[str, str]:
        """The setting that names the gateway's database."""
        return {"GATEWAY_DATABASE_URL": self.gateway.settings["GATEWAY_DATABASE_URL"]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with (
        BackgroundServer(SimulatorConfig()) as simulator,
        serving(folder, simulator.url) as gateway,
        closing(Leanplum(simulator.url)) as leanplum,
    ):
        yield Served(gateway, leanplum)
