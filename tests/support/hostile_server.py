"""A server in Leanplum's place that answers some callers as no server should."""

import json
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

MEBIBYTE = 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MARK = b"hostile"  # a call that has this word in its body gets the hostile answer


def bomb(mebibytes: int) -> bytes:
    """A gzip of so many mebibytes of blanks, a thousandth as large."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(b" " * MEBIBYTE) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + packed * mebibytes


def encoded(body: bytes, encoding: str) -> bytes:
    head = OK + f"Content-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return head + body


def nested() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return encoded(packer.compress(bomb(3_000)) + packer.flush(), "gzip, gzip")


def forever(first: bytes, again: bytes, pause: float = 0.0) -> Iterator[tuple[bytes, float]]:
    yield first, pause
    while True:
        yield again, pause


def at_once(said: bytes) -> Iterator[tuple[bytes, float]]:
    yield said, 0.0


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PIECE = b"%x\r\n%s\r\n" % (65_536, b" " * 65_536)
VALUES = b'{"response":[' + b"{}," * 2_000_000 + b"{}]}"
ANSWERS: dict[str, Callable[[], Iterator[tuple[bytes, float]]]] = {
    "a gzip bomb": lambda: at_once(encoded(bomb(3_000), "gzip")),
    "a gzip bomb in a gzip": lambda: at_once(nested()),
    "an endless body": lambda: forever(CHUNKED, PIECE),
    "a body byte by byte": lambda: forever(CHUNKED, b"1\r\n \r\n", 0.05),
    "endless headers": lambda: forever(OK, b"X-Header: " + b"x" * 1_000 + b"\r\n"),
    "headers byte by byte": lambda: forever(OK + b"X-Header: ", b"x", 0.05),
    "informational responses without end": lambda: forever(
        b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.01
    ),
    "more promised than sent": lambda: at_once(OK + b'Content-Length: 1000\r\n\r\n{"response":[]}'),
    "far more promised than is read": lambda: at_once(OK + b"Content-Length: 99999999999\r\n\r\n{"),
    "a number that is none": lambda: at_once(OK + b"Content-Length: -1\r\n\r\n{}"),
    "an encoding nobody asked for": lambda: at_once(encoded(b"{}", "br")),
    "a gzip that is cut off": lambda: at_once(encoded(bomb(1), "gzip")),
    "very many values": lambda: at_once(OK + b"Content-Length: %d\r\n\r\n" % len(VALUES) + VALUES),
}


class Hostile:
    """The server. `kind` is the hostile answer; None makes it answer everybody as Leanplum does."""

    def __init__(self, listener: socket.socket) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.kind: str | None = None
        self._listener, self._ended = listener, threading.Event()

    def close(self) -> None:
        self._ended.set()

    def run(self) -> None:
        with suppress(OSError):
            while True:
                taken, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(taken,), daemon=True).start()

    def _serve(self, taken: socket.socket) -> None:
        with taken, suppress(OSError):
            taken.settimeout(20)
            while body := self._request(taken):
                if self.kind is not None and MARK in body:
                    self._say(taken, ANSWERS[self.kind]())
                    return
                taken.sendall(_good(body))

    def _request(self, taken: socket.socket) -> bytes:
        """The body of the next request; nothing where there is none."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := taken.recv(65_536)):
                return b""
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        lines = (line.partition(b":") for line in head.lower().split(b"\r\n"))
        length = next(int(value) for name, _, value in lines if name == b"content-length")
        while len(body) < length:
            body += taken.recv(65_536)
        return body

    def _say(self, taken: socket.socket, pieces: Iterator[tuple[bytes, float]]) -> None:
        for piece, pause in pieces:
            taken.sendall(piece)
            if self._ended.wait(pause):
                return


def _good(body: bytes) -> bytes:
    sent: Any = json.loads(body)
    many = sent.get("data", [sent])
    entries = [
        {"success": True, "reqId": one.get("reqId")}
        for one in (json.loads(many) if isinstance(many, str) else many)
    ]
    told = json.dumps({"response": entries}).encode()
    return OK + b"Content-Length: %d\r\n\r\n" % len(told) + told


@contextmanager
def hostile() -> Iterator[Hostile]:
    """A running server."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        server = Hostile(listener)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.close()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
