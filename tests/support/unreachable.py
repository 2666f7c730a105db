"""Places on this machine to which no connection can be made, each in a way of its own."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def dropping() -> Iterator[str]:
    """The URL of a port that answers no new connection, as behind a firewall that drops what it
    doesn't like: its queue is full, and nobody takes from it.
    """
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = open_sockets.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"


@contextmanager
def silent_in_tls() -> Iterator[str]:
    """The URL of a port that takes connections and never says its part of a TLS handshake."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/api"


@contextmanager
def hanging_up_in_tls() -> Iterator[str]:
    """The URL of a port that speaks no TLS, and hangs up on whoever does."""
    with _hanging_up() as port:
        yield f"https://127.0.0.1:{port}/api"


@contextmanager
def _hanging_up() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken, _ = listener.accept()
                    taken.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@contextmanager
def refusing() -> Iterator[str]:
    """The URL of a port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/api"


@contextmanager
def unknown_name() -> Iterator[str]:
    """A URL whose host has no address (RFC 6761 keeps `.invalid` free of names)."""
    yield "https://leanplum.invalid/api"


PLACES: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "dropping": dropping,
    "silent in TLS": silent_in_tls,
    "hanging up in TLS": hanging_up_in_tls,
    "refusing": refusing,
    "unknown name": unknown_name,
}
