"""The simulator on a socket: in the foreground, or in a thread for the sandbox and tests."""

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
    """Run until interrupted, and print the URL once it listens. Port 0 means a free port."""
    listener = _listen(host, port)
    url = _url(host, listener)
    with contextlib.suppress(KeyboardInterrupt):
        _Server(config, lambda: print(f"simulator: {url}/api", flush=True)).run([listener])


class BackgroundServer:
    """A simulator on a loopback port in its own thread, for the duration of a `with` block.

    Port 0 means a free port. Entering the block raises OSError when the port is in use.
    """

    def __init__(self, config: SimulatorConfig | None = None, port: int = 0) -> None:
        self._config, self._port = config or SimulatorConfig(), port
        self._startup_ended = threading.Event()

    def __enter__(self) -> Self:
        listener = _listen("127.0.0.1", self._port)
        self.url = _url("127.0.0.1", listener)
        self._server = _Server(self._config, self._startup_ended.set)
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="simulator", daemon=True
        )
        self._thread.start()
        self._startup_ended.wait()
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
            self._startup_ended.set()


class _Server(uvicorn.Server):
    """A uvicorn server that calls `listening` once it accepts connections."""

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
        """Stop, without raising the signal again, so that the exit status is 0."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then report that the server listens."""
        await super().startup(sockets)
        self._listening()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def _url(host: str, listener: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"
