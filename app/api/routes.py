"""The operations, as FastAPI's router and the documentation see them."""

from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from fastapi.security import APIKeyHeader, HTTPBearer

from app.api import auth, context, schemas, writes
from app.api.documents import body_of, problem_responses
from app.api.front import BATCH, EVENTS
from app.api.problems import Answer
from app.api.receipts import receipt_document
from app.errors import NotFound
from app.model import Scope
from app.wiring import Gateway

# They only document how a key is sent; `auth.authenticate` reads it.
KEY = [
    Depends(HTTPBearer(auto_error=False, scheme_name="Bearer", description="A caller key")),
    Depends(APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="X-API-Key", description="A caller key")),
]
router = APIRouter(prefix="", dependencies=KEY)
UserId = Annotated[str, Path(alias="userId", description="Leanplum's id of the user, at most 400 characters")]
IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", description="The same as the item's `id`: makes a repeat a duplicate")
]
Prefer = Annotated[
    str | None, Header(description="`wait=N`: answer when the item is settled, or after N seconds (at most 30)")
]
ACCEPTED: dict[int | str, dict[str, Any]] = {
    200: {"model": schemas.Receipt, "description": "A duplicate; or, with Prefer: wait, the final receipt"},
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
WRITE: dict[int | str, dict[str, Any]] = ACCEPTED | problem_responses(*REFUSED, "id-conflict", *FAILED)

BATCHED: dict[int | str, dict[str, Any]] = {
    202: {"model": schemas.BatchAnswer, "description": "What became of each item; at least one was taken"},
    422: {"model": schemas.BatchAnswer, "description": "Every item is invalid; nothing was taken"},
}
BATCH_RESPONSES = BATCHED | problem_responses(*(slug for slug in REFUSED if slug != "validation"), *FAILED)


def gateway_of(request: Request) -> Gateway:
    """The running gateway."""
    gateway: Gateway = request.app.state.gateway
    return gateway


def _response(answer: Answer) -> Response:
    response = Response(answer.body, answer.status)
    response.raw_headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    return response


def _user(request: Request) -> str:
    """The user id of the path, as it was sent: it may have a slash, written `%2F`."""
    segment: bytes = request.scope["raw_path"].partition(b"?")[0].split(b"/")[3]
    return unquote_to_bytes(segment).decode()  # the front has made sure that it is UTF-8


async def _write(request: Request, operation: str, action: str, **given: str) -> Response:
    about = context.of(request.scope)
    about.operation = operation
    return _response(await writes.post_single(gateway_of(request), about, request.receive, action, given))


@router.post(
    EVENTS, status_code=202, tags=["Writes"], summary="Accept an event", responses=WRITE, openapi_extra=body_of("Event")
)
async def post_event(request: Request, key: IdempotencyKey = None, prefer: Prefer = None) -> Response:
    """One event of one user (Leanplum's `track`), written to disk before it is answered, then delivered."""
    return await _write(request, f"POST {EVENTS}", "track")


@router.patch(
    "/v1/users/{userId}",
    status_code=202,
    tags=["Writes"],
    summary="Accept changes of a user",
    responses=WRITE,
    openapi_extra=body_of("UserUpdate"),
)
async def patch_user(request: Request, user: UserId, key: IdempotencyKey = None, prefer: Prefer = None) -> Response:
    """Attributes and everything else that Leanplum's `setUserAttributes` sets."""
    return await _write(request, "PATCH /v1/users/{userId}", "setUserAttributes", userId=_user(request))


@router.post(
    "/v1/users/{userId}/states",
    status_code=202,
    tags=["Writes"],
    summary="Accept that a user enters a state",
    responses=WRITE,
    openapi_extra=body_of("State"),
)
async def post_state(request: Request, user: UserId, key: IdempotencyKey = None, prefer: Prefer = None) -> Response:
    """The user enters a state (Leanplum's `advance`); an empty state leaves the one they are in."""
    return await _write(request, "POST /v1/users/{userId}/states", "advance", userId=_user(request))


@router.post(
    BATCH,
    status_code=202,
    tags=["Writes"],
    summary="Accept many items of any action",
    responses=BATCH_RESPONSES,
    openapi_extra=body_of("Batch", lines_of="BatchItem"),
)
async def post_batch(request: Request) -> Response:
    """Items of any action, mixed, as JSON or one a line as NDJSON; one bad item never harms its neighbours. Each item
    needs the scope of its own action."""
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
async def get_receipt(request: Request, item: Annotated[str, Path(alias="id", description="The item's id")]) -> Any:
    """The receipt of an item, by the caller's own id or the gateway's. Kept for the de-duplication window."""
    about, gateway = context.of(request.scope), gateway_of(request)
    about.operation = "GET /v1/receipts/{id}"
    caller = auth.authenticate(gateway, about)
    auth.permit(caller, Scope.RECEIPTS_READ)
    receipt = await gateway.outbox.receipt(caller.app, item)
    if receipt is None:
        raise NotFound("No item of this app has this id, or its receipt is past the window.")
    return receipt_document(receipt)
