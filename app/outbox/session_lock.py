"""The liveness lock on PostgreSQL: an advisory lock of a session of its own.

The server releases the lock when the session ends, and the session ends at once with its process.
It also ends while the process lives: a connection is cut, a server restarts. So a lock that is free
proves nothing by itself:

- A process is taken for dead once its lock was free in all looks of `GONE_SECONDS`, after what
  names the lock was seen first. The server must be the one that the lock was taken on: one that was
  restarted or promoted has no locks, and another identity. There, leases end by time.
- A process whose session has ended takes its lock again within a second. Until then it names no
  lock, so what it renews ends by time. If it does not hold the lock again for `GONE_SECONDS`, its
  lock lapses: it ends its calls, as a killed process would. A hold that is shorter than
  `STEADY_SECONDS` does not count, since others may not have seen it.

Behind a pooler there are no sessions to hold a lock, and leases end by time.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import psycopg
import structlog

from app.database.driver import time_limit
from app.database.postgresql import Connection
from app.outbox.liveness_lock import KnownProcess

# Longer than a process needs to take a lock again that it has lost. A call that is in flight then
# is ended as late as this; user locks outlast it (`user_lock_rows.OUTLIVES_MS`).
GONE_SECONDS = 3.0
LOOK_SECONDS = 1.0  # between looks at the locks
STEADY_SECONDS = 2.0  # a lock that is held for so long is seen, or the looks do not count
FORGET_SECONDS = 60.0  # after which a lock is new again that nobody asked about
ANSWER_SECONDS = 5.0  # that the server may take to answer; less than GONE_SECONDS + OUTLIVES_MS
CLOSE_SECONDS = 1.0
SPACE = 7303016  # of the keys of these locks, beside those of `driver.POSTGRESQL`
KEYS = 2**31
TAKE = """
SELECT pg_try_advisory_lock(%s, %s),
       (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint::text
"""
HELD = """
SELECT objid::bigint FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND classid = %s
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

log = structlog.get_logger("outbox")


class Look(NamedTuple):
    """The keys of the locks that were held at some time between the two, by the monotonic clock."""

    asked_at: float
    at: float
    held: frozenset[int]


@dataclass(frozen=True, slots=True)
class Session:
    """A session that holds the lock.

    `identity`: of the server, the owner, and this session. `taken_at`, `confirmed_at`: the session
    had not ended by then. `looks`: the latest, in `GONE_SECONDS` and one before.
    """

    identity: str
    taken_at: float
    confirmed_at: float
    looks: tuple[Look, ...] = ()

    @property
    def is_steady(self) -> bool:
        """Return whether everybody has seen that the lock is held."""
        return self.confirmed_at - self.taken_at >= STEADY_SECONDS

    def with_look(self, look: Look) -> "Session":
        """Return the session after one more look."""
        looks = [*self.looks, look]
        if len(looks) > 1 and look.at - looks[-2].asked_at >= STEADY_SECONDS:
            looks = [look]  # a lock may have been held in between
        while len(looks) > 1 and looks[1].at <= look.asked_at - GONE_SECONDS:
            looks.pop(0)
        return replace(self, confirmed_at=look.asked_at, looks=tuple(looks))

    def is_free(self, owner: str, since: float) -> bool:
        """Return whether a process's lock was free in all looks since then, for `GONE_SECONDS`."""
        key = _key(owner)
        looks = [look for look in self.looks if look.asked_at >= since]
        return (
            bool(looks)
            and looks[-1].asked_at - looks[0].at >= GONE_SECONDS
            and all(key not in look.held for look in looks)
        )


class SessionLock:
    """The lock of one process, `owner`, kept by a thread of its own."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        owner: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.owner, self._connect, self._clock = owner, connect, clock
        self._connection: Connection | None = None  # of the thread
        self._takes = 0  # likewise
        self._session: Session | None = None
        self._steady_until: float | None = None  # when the lock was surely seen last
        self._lapses, self._may_lapse = 0, False
        self._changing = threading.Lock()  # the four above
        self.on_lapse, self._acted_on = list[Callable[[], None]](), 0
        # By a lock's identity: when it was asked about first, and last
        self._asked = dict[str, tuple[float, float]]()
        self._stopping, self._tried = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="liveness", daemon=True)

    def start(self) -> None:
        """Take the lock, or find that it cannot be taken now; keep it from now on."""
        self._thread.start()
        self._tried.wait(ANSWER_SECONDS)

    def lapses(self) -> int:
        """Return how often the lock was lost for so long that others may have taken this for dead.

        Each new loss calls `on_lapse` first.
        """
        with self._changing:
            self._note_lapse()
            lapses = self._lapses
        if lapses != self._acted_on:
            self._acted_on = lapses
            for act in self.on_lapse:
                act()
        return lapses

    def identity(self) -> str | None:
        """Return the identity of the session: of two processes each has its own.

        So whatever names it ends by time as well, since a session may outlive its process.
        """
        session = self._session
        return None if session is None else session.identity

    def gone(self, others: Iterable[KnownProcess]) -> list[KnownProcess]:
        """Return which of the other processes have ended, of those with a lock on this server."""
        session = self._session
        if session is None:
            return []
        server = session.identity.partition("/")[0]
        named = {
            other.lock: other
            for other in others
            if other.lock is not None and other.lock.startswith(f"{server}/{other.id}/")
            if other.id != self.owner
        }
        known_since = self._note_asked(named)
        return [
            other for lock, other in named.items() if session.is_free(other.id, known_since[lock])
        ]

    def _note_asked(self, identities: Iterable[str]) -> dict[str, float]:
        """Note that locks are asked about; return since when each is known."""
        now = self._clock()
        for identity in identities:
            first, _ = self._asked.get(identity, (now, now))
            self._asked[identity] = first, now
        self._asked = {
            identity: times
            for identity, times in self._asked.items()
            if times[1] > now - FORGET_SECONDS
        }
        return {identity: first for identity, (first, _) in self._asked.items()}

    def close(self) -> None:
        """Release the lock. If the server is silent, the end of the process does that."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)
        else:
            self._lose()

    def step(self) -> bool:
        """Take the lock, or look at it and those of others; return whether there may be one."""
        if self._connection is None:
            return self._take()
        try:
            with time_limit(ANSWER_SECONDS):
                self._look(self._connection)
        except Exception as error:  # whatever is wrong, the lock must be taken again
            log.warning("liveness_lock.lost", reason=str(error).partition("\n")[0])
            self._lose()
        return True

    # --- on the thread ---

    def _run(self) -> None:
        try:
            while self.step():
                self._tried.set()
                if self._stopping.wait(LOOK_SECONDS):
                    break
        finally:
            self._tried.set()
            self._lose()

    def _take(self) -> bool:
        """Open a session and take the lock; return False behind a pooler."""
        try:
            with time_limit(ANSWER_SECONDS):
                self._connection = self._connect()
                if self._connection.pooled:
                    self._disconnect()
                    return False
                session = self._lock(self._connection)
        except psycopg.Error:  # whoever needs the database says so
            session = None
        except Exception as error:
            log.warning("liveness_lock.lost", reason=str(error).partition("\n")[0])
            session = None
        if session is None:
            self._disconnect()
            return True
        with self._changing:
            self._note_lapse()
            self._session, self._may_lapse = session, True
            if self._steady_until is None:
                self._steady_until = session.taken_at
        return True

    def _lock(self, connection: Connection) -> Session | None:
        """Return the session that has the lock now; None while the server keeps the former one."""
        asked_at = self._clock()
        row = connection.execute(TAKE, (SPACE, _key(self.owner))).fetchone()
        assert row is not None
        taken, server = row
        if not taken:
            return None
        self._takes += 1
        return Session(f"{server}/{self.owner}/{self._takes}", asked_at, asked_at)

    def _look(self, connection: Connection) -> None:
        asked_at = self._clock()
        held = frozenset(key for (key,) in connection.execute(HELD, (SPACE,)).fetchall())
        if _key(self.owner) not in held:
            raise psycopg.OperationalError("the session does not hold the lock any more")
        session = self._session
        assert session is not None
        session = session.with_look(Look(asked_at, self._clock(), held))
        with self._changing:
            self._session = session
            if session.is_steady:
                self._steady_until = session.confirmed_at

    def _lose(self) -> None:
        with self._changing:
            self._session = None
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with time_limit(CLOSE_SECONDS):
                self._connection.close()
            self._connection = None

    def _note_lapse(self) -> None:
        """Count the loss of the lock, once, if it lasts too long."""
        if self._session is not None or not self._may_lapse or self._steady_until is None:
            return
        if self._clock() >= self._steady_until + GONE_SECONDS:
            self._lapses, self._may_lapse = self._lapses + 1, False
            log.warning("liveness_lock.lapsed", advice="calls in flight are ended")


def _key(owner: str) -> int:
    digest = hashlib.blake2b(owner.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % KEYS
