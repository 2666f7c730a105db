"""One simulator for each test module, made new between tests; others as a test configures them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer

from .client import Talk
from .simulated_app import App


@pytest.fixture(scope="module")
def _server() -> Iterator[str]:
    with BackgroundServer() as server:
        yield server.url


@pytest.fixture
def leanplum(_server: str) -> Iterator[Talk]:
    """The simulator with its default configuration, as new."""
    talk = Talk(_server)
    with closing(talk.http):
        talk.http.post("/_simulator/reset").raise_for_status()
        yield talk


@pytest.fixture
def configured() -> Iterator[Callable[..., Talk]]:
    """Starts a simulator with other settings."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Talk:
            talk = Talk(stack.enter_context(BackgroundServer(SimulatorConfig(**settings))).url)
            stack.enter_context(closing(talk.http))
            return talk

        yield start


@pytest.fixture
def app() -> App:
    """A simulated app without HTTP."""
    return App()
