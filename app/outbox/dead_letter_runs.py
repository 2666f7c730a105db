"""Replays and discards of dead letters that go on in the background, with their progress.

The progress is in the database, so that every process can show it. A run goes on in the process
that began it; where that ends, the run stops after a step, and the other dead letters stay.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import orjson
import structlog
from sqlalchemy import Connection, Engine, select

from app.clock import now_ms
from app.database.driver import Cursor, in_time
from app.database.engine import reading
from app.database.tables import dead_letter_runs
from app.database.writer import Writer
from app.errors import GatewayError, RateLimited, StorageUnavailable
from app.outbox.dead_letters import DeadLetterFilter, DeadLetterService
from app.telemetry import describe

RunKind = Literal["replay", "discard"]
RUNNING, DONE, STOPPED = "running", "done", "stopped"
TELL_MS = 1_000  # between two writes of the progress
SILENT_MS = 30_000  # after which a run that tells nothing is taken for interrupted
RETENTION_MS = 2 * 86_400_000
MOST_RECENT = 10
MOST_RUNNING = 10  # in one process
RETRY_SECONDS = 10.0
TOO_MANY = "Too many replays and discards are in progress here; wait until one has ended."
INTERRUPTED = "The process that did it has ended. Start it again for those that are left."
ENDING = "The process stopped. Start it again for those that are left."
COLUMNS = "id, app, kind, dry_run, key_id, choice, started_at, updated_at, matched, changed, state"
PUT = f"""
INSERT INTO dead_letter_runs ({COLUMNS}, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at, matched = excluded.matched,
    changed = excluded.changed, state = excluded.state, detail = excluded.detail
"""
EXPIRE = "DELETE FROM dead_letter_runs WHERE updated_at < ?"

log = structlog.get_logger("dead_letters")


@dataclass(frozen=True, slots=True)
class DeadLetterRun:
    """A replay or discard: who began it, what it is about, and how far it is.

    Times are in milliseconds. `choice` describes the dead letters, for people. `detail` says why it
    stopped.
    """

    id: str
    app: str
    kind: RunKind
    dry_run: bool
    key_id: str
    choice: dict[str, str]
    started_at: int
    updated_at: int
    matched: int = 0
    changed: int = 0
    state: str = RUNNING
    detail: str = ""

    def values(self) -> tuple[Any, ...]:
        """Return the row of the run."""
        return (
            self.id,
            self.app,
            self.kind,
            int(self.dry_run),
            self.key_id,
            orjson.dumps(self.choice).decode(),
            self.started_at,
            self.updated_at,
            self.matched,
            self.changed,
            self.state,
            self.detail,
        )


@dataclass(frozen=True, slots=True)
class PutRun:
    """The write that stores the progress of a run, and removes old runs."""

    run: DeadLetterRun
    rows: int = 2

    @classmethod
    def run_all(cls, cursor: Cursor, writes: Sequence["PutRun"]) -> Sequence[None]:
        """Store the runs."""
        for write in writes:
            cursor.execute(PUT, write.run.values())
            cursor.execute(EXPIRE, (write.run.updated_at - RETENTION_MS,))
        return [None] * len(writes)


class RunObserver(Protocol):
    """The callbacks of a run: whoever began it is asked and told while it goes on."""

    def record(self, count: int) -> tuple[int, str]:
        """Return the audit record of a step over so many items: its time (ms), its text."""
        ...

    def confirm(self) -> object:
        """Raise if the run may not go on, such as when its key was revoked."""
        ...

    def on_failure(self, error: Exception) -> None:
        """Record that the run has failed."""
        ...


class DeadLetterRuns:
    """Begins runs, and reads those of all processes."""

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        service: DeadLetterService,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._engine, self._writer, self._service = engine, writer, service
        self._clock = clock
        self._tasks = set[asyncio.Task[None]]()
        self._ending = False

    async def begin(
        self,
        app: str,
        kind: RunKind,
        which: DeadLetterFilter,
        observer: RunObserver,
        *,
        key_id: str,
        choice: dict[str, str],
        dry_run: bool,
        patience: float,
    ) -> str:
        """Begin a run, and return its id, after waiting `patience` seconds for a small one to end.

        Raises RateLimited while many are in progress here, and StorageUnavailable.
        """
        if len(self._tasks) >= MOST_RUNNING:
            raise RateLimited(TOO_MANY, RETRY_SECONDS)
        now = self._clock()
        run = DeadLetterRun(secrets.token_hex(8), app, kind, dry_run, key_id, choice, now, now)
        await self._writer.write(PutRun(run))
        task = asyncio.create_task(_Progress(run, self).work(self._service, which, observer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task}, timeout=patience)
        return run.id

    async def find(self, run_id: str) -> DeadLetterRun | None:
        """Return a run."""
        found = await self._read(dead_letter_runs.c.id == run_id)
        return found[0] if found else None

    async def recent(self, apps: Collection[str]) -> list[DeadLetterRun]:
        """Return the newest runs about these apps."""
        return await self._read(dead_letter_runs.c.app.in_(list(apps)))

    async def close(self, seconds: float) -> None:
        """Let the runs of this process stop after their steps, within `seconds`."""
        self._ending = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()

    async def tell(self, run: DeadLetterRun) -> None:
        """Store the progress of a run. It is not worth failing the run."""
        with suppress(StorageUnavailable):
            await self._writer.write(PutRun(run))

    @property
    def ending(self) -> bool:
        """True once the process ends."""
        return self._ending

    def now(self) -> int:
        """Return the time (ms)."""
        return self._clock()

    async def _read(self, condition: Any) -> list[DeadLetterRun]:
        runs = select(dead_letter_runs).where(condition)
        runs = runs.order_by(dead_letter_runs.c.started_at.desc()).limit(MOST_RECENT)
        return await in_time(partial(self._query, runs))

    def _query(self, runs: Any) -> list[DeadLetterRun]:
        with reading(self._engine) as connection:
            return [self._run_of(row._mapping) for row in _rows(connection, runs)]

    def _run_of(self, row: Any) -> DeadLetterRun:
        fields = dict(row)
        fields["choice"] = orjson.loads(fields["choice"])
        fields["dry_run"] = bool(fields["dry_run"])
        run = DeadLetterRun(**fields)
        if run.state == RUNNING and self._clock() - run.updated_at > SILENT_MS:
            return replace(run, state=STOPPED, detail=INTERRUPTED)
        return run


class _Stopped(Exception):
    """The process ends."""


class _Progress:
    """The work of one run, and how far it is."""

    def __init__(self, run: DeadLetterRun, runs: DeadLetterRuns) -> None:
        self._run, self._runs = run, runs

    async def work(
        self, service: DeadLetterService, which: DeadLetterFilter, observer: RunObserver
    ) -> None:
        """Do all steps, and tell how it ended."""
        act = service.replay if self._run.kind == "replay" else service.discard
        state, detail = DONE, ""
        try:
            matched, changed = await act(
                self._run.app,
                which,
                observer.record,
                dry_run=self._run.dry_run,
                before=partial(self._confirm, observer),
                on_step=self._note,
            )
            self._run = replace(self._run, matched=matched, changed=changed)
        except _Stopped:
            state, detail = STOPPED, ENDING
        except Exception as error:
            # The task has no caller: its page, the audit and the log tell what went wrong.
            state = STOPPED
            detail = "It failed; the log of the gateway says why."
            if isinstance(error, GatewayError):
                detail = error.detail
            log.error("run.failed", run=self._run.id, **describe(error))
            observer.on_failure(error)
        now = self._runs.now()
        await self._runs.tell(replace(self._run, state=state, detail=detail, updated_at=now))

    def _confirm(self, observer: RunObserver) -> None:
        if self._runs.ending:
            raise _Stopped
        observer.confirm()

    async def _note(self, matched: int, changed: int) -> None:
        """Take note of a step, and tell it if it is time."""
        now = self._runs.now()
        told_at = self._run.updated_at
        self._run = replace(self._run, matched=matched, changed=changed)
        if now - told_at >= TELL_MS:
            self._run = replace(self._run, updated_at=now)
            await self._runs.tell(self._run)


def _rows(connection: Connection, query: Any) -> Sequence[Any]:
    return connection.execute(query).all()
