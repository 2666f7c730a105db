"""Sessions of the console, in the database: every process knows them, and signing out ends them.

The id of a session is random and only in its cookie; the database has a hash of it. A session
belongs to the key that signed in, and ends with it.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Engine

from app.audit import records
from app.audit.key_derivation import derive_key
from app.clock import now_ms
from app.database.driver import Cursor, in_background, in_time
from app.database.engine import dialect, reading
from app.database.writer import Writer
from app.telemetry import explain

ID_BYTES = 32
MAC_KEY = b"leanplum-gateway console sessions"  # name of a derived key: never change it
SWEEP_SECONDS = 60.0  # between removals of sessions that have ended
# That a session was used is written at most so many times in its idle time
TOUCHES = 20
COLUMNS = "hash, key_id, secret, created_at, last_seen_at, expires_at, mac"
INSERT = f"INSERT INTO console_sessions ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
FIND = f"SELECT {COLUMNS} FROM console_sessions WHERE hash = ? AND expires_at > ?"
PRESENT = "SELECT hash FROM console_sessions WHERE expires_at > ? AND hash IN "
TOUCH = "UPDATE console_sessions SET last_seen_at = ?, expires_at = ? WHERE hash = ?"
END = "DELETE FROM console_sessions WHERE hash = ?"
SWEEP = "DELETE FROM console_sessions WHERE expires_at <= ?"
ANY_ENDED = "SELECT 1 FROM console_sessions WHERE expires_at <= ? LIMIT 1"
Record = tuple[int, str]  # an audit record: its time (ms) and its text

log = structlog.get_logger("console")


class Session(NamedTuple):
    """A session. Times are milliseconds since the epoch; `secret` is the hash of its key.

    `mac` shows that the gateway made it, and for which key.
    """

    hash: bytes
    key_id: str
    secret: bytes
    created_at: int
    last_seen_at: int
    expires_at: int
    mac: bytes = b""


class Durations(NamedTuple):
    """How long sessions last, in milliseconds: without use, and at most."""

    idle: int
    longest: int


def hash_of(session_id: str) -> bytes:
    """Return the hash by which the database knows a session."""
    return hashlib.sha256(session_id.encode()).digest()


def form_token(session_id: str) -> str:
    """Return the token that every form of a session carries.

    It cannot be computed from the hash, and the id cannot be computed from it.
    """
    return hmac.digest(session_id.encode(), b"console form token", "sha256").hex()


@dataclass(frozen=True, slots=True)
class BeginSession:
    """The write that stores a session with the audit record of the sign-in.

    `replaced`: the hash of the session that the browser had before, which ends.
    """

    session: Session
    replaced: bytes
    record: Record
    macs: records.AuditMacs
    rows: int = 3

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["BeginSession"]) -> Sequence[None]:
        """Store the sessions, and end those that they replace."""
        for write in writes:
            cursor.execute(END, (write.replaced,))
            cursor.execute(INSERT, tuple(write.session))
            records.insert(cursor, write.macs, [write.record])
        return [None] * len(writes)


@dataclass(frozen=True, slots=True)
class TouchSession:
    """The write that notes when a session was last used, and until when it lasts now."""

    hash: bytes
    last_seen_at: int
    expires_at: int
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["TouchSession"]) -> Sequence[None]:
        """Note the uses."""
        for write in writes:
            cursor.execute(TOUCH, (write.last_seen_at, write.expires_at, write.hash))
        return [None] * len(writes)


@dataclass(frozen=True, slots=True)
class EndSession:
    """The write that removes a session with the audit record of the sign-out."""

    hash: bytes
    record: Record
    macs: records.AuditMacs
    rows: int = 2

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["EndSession"]) -> Sequence[None]:
        """Remove the sessions."""
        for write in writes:
            cursor.execute(END, (write.hash,))
            records.insert(cursor, write.macs, [write.record])
        return [None] * len(writes)


@dataclass(frozen=True, slots=True)
class SweepSessions:
    """The write that removes the sessions that ended by a time."""

    now: int
    rows: int = 1

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["SweepSessions"]) -> Sequence[None]:
        """Remove what has ended."""
        cursor.execute(SWEEP, (max(write.now for write in writes),))
        return [None] * len(writes)


class SessionStore:
    """The sessions of all processes."""

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        macs: records.AuditMacs,
        root_key: bytes,
        durations: Durations,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """`root_key` is that of the audit, from which the key of the sessions' MACs is derived."""
        self._engine, self._writer, self._macs = engine, writer, macs
        self._mac_key = derive_key(root_key, MAC_KEY)
        self.durations, self._clock = durations, clock

    async def begin(self, key_id: str, secret: bytes, record: Record, *, replaced_id: str) -> str:
        """Store a new session of a key, with its audit record; return the session's id.

        `replaced_id` is the id of the browser's session until now, if any, which ends.
        """
        session_id, now = secrets.token_urlsafe(ID_BYTES), self._clock()
        session = Session(hash_of(session_id), key_id, secret, now, now, self._end(now, now))
        session = session._replace(mac=self._mac(session))
        await self._writer.write(BeginSession(session, hash_of(replaced_id), record, self._macs))
        return session_id

    async def find(self, session_id: str) -> Session | None:
        """Return the session with this id, if it has not ended, and extend it."""
        session = await in_time(lambda: self._read(hash_of(session_id)))
        if session is not None:
            await self._touch(session)
        return session

    async def end(self, session: Session, record: Record) -> None:
        """Remove a session, with the audit record of the sign-out."""
        await self._writer.write(EndSession(session.hash, record, self._macs))

    async def present(self, hashes: Collection[bytes]) -> set[bytes]:
        """Return those of the sessions, by their hashes, that have not ended."""
        return await in_background(lambda: self._present(hashes))

    async def run(self) -> None:
        """Remove sessions that have ended, again and again, until cancelled."""
        while True:
            try:
                await self.sweep()
            except Exception as error:
                # The loop must go on: whatever is wrong now may be over at the next step.
                log.warning("console.sweep_paused", **explain(error))
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Remove sessions that have ended."""
        now = self._clock()
        if await in_background(lambda: self._row(ANY_ENDED, (now,))):
            await self._writer.write(SweepSessions(now))

    def _end(self, created_at: int, now: int) -> int:
        return min(created_at + self.durations.longest, now + self.durations.idle)

    async def _touch(self, session: Session) -> None:
        now = self._clock()
        if now - session.last_seen_at >= self.durations.idle / TOUCHES:
            expires_at = self._end(session.created_at, now)
            await self._writer.write(TouchSession(session.hash, now, expires_at))

    def _read(self, hash_: bytes) -> Session | None:
        row = self._row(FIND, (hash_, self._clock()))
        if row is None:
            return None
        hash_, key_id, secret, created_at, last_seen_at, expires_at, mac = row
        times = created_at, last_seen_at, expires_at
        session = Session(bytes(hash_), key_id, bytes(secret), *times, bytes(mac))
        # A row that somebody else has written is no session.
        return session if hmac.compare_digest(self._mac(session), session.mac) else None

    def _mac(self, session: Session) -> bytes:
        """Return the MAC of what does not change of a session."""
        key_id, created_at = session.key_id.encode(), b"%d" % session.created_at
        text = b"\0".join((session.hash, session.secret, key_id, created_at))
        return hmac.digest(self._mac_key, text, "sha256")

    def _row(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        with reading(self._engine) as connection:
            cursor = Cursor(connection.connection.cursor(), dialect(self._engine))
            cursor.execute(statement, parameters)
            return cursor.fetchone()

    def _present(self, hashes: Collection[bytes]) -> set[bytes]:
        if not hashes:
            return set()
        with reading(self._engine) as connection:
            cursor = Cursor(connection.connection.cursor(), dialect(self._engine))
            marks = ", ".join("?" * len(hashes))
            cursor.execute(f"{PRESENT}({marks})", (self._clock(), *hashes))
            return {bytes(row[0]) for row in cursor.fetchall()}
