"""The composition root: opens everything in order, and closes it in the opposite one. Only here do
the parts meet.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import structlog
from sqlalchemy import Engine

from app.apps import AppRegistry, read_apps
from app.audit import key_derivation, records
from app.audit.checkpoints import CheckpointSigner
from app.audit.folded_refusals import RefusalFolder
from app.audit.recorder import AuditRecorder
from app.audit.records import AuditMacs, UserPseudonyms
from app.audit.sealer import Sealer
from app.audit.signing_keys import AuditKeys, load_keys_to_write
from app.callers import key_format as keys
from app.callers.directory import Directory, cancelled
from app.callers.store import KeyStore, every_key
from app.clock import Clock, now_ms
from app.database.engine import connect, connect_to_read
from app.database.writer import Writer
from app.delivery.attempt import DeliveryOptions
from app.delivery.deliverer import LEASE_SECONDS, Deliverer
from app.delivery.user_locks import UserLocks
from app.delivery.verdicts import RetryPolicy
from app.encryption import BodyCipher, open_body_cipher
from app.enrichment.service import EnrichmentService, check_files
from app.errors import Refusal, StartRefused, StorageUnavailable
from app.http import AuditTrail, Authenticator, BodyReader, RateLimiter
from app.ingest.service import Ingest
from app.leanplum.client import LeanplumClient
from app.leanplum.replies import MigrateStates
from app.limits.buckets import Buckets, Limiter, LocalLimiter, RatePolicies
from app.limits.shared_limiter import SharedLimiter
from app.limits.valkey import Valkey
from app.outbox import liveness_lock
from app.outbox.housekeeper import Housekeeper
from app.outbox.liveness_lock import LivenessLock
from app.outbox.outbox import Outbox
from app.outbox.retention import RetentionLimits
from app.relay.service import Relay
from app.server.lifecycle import GIVE_UP, Lifecycle
from app.settings import Settings
from app.telemetry import Metrics
from app.tracking.name_store import NameStore
from app.tracking.names import NAME_KINDS, NameLimits
from app.tracking.plan_files import LoadedPlans
from app.tracking.service import Tracking
from app.tracking.violations import ViolationCounts

MOVE = "`audit key --move` moves the key into GATEWAY_AUDIT_KEY, and removes it from the database once it is set there"
CLOCK_SECONDS = 1.0  # between looks whether the wall clock was set

BOOTSTRAP = {
    "unknown": "GATEWAY_BOOTSTRAP_KEY differs from the keys that are stored already, so it is ignored",
    "ended": "GATEWAY_BOOTSTRAP_KEY is revoked, rotated or expired, so it opens nothing",
}
BOOTSTRAP_ADVICE = "unset it, or set it to the stored key; `keys create` makes another, `keys list` shows those stored"

log = structlog.get_logger("gateway")


class Services(NamedTuple):
    """The services of the running gateway, for the application to make handlers of."""

    apps: AppRegistry
    audit_trail: AuditTrail
    authenticator: Authenticator
    bodies: BodyReader
    directory: Directory
    engine: Engine
    enrichment: EnrichmentService
    ingest: Ingest
    keys: KeyStore
    limiter: RateLimiter
    macs: AuditMacs
    metrics: Metrics
    outbox: Outbox
    pseudonyms: UserPseudonyms
    recorder: AuditRecorder
    relay: Relay
    sealer: Sealer
    settings: Settings
    signer: CheckpointSigner
    tracking: Tracking
    writer: Writer


@asynccontextmanager
async def gateway(
    settings: Settings,
    metrics: Metrics,
    lifecycle: Lifecycle,
    *,
    delivery: bool = True,
    calls: bool = True,
) -> AsyncIterator[Services]:
    """The running gateway. Leaving the context finishes and settles what is in flight, within the
    time that the lifecycle leaves for it. `calls`: whether callers are served, and so have a share
    in limits.

    Raises StartRefused where the settings or the database don't allow a start.
    """
    clock = Clock(on_step=_tell_of_step)
    apps = AppRegistry(lambda: read_apps(settings))
    plans = LoadedPlans(settings.gateway_tracking_plan)
    engine = await asyncio.to_thread(connect, settings.gateway_database_url)
    cipher = await asyncio.to_thread(_cipher, settings, engine)
    audit = await asyncio.to_thread(audit_keys, settings, engine)
    keys = KeyStore(engine, audit.macs)
    bootstrap(settings, keys)
    if audit.stored:
        log.warning(
            "audit.key_in_database", advice=f"who can change the database can sign as well: {MOVE}"
        )
    writer = Writer(engine, settings.gateway_commit_seconds)
    writer.start()
    recorder = AuditRecorder(writer, audit.macs)
    folding = RefusalFolder(recorder, time.monotonic)
    directory = Directory(keys, now_ms, writer.write)
    directory.refresh()
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
    clock.follow(await outbox.newest())
    lifecycle.on_drain.append(outbox.answer_waiters)
    lifecycle.on_cut.append(partial(writer.hurry, GIVE_UP / 2 * lifecycle.shutdown_seconds))
    metrics.queued.set_function(lambda: outbox.queued)
    outbox.on_settled = metrics.count_settled
    taxonomy = NameStore(engine, writer, _name_limits(settings), settings.gateway_taxonomy_policy)
    taxonomy.apply(taxonomy.read())
    metrics.taxonomy.counts, metrics.taxonomy.caps = taxonomy.counts, taxonomy.limits.by_kind
    violations = ViolationCounts(engine, writer, metrics)
    sealer = Sealer(
        engine,
        writer,
        audit.signer,
        audit.macs,
        int(settings.gateway_audit_seconds * 1000),
        since=clock.since,
    )
    metrics.audit_not_sealed.set_function(lambda: sealer.tampered or sealer.waiting)
    metrics.audit_misfit.set_function(lambda: sealer.tampered)
    enrichment = enriching(settings, audit.root_key)
    metrics.apps_refused.set_function(lambda: apps.refused)
    apps.on_change = partial(_record_change, recorder)
    migration = MigrateStates()
    of_tracking = (plans.run, taxonomy.run, violations.run)
    runs = (
        apps.run,
        directory.run,
        _housekeeper(settings, outbox).run,
        audit.pseudonyms.run,
        recorder.run,
        folding.run,
        sealer.run,
        enrichment.run,
        partial(_watch, clock),
    )
    beside = [asyncio.create_task(run()) for run in (*runs, *of_tracking)]
    try:
        async with (
            _locking(settings, outbox, lifecycle) as (liveness, locks),
            _delivering(
                settings,
                apps,
                outbox,
                metrics,
                audit.pseudonyms,
                liveness,
                locks,
                migration,
                lifecycle,
                clock,
                wanted=delivery,
            ),
            _relaying(
                settings, apps, recorder, metrics, locks, audit.pseudonyms, migration, lifecycle
            ) as relay,
            _limiting(settings, metrics, wanted=calls) as limits,
        ):
            try:
                policies = RatePolicies(
                    settings.gateway_rate_per_second, settings.gateway_rate_burst
                )
                limiter = RateLimiter(
                    limits,
                    policies,
                    apps,
                    failures_per_minute=settings.gateway_failed_auth_per_minute,
                )
                tracking = Tracking(plans, taxonomy, violations, metrics)
                yield Services(
                    apps=apps,
                    audit_trail=AuditTrail(recorder, folding, audit.pseudonyms),
                    authenticator=Authenticator(directory, apps, limiter),
                    bodies=BodyReader(
                        max_body_bytes=settings.gateway_max_body_bytes,
                        max_held_bytes=settings.gateway_max_held_bytes,
                    ),
                    directory=directory,
                    engine=engine,
                    enrichment=enrichment,
                    ingest=Ingest(outbox, enrichment, tracking, audit.pseudonyms.of_all, metrics),
                    keys=keys,
                    limiter=limiter,
                    macs=audit.macs,
                    metrics=metrics,
                    outbox=outbox,
                    pseudonyms=audit.pseudonyms,
                    recorder=recorder,
                    relay=relay,
                    sealer=sealer,
                    settings=settings,
                    signer=audit.signer,
                    tracking=tracking,
                    writer=writer,
                )
            finally:
                lifecycle.refuse()
    finally:
        for task in beside:
            task.cancel()
        await asyncio.wait(beside, timeout=lifecycle.left)
        folding.flush()
        try:
            async with asyncio.timeout(lifecycle.left):
                # When a key was last used is not worth a failed stop
                with suppress(StorageUnavailable):
                    await directory.tell_used()
                with suppress(StorageUnavailable):  # likewise
                    await violations.flush()
                await recorder.flush()
                await sealer.attempt()  # what was recorded until now
                await writer.stop(lifecycle.left)
        except TimeoutError:
            log.warning(
                "stop.cut",
                advice="the database did not answer in time; the next start goes on from what it has",
            )
        lifecycle.close()
        recorder.close()
        engine.dispose()


def prepare(settings: Settings) -> None:
    """Everything that may refuse a start, before there is a server: apps are configured, the
    database opens, and has its first key.
    """
    read_apps(settings)
    check_bootstrap_key(settings)
    _ = settings.route
    LoadedPlans(settings.gateway_tracking_plan)
    check_files(settings.gateway_enrichment_file, settings.gateway_maxmind_file)
    engine = connect(settings.gateway_database_url)
    try:
        _tell(_cipher(settings, engine))
        store = KeyStore(engine, audit_keys(settings, engine).macs)
        bootstrap(settings, store)
        _tell_bootstrap(settings, store)
        _warn_without_keys(store)
        with liveness_lock.held(settings.gateway_database_url, str(uuid.uuid4())):
            pass
    finally:
        engine.dispose()


def _cipher(settings: Settings, engine: Engine) -> BodyCipher:
    return open_body_cipher(engine, settings.data_keys, settings.encryption_key_id)


def _tell(cipher: BodyCipher) -> None:
    """Say at the start whether bodies are sealed."""
    if cipher.active_key_id is None:
        log.warning(
            "bodies.unencrypted",
            hint="set GATEWAY_DATA_KEY, and what waits is encrypted on the disk",
        )
    else:
        log.info("bodies.encrypted", key=cipher.active_key_id)


def enriching(settings: Settings, made_of: bytes) -> EnrichmentService:
    """Enrichment as the settings have it; the seed makes the key of what is hashed."""
    key = key_derivation.derive_key(made_of, b"leanplum-gateway values")
    return EnrichmentService(settings.gateway_enrichment_file, settings.gateway_maxmind_file, key)


def check_bootstrap_key(settings: Settings) -> None:
    """Raise StartRefused for a first key that has not the form of one, before a database is made
    for it. Where there are keys already it is ignored, whatever its form.
    """
    key = settings.gateway_bootstrap_key
    if key is None or keys.well_formed(key.get_secret_value()) or _has_keys(settings):
        return
    raise StartRefused(f"GATEWAY_BOOTSTRAP_KEY: {keys.MALFORMED}")


def _has_keys(settings: Settings) -> bool:
    """Return whether there is a database with keys; none is made, and none is migrated."""
    try:
        engine = connect_to_read(settings.gateway_database_url)
    except StartRefused:
        return False
    try:
        return bool(every_key(engine))
    finally:
        engine.dispose()


def bootstrap(settings: Settings, store: KeyStore) -> None:
    """Make the first key, where one is configured and none exists."""
    if (key := settings.gateway_bootstrap_key) is None:
        return
    try:
        stored = store.bootstrap(key.get_secret_value(), now_ms())
    except Refusal as error:
        raise StartRefused(f"GATEWAY_BOOTSTRAP_KEY: {error.detail}") from None
    if stored is not None:
        log.info("key.bootstrapped", key_id=stored.caller.key_id)


def _tell_bootstrap(settings: Settings, store: KeyStore) -> None:
    """Say at the start where the bootstrap key opens nothing: it is stored at the first start
    only.
    """
    key = settings.gateway_bootstrap_key
    standing = "usable" if key is None else store.standing(key.get_secret_value(), now_ms())
    if standing != "usable":
        log.warning("key.bootstrap_ignored", reason=BOOTSTRAP[standing], advice=BOOTSTRAP_ADVICE)


def _warn_without_keys(store: KeyStore) -> None:
    """Warn at the start if no caller key exists yet, and say how to create one."""
    if not store.page(None, 1):
        log.warning(
            "keys.none",
            reason="no caller key exists yet, so every call is refused",
            advice="run `leanplum-gateway keys create --name NAME`, or set GATEWAY_BOOTSTRAP_KEY",
        )


def audit_keys(settings: Settings, engine: Engine) -> AuditKeys:
    """What signs the audit, macs its records, and hashes users' ids for it. Raises StartRefused
    where it was made with another key.
    """
    return load_keys_to_write(engine, settings.audit_root_key)


@asynccontextmanager
async def _locking(
    settings: Settings, outbox: Outbox, lifecycle: Lifecycle
) -> AsyncIterator[tuple[LivenessLock, UserLocks]]:
    """The locks of this process: its own, and those of users whom it calls Leanplum for."""
    timeout = settings.gateway_relay_timeout_seconds
    with liveness_lock.held(settings.gateway_database_url, str(uuid.uuid4())) as liveness:
        # A call waits for room, and then for Leanplum.
        locks = UserLocks(outbox, liveness, liveness.owner, 2 * timeout + LEASE_SECONDS)
        try:
            yield liveness, locks
        finally:
            await locks.close(lifecycle.left_to_settle)


def _client(
    settings: Settings, apps: AppRegistry, timeout: float, concurrency: int
) -> LeanplumClient:
    return LeanplumClient(
        timeout=timeout,
        connections=concurrency,
        max_response=settings.gateway_upstream_max_response_bytes,
        max_download=settings.gateway_upstream_max_download_bytes,
        route=settings.route,
        secrets=apps.secrets,
    )


@asynccontextmanager
async def _delivering(
    settings: Settings,
    apps: AppRegistry,
    outbox: Outbox,
    metrics: Metrics,
    pseudonyms: UserPseudonyms,
    liveness: LivenessLock,
    locks: UserLocks,
    migration: MigrateStates,
    lifecycle: Lifecycle,
    clock: Clock,
    *,
    wanted: bool,
) -> AsyncIterator[None]:
    if not wanted:
        yield
        return
    timeout, concurrency = (
        settings.gateway_upstream_timeout_seconds,
        settings.gateway_upstream_concurrency,
    )
    client = _client(settings, apps, timeout, concurrency)
    policy = RetryPolicy(window=settings.gateway_retry_window, not_twice=settings.not_twice)
    async with client:
        deliverer = Deliverer(
            outbox,
            client,
            apps,
            metrics,
            DeliveryOptions(
                owner=liveness.owner,
                liveness=liveness,
                call_seconds=timeout,
                drain_seconds=lifecycle.left_to_settle,
                concurrency=concurrency,
                policy=policy,
                times=clock,
                pseudonyms=pseudonyms.of_all,
                on_answer=migration.note,
            ),
        )
        outbox.on_accepted = deliverer.notify
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
                log.warning(
                    "delivery.cut", advice="what it did not settle is recovered by the next start"
                )
                await cancelled(running)


@asynccontextmanager
async def _relaying(
    settings: Settings,
    apps: AppRegistry,
    recorder: AuditRecorder,
    metrics: Metrics,
    locks: UserLocks,
    pseudonyms: UserPseudonyms,
    migration: MigrateStates,
    lifecycle: Lifecycle,
) -> AsyncIterator[Relay]:
    timeout, concurrency = (
        settings.gateway_relay_timeout_seconds,
        settings.gateway_relay_concurrency,
    )

    async with _client(settings, apps, timeout, concurrency) as client:
        relay = Relay(
            client,
            locks,
            metrics,
            timeout=timeout,
            concurrency=concurrency,
            cache_seconds=settings.gateway_cache_seconds,
            recorder=_CallRecorder(recorder, pseudonyms),
            migration=migration,
        )
        lifecycle.on_cut.append(relay.give_up)
        try:
            yield relay
        finally:
            await relay.close(settings.gateway_shutdown_seconds)


@asynccontextmanager
async def _limiting(
    settings: Settings, metrics: Metrics, *, wanted: bool
) -> AsyncIterator[Limiter]:
    buckets, url = Buckets(time.monotonic), settings.gateway_shared_limits_url
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
        on_local_decision=decided_here.inc,
    )
    await limiter.step()
    looking = asyncio.create_task(limiter.run())
    try:
        yield limiter
    finally:
        await cancelled(looking)
        await limiter.close()


@dataclass(frozen=True, slots=True)
class _CallRecorder:
    """Records calls that a caller waits for."""

    recorder: AuditRecorder
    pseudonyms: UserPseudonyms

    def begun(self, app: str, action: str, subjects: Collection[str]) -> tuple[int, str]:
        """The record of a call that is about to be sent: its time in milliseconds, its text."""
        now = now_ms()
        return now, self._text(now, app, action, subjects, records.BEGUN)

    async def begin(self, app: str, action: str, subjects: Collection[str]) -> None:
        """Have it on disk that a call is about to be sent."""
        await self.recorder.record(*self.begun(app, action, subjects))

    def end(self, app: str, action: str, subjects: Collection[str], status: int | None) -> None:
        """Record what came back. The record of what the caller is answered follows, and that is
        waited for.
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


def _record_change(recorder: AuditRecorder, app: str, how: str) -> None:
    now = now_ms()
    recorder.soon(now, records.app_changed(time=now, app=app, how=how))


async def _watch(clock: Clock) -> None:
    """Notice soon that somebody set the wall clock. Until cancelled."""
    while True:
        clock.look()
        await asyncio.sleep(CLOCK_SECONDS)


def _tell_of_step(seconds: float) -> None:
    log.warning("clock.stepped", seconds=round(seconds, 1))


def _name_limits(settings: Settings) -> NameLimits:
    limits = settings.taxonomy_limits
    return NameLimits(
        {kind: limits[kind] for kind in NAME_KINDS}, settings.gateway_taxonomy_warn_percent / 100
    )


def _housekeeper(settings: Settings, outbox: Outbox) -> Housekeeper:
    kept = (settings.gateway_dedup_seconds, settings.gateway_dead_letter_seconds)
    return Housekeeper(outbox, RetentionLimits(*(int(seconds * 1000) for seconds in kept)))
