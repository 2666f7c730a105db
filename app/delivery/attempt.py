"""Attempts to deliver items: write the attempt down, send it, judge the answers, settle it."""

import asyncio
import math
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import random
from typing import Any, NamedTuple

import structlog

from app.audit.records import MOST_USERS, about_users
from app.clock import Clock, Watermarks, now_ms
from app.delivery.bisection import Bisection, Doubts, sent_again
from app.delivery.pacing import CallPacer, CircuitState
from app.delivery.verdicts import DELIVERED, RetryPolicy, judge
from app.encryption import TAMPERED, explain_undecryptable
from app.errors import StorageUnavailable
from app.leanplum import mapping, replies
from app.leanplum.call_outcomes import outcome_of_reply, retry_reason
from app.leanplum.client import LeanplumClient, LeanplumResponse, Unreachable
from app.leanplum.outcomes import label_of_outcome
from app.leanplum.value_redaction import without_values
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
from app.outbox import user_lock_rows
from app.outbox.liveness_lock import FileLock, LivenessLock
from app.outbox.outbox import Outbox
from app.telemetry import Metrics, describe, traces

POSTPONED = (Status.RETRYING.value, Status.HELD.value)
STORAGE_PAUSE_SECONDS = 1.0  # between tries while the database can't be used

log = structlog.get_logger("delivery")


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """Options of a deliverer.

    `owner`: the id of this deliverer; without it one is made. `call_seconds`: how long a call may
    take. `drain_seconds`: how long a stop may take to write down the outcomes of calls.
    `concurrency`: calls in flight at once for each app. `clock` is in milliseconds, `ticks` (a
    monotonic clock) in seconds, `chance` in [0, 1). `times` tells how old a stored time is.
    `pseudonyms` returns the keyed hashes of an app's subjects, for the audit; without it the audit
    names nobody. `on_answer` gets an app's name and the body of each answer about it.
    """

    owner: str | None = None
    liveness: LivenessLock | None = None
    call_seconds: float = 30.0
    drain_seconds: float = 30.0
    concurrency: int = 16
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    clock: Callable[[], int] = now_ms
    chance: Callable[[], float] = random
    ticks: Callable[[], float] = time.monotonic
    times: Clock | None = None
    pseudonyms: Callable[[str, Sequence[str]], Sequence[str]] = lambda app, subjects: ()
    on_answer: Callable[[str, bytes], None] = lambda app, body: None


DEFAULT_OPTIONS = DeliveryOptions()


class SentCall(NamedTuple):
    """One call that was sent: its items, and the HTTP status of the answer (None: none came).

    `split`: its items are sent again in smaller calls.
    """

    items: Sequence[Item]
    status: int | None
    split: bool = False


@dataclass(slots=True)
class Attempt:
    """One attempt that was committed before sending: the items that may be sent, all of one app.

    `excluded` maps each lane of which items were left out to a sequence number: items of the lane
    after it were left out. It is 0 if the user is locked, and the number of the login if the items
    wait for a login. `calls`: the calls that were sent.
    """

    id: str
    app: App
    items: Sequence[Item]
    excluded: Mapping[int, int]
    lapses: int = 0
    calls: list[SentCall] = field(default_factory=list)


class AttemptRunner:
    """Runs the attempts of one deliverer.

    `apps` is read for each attempt, so a key that is changed there is used from then on.
    `leased_until` and `settle_until` are by the monotonic clock: nothing is sent whose answer may
    come after the first, and settling is not tried again after the second.
    """

    def __init__(
        self,
        outbox: Outbox,
        client: LeanplumClient,
        apps: Mapping[str, App],
        metrics: Metrics,
        options: DeliveryOptions,
    ) -> None:
        self._outbox, self._client, self._apps, self._metrics = outbox, client, apps, metrics
        self._options, self._policy, self._ticks = options, options.policy, options.ticks
        self.owner = options.owner or str(uuid.uuid4())
        self.liveness = options.liveness or FileLock(None, self.owner)
        self.times = options.times or Clock(options.clock, options.ticks)
        self.watermarks = Watermarks(options.policy.window)
        self.leased_until, self.settle_until = -math.inf, math.inf
        self._pacers: dict[str, CallPacer] = {}
        # By app and kind of key: what is known of one key says nothing of another
        self._doubts = defaultdict[tuple[str, KeyKind], Doubts](Doubts)
        # Attempts that may have been written down, and were not sent
        self._unsent = dict[str, None]()

    def pacer(self, app: str) -> CallPacer:
        """Return the pacer of an app's calls."""
        if app not in self._pacers:
            policy = self._policy
            pacer = CallPacer(shortest=policy.least, held=policy.held, longest=policy.probe)
            self._pacers[app] = pacer
            self._metrics.allowed_calls.labels(app).set_function(lambda: pacer.pace.rate)
        return self._pacers[app]

    def circuit_states(self) -> dict[str, tuple[str, int]]:
        """Return by app the state of its circuit, and since when (ms)."""
        metrics = self._metrics
        return {app: (state, metrics.states_since[app]) for app, state in metrics.states.items()}

    @property
    def unsent(self) -> tuple[str, ...]:
        """The attempts that may have been written down and were not sent."""
        return tuple(self._unsent)

    def forget(self, attempts: Sequence[str]) -> None:
        """Forget unsent attempts that were removed from the database."""
        for attempt in attempts:
            self._unsent.pop(attempt, None)

    async def begin(self, batch: Sequence[Item]) -> Attempt | None:
        """Write an attempt down before it is sent. Return None where that is refused.

        An attempt of which nobody knows whether it is on disk is removed with the next one.
        """
        attempt_id, unsent, lapses = str(uuid.uuid4()), self.unsent, self.liveness.lapses()
        # An app that is no longer configured has no keys, so its items are held
        name = batch[0].app
        app = self._apps.get(name) or App(name, "", {}, "", in_file=True)
        try:
            excluded = await self._outbox.begin(
                attempt_id,
                self.owner,
                batch,
                int(self._options.call_seconds * 1000),
                liveness=self.liveness.identity(),
                forget=unsent,
            )
        except BaseException:
            self._unsent[attempt_id] = None
            raise
        self.forget(unsent)
        if excluded is None:
            return None
        items = batch
        if excluded:
            items = [item for item in batch if item.seq <= excluded.get(item.lane, item.seq)]
        return Attempt(attempt_id, app, items, excluded, lapses)

    async def run(self, attempt: Attempt) -> dict[int, int] | None:
        """Send an attempt that is written down, and write its outcome down.

        Return until when (ms, monotonic) each lane is deferred that still has items of it in the
        queue; None where the attempt was taken for lost meanwhile. Raises StorageUnavailable.
        """
        with traces.delivering(attempt.app.name, (item.traceparent for item in attempt.items)):
            return await self._run(attempt)

    async def _run(self, attempt: Attempt) -> dict[int, int] | None:
        try:
            outcomes = await self._send_or_trouble(attempt)
            lane = attempt.items[0].lane
            alone = all(item.lane == lane for item in attempt.items)
            # No call is needed for items that are done, as nearly all are
            verdicts = [
                (item, DELIVERED if outcome is DONE else self._judge(item, outcome, alone))
                for item, outcome in without_values(outcomes)
            ]
            if not await self._settle(attempt, verdicts):
                log.warning("attempt.too_late", attempt=attempt.id, items=len(verdicts))
                return None
            self._report(attempt, verdicts)
            self._count_retries(attempt, outcomes, verdicts)
            labels = [label_of_outcome(outcome) for _, outcome in outcomes if outcome is not DONE]
            self._metrics.count_warnings(
                attempt.app.name, (label for label in labels if label is not None)
            )
            return self._deferred(attempt.items, verdicts)
        except StorageUnavailable:
            raise
        except Exception:
            # An error of ours: its items go back to the queue, so the attempt must not stay open
            self._unsent[attempt.id] = None
            raise

    async def _send_or_trouble(self, attempt: Attempt) -> list[tuple[Item, Outcome]]:
        """Send the attempt, and return the outcomes of the items that were sent.

        An error of ours counts as trouble: it must not stop the users for good, nor leave the
        attempt open.
        """
        try:
            return await self._send(attempt)
        except Exception as error:
            log.error("call.failed", **describe(error))
            trouble = Trouble("The gateway failed on this call; see its log")
            return [(item, trouble) for item in attempt.items]

    async def _send(self, attempt: Attempt) -> list[tuple[Item, Outcome]]:
        """Send the items, and smaller parts of them where a call is refused as a whole.

        `Bisection` decides on the parts. While the app is held in doubt, only one item is sent, as
        a probe.
        """
        app, items = attempt.app, attempt.items
        if items[0].undecryptable:  # such an item is a batch of its own
            return [(items[0], _undecryptable(items[0]))]
        kind = mapping.key_kind(items)
        doubts = self._doubts[app.name, kind]
        bisection = Bisection(items[:1] if doubts.held else items, doubts)
        while bisection.part is not None and self._may_send(attempt):
            bisection.advance(await self._call(attempt, bisection.part, doubts))
        outcomes = bisection.outcomes()
        if len(attempt.calls) > 1 or len(outcomes) < len(items):
            settled = {item.seq for item, _ in outcomes}
            splits = sent_again([call.items for call in attempt.calls], settled)
            attempt.calls = [
                call._replace(split=split)
                for call, split in zip(attempt.calls, splits, strict=True)
            ]
        if bisection.held and kind is KeyKind.PRODUCTION:
            self.pacer(app.name).hold_in_doubt(self._ticks(), doubts.users)
        return outcomes

    def _may_send(self, attempt: Attempt) -> bool:
        """Return whether the answer to a call would come before the lease ends.

        Others may have the lanes if this process was taken for dead.
        """
        answered_by = self._ticks() + self._options.call_seconds
        return answered_by <= self.leased_until and self.liveness.lapses() == attempt.lapses

    async def _call(self, attempt: Attempt, items: Sequence[Item], doubts: Doubts) -> replies.Reply:
        """Make one call, and return Leanplum's reply to it."""
        app, kind = attempt.app, mapping.key_kind(items)
        reply: replies.Reply
        if kind not in app.keys:
            reply = [ConfigRefused(f"{app.setting(kind)} is not set")] * len(items)
            if kind is KeyKind.PRODUCTION:  # the app is no longer configured
                self.pacer(app.name).note_reply(self._ticks(), 0.0, reply)
            return reply
        started, sent = time.perf_counter(), True
        status: int | None = None
        try:
            request = mapping.request_for(app, items, self._options.clock() / 1000)
            response = await self._client.call(app.api_url, request.action, request.body)
            status = response.status
            attempt.calls.append(SentCall(items, status))
            reply = doubts.reinterpret(self._read(app, request.request_ids, response))
        except Unreachable as error:
            sent = error.sent
            log.warning("call.unanswered", app=app.name, reason=str(error), sent=sent)
            attempt.calls.append(SentCall(items, None))
            reply = [Trouble(f"No answer from Leanplum: {error}", lost=sent)] * len(items)
        seconds = time.perf_counter() - started
        outcome = outcome_of_reply(reply, status, sent=sent)
        self._metrics.count_call(app.name, status, seconds, outcome)
        self._metrics.count_call_fill(app.name, len(items), len({item.lane for item in items}))
        # A refused key of another kind holds only the items that need it
        if kind is KeyKind.PRODUCTION or not _refuses_config(reply):
            self.pacer(app.name).note_reply(self._ticks(), seconds, reply)
        if status is None and self.liveness.lapses() != attempt.lapses:
            # It was ended early, so it may still be running: its users stay locked
            await asyncio.sleep(user_lock_rows.OUTLIVES_MS / 1000)
        return reply

    def _read(
        self, app: App, request_ids: Sequence[str], response: LeanplumResponse
    ) -> replies.Reply:
        self._options.on_answer(app.name, response.body)
        host = replies.redirect_host(response.body, response.location)
        if host is not None:
            self._metrics.redirects[app.name] = host
        return replies.read_reply(
            response.status,
            response.body,
            request_ids,
            retry_after=response.retry_after,
            location=response.location,
        )

    def _judge(self, item: Item, outcome: Outcome, alone: bool) -> Verdict:
        age = 0.0
        if isinstance(outcome, Trouble):  # no other verdict depends on the age
            age = self._age(item)
        return judge(
            outcome,
            action=item.action,
            age=age,
            attempt=item.attempts,
            policy=self._policy,
            chance=self._options.chance(),
            alone=alone,
        )

    def _age(self, item: Item) -> float:
        """Return the seconds that an item has waited for certain, whichever clock was set."""
        age = self.times.age(item.queued_at)
        if item.queued_at != item.accepted_at:  # sent again by an operator
            return age
        return min(age, self.watermarks.at_most(item.seq, self._ticks()))

    async def _settle(self, attempt: Attempt, verdicts: Sequence[tuple[Item, Verdict]]) -> bool:
        """Write the verdicts down. Return False where the attempt was taken for lost meanwhile.

        Leanplum has answered, so giving up would send the items twice: this tries until they are on
        disk, or a stop has taken too long. Raises StorageUnavailable then.
        """
        app = attempt.app
        calls = [
            CallRecord(
                status=call.status,
                seqs=[item.seq for item in call.items],
                about=self._describe_call(app, call.items),
                split=call.split,
            )
            for call in attempt.calls
        ]
        erased = [
            (item.seq, item.subject)
            for item, verdict in verdicts
            if item.action == ERASES and _erased_its_subject(verdict)
        ]
        retried = False
        while True:
            try:
                return await self._outbox.settle(
                    attempt.id,
                    app.name,
                    [(item.seq, verdict) for item, verdict in verdicts],
                    calls,
                    erased,
                    again=retried,
                )
            except StorageUnavailable as error:
                retried = True
                log.error("settle.failed", reason=error.detail, items=len(verdicts))
                if self._ticks() + STORAGE_PAUSE_SECONDS > self.settle_until:
                    raise
                await asyncio.sleep(STORAGE_PAUSE_SECONDS)

    def _describe_call(self, app: App, items: Sequence[Item]) -> dict[str, Any]:
        """Return the actions and users of a call, for the audit."""
        subjects = list(dict.fromkeys([item.subject for item in items]))[:MOST_USERS]
        actions = dict(Counter([item.action for item in items]))
        return {"actions": actions, **about_users(self._options.pseudonyms(app.name, subjects))}

    def _report(self, attempt: Attempt, verdicts: Sequence[tuple[Item, Verdict]]) -> None:
        """Report a settled attempt, and the state of the app's calls, in metrics and log."""
        counts = count_by_status([verdict.status for _, verdict in verdicts])
        postponed = {status: counts[status] for status in POSTPONED if status in counts}
        self._metrics.count_postponed(attempt.app.name, postponed)
        delivered = [
            item.queued_at or item.accepted_at
            for item, verdict in verdicts
            if verdict.status is Status.DELIVERED
        ]
        self._metrics.count_delivered(attempt.app.name, self._options.clock(), delivered)
        traces.note_outcomes(counts)
        self._report_state(attempt.app.name)
        if Status.HELD.value in counts:
            held = next(verdict for _, verdict in verdicts if verdict.status is Status.HELD)
            self._log_held(attempt.app.name, held)
        log.info(
            "call.settled",
            app=attempt.app.name,
            attempt=attempt.id,
            status=attempt.calls[-1].status if attempt.calls else None,
            outcomes=counts,
        )

    def _count_retries(
        self,
        attempt: Attempt,
        outcomes: Sequence[tuple[Item, Outcome]],
        verdicts: Sequence[tuple[Item, Verdict]],
    ) -> None:
        """Count the items that are tried again, by what the last call with each of them met."""
        troubles = [
            (item, outcome)
            for (item, outcome), (_, verdict) in zip(outcomes, verdicts, strict=True)
            if verdict.status is Status.RETRYING and isinstance(outcome, Trouble)
        ]
        if troubles:
            statuses = {item.seq: call.status for call in attempt.calls for item in call.items}
            reasons = [retry_reason(trouble, statuses.get(item.seq)) for item, trouble in troubles]
            self._metrics.count_retries(attempt.app.name, reasons)

    def _report_state(self, app: str) -> None:
        metrics, state = self._metrics, self.pacer(app).circuit.state
        metrics.app_held.labels(app).set(state is CircuitState.HELD)
        metrics.circuit_open.labels(app).set(state is CircuitState.OPEN)
        if metrics.states.get(app) != state.value:
            metrics.states_since[app] = self._options.clock()
        metrics.states[app] = state.value
        if state is not CircuitState.HELD:
            metrics.redirects.pop(app, None)

    def _log_held(self, app: str, held: Verdict) -> None:
        reason = held.leanplum["error"] if held.leanplum else ""
        host = self._metrics.redirects.get(app)
        redirect = {} if host is None else {"redirect_host": host}
        log.error("app.held", app=app, reason=reason, probe_seconds=self._policy.held, **redirect)

    def _deferred(
        self, items: Sequence[Item], verdicts: Sequence[tuple[Item, Verdict]]
    ) -> dict[int, int]:
        """Return until when each lane is deferred that still has an item in the queue.

        A lane with an item that was not sent may go on at once.
        """
        now, until = int(self._ticks() * 1000), dict[int, int]()
        if len(verdicts) < len(items):
            sent = {item.seq for item, _ in verdicts}
            until = {item.lane: now for item in items if item.seq not in sent}
        for item, verdict in verdicts:
            if isinstance(verdict, Postponed):
                until[item.lane] = max(until.get(item.lane, 0), now + int(verdict.wait * 1000))
        return until


def _undecryptable(item: Item) -> Outcome:
    """Return the outcome of an item whose body cannot be decrypted.

    Its key may still be configured; a body that was changed in the database is lost for good.
    """
    reason = explain_undecryptable(item.body)
    return ItemRefused(reason) if item.body == TAMPERED else ConfigRefused(reason)


def _refuses_config(reply: replies.Reply) -> bool:
    return isinstance(reply, list) and any(isinstance(outcome, ConfigRefused) for outcome in reply)


def _erased_its_subject(verdict: Verdict) -> bool:
    """Return whether an erasing item has erased: Leanplum did it, or knew no such user."""
    return isinstance(verdict, Settled) and verdict.status in (Status.DELIVERED, Status.SKIPPED)
