"""Construct the handlers of all protocols, each with the services that it uses."""

from functools import partial
from typing import NamedTuple

from app.api import audit, batch, dead_letters, erasures, events, keys, passthrough, preview
from app.audit.service import AuditService
from app.callers.key_service import KeyService, NotifyWorkers
from app.compat.admission import BodyCredentials
from app.compat.leanplum_sdk import endpoint, execute, relayed_entries, transfers
from app.compat.segment.endpoint import MessageReader, SegmentEndpoint
from app.compat.segment.execute import MessageExecutor
from app.console.access import ConsoleAccess
from app.console.attention import ProcessState
from app.console.audit import AuditPages
from app.console.dead_letters import DeadLetterPages
from app.console.find import FindPages
from app.console.gateway_state import StateReader
from app.console.keys import KeyPages
from app.console.live import LiveReader
from app.console.overview import OverviewReader
from app.console.pages import Pages
from app.console.preview import Previewer
from app.console.routes import Console
from app.console.streams import Streams
from app.console.tracking_plan import PlanReader
from app.enrichment.relayed_calls import RelayedCallPrivacy
from app.http import JobFacts
from app.receipts import ReceiptService
from app.server.bootstrap import Services


class Handlers(NamedTuple):
    """The handlers, by their names in the state of requests."""

    items: events.ItemHandler
    batches: batch.BatchHandler
    previews: preview.PreviewHandler
    receipts: ReceiptService
    dead_letters: dead_letters.DeadLetterHandler
    passthrough: passthrough.PassthroughHandler
    keys_handler: keys.KeyHandler
    audit_reader: audit.AuditReader
    erasures: erasures.ErasureReader
    credentials: BodyCredentials
    sdk: endpoint.SdkEndpoint
    segment: SegmentEndpoint
    console: Console
    overview: OverviewReader
    live: LiveReader
    find_pages: FindPages
    dead_letter_pages: DeadLetterPages
    key_pages: KeyPages
    audit_pages: AuditPages
    plan_reader: PlanReader
    previewer: Previewer


def handlers_of(services: Services, notify_workers: NotifyWorkers) -> Handlers:
    """Return the handlers, constructed with the gateway's services.

    `notify_workers` lets the other workers read the keys.
    """
    settings, outbox, relay = services.settings, services.outbox, services.relay
    authenticator, limiter, bodies = services.authenticator, services.limiter, services.bodies
    audit_service = AuditService(
        services.engine,
        services.signer.public,
        services.pseudonyms,
        lambda: {*services.apps, *services.tracking.names.counts()},
    )
    key_service = KeyService(services.keys, services.directory, notify_workers)
    receipt_service = ReceiptService(outbox)
    privacy = RelayedCallPrivacy(services.enrichment)
    job_facts = JobFacts(services.pseudonyms.of)
    credentials = BodyCredentials(
        authenticator, limiter, bodies, max_held_bytes=settings.gateway_max_held_bytes
    )
    access = ConsoleAccess(
        authenticator, limiter, services.directory, bodies, services.sessions, services.apps
    )
    pages, streams = Pages(), Streams(access)
    services.lifecycle.on_drain.extend((streams.close, audit_service.stop_waiting))
    return Handlers(
        items=events.ItemHandler(
            authenticator, bodies, services.ingest, receipt_service, audit_service
        ),
        batches=batch.BatchHandler(
            authenticator,
            limiter,
            bodies,
            services.ingest,
            max_items=settings.gateway_max_batch_items,
        ),
        previews=preview.PreviewHandler(authenticator, limiter, bodies, services.ingest),
        receipts=receipt_service,
        dead_letters=dead_letters.DeadLetterHandler(authenticator, bodies, outbox.dead_letters),
        passthrough=passthrough.PassthroughHandler(
            authenticator,
            bodies,
            relay,
            outbox,
            services.ingest,
            privacy,
            job_facts,
            max_upload_bytes=settings.gateway_max_upload_bytes,
        ),
        keys_handler=keys.KeyHandler(authenticator, bodies, key_service),
        audit_reader=audit.AuditReader(authenticator, audit_service),
        erasures=erasures.ErasureReader(authenticator, audit_service),
        credentials=credentials,
        sdk=endpoint.SdkEndpoint(
            authenticator,
            limiter,
            endpoint.CallReader(
                limiter,
                bodies,
                credentials,
                max_body_bytes=settings.gateway_sdk_max_body_bytes,
                max_upload_bytes=settings.gateway_max_upload_bytes,
            ),
            execute.EntryExecutor(
                authenticator,
                limiter,
                services.ingest,
                services.enrichment,
                relayed_entries.EntryRelay(relay, outbox),
                job_facts,
                forwards_detection=settings.gateway_detect == execute.FORWARD,
            ),
            transfers.TransferHandler(relay, outbox, privacy, job_facts),
            services.apps,
        ),
        segment=SegmentEndpoint(
            authenticator,
            limiter,
            MessageReader(
                limiter,
                bodies,
                credentials,
                max_body_bytes=settings.gateway_max_body_bytes,
                max_messages=settings.gateway_max_batch_items,
            ),
            MessageExecutor(services.ingest, services.enrichment, services.metrics),
        ),
        console=Console(access, pages),
        overview=OverviewReader(
            StateReader(services.engine, outbox, services.minute_counts),
            partial(_process_state, services),
            pages,
            streams,
        ),
        live=LiveReader(outbox, pages, streams),
        find_pages=FindPages(receipt_service, audit_service),
        dead_letter_pages=DeadLetterPages(
            outbox.dead_letters, services.dead_letter_runs, services.recorder
        ),
        key_pages=KeyPages(key_service, limiter),
        audit_pages=AuditPages(audit_service, services.sealer),
        plan_reader=PlanReader(services.tracking),
        previewer=Previewer(limiter, services.ingest, services.apps),
    )


def _process_state(services: Services) -> ProcessState:
    """Return what the overview shows of this process."""
    names = services.tracking.names
    return ProcessState(
        apps_refused=services.apps.refused,
        audit_tampered=services.sealer.tampered,
        audit_waiting=services.sealer.waiting,
        limits=services.limiter.state(),
        queued=services.outbox.queued,
        max_queued=services.settings.gateway_max_queued_items,
        names={
            (app, kind): count / names.limits.by_kind[kind]
            for app, kinds in names.counts().items()
            for kind, count in kinds.items()
        },
        names_warn_from=names.limits.warn_from,
    )
