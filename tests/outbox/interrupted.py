"""An outbox in which something else happens between what a step reads and what it writes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from app.audit.records import AuditMacs
from app.database.writer import DatabaseWrite, Writer
from app.outbox.outbox import Outbox

from .harness import Opened

Happening = Callable[[Opened], Awaitable[None]]


class Interrupted(Writer):
    """A writer that lets something else happen just before a write of one kind."""

    def __init__(self, at: Opened, kind: type[DatabaseWrite[Any]], happening: Happening) -> None:
        super().__init__(at.engine)
        self._at, self._kind, self._happening = at, kind, happening

    def write(
        self, write: DatabaseWrite[Any], *, along: bool = False, seconds: float | None = None
    ) -> "asyncio.Future[Any]":
        if type(write) is self._kind:
            return asyncio.ensure_future(self._late(write))
        return super().write(write, along=along, seconds=seconds)

    async def _late(self, write: DatabaseWrite[Any]) -> Any:
        await self._happening(self._at)
        return await super().write(write)


@asynccontextmanager
async def interrupted(
    at: Opened, kind: type[DatabaseWrite[Any]], happening: Happening
) -> AsyncIterator[Outbox]:
    """A second outbox on the database of `at`, as another process has it, whose writes of this kind
    come late.
    """
    writer = Interrupted(at, kind, happening)
    writer.start()
    try:
        yield Outbox(
            at.engine,
            writer,
            dedup_ms=60_000,
            max_queued=1_000,
            macs=AuditMacs(bytes(32)),
            clock=lambda: at.now,
        )
    finally:
        await writer.stop()
