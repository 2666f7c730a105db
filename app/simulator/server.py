"""The simulator on a socket: in the foreground as a program, in the background for sandbox and
tests.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

import uvicorn

from app.simulator.application import create_app
from app.simulator.config import SimulatorConfig

SHUTDOWN_SECONDS = 1


def serve(config: SimulatorConfig, host: str, port: int) -> None:
    """Run until interrupted; says where it listens once it does. Port 0 is a free port."""
    listener = _listen(host, port)
    url = _url(host, listener)
    with contextlib.suppress(KeyboardInterrupt):
        _Server(config, lambda: print(f"simulator: {url}/api", flush=True)).run([listener])


class BackgroundServer:
    """A simulator on a loopback port in a thread of its own, for as long as its `with` block. Port
    0 is a free one.

    Entering raises OSError where the port is taken.
    """

    def __init__(self, config: SimulatorConfig | None = None, port: int = 0) -> None:
        self._config, self._port = config or SimulatorConfig(), port
        self._settled = threading.Event()

    def __enter__(self) -> Self:
        listener = _listen("127.0.0.1", self._port)
        self.url = _url("127.0.0.1", listener)
        self._server = _Server(self._config, self._settled.set)
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="simulator", daemon=True
        )
        self._thread.start()
        self._settled.wait()
        if not self._server.started:
            raise RuntimeError("the simulator did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._thread.join()

    def _run(self, listener: socket.socket) -> None:
        try:
            self._server.run([listener])
        finally:
            self._settled.set()


class _Server(uvicorn.Server):
    """A uvicorn server that tells when it listens."""

    def __init__(self, config: SimulatorConfig, listening: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(config),
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )
        self._listening = listening

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; and end with 0, since the signal is not raised again afterwards."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def _url(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
