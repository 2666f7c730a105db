"""The state of the gateway that the overview shows, read once for all who look at it.

All of it is read from the database, so it covers all processes.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from sqlalchemy import Engine

from app.clock import now_ms
from app.database.driver import in_background
from app.database.engine import reading
from app.errors import StorageUnavailable
from app.model import Status
from app.outbox import delivery_states
from app.outbox.delivery_states import DeliveryState
from app.outbox.item_filter import ItemFilter
from app.outbox.minute_counts import MinuteCount, MinuteCountStore
from app.outbox.outbox import Outbox
from app.outbox.queue_state import AppQueue, QueueState, read_queue
from app.outbox.search import ReceiptSearch
from app.telemetry.minute_counts import CALLS, FAILED_CALLS, MINUTE_MS

MINUTES = 60
SECONDS = 5.0  # between readings while somebody looks
FRESH_SECONDS = 2.0  # a page that is opened shows a reading that is not older
# Waiting items and dead letters that are looked at, oldest first: some 50 ms of work
EXAMINED = 20_000
QUEUE_REST = 50  # looking at the queue rests for so many times as long as it took
FAILING_MINUTES = 5  # after which an app counts as failing, if no call succeeded meanwhile
WORST_FIRST = ("held", "open", "closed")
NO_QUEUE = QueueState((), 0, more_waiting=False, more_dead=False)


@dataclass(frozen=True, slots=True)
class AppDelivery:
    """The delivery of an app by all processes that deliver.

    `state` is the worst of their circuits: `closed` (calls go), `open` or `held`; "" if none
    delivers for it. `rate` is how many calls a second they allow together; `reason` is why items
    are held, in Leanplum's words.
    """

    state: str = ""
    rate: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GatewayState:
    """The last reading of the gateway's state; times are in epoch milliseconds.

    `failed` is why the last reading failed; the rest is of the reading before.
    """

    read_at: int = 0
    minutes: Sequence[MinuteCount] = ()
    queue: QueueState = NO_QUEUE
    queue_at: int = 0
    delivery: Mapping[str, AppDelivery] = field(default_factory=dict)
    failed: str | None = None

    def total(self, app: str, kinds: Collection[str]) -> int:
        """Return how many of these kinds an app has had in the last hour."""
        return sum(row.total for row in self.minutes if row.app == app and row.kind in kinds)

    def series(self, app: str, kinds: Collection[str], first: int) -> list[int]:
        """Return the counts of an app by minute, from the one that began at `first`."""
        counts = [0] * MINUTES
        for row in self.minutes:
            index = (row.minute - first) // MINUTE_MS
            if row.app == app and row.kind in kinds and 0 <= index < MINUTES:
                counts[index] += row.total
        return counts

    def queue_of(self, app: str) -> AppQueue:
        """Return what waits for an app."""
        return next((found for found in self.queue.apps if found.app == app), AppQueue(app))

    def delivery_of(self, app: str) -> AppDelivery:
        """Return the delivery of an app."""
        return self.delivery.get(app, AppDelivery())

    def is_failing(self, app: str) -> bool:
        """Return whether all calls of the last minutes failed."""
        since = self.read_at - FAILING_MINUTES * MINUTE_MS
        recent = [row for row in self.minutes if row.app == app and row.minute > since]
        made = sum(row.total for row in recent if row.kind == CALLS)
        return 0 < made == sum(row.total for row in recent if row.kind == FAILED_CALLS)

    @property
    def first_minute(self) -> int:
        """When the first minute of the charts began."""
        return (self.read_at // MINUTE_MS - MINUTES + 1) * MINUTE_MS

    @property
    def apps(self) -> set[str]:
        """The apps that anything was counted of."""
        return {row.app for row in self.minutes} | {found.app for found in self.queue.apps}


class StateReader:
    """The reader of the gateway's state, a source for a poller."""

    def __init__(
        self,
        engine: Engine,
        outbox: Outbox,
        minute_counts: MinuteCountStore,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._engine, self._outbox = engine, outbox
        self._minute_counts, self._clock = minute_counts, clock
        self.state = GatewayState()
        self._lock = asyncio.Lock()
        # By the monotonic clock: the last reading, and when the queue is looked at again
        self._read_at = self._queue_from = -1.0

    def begin(self) -> None:
        """Do nothing: there is nothing to forget."""

    async def fresh(self) -> GatewayState:
        """Return a state that is at most two seconds old, or says why it is older."""
        if self._read_at < 0 or time.monotonic() - self._read_at > FRESH_SECONDS:
            await self.read()
        return self.state

    async def read(self) -> None:
        """Read the state."""
        async with self._lock:
            if self._read_at >= 0 and time.monotonic() - self._read_at < FRESH_SECONDS:
                return
            try:
                self.state = await self._reading()
            except StorageUnavailable as error:
                self.state = replace(self.state, failed=error.detail)
            self._read_at = time.monotonic()

    async def _reading(self) -> GatewayState:
        minutes = await self._minute_counts.read(MINUTES)
        deliveries = await in_background(self._read_deliveries)
        began, now = time.monotonic(), self._clock()
        if began < self._queue_from:
            queue, queue_at = self.state.queue, self.state.queue_at
            reasons = {app: found.reason for app, found in self.state.delivery.items()}
        else:
            queue, queue_at = await in_background(partial(self._read_queue, now)), now
            reasons = await self._held_reasons(queue)
            ended = time.monotonic()
            self._queue_from = ended + QUEUE_REST * (ended - began)
        delivery = {app: merge(deliveries, app, reasons.get(app, "")) for app in deliveries}
        return GatewayState(now, minutes, queue, queue_at, delivery)

    async def _held_reasons(self, queue: QueueState) -> dict[str, str]:
        """Return Leanplum's words about an item of each app with held items."""
        reasons = {}
        which = ItemFilter(statuses=frozenset({Status.HELD}))
        for found in queue.apps:
            if found.held:
                page = await self._outbox.search_receipts(ReceiptSearch(found.app, which, limit=1))
                words = [(receipt.leanplum or {}).get("error") for receipt in page.receipts]
                reasons[found.app] = next((str(word) for word in words if word), "")
        return reasons

    def _read_queue(self, now: int) -> QueueState:
        with reading(self._engine) as connection:
            return read_queue(connection, now, EXAMINED)

    def _read_deliveries(self) -> Mapping[str, Sequence[DeliveryState]]:
        """Return the states of each app's delivery, by the processes that deliver."""
        by_app: dict[str, list[DeliveryState]] = {}
        with reading(self._engine) as connection:
            for states in delivery_states.of_all(connection).values():
                for app, state in states.items():
                    by_app.setdefault(app, []).append(state)
        return by_app


def merge(deliveries: Mapping[str, Sequence[DeliveryState]], app: str, reason: str) -> AppDelivery:
    """Return the delivery of an app by all processes together."""
    states = deliveries[app]
    worst = min((found.state for found in states), key=WORST_FIRST.index)
    return AppDelivery(worst, sum(found.calls_per_second for found in states), reason)
