"""The port of the sandbox's simulator: the one that is set, and what happens where it is taken."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.errors import StartRefused
from app.server.sandbox import start_simulator
from app.settings import Settings
from app.simulator import SimulatorConfig
from tests.support.processes import ended, serving, stats
from tests.support.sandbox import NO_LEANPLUM
from tests.support.wait import free_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_the_simulator_listens_on_the_port_that_is_set(tmp_path: Path) -> None:
    port = free_port()
    chosen = NO_LEANPLUM | {"GATEWAY_SANDBOX_PORT": str(port)}
    with serving(tmp_path, "", "--sandbox", **chosen) as gateway:
        assert f"http://127.0.0.1:{port}/_simulator/requests" in gateway.output.read_text()
        assert isinstance(stats(f"http://127.0.0.1:{port}"), dict)


def test_a_port_that_is_set_and_taken_refuses_the_start_in_one_line(
    tmp_path: Path, taken: int
) -> None:
    done = ended(tmp_path, "serve", "--sandbox", "--port", "0", GATEWAY_SANDBOX_PORT=str(taken))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"leanplum-gateway: GATEWAY_SANDBOX_PORT: cannot listen on 127.0.0.1:{taken}: "
    )


def test_the_gateway_s_own_port_is_taken() -> None:
    settings = Settings(gateway_port=9001, gateway_sandbox_port=9001)
    with ExitStack() as stack, pytest.raises(StartRefused, match="it is the gateway's own port"):
        start_simulator(stack, SimulatorConfig(), settings)


def test_where_the_default_port_is_taken_a_free_one_is_and_that_is_said() -> None:
    with ExitStack() as stack, capture_logs() as logs:
        with suppress(OSError):  # somebody else has it: it is taken all the same
            stack.enter_context(socket.create_server(("127.0.0.1", 8001)))
        simulator = start_simulator(stack, SimulatorConfig(), Settings())
        assert not simulator.url.endswith(":8001")
    (line,) = [entry for entry in logs if entry["event"] == "sandbox.port_taken"]
    assert line["reason"] == "cannot listen on 127.0.0.1:8001: Address already in use"
