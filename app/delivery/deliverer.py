"""The delivery loop: read items that wait, pack them into calls, and run an attempt for each call.

The decisions are in other modules: what to read and pack in `window`, when to call in `pacing`,
what to send again in `bisection`, what becomes of an item in `verdicts`.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import structlog

from app.delivery.attempt import (
    DEFAULT_OPTIONS,
    STORAGE_PAUSE_SECONDS,
    Attempt,
    AttemptRunner,
    DeliveryOptions,
)
from app.delivery.window import MAX_ACTIONS, Window
from app.errors import StorageUnavailable
from app.leanplum.client import LeanplumClient
from app.leanplum.http_response import MAX_RETRY_AFTER_SECONDS
from app.model import App, Item
from app.outbox import logins
from app.outbox.delivery_states import DeliveryState
from app.outbox.outbox import Outbox
from app.telemetry import Metrics, describe, explain

# Between looks for items that other processes accepted, and for lanes whose time has come
POLL_SECONDS = 0.5
# While calls are in flight, a short pause lets more items come together for the next call
GATHER_SECONDS = 0.02
LOCKED_SECONDS = 0.05  # between looks whether a user is still locked
MAX_DOUBLINGS = 10  # of LOCKED_SECONDS; the result is capped at POLL_SECONDS long before
# Between renewals of the leases: how soon one deliverer gets the shards that another gives back
RENEW_SECONDS = 2.0
# A larger gain of the database's clock between renewals means that the clock was set
CLOCK_STEP_SECONDS = 10.0
LEASE_SECONDS = 15.0  # beyond the time that a call may take: how long a deliverer may be silent

# A shorter wait for the next call is the pace itself, a longer one is Leanplum's `Retry-After`
LONG_PAUSE_MS = 1_000

log = structlog.get_logger("delivery")


class _LeaseClock:
    """The database's clock, by which leases end, as extrapolated by the monotonic clock.

    Where the database's clock was set forward, earlier leases are judged by the time that it would
    show otherwise, for as long as they may last.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._seen: tuple[int, float] | None = (
            None  # the database's time (ms), and when it was seen
        )
        self._in_doubt_until = math.inf

    def latest(self, now: float) -> int | None:
        """Return the latest time (ms) to judge leases by; None where that is unknown."""
        if self._seen is None:
            return None
        time_ms, seen_at = self._seen
        return time_ms + int((now - seen_at + CLOCK_STEP_SECONDS) * 1000)

    def note(self, time_ms: int, now: float) -> None:
        """Note the database's time."""
        latest = self.latest(now)
        if latest is None or time_ms <= latest or now >= self._in_doubt_until:
            self._seen, self._in_doubt_until = (time_ms, now), math.inf
        elif self._in_doubt_until == math.inf:
            self._in_doubt_until = now + self._lease_seconds


class Deliverer:
    """Delivers the items of the configured apps, several calls at once for each app."""

    def __init__(
        self,
        outbox: Outbox,
        client: LeanplumClient,
        apps: Mapping[str, App],
        metrics: Metrics,
        options: DeliveryOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Begin without leases; `apps` is read for each attempt."""
        self._outbox, self._options, self._ticks = outbox, options, options.ticks
        self._attempts = AttemptRunner(outbox, client, apps, metrics, options)
        self.owner = self._attempts.owner
        self._lease_seconds = options.call_seconds + LEASE_SECONDS
        self._renewed_at = -math.inf
        self._named: str | None = None  # the liveness lock that the leases name
        self._leaving: frozenset[int] = frozenset()  # shards to give back once nothing is in flight
        self._lease_clock = _LeaseClock(self._lease_seconds)
        self.window = Window()
        self.on_call_ended: Callable[[], None] = lambda: None
        self._look_at = math.inf  # when to look again at users whose items wait for another call
        # By lane whose items wait for a login: the login's number, and how often they had to wait
        self._login_waits = dict[int, tuple[int, int]]()
        self._calls: set[asyncio.Task[None]] = set()
        self._in_flight = Counter[str]()  # calls, by app
        self._wake = asyncio.Event()
        self._changed, self._polled_at = True, -math.inf
        self._stopping = self._reading = False
        # By app: since when its items are ready and the limits allow no further call
        self._limited_since: dict[str, int] = {}
        self._stored_circuits: dict[str, tuple[str, int]] = {}

    def look_again(self) -> None:
        """Look at once for items of users who are no longer locked."""
        self._wake.set()

    def notify(self) -> None:
        """Look at once for items that were just accepted."""
        self._changed = True
        self._wake.set()

    async def run(self) -> None:
        """Deliver until `stop`; then finish the calls that are in flight."""
        while not self._stopping:
            self._wake.clear()
            try:
                await self.step()
            except Exception as error:
                # Whatever is wrong now, the items that wait are tried again
                log.error("delivery.paused", **explain(error))
                await self._sleep(STORAGE_PAUSE_SECONDS)
            await self._rest()
        await self.drain()
        await self.leave()

    def stop(self) -> None:
        """Begin no more calls; `run` returns once those in flight are settled."""
        if not self._stopping:
            self._stopping = True
            self._attempts.settle_until = self._ticks() + self._options.drain_seconds
            self._wake.set()

    async def drain(self) -> None:
        """Wait until no call is in flight."""
        while self._calls:
            await asyncio.wait(self._calls)

    async def leave(self) -> None:
        """Release the leases, so that another deliverer need not wait until they expire."""
        shards = sorted(self.window.shards | self._leaving)
        unsent = self._attempts.unsent
        while True:
            try:
                await self._outbox.release(self.owner, shards, leaving=True, forget=unsent)
                break
            except StorageUnavailable as error:
                log.warning("leases.kept", reason=error.detail)
                next_try = self._ticks() + STORAGE_PAUSE_SECONDS
                if not self._stopping or next_try > self._attempts.settle_until:
                    break
                await asyncio.sleep(STORAGE_PAUSE_SECONDS)
        self.window.assign(frozenset())

    async def step(self) -> int:
        """Read the items that may be read, begin the calls that may begin, and count those."""
        await self._renew_leases()
        if self._ticks() >= self._look_at:
            self._look_at = math.inf
        self.window.resume_deferred(self._ticks_ms())
        await self._read()
        await self._renew_leases()  # of a long queue, reading may take as long as a lease
        begun = self._begin_calls()
        self._note_limited()
        return begun

    def _begin_calls(self) -> int:
        """Begin the calls that may begin now, and count them."""
        begun = 0
        while not self._stopping and (app := self._next_app()) is not None:
            self._begin_call(app)
            begun += 1
        return begun

    def _note_limited(self) -> None:
        """Note the apps whose items are ready, and for which no further call may begin."""
        apps = self.window.apps
        if apps or self._limited_since:
            now, limited_since = self._options.clock(), self._limited_since
            self._limited_since = {app: limited_since.get(app, now) for app in apps}

    def _states(self, circuits: Mapping[str, tuple[str, int]]) -> dict[str, DeliveryState]:
        """Return the state of delivery by app, as it is stored for other processes."""
        now, ticks, states = self._options.clock(), self._ticks(), dict[str, DeliveryState]()
        for app in circuits.keys() | self._limited_since.keys():
            state, since = circuits.get(app, ("closed", 0))
            pace = self._attempts.pacer(app).pace
            pause_ms = int(1000 * pace.wait(ticks))
            states[app] = DeliveryState(
                state=state,
                since=since,
                calls_per_second=pace.rate,
                limited_since=self._limited_since.get(app),
                paused_until=now + pause_ms if pause_ms >= LONG_PAUSE_MS else None,
            )
        return states

    def _next_app(self) -> str | None:
        """Return the first app for which a call may begin now."""
        for app in self.window.apps:
            if self._pause(app) == 0:
                return app
        return None

    def _begin_call(self, app: str) -> None:
        pacer = self._attempts.pacer(app)
        pacer.pace.note_begin(self._ticks())
        if pacer.probing:
            batch = self.window.next_batch(users=1, app=app)
        else:
            batch = self.window.next_batch(app=app)
        self._in_flight[app] += 1
        task = asyncio.create_task(self._deliver(batch))
        self._calls.add(task)
        task.add_done_callback(self._end_call)

    def _pause(self, app: str) -> float | None:
        """Return the seconds until another call for the app may begin.

        None where something else must happen first.
        """
        in_flight = self._in_flight[app]
        if in_flight >= self._options.concurrency:
            return None
        return self._attempts.pacer(app).wait(self._ticks(), in_flight)

    async def _renew_leases(self) -> None:
        """Renew the leases when it is time, and take or give back a fair share of the shards."""
        if self._leaving and not self.window.has_in_flight(self._leaving):
            await self._outbox.release(self.owner, sorted(self._leaving))
            self._leaving = frozenset()
        began = self._ticks()
        circuits, liveness = self._attempts.circuit_states(), self._attempts.liveness
        if self._leases_are_new(began) and circuits == self._stored_circuits:
            return
        others = await self._outbox.processes()
        unsent, named = self._attempts.unsent, liveness.identity()
        lease = await self._outbox.renew(
            self.owner,
            int(self._lease_seconds * 1000),
            liveness.gone(others),
            self._options.policy.not_twice,
            self._options.pseudonyms,
            liveness=named,
            forget=unsent,
            latest=self._lease_clock.latest(began),
            states=self._states(circuits),
        )
        self._stored_circuits, self._named = circuits, named
        self._attempts.forget(unsent)
        self._lease_clock.note(lease.at, began)
        self._renewed_at, self._attempts.leased_until = began, began + self._lease_seconds
        if lease.lost:
            log.warning("attempts.lost", count=lease.lost)
        if not lease.renewed:
            self.window.assign(frozenset())  # what is in memory may have been sent by others
            self._leaving = frozenset()
        surplus = lease.surplus - len(self._leaving)
        if surplus > 0:
            self._leaving |= frozenset(sorted(lease.shards - self._leaving)[-surplus:])
        shards = lease.shards - self._leaving
        if shards != self.window.shards:
            self.window.assign(shards)
            self._login_waits.clear()
            log.info("leases.changed", shards=len(shards))

    def _leases_are_new(self, now: float) -> bool:
        """Return whether the leases were renewed a moment ago, and name this process's lock."""
        return (
            now < self._renewed_at + RENEW_SECONDS
            and self._attempts.liveness.identity() == self._named
        )

    async def _read(self) -> None:
        """Read from the queue what the window asks for."""
        now = self._ticks()
        # While a caller has a backlog, looking for new items searches a part of it
        changed = self._changed and not self.window.backlogged
        changed = changed or now >= self._polled_at + POLL_SECONDS
        while (request := self.window.next_request(changed=changed)) is not None:
            if request.tail is not None:
                # Before reading: what is accepted meanwhile is read again
                self._changed, self._polled_at = False, now
            self._reading = True
            try:
                result = await self._outbox.look(request)
            except StorageUnavailable:
                self._changed = True
                raise
            finally:
                self._reading = False
            self._attempts.watermarks.note(result.last, now)
            latest = self._attempts.times.latest(int(MAX_RETRY_AFTER_SECONDS * 1000))
            self.window.take_result(result, self._ticks_ms(), latest)
            if not request.fresh:
                return

    async def _rest(self) -> None:
        """Wait for a reason to go on: an accepted item, a call that ended, or a lane's time."""
        if self._stopping:
            return
        if self.window.unread:
            await asyncio.sleep(0)
        elif (pause := self._shortest_pause()) is not None:
            await asyncio.sleep(min(pause, POLL_SECONDS))
        else:
            await self._sleep(min(POLL_SECONDS, max(0.0, self._look_at - self._ticks())))
        concurrency = self._options.concurrency
        if self._calls and any(count < concurrency for count in self._in_flight.values()):
            await asyncio.sleep(GATHER_SECONDS)

    def _shortest_pause(self) -> float | None:
        pauses = [self._pause(app) for app in self.window.apps]
        return min([pause for pause in pauses if pause], default=None)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def _end_call(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._reading = False  # no more calls before the next step
            log.error("call.failed", **describe(error))
        # Reading from a long queue takes longer than a call. With few items here, waiting for the
        # next step makes fewer and fuller calls.
        many = self.window.count >= MAX_ACTIONS
        if self._reading and many and self._leases_are_new(self._ticks()):
            self._begin_calls()

    async def _deliver(self, batch: Sequence[Item]) -> None:
        """Run an attempt for one batch. Whatever happens, its lanes leave the flight again."""
        later = self._ticks_ms() + int(STORAGE_PAUSE_SECONDS * 1000)
        lanes = {item.lane for item in batch}
        deferred = dict.fromkeys(lanes, later)
        excluded = dict.fromkeys(lanes, later)  # nothing is sent yet
        try:
            attempt = await self._attempts.begin(batch)
            if attempt is None:
                self._renewed_at = -math.inf
                log.warning(
                    "attempt.refused",
                    reason="another deliverer has the lanes, the lease ends or names another "
                    "liveness lock, or an item was erased",
                )
                return
            excluded = self._defer_excluded(batch, attempt)
            deferred |= excluded
            if attempt.items:
                sent_lanes = lanes
                if excluded:
                    sent_lanes = {item.lane for item in attempt.items}
                sent_deferred = await self._attempts.run(attempt)
                if sent_deferred is not None:
                    unsent_lanes = deferred.keys() - sent_lanes
                    deferred = {lane: deferred[lane] for lane in unsent_lanes} | sent_deferred
                # A lane whose sent items failed waits for these, not for those left out behind
                failed = deferred.keys() & sent_lanes
                excluded = {lane: until for lane, until in excluded.items() if lane not in failed}
                deferred = excluded | deferred
        except StorageUnavailable as error:
            self._reading = False  # no more calls before the next step
            log.error("attempt.unwritten", reason=error.detail, items=len(batch))
        finally:
            self._in_flight[batch[0].app] -= 1
            self.window.complete(batch, deferred, excluded)
            self._resume_behind(batch)
            self.on_call_ended()

    def _resume_behind(self, batch: Sequence[Item]) -> None:
        """Look at once at the lanes whose items wait for a login of a batch."""
        if not self._login_waits:
            return
        logged_in = {item.seq for item in batch if logins.MARK in item.body}
        if logged_in:
            for lane, (login, _) in self._login_waits.items():
                if login in logged_in:
                    self.window.resume(lane)

    def _defer_excluded(self, batch: Sequence[Item], attempt: Attempt) -> dict[int, int]:
        """Return until when (ms) the lanes wait of which items were left out of an attempt.

        They wait for another call of the user, or for a login. A login may wait long, so its lane
        is looked at less and less often.
        """
        if self._login_waits:
            for lane in {item.lane for item in batch} - attempt.excluded.keys():
                self._login_waits.pop(lane, None)
        until = dict[int, int]()
        for lane, login in attempt.excluded.items():
            _, waits = self._login_waits.get(lane, (login, 0))
            if login > 0:
                waits += 1
                self._login_waits[lane] = login, waits
            pause = login_pause(waits)
            until[lane] = self._ticks_ms() + int(pause * 1000)
            self._look_at = min(self._look_at, self._ticks() + pause)
        return until

    def _ticks_ms(self) -> int:
        return int(self._ticks() * 1000)


def login_pause(waits: int) -> float:
    """Return the seconds until a lane is looked at again that has waited for a login so often."""
    doublings = min(max(0, waits - 2), MAX_DOUBLINGS)
    return min(LOCKED_SECONDS * (1 << doublings), POLL_SECONDS)
