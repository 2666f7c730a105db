"""One request at a time, and what became of it: the answer's status, or how the connection
ended.
"""

import http.client
import socket
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field

from tests.attacks.bodies import Body

SECONDS = 30.0
DRIPPING = 200  # connections


@dataclass(frozen=True)
class Target:
    """Where the gateway is, and the keys that attackers have."""

    port: int
    sdk: str  # a phone's
    writer: str  # a backend's, which may write events
    poor: str  # a backend's and a phone's with a rate of 1 item a second
    half: str  # a phone's with a rate of 1 item a second, and a bucket of 1,500
    manager: str  # an operator's, which makes keys
    changed: str  # the id of a key that the operator changes
    unknown: str  # in the form of a key, and nobody's


class Client:
    """One connection that is opened again where the gateway closes it."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)

    def ask(self, method: str, path: str, body: Body = (b"", {}), *, key: str | None = None) -> str:
        headers = dict(body[1])
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        try:
            self._connection.request(method, path, body[0] or None, headers)
            answer = self._connection.getresponse()
            answer.read()
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            return type(error).__name__
        return str(answer.status)


@dataclass
class Drip:
    """Connections that send one byte a second of a head, or of a body, for ever."""

    port: int
    start: bytes
    _open: list[socket.socket] = field(default_factory=list)

    def step(self) -> str:
        """Send a byte on each, open those anew that the gateway has closed, and wait a second."""
        kept = [connection for connection in self._open if _sent(connection, b"x")]
        while len(kept) < DRIPPING:
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)
            connection.sendall(self.start)
            kept.append(connection)
        self._open = kept
        time.sleep(1)
        return "open"


def _sent(connection: socket.socket, data: bytes) -> bool:
    try:
        connection.sendall(data)
    except OSError:
        connection.close()
        return False
    return True


def until_the_answer(port: int, head: bytes, piece: bytes, pieces: int) -> str:
    """Send a body however early the answer comes, as the plainest clients do; its status."""
    try:
        with closing(socket.create_connection(("127.0.0.1", port), timeout=SECONDS)) as connection:
            connection.sendall(head)
            for _ in range(pieces):
                connection.sendall(piece)
            answer = b""
            while b"\r\n" not in answer:
                data = connection.recv(65_536)
                if not data:
                    return "closed"
                answer += data
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            return answer.split()[1].decode()
    except OSError as error:
        return type(error).__name__
