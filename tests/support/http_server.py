"""A gateway behind its real HTTP server on a loopback port, and a socket to say to it what no
client would.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from app.server.application import create_app
from app.server.http1 import GatewayProtocol
from app.settings import Settings


@contextmanager
def served(
    settings: Settings, app: FastAPI | None = None, *, listening: socket.socket | None = None
) -> Iterator[int]:
    """The port of a running server; stopped at the end, after what is in flight. `app`: one made of
    these settings. `listening`: a socket to serve on, instead of one on the loopback address.
    """
    config = uvicorn.Config(
        app or create_app(settings, delivery=False), host="127.0.0.1", port=0, http=GatewayProtocol, log_config=None,
        access_log=False, server_header=False, lifespan="on", ws="none",
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, args=([listening] if listening else None,), daemon=True
    )
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield (listening or server.servers[0].sockets[0]).getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server did not stop"


class Wire:
    """One connection; `window`: as many bytes of answers as this side takes before it reads
    them.
    """

    def __init__(self, port: int, window: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(10)
        if window is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.connect(("127.0.0.1", port))
        self._rest = b""

    def close(self) -> None:
        self.socket.close()

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer; ConnectionError where the server closes
        instead.
        """
        while b"\r\n\r\n" not in self._rest:
            self._read()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        length = int(headers.get("content-length", 0))
        while len(self._rest) < length:
            self._read()
        body, self._rest = self._rest[:length], self._rest[length:]
        return int(status.split()[1]), headers, body

    def closed(self) -> bool:
        """Whether the server closes, once what it has said is read."""
        try:
            while self.socket.recv(65_536):
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True

    def _read(self) -> None:
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError("closed by the server")
        self._rest += data
