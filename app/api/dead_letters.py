"""Dead letters over HTTP: list, replay, discard. Payloads are never shown."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import TypeAdapter

from app.api import schemas
from app.api.dependencies import (
    BOTH_SUBJECTS,
    KEY,
    Instant,
    PageCursor,
    PageLimit,
    milliseconds,
    require_one_subject,
    subject_in_query,
)
from app.audit import records
from app.errors import Fault, Invalid, Malformed
from app.http import (
    JSON,
    Authenticator,
    BodyReader,
    Tag,
    body_of,
    context_of,
    parse_json,
    problem_responses,
    require_media_type,
    transaction_record,
)
from app.ingest import validate
from app.model import App, Scope, Status
from app.outbox.dead_letters import DeadLetterFilter, DeadLetterService
from app.receipts import receipt_document

CHOICE: TypeAdapter[Any] = TypeAdapter(schemas.DeadLetterChoice)
LIST, REPLAY, DISCARD = "/v1/dead-letters", "/v1/dead-letters/replay", "/v1/dead-letters/discard"
Act = Callable[..., Awaitable[tuple[int, int]]]
router = APIRouter(dependencies=KEY, tags=[Tag.DEAD_LETTERS])


class DeadLetterHandler:
    """The handler of calls that list, replay or discard dead letters."""

    def __init__(
        self, authenticator: Authenticator, bodies: BodyReader, service: DeadLetterService
    ) -> None:
        self._authenticator, self._bodies, self.service = authenticator, bodies, service

    async def enter(self, request: Request, operation: str, app_name: str | None = None) -> App:
        """Return the app of a call; `app_name` is the app that its query names.

        The header takes precedence.
        """
        context = context_of(request.scope)
        context.operation = operation
        if b"x-leanplum-app" in context.headers:
            app_name = None
        _, app = await self._authenticator.enter(
            context, Scope.DEAD_LETTERS_MANAGE, app_name=app_name
        )
        return app

    async def choice(self, request: Request) -> tuple[DeadLetterFilter, bool]:
        """Return the dead letters that a body selects, and whether they are only counted."""
        context = context_of(request.scope)
        require_media_type(context.header(b"content-type"), JSON)
        fields = validate.checked(
            CHOICE, parse_json(await self._bodies.read(context, request.receive))
        )
        if ("ids" in fields) == ("filter" in fields):
            detail = "must have either ids or filter; an empty filter matches all"
            raise Invalid((Fault("", detail, "choice"),))
        filter_fields = fields.get("filter", {})
        user_id, device_id = filter_fields.get("userId"), filter_fields.get("deviceId")
        if user_id is not None and device_id is not None:
            raise Invalid((Fault("/filter/deviceId", BOTH_SUBJECTS, "choice"),))
        which = DeadLetterFilter(
            subject=subject_in_query(user_id, device_id),
            event=filter_fields.get("event"),
            action=filter_fields.get("action"),
            status=Status(filter_fields["status"]) if "status" in filter_fields else None,
            since=milliseconds(filter_fields.get("since")),
            until=milliseconds(filter_fields.get("until")),
            item_ids=tuple(fields["ids"]) if "ids" in fields else None,
        )
        return which, fields.get("dryRun", False)

    async def act(
        self,
        request: Request,
        app: App,
        act: Act,
        done: str,
        which: DeadLetterFilter,
        *,
        dry_run: bool,
    ) -> tuple[int, int]:
        """Replay or discard in steps, each of them only while the key still has the scope.

        `done` names the count in the audit record of each step. Return the numbers of dead letters
        that matched and that were changed. If a step fails, the call has an audit record of the
        failure, in addition to those of the completed steps.
        """
        context = context_of(request.scope)
        confirm = partial(self._authenticator.confirm_scope, context, Scope.DEAD_LETTERS_MANAGE)
        if which.item_ids is not None:
            context.resources, context.details = records.named_items(which.item_ids)
        confirm()
        with transaction_record(context) as record:

            def record_of(count: int) -> tuple[int, str]:
                return record.make({done: count})

            return await act(app.name, which, record_of, dry_run=dry_run, before=confirm)


async def _handler(request: Request) -> DeadLetterHandler:
    handler: DeadLetterHandler = request.state.dead_letters
    return handler


Handler = Annotated[DeadLetterHandler, Depends(_handler)]


@dataclass(frozen=True, slots=True)
class DeadLetterQuery:
    """The query parameters of a list of dead letters."""

    app: Annotated[str | None, Query(description="Of this app; same as X-Leanplum-App.")] = None
    action: Annotated[str | None, Query(description="Of this action, such as `track`.")] = None
    user_id: Annotated[
        str | None, Query(alias="userId", min_length=1, description="Of this user.")
    ] = None
    device_id: Annotated[
        str | None,
        Query(
            alias="deviceId", min_length=1, description="Of this device; of items without a userId."
        ),
    ] = None
    event: Annotated[
        str | None, Query(min_length=1, description="Of this event, or this state.")
    ] = None
    status: Annotated[
        Literal["rejected", "expired", "unknown"] | None,
        Query(description="With this status."),
    ] = None
    since: Annotated[
        Instant | None,
        Query(description="Became a dead letter at this time or later (RFC 3339 or seconds)."),
    ] = None
    until: Annotated[
        Instant | None, Query(description="Became a dead letter before this time.")
    ] = None
    cursor: PageCursor = None
    limit: PageLimit = 100


@router.get(
    LIST,
    operation_id="listDeadLetters",
    summary="List dead letters",
    response_model=schemas.DeadLetterPage,
    response_model_exclude_unset=True,
    responses=problem_responses("storage-unavailable"),
)
async def list_dead_letters(
    request: Request, handler: Handler, query: Annotated[DeadLetterQuery, Depends()]
) -> Any:
    """Return the receipts of dead letters in the order of acceptance, without payloads.

    Dead letters are kept for `GATEWAY_DEAD_LETTER_SECONDS`.
    """
    app = await handler.enter(request, f"GET {LIST}", query.app)
    if query.app not in {None, app.name}:
        raise Malformed(
            "The query parameter app and the X-Leanplum-App header name different apps."
        )
    require_one_subject(query.user_id, query.device_id)
    which = DeadLetterFilter(
        subject=subject_in_query(query.user_id, query.device_id),
        event=query.event,
        action=query.action,
        status=Status(query.status) if query.status else None,
        since=milliseconds(query.since),
        until=milliseconds(query.until),
    )
    after, limit = int(query.cursor or 0), query.limit
    receipts = await handler.service.find(app.name, which, after, limit + 1)
    prefix = context_of(request.scope).prefix
    page: dict[str, Any] = {
        "deadLetters": [receipt_document(receipt, prefix=prefix) for receipt in receipts[:limit]]
    }
    if len(receipts) > limit:
        page["nextCursor"] = str(receipts[limit - 1].seq)
    return page


@router.post(
    REPLAY,
    operation_id="replayDeadLetters",
    summary="Replay dead letters",
    response_model=schemas.Replayed,
    responses=problem_responses("storage-unavailable"),
    openapi_extra=body_of("DeadLetterChoice"),
)
async def replay(request: Request, handler: Handler) -> Any:
    """Put dead letters back into the queue with the same id and content and a new retry window.

    They keep their place: before items of the same users that are still waiting. `dryRun` only
    counts them.
    """
    app = await handler.enter(request, f"POST {REPLAY}")
    which, dry_run = await handler.choice(request)
    matched, done = await handler.act(
        request, app, handler.service.replay, "replayed", which, dry_run=dry_run
    )
    return {"matched": matched, "replayed": done, "dryRun": dry_run}


@router.post(
    DISCARD,
    operation_id="discardDeadLetters",
    summary="Discard dead letters",
    response_model=schemas.Discarded,
    responses=problem_responses("storage-unavailable"),
    openapi_extra=body_of("DeadLetterChoice"),
)
async def discard(request: Request, handler: Handler) -> Any:
    """Delete the payloads of dead letters; their receipts remain as long as other receipts.

    `dryRun` only counts them.
    """
    app = await handler.enter(request, f"POST {DISCARD}")
    which, dry_run = await handler.choice(request)
    matched, done = await handler.act(
        request, app, handler.service.discard, "discarded", which, dry_run=dry_run
    )
    return {"matched": matched, "discarded": done, "dryRun": dry_run}
