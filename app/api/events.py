"""Accept one item: an event, a change of a user or device, a message, a campaign, a deletion.

The steps are the same for all: authenticate, limit, read, validate and enrich, check, accept (one
durable commit), answer 202. A valid body is validated first; a faulty one is enriched first, since
that may correct it. The middleware passes POST /v1/events to the handler directly, without the
router.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import APIRouter, Depends, Header, Request, Response

from app import ids
from app.api import schemas
from app.api.dependencies import KEY, SUBJECTS, path_parameters
from app.audit.service import STATEMENT_SECONDS, AuditService
from app.clock import now_ms
from app.errors import (
    CommitUnknown,
    Erased,
    Fault,
    IdConflict,
    Invalid,
    NotFound,
    Refusal,
    StorageUnavailable,
)
from app.http import (
    IDEMPOTENCY_KEY,
    Answer,
    Authenticator,
    BodyReader,
    Receive,
    RequestContext,
    Tag,
    body_of,
    context_of,
    idempotency_key,
    parse_json,
    problem_responses,
    require_leanplum_key,
    require_scope,
)
from app.ingest import CallSteps, Ingest, ItemSteps, validate
from app.leanplum.actions import ACTIONS, key_for
from app.model import ERASES, App, Caller, Erasure, Kind, NewItem, Scope
from app.receipts import (
    ReceiptService,
    fresh_receipt,
    receipt_document,
    receipt_path,
    statement_path,
)

EVENTS = "/v1/events"
JSON_HEADER = (b"content-type", b"application/json")
MAX_WAIT = 30  # seconds
WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d+)\"?\s*(?=[,;]|$)", re.IGNORECASE | re.ASCII)
MAY_BE_TAKEN = (
    "The outcome of the database commit is unknown: the item may have been accepted. "
    "Send it again with Idempotency-Key: {id}; it is not accepted twice."
)
CONTRADICTION = "contradiction"
CONFLICT = "This id was used within the deduplication window for an item with different content."
STATEMENT_PENDING = (
    "The user is erased, and the statement of it is not signed yet. Retrieve it at "
    "statementHref; the audit log is signed every second."
)
NOTHING: Mapping[str, Any] = MappingProxyType({})


class ItemHandler:
    """The handler of calls that write one item."""

    def __init__(
        self,
        authenticator: Authenticator,
        bodies: BodyReader,
        ingest: Ingest,
        receipts: ReceiptService,
        audit: AuditService,
    ) -> None:
        self._authenticator, self._bodies = authenticator, bodies
        self._ingest, self._receipts, self._audit = ingest, receipts, audit

    async def post_event(self, context: RequestContext, receive: Receive) -> Answer:
        """Accept an event."""
        return await self.post(context, receive, "track")

    async def post(
        self,
        context: RequestContext,
        receive: Receive,
        action: str,
        given: Mapping[str, Any] = NOTHING,
    ) -> Answer:
        """Accept an item of `action`; `given` are the fields in the path or the query."""
        known = validate.ITEM_ACTIONS[action]
        authenticator = self._authenticator
        caller, app = await authenticator.enter(context, known.scope, known.key)
        body = await self._bodies.read_json(context, receive, optional=bool(given))
        own_id = idempotency_key(context)
        if own_id is not None:
            given = {**given, "id": own_id}
        now = now_ms()
        item_steps = self._ingest.item_steps(app, caller, now, context.origin.named)
        context.item_steps = item_steps
        item = _parse_item(action, body, given, item_steps)
        context.subjects = (item.subject,)
        require_leanplum_key(app, key_for(action, item.body))
        caller = authenticator.confirm(context, caller)
        require_scope(caller, known.scope)
        erasure: Erasure | None = None
        try:
            if action == ERASES:
                (item_id, kind), erasure = await self._ingest.erase(
                    context, app, caller, item, now=now
                )
            else:
                ((item_id, kind),) = await self._ingest.accept(
                    context, app, caller, [item], now=now, item_steps=item_steps
                )
        except CommitUnknown as error:
            (own_id,) = error.ids
            raise CommitUnknown(MAY_BE_TAKEN.format(id=own_id), ids=error.ids) from error
        if kind != "accepted":
            erased = await self._ingest.refusals(app, [item], [(item_id, kind)])
            refusal = refusal_of(kind, iter(erased))
            if refusal is not None:
                raise refusal
            return await self._answer(context, app, caller, item_id, kind)
        if b"prefer" in context.headers:
            # The item is on disk: a failure to read its receipt must not suggest otherwise.
            with suppress(StorageUnavailable):
                return await self._answer(context, app, caller, item_id, kind, erasure)
        fields = NOTHING
        if erasure is not None:
            fields = await self._erased(context, caller, erasure, STATEMENT_SECONDS)
        receipt = fresh_receipt(
            item_id,
            action,
            item.subject,
            now,
            fields,
            notes=item.notes,
            event=item.event,
            prefix=context.prefix,
        )
        location = (b"location", receipt_path(item_id, context.prefix).encode())
        return Answer(202, [JSON_HEADER, location], receipt)

    async def _answer(
        self,
        context: RequestContext,
        app: App,
        caller: Caller,
        item_id: str,
        kind: Kind,
        erasure: Erasure | None = None,
    ) -> Answer:
        """Answer a duplicate or `Prefer: wait`, for which the stored receipt is read.

        All waiting together takes no longer than the caller prefers.
        """
        wait = preferred_wait(context.header(b"prefer"))
        deadline = time.monotonic() + (STATEMENT_SECONDS if wait is None else wait)
        receipt = await self._receipts.settled(app.name, item_id, wait or 0)
        if receipt is None:
            raise NotFound(
                "The item was accepted, but its receipt is older than the deduplication window."
            )
        explanation = None
        if wait is not None:
            explained = await self._receipts.explain(app.name, receipt)
            explanation = explained.get(receipt.seq)
        erased = NOTHING
        if erasure is not None:
            seconds = min(STATEMENT_SECONDS, max(0.0, deadline - time.monotonic()))
            erased = await self._erased(context, caller, erasure, seconds)
        document = receipt_document(receipt, erased, explanation, prefix=context.prefix)
        duplicate = kind == "duplicate"
        if duplicate:
            document["duplicate"] = True
        headers = [JSON_HEADER, (b"location", document["href"].encode())]
        if wait is not None:
            headers.append((b"preference-applied", b"wait=%d" % wait))
        status = 200 if receipt.settled or duplicate else 202
        return Answer(status, headers, orjson.dumps(document))

    async def _erased(
        self, context: RequestContext, caller: Caller, erasure: Erasure, seconds: float
    ) -> dict[str, Any]:
        """Return the fields about an erasure, with its statement if that is sealed in time."""
        fields: dict[str, Any] = {
            "erased": erasure.removed.document(),
            "statementHref": statement_path(erasure.record_id, context.prefix),
        }
        statement = await self._audit.sealed_erasure_statement(caller, erasure.record_id, seconds)
        if statement is None:
            return fields | {"statementPending": STATEMENT_PENDING}
        return fields | {"statement": statement}


def refusal_of(kind: Kind, erased: Iterator[Erased]) -> Refusal | None:
    """Return why a valid item was not accepted; None if it was, or if it is a duplicate.

    `erased` yields the error for each item whose user was erased.
    """
    if kind == "conflict":
        return IdConflict(CONFLICT)
    if kind == "erased":
        return next(erased)
    return None


def preferred_wait(prefer: str) -> int | None:
    """Return the seconds of `wait=N` in a Prefer header (RFC 7240), at most 30."""
    match = WAIT.search(prefer)
    if match is None:
        return None
    digits = match.group(1).lstrip("0") or "0"
    return min(int(digits), MAX_WAIT) if len(digits) <= len(str(MAX_WAIT)) else MAX_WAIT


def _parse_item(
    action: str, body: bytes, given: Mapping[str, Any], item_steps: CallSteps
) -> NewItem:
    """Return the validated item in a body. Raises Malformed, Invalid.

    A body without given fields is nearly always valid, and validated in one pass. Otherwise the
    careful pass finds every fault.
    """
    item = None
    if not given:
        item = validate.fast_single(action, body, item_steps)
    return item or _validated(action, body, given, item_steps.restart())


def _validated(
    action: str, body: bytes, given: Mapping[str, Any], item_steps: ItemSteps
) -> NewItem:
    """Return a validated item, or report all its faults. Raises Malformed, Invalid."""
    raw = parse_json(body)
    if not isinstance(raw, dict):
        return validate.single(action, raw)
    faults = contradictions(raw, given)
    try:
        return validate.single(action, raw, item_steps=item_steps, faults=faults)
    except Invalid as error:
        raise Invalid(tuple(_placed(fault, given) for fault in error.faults)) from None


def _placed(fault: Fault, given: Mapping[str, Any]) -> Fault:
    """Return a fault, located in the path, the query or a header if its field comes from there."""
    name = fault.pointer.removeprefix("/")
    if name not in given or fault.code == CONTRADICTION:
        return fault
    if name == "id":
        return replace(fault, pointer=IDEMPOTENCY_KEY, part="header")
    return replace(fault, pointer=name, part="parameter")


def contradictions(raw: dict[str, Any], given: Mapping[str, Any]) -> list[Fault]:
    """Add the given fields to a body; return a fault for each that the body contradicts."""
    faults = list[Fault]()
    for name, value in given.items():
        if not _is_same(name, raw.setdefault(name, value), value):
            source = IDEMPOTENCY_KEY if name == "id" else "the path"
            faults.append(Fault(f"/{name}", f"must not differ from {source}", CONTRADICTION))
    return faults


def _is_same(name: str, in_body: Any, value: Any) -> bool:
    """Tell whether the body has the given value; an integer equals an id with its digits."""
    if name in SUBJECTS and type(in_body) in (str, int):
        return bool(ids.text_of(in_body) == value)
    if type(in_body) is int:
        return bool(str(in_body) == value)
    return bool(in_body == value)


# --- routes --------------------------------------------------------------------------------------

router = APIRouter(prefix="", dependencies=KEY)
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The item's `id`; a repeat with the same id is a duplicate.",
    ),
]
Prefer = Annotated[
    str | None,
    Header(
        description="`wait=N`: respond when the item is settled, or after N seconds; more than 30 "
        "counts as 30. Any other preference is ignored (RFC 7240); `Preference-Applied` repeats "
        "what was applied."
    ),
]
ACCEPTED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": schemas.ReceiptDocument,
        "description": "The receipt of a duplicate or, with Prefer: wait, the final receipt",
    },
    202: {
        "model": schemas.ReceiptDocument,
        "description": "Accepted durably; it will be delivered",
    },
}
WRITE: dict[int | str, dict[str, Any]] = ACCEPTED | problem_responses(
    "not-found", "id-conflict", "key-not-configured", "queue-full", "storage-unavailable"
)


async def _items(request: Request) -> ItemHandler:
    handler: ItemHandler = request.state.items
    return handler


Items = Annotated[ItemHandler, Depends(_items)]


def response_of(answer: Answer) -> Response:
    """Convert an answer to a response for the router."""
    response = Response(answer.body, answer.status)
    response.raw_headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    return response


@router.post(
    EVENTS,
    operation_id="trackEvent",
    status_code=202,
    tags=[Tag.EVENTS_AND_USERS],
    summary="Track an event",
    responses=WRITE,
    openapi_extra=body_of("Event"),
)
async def post_event(
    request: Request, items: Items, key: IdempotencyKey = None, prefer: Prefer = None
) -> Response:
    """Accept an event of a user (Leanplum's `track`) durably, for delivery in the background."""
    context = context_of(request.scope)
    context.operation = f"POST {EVENTS}"
    return response_of(await items.post_event(context, request.receive))


class Write(NamedTuple):
    """A route that writes one item: the call, Leanplum's action, and its documentation."""

    method: str
    path: str
    action: str
    operation_id: str
    summary: str
    description: str


USER, DEVICE = "/v1/users/{userId}", "/v1/devices/{deviceId}"
WRITES = (
    Write(
        "PATCH",
        USER,
        "setUserAttributes",
        "updateUser",
        "Update user attributes",
        "Sets attributes and other properties of a user.",
    ),
    Write(
        "PATCH",
        DEVICE,
        "setDeviceAttributes",
        "updateDevice",
        "Update device attributes",
        "Sets properties of a device.",
    ),
    Write(
        "PUT",
        f"{USER}/traffic-source",
        "setTrafficSourceInfo",
        "setTrafficSource",
        "Set the traffic source of a user",
        "Leanplum accepts it within two minutes after the start of the session.",
    ),
    Write(
        "POST",
        f"{USER}/states",
        "advance",
        "enterState",
        "Enter a state",
        "The user enters the state; an empty name leaves the current state.",
    ),
    Write(
        "POST",
        f"{USER}/states/pause",
        "pauseState",
        "pauseState",
        "Pause the state",
        "Pauses the state, not the session.",
    ),
    Write(
        "POST",
        f"{USER}/states/resume",
        "resumeState",
        "resumeState",
        "Resume the state",
        "Resumes the state, not the session.",
    ),
    Write(
        "POST",
        f"{USER}/sessions/stop",
        "stop",
        "stopSession",
        "Stop the session",
        "Ends the user's session.",
    ),
    Write(
        "POST",
        f"{USER}/sessions/pause",
        "pauseSession",
        "pauseSession",
        "Pause the session",
        "A paused session ends after 30 minutes.",
    ),
    Write(
        "POST",
        f"{USER}/sessions/resume",
        "resumeSession",
        "resumeSession",
        "Resume the session",
        "After a pause of 30 minutes Leanplum starts and bills a new session.",
    ),
    Write(
        "POST",
        f"{USER}/sessions/heartbeat",
        "heartbeat",
        "keepSessionAlive",
        "Keep the session alive",
        "A session ends after two hours without a call.",
    ),
    Write(
        "POST",
        "/v1/messages/{messageId}/send",
        "sendMessage",
        "sendMessage",
        "Send a message to a user",
        "Sends push, newsfeed, email and other messages, but not in-app messages.",
    ),
    Write(
        "POST",
        "/v1/campaigns/{campaignId}/start",
        "startCampaign",
        "startCampaign",
        "Start a campaign for a user",
        "The body names the user.",
    ),
    Write(
        "PUT",
        f"{USER}/block",
        "block",
        "blockUser",
        "Block a user",
        "Leanplum erases the user's data within 15 days and rejects later writes with 451.",
    ),
    Write(
        "DELETE",
        f"{USER}/block",
        "unblock",
        "unblockUser",
        "Unblock a user",
        "Leanplum accepts writes for the user again.",
    ),
    Write(
        "DELETE",
        USER,
        "deleteUser",
        "deleteUser",
        "Delete a user",
        "`fullErasure=true`, in the query or the body, erases all data at Leanplum within 15 "
        "days, as the GDPR requires. The gateway removes its own data of the user at once, "
        "counts it in `erased`, and refuses writes for the user for `GATEWAY_ERASED_SECONDS` "
        "(`403`). A call that is being sent is finished first. After the deletion the receipt "
        "does not name the user. The response waits up to 3 seconds for the signed `statement` of "
        "what was removed; if there is none by then, it is at `statementHref` later.",
    ),
)
PATH_PARAMETERS = {
    "userId": "Leanplum's id of the user, up to 400 characters.",
    "deviceId": "Leanplum's id of the device, up to 400 characters.",
    "messageId": "Id of the message.",
    "campaignId": "Id of the campaign.",
}


def documented_parameters(path: str, described: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the OpenAPI parameters of a path."""
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": described[name],
            "schema": {"type": "string"},
        }
        for name in re.findall(r"{(\w+)}", path)
    ]


def _add_route(write: Write) -> None:
    action = ACTIONS[write.action]
    required = bool(action.required - set(re.findall(r"{(\w+)}", write.path)))
    parameters = documented_parameters(write.path, PATH_PARAMETERS)
    if write.action == "deleteUser":
        parameters.append(ERASURE)
    tag = Tag.EVENTS_AND_USERS
    if action.scope is Scope.MESSAGES_SEND:
        tag = Tag.MESSAGES

    async def endpoint(
        request: Request, items: Items, key: IdempotencyKey = None, prefer: Prefer = None
    ) -> Response:
        given: dict[str, Any] = path_parameters(request)
        full_erasure = request.query_params.get("fullErasure")
        if write.action == ERASES and full_erasure is not None:
            given["fullErasure"] = {"true": True, "false": False}.get(full_erasure, full_erasure)
        context = context_of(request.scope)
        context.operation = f"{write.method} {write.path}"
        return response_of(await items.post(context, request.receive, write.action, given))

    router.add_api_route(
        write.path,
        endpoint,
        methods=[write.method],
        name=write.action,
        operation_id=write.operation_id,
        status_code=202,
        tags=[tag],
        summary=write.summary,
        description=f"{write.description} Leanplum's `{write.action}`.",
        responses=WRITE,
        openapi_extra={
            **body_of(action.shape.__name__, required=required),
            "parameters": parameters,
        },
    )


ERASURE = {
    "name": "fullErasure",
    "in": "query",
    "required": False,
    "description": "If true, erase all data of the user, as the GDPR requires.",
    "schema": {"type": "boolean"},
}
for _write in WRITES:
    _add_route(_write)
