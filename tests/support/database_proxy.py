"""A TCP proxy in front of PostgreSQL that can fall silent: it takes (and the kernel acknowledges)
what comes, and forwards nothing, or loses the answers to commits.
"""

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import URL, make_url

JOIN_SECONDS = 10.0

COMMIT = re.compile(rb"COMMIT(?!TED)")  # READ COMMITTED begins a transaction


class Proxy:
    """Forwards until it is told otherwise. `url`: of the database through it."""

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url)
        self._upstream = _socket_of(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        through = URL.create("postgresql", url.username, None, "127.0.0.1", port, url.database)
        self.url = through.render_as_string(hide_password=False)
        self.connections = 0  # that were made through it
        self.commits_lost = 0
        self._links, self._threads = list[_Link](), list[threading.Thread]()
        self._forwards = threading.Event()
        self._forwards.set()
        self._loses_commits = self._refuses = False
        self._reach = True
        self._delay = 0.0  # seconds before each answer is forwarded
        self._accepter = threading.Thread(target=self._accept, daemon=True)
        self._accepter.start()

    def fall_silent(self) -> None:
        """Forward nothing in either direction, on new connections neither. What comes is kept."""
        self._forwards.clear()

    def speak(self) -> None:
        """Forward again, what was kept first."""
        self._loses_commits = self._refuses = False
        self._forwards.set()

    def slow_down(self, seconds: float) -> None:
        """Forward each answer so much later; 0 ends that."""
        self._delay = seconds

    def lose_commits(self, *, reach: bool = True) -> None:
        """Forward everything but the answers to commits, and what follows them; `reach`: the
        commits themselves do.
        """
        self._loses_commits, self._reach = True, reach

    def forget(self) -> None:
        """Forward nothing more on the connections that there are, as a firewall that has forgotten
        them.
        """
        for link in self._links:
            link.forgotten = link.deaf = link.mute = True

    def refuse(self) -> None:
        """End all connections, and new ones at once."""
        self._refuses = True
        for link in self._links:
            link.end()

    def close(self) -> None:
        with suppress(OSError):  # some systems refuse to shut down a listener
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepter.join(JOIN_SECONDS)
        self.refuse()
        self._forwards.set()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
        for one in (self._listener, *(each for link in self._links for each in link.sockets)):
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                if self._refuses:
                    client.close()
                    continue
                link = _Link(client, socket.socket(socket.AF_UNIX))
                self._links.append(link)
                try:
                    link.server.connect(self._upstream)
                except OSError:
                    link.end()
                    raise
                for target in (self._questions, self._answers):
                    thread = threading.Thread(target=target, args=(link,), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _questions(self, link: "_Link") -> None:
        with suppress(OSError):  # one of the two has ended the connection
            while data := link.client.recv(65_536):
                self._forwards.wait()
                if self._loses_commits and COMMIT.search(data) and not link.deaf:
                    link.deaf, link.mute = True, not self._reach
                    self.commits_lost += 1
                if not link.mute:
                    link.server.sendall(data)
        self._forwards.wait()
        if not link.forgotten:
            link.end()

    def _answers(self, link: "_Link") -> None:
        with suppress(OSError):  # likewise
            while data := link.server.recv(65_536):
                self._forwards.wait()
                time.sleep(self._delay)
                if not link.deaf:
                    link.client.sendall(data)
        self._forwards.wait()
        if not link.deaf:
            link.end()


class _Link:
    """One connection through the proxy. `deaf`: its client hears nothing more; `mute`: nor is it
    heard; `forgotten`: the server doesn't learn of its end, either.
    """

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = self.sockets = client, server
        self.deaf = self.mute = self.forgotten = False

    def end(self) -> None:
        for one in self.sockets:
            with suppress(OSError):  # it has ended already
                one.shutdown(socket.SHUT_RDWR)


def _socket_of(url: URL) -> str:
    folder = url.query["host"]
    assert isinstance(folder, str)
    assert os.path.isdir(folder), "the test's server listens on a Unix socket"
    return str(Path(folder) / f".s.PGSQL.{url.port or 5432}")


@contextmanager
def proxied(database_url: str) -> Iterator[Proxy]:
    """A proxy in front of this database; closed at the end."""
    proxy = Proxy(database_url)
    try:
        yield proxy
    finally:
        proxy.close()
