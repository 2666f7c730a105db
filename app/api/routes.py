"""The operations, as FastAPI's router and the documentation see them."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer

from app import ids
from app.api import schemas, writes
from app.api.receipts import explained, receipt_document
from app.api.writes import BATCH, EVENTS
from app.bootstrap import Gateway
from app.errors import NotFound
from app.http import authentication
from app.http import request as context
from app.http.openapi_parts import body_of, problem_responses
from app.http.problems import Answer
from app.http.query import declared
from app.ingest.validate import subject_of
from app.leanplum.actions import ACTIONS
from app.model import KeyKind, Scope


async def storable(request: Request) -> None:
    """Refuse a parameter of the path or the query with a NUL character: not every database can look
    for one.
    """
    if b"%00" not in request.scope["raw_path"] and b"%00" not in request.scope["query_string"]:
        return
    sent = [("path", *one) for one in request.path_params.items()]
    sent += [("query", *one) for one in request.query_params.multi_items()]
    found = [
        {"loc": (where, name), "msg": NO_NUL}
        for where, name, value in sent
        if "\0" in f"{name}{value}"
    ]
    if found:
        raise RequestValidationError(found)


NO_NUL = "must not have a NUL character"
# The last two only document how a key is sent; `auth.authenticate` reads it.
KEY = [
    Depends(storable),
    Depends(declared),
    Depends(HTTPBearer(auto_error=False, scheme_name="Bearer", description="A caller key")),
    Depends(
        APIKeyHeader(
            name="X-API-Key", auto_error=False, scheme_name="X-API-Key", description="A caller key"
        )
    ),
]
router = APIRouter(prefix="", dependencies=KEY)
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The same as the item's `id`: makes a repeat a duplicate",
    ),
]
Prefer = Annotated[
    str | None,
    Header(
        description="`wait=N`: answer when the item is settled, or after N seconds (at most 30)"
    ),
]
ACCEPTED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": schemas.Receipt,
        "description": "A duplicate; or, with Prefer: wait, the final receipt",
    },
    202: {"model": schemas.Receipt, "description": "On disk; it will be delivered"},
}
REFUSED = (
    "malformed",
    "unauthorized",
    "forbidden",
    "too-large",
    "unsupported-media-type",
    "validation",
    "rate-limited",
)
FAILED = ("internal", "queue-full", "storage-unavailable")
WRITE: dict[int | str, dict[str, Any]] = ACCEPTED | problem_responses(
    *REFUSED, "id-conflict", *FAILED
)

BATCHED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": schemas.BatchAnswer,
        "description": "What became of each item; at least one was taken",
    },
    422: {
        "model": schemas.BatchAnswer,
        "description": "Every item is invalid; or, as a problem, the batch as a whole is. Nothing was taken",
        "content": problem_responses("validation")[422]["content"],
    },
}
BATCH_REFUSED = tuple(slug for slug in REFUSED if slug != "validation")
BATCH_RESPONSES = BATCHED | problem_responses(*BATCH_REFUSED, *FAILED)


def gateway_of(request: Request) -> Gateway:
    """The running gateway."""
    gateway: Gateway = request.app.state.gateway
    return gateway


def _response(answer: Answer) -> Response:
    response = Response(answer.body, answer.status)
    response.raw_headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    return response


def in_path(request: Request) -> dict[str, str]:
    """The parameters of the path: a user id may have a slash, written `%2F`."""
    sent: list[bytes] = request.scope["raw_path"].partition(b"?")[0].split(b"/")
    template = request.scope["route"].path.split("/")
    named = {
        part[1:-1]: value
        for part, value in zip(template, sent, strict=True)
        if part.startswith("{")
    }
    # The front: it is UTF-8
    told = {name: unquote_to_bytes(value).decode() for name, value in named.items()}
    told |= {name: ids.plain(told[name]) for name in writes.WHOM if name in told}
    if (subject := subject_of(told)) is not None:
        context.of(request.scope).subjects = (subject,)
    return told


async def _write(request: Request, operation: str, action: str, **given: Any) -> Response:
    about = context.of(request.scope)
    about.operation = operation
    return _response(
        await writes.post_single(gateway_of(request), about, request.receive, action, given)
    )


@router.post(
    EVENTS,
    status_code=202,
    tags=["Writes"],
    summary="Accept an event",
    responses=WRITE,
    openapi_extra=body_of("Event"),
)
async def post_event(
    request: Request, key: IdempotencyKey = None, prefer: Prefer = None
) -> Response:
    """One event of one user (Leanplum's `track`), written to disk before it is answered, then
    delivered.
    """
    return await _write(request, f"POST {EVENTS}", "track")


class Write(NamedTuple):
    """One way to write: the call, Leanplum's action, and what it means."""

    method: str
    path: str
    action: str
    summary: str
    description: str


USER, DEVICE = "/v1/users/{userId}", "/v1/devices/{deviceId}"
WRITES = (
    Write(
        "PATCH",
        USER,
        "setUserAttributes",
        "Accept changes of a user",
        "Attributes and everything else that it sets.",
    ),
    Write(
        "PATCH",
        DEVICE,
        "setDeviceAttributes",
        "Accept changes of a device",
        "What is known of the device.",
    ),
    Write(
        "PUT",
        f"{USER}/traffic-source",
        "setTrafficSourceInfo",
        "Accept where the user came from",
        "Who brought the user. Leanplum takes it within two minutes of the session's start.",
    ),
    Write(
        "POST",
        f"{USER}/states",
        "advance",
        "Accept that a user enters a state",
        "The user enters a state; an empty state leaves the one they are in.",
    ),
    Write(
        "POST",
        f"{USER}/states/pause",
        "pauseState",
        "Accept that the state pauses",
        "Only the state pauses.",
    ),
    Write(
        "POST",
        f"{USER}/states/resume",
        "resumeState",
        "Accept that the state goes on",
        "Only the state goes on.",
    ),
    Write(
        "POST",
        f"{USER}/sessions/stop",
        "stop",
        "Accept that the session ends",
        "The user's session ends.",
    ),
    Write(
        "POST",
        f"{USER}/sessions/pause",
        "pauseSession",
        "Accept that the session pauses",
        "It ends in 30 minutes.",
    ),
    Write(
        "POST",
        f"{USER}/sessions/resume",
        "resumeSession",
        "Accept that the session goes on",
        "After a pause of 30 minutes a new session begins, which Leanplum bills.",
    ),
    Write(
        "POST",
        f"{USER}/sessions/heartbeat",
        "heartbeat",
        "Accept that the session is alive",
        "A session ends after two hours without a sign of life.",
    ),
    Write(
        "POST",
        "/v1/messages/{messageId}/send",
        "sendMessage",
        "Accept a message to a user",
        "Push, newsfeed, e-mail and others, but not in-app messages.",
    ),
    Write(
        "POST",
        "/v1/campaigns/{campaignId}/start",
        "startCampaign",
        "Accept that a user enters a campaign",
        "The body says which user.",
    ),
    Write(
        "PUT",
        f"{USER}/block",
        "block",
        "Accept that a user is blocked",
        "Leanplum erases the user's data within 15 days and refuses later writes with 451.",
    ),
    Write(
        "DELETE",
        f"{USER}/block",
        "unblock",
        "Accept that a user is no longer blocked",
        "Writes are taken again.",
    ),
    Write(
        "DELETE",
        USER,
        "deleteUser",
        "Accept that a user is deleted",
        "`fullErasure=true`, in the query or the body, erases all at Leanplum, as the GDPR asks, within 15 days. "
        "The gateway itself removes at once what it has of the user, says in `erased` how much of what that was, and "
        "takes nothing for the user for `GATEWAY_ERASED_SECONDS` (`403`). What is being sent just now is finished, and "
        "Leanplum deletes the user after it. Once that is done, the receipt no longer names the user.",
    ),
)
PATH_PARAMETERS = {
    "userId": "Leanplum's id of the user, at most 400 characters",
    "deviceId": "Leanplum's id of the device, at most 400 characters",
    "messageId": "the message's id",
    "campaignId": "the campaign's id",
}


# What the documentation pages fill in. To try an erasure or a block takes no user of the other
# examples.
EXAMPLES = {"userId": "user-1", "deviceId": "device-1", "messageId": "1002", "campaignId": "1002"}
EXAMPLE_USERS = {
    "deleteUser": "user-to-erase",
    "block": "user-to-block",
    "unblock": "user-to-block",
}


def path_parameters(
    path: str, described: Mapping[str, str], action: str = ""
) -> list[dict[str, Any]]:
    """Return how the documentation shows the parameters of a path."""
    return [_path_parameter(name, described[name], action) for name in re.findall(r"{(\w+)}", path)]


def _path_parameter(name: str, description: str, action: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
    }
    example = EXAMPLE_USERS.get(action) if name == "userId" else None
    if example is not None or name in EXAMPLES:
        made["example"] = example or EXAMPLES[name]
    return made | {"schema": {"type": "string"}}


def _add(write: Write) -> None:
    action = ACTIONS[write.action]
    required = bool(action.required - set(re.findall(r"{(\w+)}", write.path)))
    parameters = path_parameters(write.path, PATH_PARAMETERS, write.action)
    if write.action == "deleteUser":
        parameters.append(ERASURE)

    async def endpoint(
        request: Request, key: IdempotencyKey = None, prefer: Prefer = None
    ) -> Response:
        given: dict[str, Any] = in_path(request)
        if (
            write.action == "deleteUser"
            and (asked := request.query_params.get("fullErasure")) is not None
        ):
            given["fullErasure"] = {"true": True, "false": False}.get(asked, asked)
        return await _write(request, f"{write.method} {write.path}", write.action, **given)

    router.add_api_route(
        write.path,
        endpoint,
        methods=[write.method],
        name=write.action,
        status_code=202,
        tags=["Writes"],
        summary=write.summary,
        description=f"{write.description} Leanplum's `{write.action}`.",
        responses=WRITE
        | problem_responses(
            *(["key-not-configured"] if action.key is not KeyKind.PRODUCTION else [])
        ),
        openapi_extra=body_of(action.shape.__name__, required=required)
        | {"parameters": parameters},
    )


ERASURE = {
    "name": "fullErasure",
    "in": "query",
    "required": False,
    "description": "true: erase everything, as the GDPR asks",
    "schema": {"type": "boolean"},
}
for _one in WRITES:
    _add(_one)


@router.post(
    BATCH,
    status_code=202,
    tags=["Writes"],
    summary="Accept many items of any action",
    responses=BATCH_RESPONSES,
    openapi_extra=body_of("Batch", lines_of="BatchItem"),
)
async def post_batch(request: Request) -> Response:
    """Items of any action, mixed, as JSON or one a line as NDJSON; one bad item never harms its
    neighbours. Each item needs the scope of its own action.
    """
    about = context.of(request.scope)
    about.operation = f"POST {BATCH}"
    return _response(await writes.post_batch(gateway_of(request), about, request.receive))


@router.get(
    "/v1/receipts/{id}",
    tags=["Receipts"],
    summary="What became of an item",
    response_model=schemas.Receipt,
    response_model_exclude_unset=True,
    responses=problem_responses(
        "unauthorized", "forbidden", "not-found", "rate-limited", "internal", "storage-unavailable"
    ),
)
async def get_receipt(
    request: Request, item: Annotated[str, Path(alias="id", description="The item's id")]
) -> Any:
    """The receipt of an item, by the caller's own id or the gateway's. Kept for the de-duplication
    window.
    """
    about, gateway = context.of(request.scope), gateway_of(request)
    about.operation = "GET /v1/receipts/{id}"
    _, app = await authentication.enter(gateway, about, Scope.RECEIPTS_READ)
    receipt = await gateway.outbox.receipt(app.name, item)
    if receipt is None:
        raise NotFound("No item of this app has this id, or its receipt is past the window.")
    waits = await explained(gateway.outbox, gateway.metrics, app.name, receipt)
    return receipt_document(receipt, waits=waits, prefix=about.prefix)
