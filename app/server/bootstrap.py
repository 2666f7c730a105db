"""The composition root: it opens all parts in order, connects them, and closes them in reverse."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Engine

from app.apps import AppRegistry, read_apps
from app.audit import key_derivation, records
from app.audit.folded_refusals import RefusalFolder
from app.audit.recorder import AuditRecorder
from app.audit.sealer import Sealer
from app.audit.signing_keys import AuditKeys
from app.audit.tree import CheckpointSigner
from app.callers.directory import Directory
from app.callers.store import KeyStore
from app.clock import Clock, now_ms
from app.console.sessions import Durations, SessionStore
from app.database.engine import connect
from app.database.writer import Writer
from app.delivery.attempt import DeliveryOptions
from app.delivery.deliverer import LEASE_SECONDS, Deliverer
from app.delivery.user_locks import UserLocks
from app.delivery.verdicts import RetryPolicy
from app.enrichment.service import EnrichmentService
from app.errors import StorageUnavailable
from app.http import AuditTrail, Authenticator, BodyReader, RateLimiter
from app.ingest.service import Ingest
from app.leanplum.client import LeanplumClient
from app.leanplum.replies import MigrateStates
from app.limits.buckets import Buckets, Limiter, LocalLimiter, RatePolicies
from app.limits.shared_limiter import SharedLimiter
from app.limits.valkey import Valkey
from app.outbox import liveness_lock
from app.outbox.dead_letter_runs import DeadLetterRuns
from app.outbox.minute_counts import MinuteCountStore
from app.outbox.outbox import Outbox
from app.outbox.retention import COUNT_SECONDS, Housekeeper, RetentionLimits
from app.relay.service import Relay
from app.server.database_watch import DatabaseWatch
from app.server.lifecycle import GIVE_UP, Lifecycle, cancel_and_wait
from app.server.preparation import audit_keys, body_cipher, make_first_key
from app.settings import Settings
from app.telemetry import Metrics, traces
from app.tracking.name_store import NameStore
from app.tracking.names import NAME_KINDS, NameLimits
from app.tracking.plan_files import LoadedPlans
from app.tracking.service import Tracking
from app.tracking.violations import ViolationCounts

KEY_IN_DATABASE = (
    "anyone who can change the database can also sign the change: `audit key --move` moves the key "
    "into GATEWAY_AUDIT_KEY, and removes it from the database once it is set there"
)
CLOCK_SECONDS = 1.0  # between two looks at the wall clock

log = structlog.get_logger("gateway")


class Services(NamedTuple):
    """The services of the running gateway, for the application to make handlers of."""

    apps: AppRegistry
    audit_trail: AuditTrail
    authenticator: Authenticator
    bodies: BodyReader
    dead_letter_runs: DeadLetterRuns
    directory: Directory
    engine: Engine
    enrichment: EnrichmentService
    ingest: Ingest
    keys: KeyStore
    lifecycle: Lifecycle
    limiter: RateLimiter
    macs: records.AuditMacs
    metrics: Metrics
    minute_counts: MinuteCountStore
    outbox: Outbox
    pseudonyms: records.UserPseudonyms
    recorder: AuditRecorder
    relay: Relay
    sealer: Sealer
    sessions: SessionStore
    settings: Settings
    signer: CheckpointSigner
    tracking: Tracking
    writer: Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """The work of a process.

    `delivers`: it delivers items. `calls`: it serves callers, and so has a share in limits.
    `keeps_house`: it seals the audit log and removes what is past its time. `shows_metrics`: its
    metrics can be read, here or by way of other workers.
    """

    delivers: bool = True
    calls: bool = True
    keeps_house: bool = True
    shows_metrics: bool = True


ALL_WORK = Role()


class Shared(NamedTuple):
    """State that the workers of one gateway share: rate limit buckets, and the turn to write."""

    buckets: Buckets | None = None
    turn: AbstractContextManager[object] | None = None


NOTHING_SHARED = Shared()


@dataclass(frozen=True, kw_only=True)
class Core:
    """The parts that all others share: settings, storage, audit, and the clock."""

    settings: Settings
    metrics: Metrics
    lifecycle: Lifecycle
    clock: Clock
    apps: AppRegistry
    engine: Engine
    writer: Writer
    outbox: Outbox
    audit: AuditKeys
    recorder: AuditRecorder
    migration: MigrateStates = field(default_factory=MigrateStates)


async def open_core(
    settings: Settings,
    metrics: Metrics,
    lifecycle: Lifecycle,
    turn: AbstractContextManager[object] | None = None,
) -> Core:
    """Open the database and what writes to it, in turn with others. Raises StartRefused."""
    clock = Clock(on_step=partial(_note_step, metrics))
    apps = AppRegistry(lambda: read_apps(settings))
    engine = await asyncio.to_thread(connect, settings.gateway_database_url)
    cipher = await asyncio.to_thread(body_cipher, settings, engine)
    audit = await asyncio.to_thread(audit_keys, settings, engine)
    if audit.stored:
        log.warning("audit.key_in_database", advice=KEY_IN_DATABASE)
    writer = Writer(engine, settings.gateway_commit_seconds, turn)
    writer.start()
    recorder = AuditRecorder(writer, audit.macs)
    outbox = Outbox(
        engine,
        writer,
        dedup_ms=int(settings.gateway_dedup_seconds * 1000),
        max_queued=settings.gateway_max_queued_items,
        macs=audit.macs,
        erased_ms=int(settings.gateway_erased_seconds * 1000),
        cipher=cipher,
        since=clock.since,
    )
    outbox.count_queued()
    outbox.on_settled = metrics.count_settled
    clock.follow(await outbox.newest())
    for name in apps:
        metrics.show_app(name)
    apps.on_change = partial(_note_change, recorder, metrics)
    lifecycle.on_drain.append(outbox.answer_waiters)
    lifecycle.on_cut.append(partial(writer.hurry, GIVE_UP / 2 * lifecycle.shutdown_seconds))
    outbox.on_erased = metrics.count_erased
    writer.on_commit = metrics.count_commit
    metrics.apps_file_refused.set_function(lambda: apps.refused)
    metrics.show_build(engine.dialect.name)
    return Core(
        settings=settings,
        metrics=metrics,
        lifecycle=lifecycle,
        clock=clock,
        apps=apps,
        engine=engine,
        writer=writer,
        outbox=outbox,
        audit=audit,
        recorder=recorder,
    )


@asynccontextmanager
async def gateway(
    settings: Settings,
    metrics: Metrics,
    lifecycle: Lifecycle,
    role: Role = ALL_WORK,
    shared: Shared = NOTHING_SHARED,
) -> AsyncIterator[Services]:
    """Open the gateway; yield its services.

    Leaving the context finishes and settles what is in flight, within the time that the lifecycle
    leaves for it. `shared` is what workers share. Raises StartRefused.
    """
    core = await open_core(settings, metrics, lifecycle, shared.turn)
    keys = KeyStore(core.engine, core.audit.macs)
    make_first_key(settings, keys)
    directory = Directory(keys, now_ms, core.writer.write)
    directory.refresh()
    folding = RefusalFolder(core.recorder, time.monotonic)
    sealer = _sealer(core)
    tracking = _tracking(core)
    enrichment = _enrichment(core)
    minute_counts = MinuteCountStore(core.engine, core.writer, metrics.minutes)
    sessions = _sessions(core)
    dead_letter_runs = DeadLetterRuns(core.engine, core.writer, core.outbox.dead_letters)
    upkeep = (
        _upkeep(core, sealer, watches=role.shows_metrics)
        if role.keeps_house
        else [partial(_count_queue, core.outbox)]
    )
    background = _start_loops(
        core,
        *upkeep,
        directory.run,
        enrichment.run,
        folding.run,
        minute_counts.run,
        sessions.run,
        tracking.names.run,
        tracking.plans.run,
        tracking.violations.run,
    )
    try:
        async with (
            _locking(core) as (liveness, locks),
            _delivering(core, liveness, locks, wanted=role.delivers),
            _relaying(core, liveness, locks) as relay,
            _limiting(settings, metrics, shared.buckets, wanted=role.calls) as shared_limiter,
        ):
            limiter = _rate_limiter(core, shared_limiter)
            pseudonyms = core.audit.pseudonyms
            try:
                yield Services(
                    apps=core.apps,
                    audit_trail=AuditTrail(core.recorder, folding, pseudonyms),
                    authenticator=Authenticator(directory, core.apps, limiter),
                    bodies=BodyReader(
                        max_body_bytes=settings.gateway_max_body_bytes,
                        max_held_bytes=settings.gateway_max_held_bytes,
                    ),
                    dead_letter_runs=dead_letter_runs,
                    directory=directory,
                    engine=core.engine,
                    enrichment=enrichment,
                    ingest=Ingest(core.outbox, enrichment, tracking, pseudonyms.of_all, metrics),
                    keys=keys,
                    lifecycle=lifecycle,
                    limiter=limiter,
                    macs=core.audit.macs,
                    metrics=metrics,
                    minute_counts=minute_counts,
                    outbox=core.outbox,
                    pseudonyms=pseudonyms,
                    recorder=core.recorder,
                    relay=relay,
                    sealer=sealer,
                    sessions=sessions,
                    settings=settings,
                    signer=core.audit.signer,
                    tracking=tracking,
                    writer=core.writer,
                )
            finally:
                await dead_letter_runs.close(lifecycle.left_to_settle)
                lifecycle.refuse()
    finally:
        for task in background:
            task.cancel()
        await asyncio.wait(background, timeout=lifecycle.left)
        folding.flush()
        await _flush(core, directory, minute_counts, tracking, sealer if role.keeps_house else None)
        lifecycle.close()
        core.recorder.close()
        core.engine.dispose()


def _start_loops(
    core: Core, *others: Callable[[], Coroutine[Any, Any, None]]
) -> list[asyncio.Task[None]]:
    """Start the loops of the parts that all others share, and the given ones."""
    loops: list[Callable[[], Coroutine[Any, Any, None]]] = [
        core.apps.run,
        core.audit.pseudonyms.run,
        core.recorder.run,
        partial(_watch_clock, core.clock),
        *others,
    ]
    return [asyncio.create_task(run()) for run in loops]


def _upkeep(
    core: Core, sealer: Sealer, *, watches: bool
) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """Return the loops that one process of a database suffices for.

    `watches`: read the database for the metrics, too.
    """
    loops = [sealer.run, _housekeeper(core.settings, core.outbox).run]
    if watches:
        watch = DatabaseWatch(core.engine, core.metrics.database, lambda: list(core.apps))
        loops.append(watch.run)
    return loops


async def _count_queue(outbox: Outbox) -> None:
    """Count again and again what waits, until cancelled: other processes accept and deliver."""
    while True:
        with suppress(StorageUnavailable):
            await outbox.recount_queued()
        await asyncio.sleep(COUNT_SECONDS)


def _rate_limiter(core: Core, limiter: Limiter) -> RateLimiter:
    """Return the rate limiter of requests, which counts with `limiter`."""
    settings = core.settings
    return RateLimiter(
        limiter,
        RatePolicies(settings.gateway_rate_per_second, settings.gateway_rate_burst),
        core.apps,
        failures_per_minute=settings.gateway_failed_auth_per_minute,
        on_limited=core.metrics.count_limited,
        on_failure=core.metrics.count_failed_authentication,
    )


async def _flush(
    core: Core,
    directory: Directory,
    minute_counts: MinuteCountStore,
    tracking: Tracking,
    sealer: Sealer | None,
) -> None:
    """Write down what is only in memory, within the time that is left."""
    left = core.lifecycle.left
    try:
        async with asyncio.timeout(left):
            # When a key was last used, and counts, are not worth a failed stop.
            with suppress(StorageUnavailable):
                await directory.tell_used()
            with suppress(StorageUnavailable):
                await minute_counts.flush()
            with suppress(StorageUnavailable):
                await tracking.violations.flush()
            await core.recorder.flush()
            if sealer is not None:
                await sealer.attempt()  # all records until now
                sealer.log_checkpoint()
            await core.writer.stop(core.lifecycle.left)
    except TimeoutError:
        advice = "the database did not answer in time; the next start goes on from what it has"
        log.warning("stop.cut", advice=advice)


def _sealer(core: Core) -> Sealer:
    """Return the sealer of the audit, with its metrics."""
    sealer = Sealer(
        core.engine,
        core.writer,
        core.audit.signer,
        core.audit.macs,
        int(core.settings.gateway_audit_seconds * 1000),
        since=core.clock.since,
        checkpoint_seconds=core.settings.gateway_audit_checkpoint_seconds,
    )
    metrics = core.metrics
    metrics.audit_sealing_failing.set_function(lambda: sealer.tampered or sealer.waiting)
    metrics.audit_tampering_detected.set_function(lambda: sealer.tampered)
    return sealer


def _sessions(core: Core) -> SessionStore:
    """Return the sessions of the console."""
    settings = core.settings
    durations = Durations(
        int(settings.gateway_console_idle_seconds * 1000),
        int(settings.gateway_console_session_seconds * 1000),
    )
    audit = core.audit
    return SessionStore(core.engine, core.writer, audit.macs, audit.root_key, durations)


def _tracking(core: Core) -> Tracking:
    """Return the tracking plans, names and violations, with their metrics."""
    settings, metrics = core.settings, core.metrics
    names = NameStore(
        core.engine, core.writer, _name_limits(settings), settings.gateway_taxonomy_policy
    )
    names.apply(names.read())
    metrics.taxonomy.counts, metrics.taxonomy.caps = names.counts, names.limits.by_kind
    violations = ViolationCounts(core.engine, core.writer, metrics)
    return Tracking(LoadedPlans(settings.gateway_tracking_plan), names, violations, metrics)


def _enrichment(core: Core) -> EnrichmentService:
    """Return the enrichment; the key of hashed values is derived from the audit's root key."""
    settings = core.settings
    key = key_derivation.derive_key(core.audit.root_key, b"leanplum-gateway values")
    return EnrichmentService(settings.gateway_enrichment_file, settings.gateway_maxmind_file, key)


@asynccontextmanager
async def _locking(core: Core) -> AsyncIterator[tuple[liveness_lock.LivenessLock, UserLocks]]:
    """Hold the liveness lock of this process; yield it with the locks of users."""
    timeout = core.settings.gateway_relay_timeout_seconds
    with liveness_lock.held(core.settings.gateway_database_url, str(uuid.uuid4())) as liveness:
        # A call waits for a free connection, and then for Leanplum.
        locks = UserLocks(core.outbox, liveness, liveness.owner, 2 * timeout + LEASE_SECONDS)
        try:
            yield liveness, locks
        finally:
            await locks.close(core.lifecycle.left_to_settle)


@asynccontextmanager
async def _client(
    core: Core, liveness: liveness_lock.LivenessLock, timeout: float, concurrency: int
) -> AsyncIterator[LeanplumClient]:
    """Open a client; its calls are ended if this process may have been taken for dead."""
    settings = core.settings
    client = LeanplumClient(
        timeout=timeout,
        connections=concurrency,
        max_response=settings.gateway_upstream_max_response_bytes,
        max_download=settings.gateway_upstream_max_download_bytes,
        route=settings.route,
        secrets=core.apps.secrets,
        tracing=traces.calling,
    )
    async with client:
        ending = asyncio.create_task(liveness_lock.act_at_lapses(liveness, client.end_calls))
        try:
            yield client
        finally:
            await cancel_and_wait(ending)


@asynccontextmanager
async def _delivering(
    core: Core, liveness: liveness_lock.LivenessLock, locks: UserLocks, *, wanted: bool
) -> AsyncIterator[None]:
    """Deliver what waits, if that is `wanted` of this process."""
    if not wanted:
        yield
        return
    settings, lifecycle = core.settings, core.lifecycle
    timeout = settings.gateway_upstream_timeout_seconds
    concurrency = settings.gateway_upstream_concurrency
    async with _client(core, liveness, timeout, concurrency) as client:
        deliverer = Deliverer(
            core.outbox,
            client,
            core.apps,
            core.metrics,
            DeliveryOptions(
                owner=liveness.owner,
                liveness=liveness,
                call_seconds=timeout,
                drain_seconds=lifecycle.left_to_settle,
                concurrency=concurrency,
                policy=RetryPolicy(
                    window=settings.gateway_retry_window, not_twice=settings.not_twice
                ).bounded(settings.gateway_retry_max_seconds),
                times=core.clock,
                pseudonyms=core.audit.pseudonyms.of_all,
                on_answer=core.migration.note,
            ),
        )
        core.outbox.on_accepted = deliverer.notify
        locks.on_unlocked, deliverer.on_call_ended = deliverer.look_again, locks.look_again
        lifecycle.on_refuse.append(deliverer.stop)
        lifecycle.on_cut.append(client.give_up)
        running = asyncio.create_task(deliverer.run())
        try:
            yield
        finally:
            deliverer.stop()
            await asyncio.wait({running}, timeout=lifecycle.left_to_settle)
            if running.done():
                running.result()
            else:
                advice = "what it did not settle is recovered by the next start"
                log.warning("delivery.cut", advice=advice)
                await cancel_and_wait(running)


@asynccontextmanager
async def _relaying(
    core: Core, liveness: liveness_lock.LivenessLock, locks: UserLocks
) -> AsyncIterator[Relay]:
    """Relay calls to Leanplum while their callers wait."""
    settings = core.settings
    timeout = settings.gateway_relay_timeout_seconds
    concurrency = settings.gateway_relay_concurrency
    async with _client(core, liveness, timeout, concurrency) as client:
        relay = Relay(
            client,
            locks,
            core.metrics,
            timeout=timeout,
            concurrency=concurrency,
            cache_seconds=settings.gateway_cache_seconds,
            recorder=RelayRecorder(core.recorder, core.audit.pseudonyms),
            migration=core.migration,
        )
        core.lifecycle.on_cut.append(relay.give_up)
        try:
            yield relay
        finally:
            await relay.close(settings.gateway_shutdown_seconds)


@asynccontextmanager
async def _limiting(
    settings: Settings, metrics: Metrics, buckets: Buckets | None, *, wanted: bool
) -> AsyncIterator[Limiter]:
    """Limit callers by these buckets, or by those that replicas share."""
    url = settings.gateway_shared_limits_url
    if buckets is None or url is not None:
        # Each worker is a replica of its own for shared limits, and has its share of them
        buckets = Buckets(time.monotonic)
    if url is None or not wanted:
        yield LocalLimiter(buckets)
        return
    up, decided_here = metrics.define_shared_limit_metrics()
    server = Valkey(url.get_secret_value(), settings.gateway_shared_limits_timeout_seconds)
    limiter = SharedLimiter(
        server,
        buckets,
        clock=time.monotonic,
        on_available=up.set,
        on_local_decision=decided_here.add,
    )
    await limiter.step()
    looking = asyncio.create_task(limiter.run())
    try:
        yield limiter
    finally:
        await cancel_and_wait(looking)
        await limiter.close()


@dataclass(frozen=True, slots=True)
class RelayRecorder:
    """Record the calls that are relayed while their callers wait."""

    recorder: AuditRecorder
    pseudonyms: records.UserPseudonyms

    def begun(self, app: str, action: str, subjects: Collection[str]) -> tuple[int, str]:
        """Return the record of a call that is about to be sent: its time (ms) and its text."""
        now = now_ms()
        return now, self._text(now, app, action, subjects, records.BEGUN)

    async def begin(self, app: str, action: str, subjects: Collection[str]) -> None:
        """Record durably that a call is about to be sent."""
        await self.recorder.record(*self.begun(app, action, subjects))

    def end(self, app: str, action: str, subjects: Collection[str], status: int | None) -> None:
        """Record the status that came back, soon.

        The record of the caller's response follows, and that is waited for.
        """
        now = now_ms()
        self.recorder.soon(now, self._text(now, app, action, subjects, status), along=True)

    def _text(
        self, now: int, app: str, action: str, subjects: Collection[str], status: int | None
    ) -> str:
        about = records.about_users(self.pseudonyms.of_all(app, subjects)[: records.MOST_USERS])
        return records.leanplum_call(
            time=now, app=app, attempt="", status=status, outcome={}, action=action, about=about
        )


def _note_change(recorder: AuditRecorder, metrics: Metrics, app: str, how: str) -> None:
    metrics.show_app(app)
    now = now_ms()
    recorder.soon(now, records.app_changed(time=now, app=app, how=how))


async def _watch_clock(clock: Clock) -> None:
    """Notice soon that somebody set the wall clock, until cancelled."""
    while True:
        clock.look()
        await asyncio.sleep(CLOCK_SECONDS)


def _note_step(metrics: Metrics, seconds: float) -> None:
    metrics.count_clock_step()
    log.warning("clock.stepped", seconds=round(seconds, 1))


def _name_limits(settings: Settings) -> NameLimits:
    limits = settings.taxonomy_limits
    return NameLimits(
        {kind: limits[kind] for kind in NAME_KINDS}, settings.gateway_taxonomy_warn_percent / 100
    )


def _housekeeper(settings: Settings, outbox: Outbox) -> Housekeeper:
    kept = (settings.gateway_dedup_seconds, settings.gateway_dead_letter_seconds)
    return Housekeeper(outbox, RetentionLimits(*(int(seconds * 1000) for seconds in kept)))
