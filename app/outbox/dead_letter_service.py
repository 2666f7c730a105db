"""The service behind dead letters: list, replay and discard, by HTTP and by command alike."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine

from app.audit.records import AuditMacs
from app.clock import now_ms
from app.database.driver import in_time
from app.database.engine import reading
from app.database.writer import Writer
from app.encryption import BodyCipher
from app.model import Receipt
from app.outbox import dead_letters
from app.outbox.dead_letters import DeadLetterFilter, Discard, MakeRecord, Replay

T = TypeVar("T")
Notify = Callable[[Sequence[str]], None]


def _ignore(item_ids: Sequence[str]) -> None:
    """Do nothing."""


class DeadLetterService:
    """List, replay and discard dead letters; each change commits together with its audit record.

    `on_replayed` and `on_discarded` are called with the ids of the items after each commit.
    """

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        *,
        macs: AuditMacs,
        cipher: BodyCipher,
        clock: Callable[[], int] = now_ms,
        on_replayed: Notify = _ignore,
        on_discarded: Notify = _ignore,
    ) -> None:
        self._engine, self._writer, self._clock = engine, writer, clock
        self._macs, self._vault = macs, cipher
        self._on_replayed, self._on_discarded = on_replayed, on_discarded

    async def find(
        self, app: str, which: DeadLetterFilter, after: int = 0, limit: int = 100
    ) -> list[Receipt]:
        """Return at most `limit` dead letters of `app` in the order of acceptance.

        They have sequence numbers above `after`. Raises StorageUnavailable.
        """
        query = partial(
            dead_letters.find, app=app, which=which, after=after, limit=limit, cipher=self._vault
        )
        return await self._read(query)

    async def apps(self) -> list[str]:
        """Return the names of the apps that have dead letters. Raises StorageUnavailable."""
        return await self._read(dead_letters.apps)

    async def replay(
        self,
        app: str,
        which: DeadLetterFilter,
        record: MakeRecord,
        *,
        dry_run: bool = False,
        before: Callable[[], object] = lambda: None,
    ) -> tuple[int, int]:
        """Put dead letters back into the queue; return how many matched, and how many went back.

        `record` makes the audit record of each step. `before` is called before each step; an error
        that it raises ends the replay.
        """

        async def step(seqs: list[int]) -> int:
            write = Replay(seqs, self._clock(), record, self._macs, which)
            item_ids = await self._writer.write(write)
            self._on_replayed(item_ids)
            return len(item_ids)

        return await self._in_steps(app, which, step, before, dry_run=dry_run)

    async def discard(
        self,
        app: str,
        which: DeadLetterFilter,
        record: MakeRecord,
        *,
        dry_run: bool = False,
        before: Callable[[], object] = lambda: None,
    ) -> tuple[int, int]:
        """Give dead letters up for good; return how many matched, and how many were discarded.

        `record` and `before` are as in `replay`.
        """

        async def step(seqs: list[int]) -> int:
            write = Discard(seqs, record, self._macs, self._vault, which)
            item_ids = await self._writer.write(write)
            self._on_discarded(item_ids)
            return len(item_ids)

        return await self._in_steps(app, which, step, before, dry_run=dry_run)

    async def _in_steps(
        self,
        app: str,
        which: DeadLetterFilter,
        step: Callable[[list[int]], Awaitable[int]],
        before: Callable[[], object],
        *,
        dry_run: bool,
    ) -> tuple[int, int]:
        """Go through the matching items in steps, oldest first; return how many matched and changed.

        Each step is a short transaction, so that no other write waits long for the database.
        """
        matched = changed = after = 0
        find = partial(dead_letters.numbers, app=app, which=which, limit=dead_letters.STEP)
        while seqs := await self._read(partial(find, after=after)):
            matched += len(seqs)
            after = seqs[-1]
            before()
            if not dry_run:
                changed += await step(seqs)
        return matched, changed

    async def _read(self, query: Callable[[Connection], T]) -> T:
        def run() -> T:
            with reading(self._engine) as connection:
                return query(connection)

        return await in_time(run)
