"""Dead letters as operators see them over HTTP (contract §4): list, send again, discard. Never what
is in them.
"""

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, TypeAdapter

from app.api import schemas
from app.api.receipts import receipt_document
from app.api.routes import KEY, gateway_of
from app.audit import records
from app.bootstrap import Gateway
from app.clock import now_ms
from app.errors import Fault, Invalid, Malformed
from app.http import authentication, body, json_body
from app.http import request as context
from app.http.openapi_parts import body_of, problem_responses
from app.ingest import validate
from app.leanplum.values import query_time
from app.model import App, Scope, Status
from app.outbox.dead_letters import DeadLetterFilter

CHOICE: TypeAdapter[Any] = TypeAdapter(schemas.DeadLetterChoice)
REFUSED = (
    "malformed",
    "unauthorized",
    "forbidden",
    "too-large",
    "unsupported-media-type",
    "validation",
)
FAILED = ("rate-limited", "internal", "storage-unavailable")
LIST, REPLAY, DISCARD = "/v1/dead-letters", "/v1/dead-letters/replay", "/v1/dead-letters/discard"
Instant = Annotated[str, AfterValidator(query_time)]
router = APIRouter(dependencies=KEY, tags=["Dead letters"])


async def _manager(request: Request, operation: str) -> tuple[Gateway, App]:
    about, gateway = context.of(request.scope), gateway_of(request)
    about.operation = operation
    _, app = await authentication.enter(gateway, about, Scope.DEAD_LETTERS_MANAGE)
    return gateway, app


@router.get(
    LIST,
    summary="Items that were refused, given up, or perhaps done",
    response_model=schemas.DeadLetterPage,
    response_model_exclude_unset=True,
    responses=problem_responses("unauthorized", "forbidden", "validation", *FAILED),
)
async def list_dead_letters(
    request: Request,
    app: Annotated[str | None, Query(description="of this app; the same as X-Leanplum-App")] = None,
    action: Annotated[str | None, Query(description="only of this action, as `track`")] = None,
    status: Annotated[
        Literal["rejected", "expired", "unknown"] | None,
        Query(description="only those that ended so"),
    ] = None,
    since: Annotated[
        Instant | None, Query(description="became one at this time or later (RFC 3339, or seconds)")
    ] = None,
    until: Annotated[Instant | None, Query(description="became one before this time")] = None,
    cursor: Annotated[
        str | None, Query(pattern=r"^\d{1,18}$", description="`nextCursor` of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="of one page")] = 100,
) -> Any:
    """Their receipts, in the order of acceptance. Kept for `GATEWAY_DEAD_LETTER_SECONDS`."""
    if app is not None:
        context.of(request.scope).headers.setdefault(b"x-leanplum-app", app.encode())
    gateway, chosen = await _manager(request, f"GET {LIST}")
    if app not in {None, chosen.name}:
        raise Malformed("The query names another app than X-Leanplum-App.")
    which = DeadLetterFilter(action, Status(status) if status else None, _ms(since), _ms(until))
    found = await gateway.outbox.dead_letters(chosen.name, which, int(cursor or 0), limit + 1)
    page: dict[str, Any] = {
        "deadLetters": [
            receipt_document(one, prefix=context.of(request.scope).prefix) for one in found[:limit]
        ]
    }
    if len(found) > limit:
        page["nextCursor"] = str(found[limit - 1].seq)
    return page


def _ms(seconds: Any) -> int | None:
    return None if seconds is None else int(float(seconds) * 1000)


@router.post(
    REPLAY,
    summary="Send dead letters again",
    response_model=schemas.Replayed,
    responses=problem_responses(*REFUSED, *FAILED),
    openapi_extra=body_of("DeadLetterChoice"),
)
async def replay(request: Request) -> Any:
    """They go back into the queue with the same id and content, with new attempts and a new retry
    window, in the place that they had: before whatever of their users has not been sent yet, after
    what has. `dryRun` only counts.
    """
    gateway, app = await _manager(request, f"POST {REPLAY}")
    which, dry_run = await _choice(request, gateway)
    matched, done = await _done(request, gateway, app, "replayed", which, dry_run=dry_run)
    return {"matched": matched, "replayed": done, "dryRun": dry_run}


@router.post(
    DISCARD,
    summary="Give dead letters up for good",
    response_model=schemas.Discarded,
    responses=problem_responses(*REFUSED, *FAILED),
    openapi_extra=body_of("DeadLetterChoice"),
)
async def discard(request: Request) -> Any:
    """Their contents are deleted; their receipts stay as long as other receipts do. `dryRun` only
    counts.
    """
    gateway, app = await _manager(request, f"POST {DISCARD}")
    which, dry_run = await _choice(request, gateway)
    matched, done = await _done(request, gateway, app, "discarded", which, dry_run=dry_run)
    return {"matched": matched, "discarded": done, "dryRun": dry_run}


async def _done(
    request: Request,
    gateway: Gateway,
    app: App,
    done: str,
    which: DeadLetterFilter,
    *,
    dry_run: bool,
) -> tuple[int, int]:
    """Replay or discard in steps, each while the key may still do it; return how many were chosen
    and done.

    Where a step fails the call has a record that says so, beside those of the steps that were done.
    """
    about = context.of(request.scope)
    act = gateway.outbox.replay if done == "replayed" else gateway.outbox.discard
    before = partial(authentication.still, gateway, about, Scope.DEAD_LETTERS_MANAGE)
    if which.item_ids is not None:
        about.resources, about.details = records.named_items(which.item_ids)
    before()
    try:
        return await act(app.name, which, _recorder(request, done), dry_run=dry_run, before=before)
    except BaseException:
        about.recorded = False
        raise


async def _choice(request: Request, gateway: Gateway) -> tuple[DeadLetterFilter, bool]:
    about = context.of(request.scope)
    json_body.media_type(about.header(b"content-type"), json_body.JSON)
    raw = json_body.parse(await body.read_body(gateway, about, request.receive))
    fields = validate.checked(CHOICE, raw)
    if ("ids" in fields) == ("filter" in fields):
        raise Invalid(
            (Fault("", "takes either ids or filter; an empty filter means all", "choice"),)
        )
    chosen = fields.get("filter", {})
    item_ids = tuple(fields["ids"]) if "ids" in fields else None
    status = Status(chosen["status"]) if "status" in chosen else None
    since, until = _ms(chosen.get("since")), _ms(chosen.get("until"))
    return DeadLetterFilter(chosen.get("action"), status, since, until, item_ids), fields.get(
        "dryRun", False
    )


def _recorder(request: Request, done: str) -> Any:
    """What makes the audit record that goes along with each step."""
    about = context.of(request.scope)
    assert about.caller is not None
    caller = about.caller

    def record(count: int) -> tuple[int, str]:
        about.recorded = True
        now = now_ms()
        text = records.api_call(
            time=now,
            operation=about.operation,
            key_id=caller.key_id,
            app=about.app_name,
            address=about.address,
            request_id=about.request_id,
            status=200,
            details={done: count},
        )
        return now, text

    return record
