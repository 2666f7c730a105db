"""Construct the handlers of all protocols, each with the services that it uses."""

from typing import NamedTuple

from app.api.audit import AuditReader
from app.api.batch import BatchHandler
from app.api.dead_letters import DeadLetterHandler
from app.api.events import ItemHandler
from app.api.keys import KeyHandler
from app.api.passthrough import PassthroughHandler
from app.api.preview import PreviewHandler
from app.api.receipts import ReceiptService
from app.compat.admission import BodyCredentials
from app.compat.leanplum_sdk.endpoint import CallReader, SdkEndpoint
from app.compat.leanplum_sdk.execute import FORWARD, EntryExecutor
from app.compat.leanplum_sdk.relayed_entries import EntryRelay
from app.compat.leanplum_sdk.transfers import TransferHandler
from app.compat.segment.endpoint import MessageReader, SegmentEndpoint
from app.compat.segment.execute import MessageExecutor
from app.enrichment.relayed_calls import RelayedCallPrivacy
from app.http import JobFacts
from app.server.bootstrap import Services


class Handlers(NamedTuple):
    """The handlers, by their names in the state of requests."""

    items: ItemHandler
    batches: BatchHandler
    previews: PreviewHandler
    receipts: ReceiptService
    dead_letters: DeadLetterHandler
    passthrough: PassthroughHandler
    keys_handler: KeyHandler
    audit_reader: AuditReader
    credentials: BodyCredentials
    sdk: SdkEndpoint
    segment: SegmentEndpoint


def handlers_of(services: Services) -> Handlers:
    """Return the handlers, constructed with the gateway's services."""
    settings, outbox, relay = services.settings, services.outbox, services.relay
    authenticator, limiter, bodies = services.authenticator, services.limiter, services.bodies
    receipts = ReceiptService(outbox, services.metrics)
    privacy = RelayedCallPrivacy(services.enrichment)
    job_facts = JobFacts(services.pseudonyms.of)
    credentials = BodyCredentials(
        authenticator, limiter, bodies, max_held_bytes=settings.gateway_max_held_bytes
    )
    return Handlers(
        items=ItemHandler(authenticator, bodies, services.ingest, receipts),
        batches=BatchHandler(
            authenticator,
            limiter,
            bodies,
            services.ingest,
            max_items=settings.gateway_max_batch_items,
        ),
        previews=PreviewHandler(authenticator, limiter, bodies, services.ingest),
        receipts=receipts,
        dead_letters=DeadLetterHandler(authenticator, bodies, outbox.dead_letters),
        passthrough=PassthroughHandler(
            authenticator,
            bodies,
            relay,
            outbox,
            services.ingest,
            privacy,
            job_facts,
            max_upload_bytes=settings.gateway_max_upload_bytes,
        ),
        keys_handler=KeyHandler(authenticator, bodies, services.keys, services.directory),
        audit_reader=AuditReader(
            authenticator,
            services.engine,
            services.signer.public,
            services.pseudonyms,
            lambda: {*services.apps, *services.tracking.names.counts()},
        ),
        credentials=credentials,
        sdk=SdkEndpoint(
            authenticator,
            limiter,
            CallReader(
                limiter,
                bodies,
                credentials,
                max_body_bytes=settings.gateway_sdk_max_body_bytes,
                max_upload_bytes=settings.gateway_max_upload_bytes,
            ),
            EntryExecutor(
                authenticator,
                limiter,
                services.ingest,
                services.enrichment,
                EntryRelay(relay, outbox),
                job_facts,
                forwards_detection=settings.gateway_detect == FORWARD,
            ),
            TransferHandler(relay, outbox, privacy, job_facts),
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
    )
