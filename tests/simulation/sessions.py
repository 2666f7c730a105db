"""The sessions of a simulated PostgreSQL in which processes hold their liveness locks: they end with
their process, or alone.
"""

from collections.abc import Callable
from typing import Any

import psycopg

from app.outbox.session_lock import HELD, TAKE


class Sessions:
    """All sessions of the server, and the keys of the locks that they hold."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._server = 1
        self._held = dict[int, Session]()
        self._sessions = set[Session]()
        self._closed_until = dict[str, float]()  # by process: nothing gets through for it

    def connect(self, process: str) -> Any:
        """Open a session. Raises psycopg.OperationalError."""
        if self._clock() < self._closed_until.get(process, 0.0):
            raise psycopg.OperationalError("refused")
        session = Session(self, process)
        self._sessions.add(session)
        return session

    def cut(self, process: str, seconds: float) -> None:
        """End the sessions of a process, which cannot open another one for so long."""
        self._closed_until[process] = self._clock() + seconds
        for session in [one for one in self._sessions if one.process == process]:
            session.close()

    def restart(self) -> None:
        """End all sessions; there is another server afterwards."""
        self._server += 1
        for session in list(self._sessions):
            session.close()

    def end(self, session: "Session") -> None:
        """Release what a session holds."""
        self._sessions.discard(session)
        self._held = {key: holder for key, holder in self._held.items() if holder is not session}

    def take(self, session: "Session", key: int) -> tuple[bool, str]:
        """Take a lock, unless another session holds it; also return the server's identity."""
        return self._held.setdefault(key, session) is session, str(self._server)

    def keys(self) -> list[tuple[int]]:
        """Return the keys of all locks."""
        return [(key,) for key in self._held]


class Session:
    """One session, with what `SessionLock` uses of a connection."""

    pooled = False

    def __init__(self, sessions: Sessions, process: str) -> None:
        self._sessions, self.process = sessions, process
        self._open = True

    def execute(self, statement: str, parameters: tuple[int, ...]) -> "Result":
        """Run one of the two statements."""
        if not self._open:
            raise psycopg.OperationalError("the session has ended")
        if statement == TAKE:
            return Result([self._sessions.take(self, parameters[1])])
        assert statement == HELD
        return Result(self._sessions.keys())

    def close(self) -> None:
        self._open = False
        self._sessions.end(self)


class Result:
    """Rows."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def fetchone(self) -> Any:
        return self._rows[0]

    def fetchall(self) -> list[Any]:
        return self._rows
