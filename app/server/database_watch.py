"""The loop that reads the metrics of the database.

It counts the queue and the dead letters in parts, so that no transaction stays open for long, and
rests for a multiple of the time that it took, up to a minute: a long queue is counted less often.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

import structlog
from sqlalchemy import Connection, Engine

from app.audit.seal_state import SealState, read_seal_state
from app.audit.tree import fetcher
from app.clock import now_ms
from app.database.driver import in_background
from app.database.engine import reading, snapshot
from app.database.postgresql import server_time_ms
from app.database.size import database_bytes, free_bytes
from app.model import Status
from app.outbox.queue_state import (
    CountedItems,
    CountedPart,
    PartCounter,
    count_dead_letters,
    count_waiting,
)
from app.telemetry import explain
from app.telemetry.database_gauges import AppItems, DatabaseGauges, DatabaseState

LEAST_SECONDS = 2.0  # between two looks
REST = 20  # times as long as a look took, until the next one,
MOST_SECONDS = 60.0  # but no longer than this: alerts read the result
PART = 20_000  # items that are counted in one transaction
WAITING = (Status.ACCEPTED.value, Status.RETRYING.value, Status.HELD.value)

log = structlog.get_logger("metrics")


class _Facts(NamedTuple):
    """Facts about the database from one short read, without counts of items."""

    size_bytes: int
    free_bytes: int | None
    seal: SealState
    skew_seconds: float | None


class DatabaseWatch:
    """Reads the gauges of the database, again and again."""

    def __init__(
        self,
        engine: Engine,
        gauges: DatabaseGauges,
        apps: Callable[[], Collection[str]],
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        """`apps` returns the configured apps: they are shown even if they have no items."""
        self._engine, self._gauges, self._apps, self._ticks = engine, gauges, apps, ticks

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            began = self._ticks()
            try:
                await self.step()
            except Exception as error:
                # The loop must go on: whatever is wrong now may be over at the next look.
                log.warning("metrics.not_read", **explain(error))
            rest = min(REST * (self._ticks() - began), MOST_SECONDS)
            await asyncio.sleep(max(LEAST_SECONDS, rest))

    async def step(self) -> None:
        """Look once."""
        at = now_ms()
        waiting = await self._count(count_waiting)
        dead = await self._count(count_dead_letters)
        facts = await in_background(self._read_facts)
        self._gauges.state = DatabaseState(
            at=at,
            apps=_by_app(waiting, dead, self._apps()),
            size_bytes=facts.size_bytes,
            free_bytes=facts.free_bytes,
            unsealed_records=max(0, facts.seal.records - facts.seal.sealed),
            sealed_at=facts.seal.sealed_at,
            skew_seconds=facts.skew_seconds,
        )

    async def _count(self, count_part: PartCounter) -> list[CountedItems]:
        """Count all items that a counter of parts finds."""
        counts, after = list[CountedItems](), 0
        while True:
            part = await in_background(partial(self._read_part, count_part, after))
            counts += part.counts
            if part.last is None:
                return counts
            after = part.last

    def _read_part(self, count_part: PartCounter, after: int) -> CountedPart:
        with reading(self._engine) as connection:
            return count_part(connection, after, PART)

    def _read_facts(self) -> _Facts:
        with snapshot(self._engine) as connection:
            return _facts_of(connection)


def _facts_of(connection: Connection) -> _Facts:
    skew = None
    if connection.dialect.name == "postgresql":
        before = now_ms()
        server = server_time_ms(connection)
        skew = ((before + now_ms()) / 2 - server) / 1000
    return _Facts(
        size_bytes=database_bytes(connection),
        free_bytes=free_bytes(connection),
        seal=read_seal_state(fetcher(connection)),
        skew_seconds=skew,
    )


def _by_app(
    waiting: Sequence[CountedItems], dead: Sequence[CountedItems], configured: Collection[str]
) -> dict[str, AppItems]:
    """Return the items of all apps that have any or are configured."""
    counts = defaultdict[str, dict[str, int]](lambda: dict.fromkeys(WAITING, 0))
    oldest = dict[str, int]()
    dead_letters = defaultdict[str, int](int)
    for found in waiting:
        states = counts[found.app]
        states[found.status] = states.get(found.status, 0) + found.items
        oldest[found.app] = min(found.oldest, oldest.get(found.app, found.oldest))
    for found in dead:
        dead_letters[found.app] += found.items
    return {
        app: AppItems(counts[app], oldest.get(app), dead_letters[app])
        for app in sorted({*configured, *counts, *dead_letters})
    }
