"""The outbox as the steps around it see it: accept, find, begin, settle, look up."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from app.clock import now_ms
from app.database.engine import reason
from app.database.tables import items
from app.database.writer import Writer
from app.errors import QueueFull, StorageUnavailable
from app.model import Acceptance, Item, Receipt, Taken, Verdict
from app.outbox import claims, receipts
from app.outbox.accept import Accept
from app.outbox.settle import Begin, Settle

T = TypeVar("T")


class Outbox:
    """The durable queue. Every method that writes returns after the commit, or raises StorageUnavailable."""

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        *,
        dedup_ms: int,
        max_queued: int,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._engine, self._writer = engine, writer
        self._dedup_ms, self._max_queued, self._clock = dedup_ms, max_queued, clock
        self.queued = 0
        self.on_accepted: Callable[[], None] = lambda: None

    def count_queued(self) -> None:
        """Read from the database how many items wait; afterwards the count is kept in memory."""
        with self._engine.connect() as connection:
            waiting = select(func.count()).select_from(items).where(items.c.settled_at.is_(None))
            self.queued = connection.execute(waiting).scalar_one()

    async def accept(self, acceptance: Acceptance) -> list[Taken]:
        """Commit the items of one call; one Taken for each, in order. Raises QueueFull before anything is written."""
        if self.queued + len(acceptance.items) > self._max_queued:
            raise QueueFull(f"{self._max_queued} items wait already (GATEWAY_MAX_QUEUED_ITEMS).", retry_after=10)
        coming = len(acceptance.items)
        self.queued += coming  # counted before the commit, so that many at once can't overfill the queue together
        new = 0
        try:
            taken = await self._writer.write(Accept(acceptance, self._clock() - self._dedup_ms))
            new = [kind for _, kind in taken].count("accepted")
        finally:
            self.queued -= coming - new
        self.on_accepted()
        return taken

    async def waiting(self, after: int, limit: int) -> list[Item]:
        """At most `limit` waiting items with sequence numbers above `after`, in the order of acceptance."""
        return await self._read(partial(claims.waiting, after=after, limit=limit))

    async def begin(self, attempt: str, app: str, sent: Sequence[Item]) -> None:
        """Write an attempt down, before it is sent."""
        await self._writer.write(Begin(attempt, app, [item.seq for item in sent], self._clock()))

    async def settle(self, attempt: str, app: str, verdicts: Sequence[tuple[int, Verdict]], status: int | None) -> None:
        """Write down what came of an attempt, for each of its items by sequence number."""
        settle = Settle(attempt, app, verdicts, self._clock(), status)
        await self._writer.write(settle)
        self.queued -= settle.settled

    async def receipt(self, app: str, item_id: str) -> Receipt | None:
        """The receipt of an item of `app`, or None."""
        return await self._read(partial(receipts.find, app=app, item_id=item_id))

    async def settled_receipt(
        self, app: str, item_id: str, timeout: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> Receipt | None:
        """The receipt as soon as it is final, or as it is after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        pause = 0.02
        while True:
            receipt = await self.receipt(app, item_id)
            left = deadline - time.monotonic()
            if receipt is None or receipt.settled or left <= 0:
                return receipt
            await sleep(min(pause, left))
            pause = min(pause * 1.5, 0.25)

    async def _read(self, query: Callable[[Connection], T]) -> T:
        return await asyncio.to_thread(self._query, query)

    def _query(self, query: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                return query(connection)
        except SQLAlchemyError as error:
            raise StorageUnavailable(f"The database can't be read now: {reason(error)}.") from error
