"""The housekeeper: removes expired content in small steps, and recounts the queue."""

import asyncio
import math
import time
from collections.abc import Callable

import structlog

from app.errors import StorageUnavailable
from app.outbox.outbox import Outbox
from app.outbox.retention import RetentionLimits
from app.telemetry import describe

COUNT_SECONDS = 15.0  # between counts of what waits: other processes accept and deliver as well
# Times as long as the database's last cleaning took, none follows: others wait for it
SCRUB_REST = 100
STEP_SECONDS = 0.02  # between steps that removed something: callers' commits go first

log = structlog.get_logger("housekeeping")


class Housekeeper:
    """The loop that keeps the database from growing without end."""

    def __init__(
        self, outbox: Outbox, limits: RetentionLimits, ticks: Callable[[], float] = time.monotonic
    ) -> None:
        self._outbox, self._limits, self._ticks = outbox, limits, ticks
        self._counted, self._scrub_from = ticks(), -math.inf

    async def run(self) -> None:
        """Run steps until cancelled."""
        while True:
            try:
                more = await self.step()
            except Exception as error:
                # the outermost place: whatever is wrong now, it is tried again
                reason = error.detail if isinstance(error, StorageUnavailable) else describe(error)
                log.warning("housekeeping.paused", reason=reason)
                more = False
            await asyncio.sleep(STEP_SECONDS if more else COUNT_SECONDS)

    async def step(self) -> bool:
        """Do one step; return whether another should follow soon."""
        if self._ticks() >= self._counted + COUNT_SECONDS:
            self._counted = self._ticks()
            await self._outbox.recount_queued()
            began = self._ticks()
            if began >= self._scrub_from and await self._outbox.scrub():
                self._scrub_from = self._ticks() + SCRUB_REST * (self._ticks() - began)
        return await self._outbox.sweep(self._limits) > 0
