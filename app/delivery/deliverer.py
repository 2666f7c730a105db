"""The loop that keeps the promise: read what waits, pack, send, judge, write down. It acts and
decides nothing.
"""

import asyncio
import math
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from random import random
from typing import Any, NamedTuple

import structlog

from app.audit.records import MOST_USERS, about_users
from app.clock import Clock, Watermarks, now_ms
from app.delivery.bisection import Bisection, Doubts, sent_again
from app.delivery.pacing import Gate, State
from app.delivery.verdicts import RetryPolicy, judge
from app.delivery.window import Window
from app.encryption import TAMPERED, explain_undecryptable
from app.errors import StorageUnavailable
from app.leanplum import mapping, replies
from app.leanplum.client import LeanplumClient, Unreachable
from app.leanplum.http_response import MAX_RETRY_AFTER_SECONDS
from app.leanplum.outcomes import label_of_outcome
from app.model import (
    DONE,
    ERASES,
    App,
    CallRecord,
    ConfigRefused,
    Item,
    ItemRefused,
    KeyKind,
    Outcome,
    Postponed,
    Settled,
    Status,
    Trouble,
    Verdict,
    count_by_status,
)
from app.outbox.liveness_lock import LivenessLock
from app.outbox.outbox import Outbox
from app.telemetry import Metrics, describe

POLL_SECONDS = 0.5  # for what another process accepted, and for subjects whose time has come
GATHER_SECONDS = 0.02  # while calls are in flight anyway, let more come together for the next one
STORAGE_PAUSE_SECONDS = 1.0
LOCKED_SECONDS = 0.05  # between looks whether a user is still locked
# Between renewals of the leases: how soon one deliverer has what another gives back
TEND_SECONDS = 2.0
# That the database's clock may gain between renewals before it is taken to be set
STEP_SECONDS = 10.0
LEASE_SECONDS = 15.0  # beyond the time that a call may take: how long a deliverer may be silent

log = structlog.get_logger("delivery")


Outcomes = list[tuple[Item, Outcome]]  # of the items that were sent


class Sent(NamedTuple):
    """One call that was sent: its items, the HTTP status of the answer, and whether its items are
    sent again in smaller calls.
    """

    items: Sequence[Item]
    status: int | None
    split: bool = False


class _LeaseTime:
    """The database's clock, by which leases end, as the monotonic one has it.

    Where the database's was set forward, leases from before that are judged by what it would show
    otherwise, for as long as they may last.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._heard: tuple[int, float] | None = None  # the database's time (ms), and when that was
        self._in_doubt_until = math.inf

    def latest(self, now: float) -> int | None:
        """Return the latest time (ms) that leases may be judged by; None where that is unknown."""
        if self._heard is None:
            return None
        at, heard = self._heard
        return at + int((now - heard + STEP_SECONDS) * 1000)

    def heard(self, at: int, now: float) -> None:
        """Take note of the database's time."""
        latest = self.latest(now)
        if latest is None or at <= latest or now >= self._in_doubt_until:
            self._heard, self._in_doubt_until = (at, now), math.inf
        elif self._in_doubt_until == math.inf:
            self._in_doubt_until = now + self._lease_seconds


class Deliverer:
    """Delivers the items of the configured apps, at most `concurrency` calls at once for each.
    `apps` is looked at anew for each call, so a key that is changed there is used from then on.
    """

    def __init__(
        self,
        outbox: Outbox,
        client: LeanplumClient,
        apps: Mapping[str, App],
        metrics: Metrics,
        *,
        owner: str | None = None,
        liveness: LivenessLock | None = None,
        call_seconds: float = 30.0,
        drain_seconds: float = 30.0,
        concurrency: int = 16,
        policy: RetryPolicy | None = None,
        clock: Callable[[], int] = now_ms,
        chance: Callable[[], float] = random,
        ticks: Callable[[], float] = time.monotonic,
        times: Clock | None = None,
        pseudonyms: Callable[[str, Sequence[str]], Sequence[str]] = lambda app, subjects: (),
        on_answer: Callable[[str, bytes], None] = lambda app, body: None,
    ) -> None:
        """`drain_seconds`: how long a stop may take to write down what came of calls. `pseudonyms`:
        the keyed hashes of subjects of an app, for the audit; without it that names nobody.
        `on_answer` gets an app and the body of each answer about it. `times`: tells how old a
        stored time is; without it one of `clock` and `ticks`.
        """
        self._on_answer = on_answer
        self._outbox, self._client, self._metrics = outbox, client, metrics
        self._pseudonyms = pseudonyms
        self._apps = apps
        self.owner = owner or str(uuid.uuid4())
        self._liveness = liveness or LivenessLock(None, self.owner)
        self._call_seconds, self._lease_seconds = call_seconds, call_seconds + LEASE_SECONDS
        self._tended = self._leased_until = -math.inf
        self._leaving: frozenset[int] = frozenset()
        self._concurrency, self._policy = concurrency, policy or RetryPolicy()
        self._clock, self._chance, self._ticks = clock, chance, ticks
        self._times = times or Clock(clock, ticks)
        self._watermarks = Watermarks(self._policy.window)
        self._lease_time = _LeaseTime(self._lease_seconds)
        self._gates: dict[str, Gate] = {}
        # A key says nothing of another
        self._doubts = defaultdict[tuple[str, KeyKind], Doubts](Doubts)
        self.window = Window()
        self.on_call_ended: Callable[[], None] = lambda: None
        # Attempts that may have been written down, and were not sent
        self._unsent = dict[str, None]()
        self._drain_seconds, self._settle_until = drain_seconds, math.inf
        self._look_at = math.inf  # when to look again at users whose items wait for somebody's call
        # How often a lane's items had to wait for a login, by lane
        self._turned_away = Counter[int]()
        self._calls: set[asyncio.Task[None]] = set()
        self._flying = Counter[str]()  # calls in flight, by app
        self._wake = asyncio.Event()
        self._changed, self._polled = True, -math.inf
        self._stopping = False

    def look_again(self) -> None:
        """A user is no longer locked."""
        self._wake.set()

    def notify(self) -> None:
        """Something was accepted."""
        self._changed = True
        self._wake.set()

    async def run(self) -> None:
        """Deliver until `stop`; then finish the calls that are in flight."""
        while not self._stopping:
            self._wake.clear()
            try:
                await self.step()
            except Exception as error:
                # the outermost place: whatever is wrong now, what waits is tried again
                reason = error.detail if isinstance(error, StorageUnavailable) else describe(error)
                log.error("delivery.paused", reason=reason)
                await self._sleep(STORAGE_PAUSE_SECONDS)
            await self._rest()
        await self.drain()
        await self.leave()

    def finish(self) -> None:
        """Begin no more calls; `run` returns once those in flight are settled."""
        if not self._stopping:
            self._stopping = True
            self._settle_until = self._ticks() + self._drain_seconds
            self._wake.set()

    async def stop(self) -> None:
        """Finish."""
        self.finish()

    async def drain(self) -> None:
        """Wait until no call is in flight."""
        while self._calls:
            await asyncio.wait(self._calls)

    async def leave(self) -> None:
        """Give the leases up, so that another deliverer need not wait until they expire."""
        shards = sorted(self.window.shards | self._leaving)
        while True:
            try:
                await self._outbox.release(
                    self.owner, shards, leaving=True, forget=tuple(self._unsent)
                )
                break
            except StorageUnavailable as error:
                log.warning("leases.kept", reason=error.detail)
                if not self._stopping or self._ticks() + STORAGE_PAUSE_SECONDS > self._settle_until:
                    break
                await asyncio.sleep(STORAGE_PAUSE_SECONDS)
        self.window.assign(frozenset())

    async def step(self) -> int:
        """Read what may be read and begin the calls that may begin now; how many began."""
        await self._tend()
        if self._ticks() >= self._look_at:
            self._look_at = math.inf
        self.window.unpark(self._ticks_ms())
        await self._read()
        begun = 0
        while (
            app := next((one for one in self.window.apps if self._pause(one) == 0), None)
        ) is not None:
            gate = self._gate(app)
            gate.pace.began(self._ticks())
            batch = (
                self.window.next_batch(users=1, app=app)
                if gate.probing
                else self.window.next_batch(app=app)
            )
            self._flying[app] += 1
            task = asyncio.create_task(self._deliver(batch))
            self._calls.add(task)
            task.add_done_callback(self._ended)
            begun += 1
        return begun

    def _gate(self, app: str) -> Gate:
        if app not in self._gates:
            gate = self._gates[app] = Gate(shortest=self._policy.least, held=self._policy.held)
            self._metrics.call_rate.labels(app).set_function(lambda: gate.pace.rate)
        return self._gates[app]

    def _pause(self, app: str) -> float | None:
        """Seconds until another call for the app may begin; None where something else must happen
        first.
        """
        if self._flying[app] >= self._concurrency:
            return None
        return self._gate(app).wait(self._ticks(), self._flying[app])

    async def _tend(self) -> None:
        """Renew the leases when it is time, and take or give back what is fair among all that
        deliver.
        """
        if self._leaving and not self.window.in_flight(self._leaving):
            await self._outbox.release(self.owner, sorted(self._leaving))
            self._leaving = frozenset()
        began = self._ticks()
        if began < self._tended + TEND_SECONDS:
            return
        others = await self._outbox.processes()
        others.pop(self.owner, None)
        unsent = tuple(self._unsent)
        tenure = await self._outbox.renew(
            self.owner,
            int(self._lease_seconds * 1000),
            self._liveness.gone(others),
            self._policy.not_twice,
            self._pseudonyms,
            liveness=self._liveness.identity(),
            forget=unsent,
            latest=self._lease_time.latest(began),
        )
        self._forget(unsent)
        self._lease_time.heard(tenure.at, began)
        self._tended, self._leased_until = began, began + self._lease_seconds
        if tenure.lost:
            log.warning("attempts.lost", count=tenure.lost)
        if not tenure.renewed:
            self.window.assign(frozenset())  # what is in memory may have been sent by others
            self._leaving = frozenset()
        surplus = tenure.surplus - len(self._leaving)
        if surplus > 0:
            self._leaving |= frozenset(sorted(tenure.shards - self._leaving)[-surplus:])
        if (shards := tenure.shards - self._leaving) != self.window.shards:
            self.window.assign(shards)
            self._turned_away.clear()
            log.info("leases.changed", shards=len(shards))

    async def _read(self) -> None:
        now = self._ticks()
        # Beside a backlog, looking for what is new costs a walk over all of it.
        changed = now >= self._polled + POLL_SECONDS or (
            self._changed and not self.window.backlogged
        )
        while (wanted := self.window.wants(changed=changed)) is not None:
            if wanted.tail is not None:
                # Before reading: what is accepted meanwhile is read again
                self._changed, self._polled = False, now
            try:
                found = await self._outbox.look(wanted)
            except StorageUnavailable:
                self._changed = True
                raise
            self._watermarks.note(found.last, now)
            latest = self._times.latest(int(MAX_RETRY_AFTER_SECONDS * 1000))
            self.window.take_in(found, self._ticks_ms(), latest)
            if not wanted.fresh:
                return

    async def _rest(self) -> None:
        """Wait for a reason to go on: something accepted, a call ended, or a subject's time."""
        if self._stopping:
            return
        if self.window.unread:
            await asyncio.sleep(0)
        elif pauses := [pause for app in self.window.apps if (pause := self._pause(app))]:
            await asyncio.sleep(min(*pauses, POLL_SECONDS))
        else:
            await self._sleep(min(POLL_SECONDS, max(0.0, self._look_at - self._ticks())))
        if self._calls and any(count < self._concurrency for count in self._flying.values()):
            await asyncio.sleep(GATHER_SECONDS)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("call.failed", **describe(error))

    async def _deliver(self, batch: Sequence[Item]) -> None:
        """One batch, from written-down intent to written-down outcome. Whatever happens its
        subjects land again.
        """
        later = self._ticks_ms() + int(STORAGE_PAUSE_SECONDS * 1000)
        postponed = {item.lane: later for item in batch}
        waiting = dict[int, int]()
        try:
            attempt = str(uuid.uuid4())
            app = self._app(batch[0].app)
            begun = await self._begin(attempt, batch)
            if begun is None:
                self._tended = -math.inf
                log.warning(
                    "attempt.refused",
                    reason="another deliverer has the lanes, the lease ends, or an item was erased",
                )
                return
            sent = [item for item in batch if item.seq <= begun.get(item.lane, item.seq)]
            waiting = self._turn_away(batch, begun)
            postponed |= waiting
            if sent:
                postponed = await self._deliver_begun(attempt, app, sent, postponed)
                failed = postponed.keys() & {item.lane for item in sent}
                waiting = {lane: until for lane, until in waiting.items() if lane not in failed}
                postponed = waiting | postponed
        except StorageUnavailable as error:
            log.error("attempt.unwritten", reason=error.detail, items=len(batch))
        except Exception:
            # an error of ours: its items go back to the queue, so the attempt must not stay open
            self._unsent[attempt] = None
            raise
        finally:
            self._flying[batch[0].app] -= 1
            self.window.landed(batch, postponed, waiting)
            self.on_call_ended()

    def _turn_away(self, batch: Sequence[Item], begun: Mapping[int, int]) -> dict[int, int]:
        """Until when the lanes wait of which items were left out: for a call that is at work, or
        for a login. A login may wait long, so it is asked for less and less often.
        """
        if self._turned_away:
            for lane in {item.lane for item in batch} - begun.keys():
                self._turned_away.pop(lane, None)
        if not begun:
            return {}
        waiting = dict[int, int]()
        now = self._ticks_ms()
        for lane, after in begun.items():
            self._turned_away[lane] += after > 0
            pause = min(LOCKED_SECONDS * 2 ** max(0, self._turned_away[lane] - 2), POLL_SECONDS)
            waiting[lane] = now + int(pause * 1000)
            self._look_at = min(self._look_at, self._ticks() + pause)
        return waiting

    async def _begin(self, attempt: str, batch: Sequence[Item]) -> dict[int, int] | None:
        """Write an attempt down. One of which nobody knows whether it is on disk is removed before
        the next.
        """
        unsent, liveness = tuple(self._unsent), self._liveness.identity()
        call_ms = int(self._call_seconds * 1000)
        try:
            begun = await self._outbox.begin(
                attempt, self.owner, batch, call_ms, liveness=liveness, forget=unsent
            )
        except BaseException:
            self._unsent[attempt] = None
            raise
        self._forget(unsent)
        return begun

    def _forget(self, attempts: Sequence[str]) -> None:
        for attempt in attempts:
            self._unsent.pop(attempt, None)

    async def _deliver_begun(
        self, attempt: str, app: App, batch: Sequence[Item], postponed: dict[int, int]
    ) -> dict[int, int]:
        """Send an attempt that is written down, and write its outcome down. Returns until when
        lanes wait; `postponed`: until when they do where the outcome is not on disk.
        """
        calls = list[Sent]()
        outcomes = await self._heard(app, batch, calls)
        alone = len({item.lane for item in batch}) == 1
        verdicts = [(item, self._judge(item, outcome, alone)) for item, outcome in outcomes]
        if not await self._write_down(attempt, app, verdicts, calls):
            return postponed
        told = [label_of_outcome(outcome) for _, outcome in outcomes if outcome is not DONE]
        self._metrics.count_warnings(app.name, (label for label in told if label is not None))
        sent = {item.lane for item in batch}
        others = {lane: until for lane, until in postponed.items() if lane not in sent}
        return others | self._postponed(batch, verdicts)

    def _app(self, name: str) -> App:
        """The app, or where it is no longer configured one that has no keys: its items are held."""
        return self._apps.get(name) or App(name, "", {}, "", in_file=True)

    async def _heard(self, app: App, batch: Sequence[Item], calls: list[Sent]) -> Outcomes:
        """What came of sending the batch; `calls` gets each call that it took. An error of ours
        must not stop its users for good, nor leave their attempt open: it counts as trouble.
        """
        try:
            return await self._send(app, batch, calls)
        except Exception as error:
            log.error("call.failed", **describe(error))
            return [
                (item, Trouble("The gateway failed on this call; see its log")) for item in batch
            ]

    async def _settle(
        self,
        attempt: str,
        app: App,
        verdicts: Sequence[tuple[Item, Verdict]],
        calls: Sequence[Sent],
    ) -> bool:
        """Leanplum has answered, so forgetting is no choice: try until it is on disk, or a stop has
        taken too long.
        """
        by_seq = [(item.seq, verdict) for item, verdict in verdicts]
        told = [
            CallRecord(
                call.status,
                [item.seq for item in call.items],
                self._about(app, call.items),
                call.split,
            )
            for call in calls
        ]
        erased = [
            (item.seq, item.subject) for item, verdict in verdicts if _has_erased(item, verdict)
        ]
        again = False
        while True:
            try:
                return await self._outbox.settle(
                    attempt, app.name, by_seq, told, erased, again=again
                )
            except StorageUnavailable as error:
                again = True
                log.error("settle.failed", reason=error.detail, items=len(verdicts))
                if self._ticks() + STORAGE_PAUSE_SECONDS > self._settle_until:
                    raise
                await asyncio.sleep(STORAGE_PAUSE_SECONDS)

    def _about(self, app: App, items: Sequence[Item]) -> dict[str, Any]:
        """What and whom a call was about, as the audit tells it."""
        subjects = list(dict.fromkeys([item.subject for item in items]))[:MOST_USERS]
        actions = dict(Counter([item.action for item in items]))
        return {"actions": actions, **about_users(self._pseudonyms(app.name, subjects))}

    async def _write_down(
        self,
        attempt: str,
        app: App,
        verdicts: Sequence[tuple[Item, Verdict]],
        calls: Sequence[Sent],
    ) -> bool:
        """Settle; False where the attempt was taken for lost meanwhile."""
        if not await self._settle(attempt, app, verdicts, calls):
            log.warning("attempt.too_late", attempt=attempt, items=len(verdicts))
            return False
        counts = count_by_status([verdict.status for _, verdict in verdicts])
        for status in (Status.RETRYING.value, Status.HELD.value):
            if status in counts:
                self._metrics.postponed.labels(status).inc(counts[status])
        self._tell(app, verdicts)
        answered = calls[-1].status if calls else None
        log.info("call.settled", app=app.name, attempt=attempt, status=answered, items=counts)
        return True

    def _tell(self, app: App, verdicts: Sequence[tuple[Item, Verdict]]) -> None:
        """Tell operators how the way to Leanplum is."""
        state = self._gate(app.name).circuit.state
        self._metrics.held.labels(app.name).set(state is State.HELD)
        self._metrics.circuit_open.labels(app.name).set(state is State.OPEN)
        if self._metrics.states.get(app.name) != state.value:
            self._metrics.states_since[app.name] = self._clock()
        self._metrics.states[app.name] = state.value
        if state is not State.HELD:
            self._metrics.redirects.pop(app.name, None)
        held = next((verdict for _, verdict in verdicts if verdict.status is Status.HELD), None)
        if held is not None:
            reason = held.leanplum["error"] if held.leanplum else ""
            host = self._metrics.redirects.get(app.name)
            redirect = {} if host is None else {"redirect_host": host}
            log.error(
                "app.held", app=app.name, reason=reason, probe_seconds=self._policy.held, **redirect
            )

    async def _send(self, app: App, items: Sequence[Item], calls: list[Sent]) -> Outcomes:
        """Send, and where a call is refused as a whole, send smaller parts as `Bisection` says; of
        what is held in doubt only one item, as a probe. Nothing is sent that may not be answered
        before the lease ends.
        """
        if items[0].encrypted:  # then it is alone
            return [(items[0], _unopened(items[0]))]
        kind = mapping.key_kind(items)
        doubts = self._doubts[app.name, kind]
        search = Bisection(items[:1] if doubts.held else items, doubts)
        while search.part is not None and self._ticks() + self._call_seconds <= self._leased_until:
            search.heard(await self._call(app, search.part, calls, doubts))
        outcomes = search.outcomes()
        again = sent_again([call.items for call in calls], {item.seq for item, _ in outcomes})
        calls[:] = [call._replace(split=split) for call, split in zip(calls, again, strict=True)]
        if search.held and kind is KeyKind.PRODUCTION:
            self._gate(app.name).doubted(self._ticks(), doubts.users)
        return outcomes

    async def _call(
        self, app: App, items: Sequence[Item], calls: list[Sent], doubts: Doubts
    ) -> replies.Reply:
        started = time.perf_counter()
        status: int | None = None
        reply: replies.Reply
        if (kind := mapping.key_kind(items)) not in app.keys:
            reply = [ConfigRefused(f"{app.setting(kind)} is not set")] * len(items)
            if kind is KeyKind.PRODUCTION:  # the app is no longer configured
                self._gate(app.name).heard(self._ticks(), 0.0, reply)
            return reply
        try:
            action, body = mapping.request_for(app, items, self._clock() / 1000)
            answer = await self._client.call(app.api_url, action, body)
            status = answer.status
            calls.append(Sent(items, status))
            sent = [mapping.request_id(item) for item in items]
            self._on_answer(app.name, answer.body)
            if (host := replies.redirect_host(answer.body, answer.location)) is not None:
                self._metrics.redirects[app.name] = host
            reply = doubts.reread(
                replies.read_reply(
                    answer.status, answer.body, sent, answer.retry_after, answer.location
                )
            )
        except Unreachable as error:
            log.warning("call.unanswered", app=app.name, reason=str(error), sent=error.sent)
            calls.append(Sent(items, None))
            reply = [Trouble(f"No answer from Leanplum: {error}", lost=error.sent)] * len(items)
        self._metrics.calls.labels(str(status or "none")).inc()
        seconds = time.perf_counter() - started
        self._metrics.call_seconds.observe(seconds)
        # A bad key of another kind holds only what needs it
        if kind is KeyKind.PRODUCTION or not _refused(reply):
            self._gate(app.name).heard(self._ticks(), seconds, reply)
        return reply

    def _judge(self, item: Item, outcome: Outcome, alone: bool) -> Verdict:
        return judge(
            outcome,
            action=item.action,
            # Nothing else depends on it
            age=self._age(item) if isinstance(outcome, Trouble) else 0.0,
            attempt=item.attempts,
            policy=self._policy,
            chance=self._chance(),
            alone=alone,
        )

    def _age(self, item: Item) -> float:
        """Return the seconds that an item has waited for certain, whichever clock was set."""
        age = self._times.age(item.queued_at)
        if item.queued_at != item.accepted_at:  # sent again by an operator
            return age
        return min(age, self._watermarks.at_most(item.seq, self._ticks()))

    def _ticks_ms(self) -> int:
        return int(self._ticks() * 1000)

    def _postponed(
        self, batch: Sequence[Item], verdicts: Sequence[tuple[Item, Verdict]]
    ) -> dict[int, int]:
        """Until when each lane waits that still has an item in the queue; what was not sent may go
        at once.
        """
        sent = {item.seq for item, _ in verdicts}
        now = self._ticks_ms()
        until = {item.lane: now for item in batch if item.seq not in sent}
        for item, verdict in verdicts:
            if isinstance(verdict, Postponed):
                until[item.lane] = max(until.get(item.lane, 0), now + int(verdict.wait * 1000))
        return until


def _unopened(item: Item) -> Outcome:
    """A key may still be given; what was changed in the database is spoiled for good."""
    reason = explain_undecryptable(item.body)
    return ItemRefused(reason) if item.body == TAMPERED else ConfigRefused(reason)


def _refused(reply: replies.Reply) -> bool:
    return isinstance(reply, list) and any(isinstance(one, ConfigRefused) for one in reply)


def _has_erased(item: Item, verdict: Verdict) -> bool:
    """Whether the item has done away with its subject: Leanplum did it, or had none."""
    done = (Status.DELIVERED, Status.SKIPPED)
    return item.action == ERASES and isinstance(verdict, Settled) and verdict.status in done
