"""Receipts over HTTP: search them, and retrieve one."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request

from app import ids
from app.api import schemas
from app.api.dependencies import (
    KEY,
    Authentication,
    Instant,
    PageCursor,
    PageLimit,
    milliseconds,
    require_one_subject,
    subject_in_query,
)
from app.errors import Fault, Invalid, NotFound
from app.http import Tag, context_of, problem_responses
from app.model import Scope, Status
from app.outbox.item_filter import ItemFilter
from app.outbox.search import ReceiptSearch
from app.receipts import ReceiptService, receipt_document

LIST, ONE = "/v1/receipts", "/v1/receipts/{id}"
router = APIRouter(dependencies=KEY, tags=[Tag.RECEIPTS])


async def _receipts(request: Request) -> ReceiptService:
    receipts: ReceiptService = request.state.receipts
    return receipts


Receipts = Annotated[ReceiptService, Depends(_receipts)]


@dataclass(frozen=True, slots=True)
class ReceiptQuery:
    """The query parameters of a search of receipts; what is left out matches all."""

    user_id: Annotated[
        str | None,
        Query(alias="userId", min_length=1, description="Of this user.", examples=["user-1"]),
    ] = None
    device_id: Annotated[
        str | None,
        Query(
            alias="deviceId", min_length=1, description="Of this device; of items without a userId."
        ),
    ] = None
    action: Annotated[
        str | None, Query(min_length=1, description="Of this action, such as `track`.")
    ] = None
    event: Annotated[
        str | None, Query(min_length=1, description="Of this event, or this state.")
    ] = None
    status: Annotated[Status | None, Query(description="With this status.")] = None
    since: Annotated[
        Instant | None, Query(description="Accepted at this time or later (RFC 3339 or seconds).")
    ] = None
    until: Annotated[Instant | None, Query(description="Accepted before this time.")] = None
    request_id: Annotated[
        str | None,
        Query(
            alias="requestId",
            min_length=1,
            description="Accepted by this request: the `X-Request-ID` of its response, and the "
            "`requestId` of its audit record.",
        ),
    ] = None
    req_id: Annotated[
        str | None,
        Query(
            alias="reqId",
            min_length=1,
            description="Of SDK entries (`/api`) sent with this `reqId`; case-insensitive.",
        ),
    ] = None
    uuid: Annotated[
        str | None,
        Query(min_length=1, description="Of SDK entries with this `uuid`; requires `reqId`."),
    ] = None
    cursor: PageCursor = None
    limit: PageLimit = 100


@router.get(
    LIST,
    operation_id="listReceipts",
    summary="Search receipts",
    response_model=schemas.ReceiptPage,
    response_model_exclude_unset=True,
    responses=problem_responses("storage-unavailable"),
)
async def find_receipts(
    request: Request,
    authenticator: Authentication,
    receipts: Receipts,
    query: Annotated[ReceiptQuery, Depends()],
) -> Any:
    """Return receipts, newest first, whatever became of the items: also of those that wait.

    All parameters narrow the search. One without a user, device, request or rare status may take
    several pages, of which some have fewer receipts than `limit`, or none: it has ended when there
    is no `nextCursor`.

    There is no receipt of an SDK entry that never arrived, or that was relayed to Leanplum while
    the SDK waited. Receipts are kept for `GATEWAY_DEDUP_SECONDS`.
    """
    context = context_of(request.scope)
    context.operation = f"GET {LIST}"
    _, app = await authenticator.enter(context, Scope.RECEIPTS_READ)
    which = _item_filter(query)
    if which.subject is not None:
        context.subjects = (which.subject,)
    found = await receipts.search(
        ReceiptSearch(
            app=app.name,
            which=which,
            own_ids=_own_ids(query),
            before=int(query.cursor) if query.cursor else None,
            limit=query.limit,
        )
    )
    explained = await receipts.explain(app.name, *found.receipts)
    page: dict[str, Any] = {
        "receipts": [
            receipt_document(each, explanation=explained.get(each.seq), prefix=context.prefix)
            for each in found.receipts
        ]
    }
    if found.before is not None:
        page["nextCursor"] = str(found.before)
    return page


def _item_filter(query: ReceiptQuery) -> ItemFilter:
    """Return the filter that the query parameters describe. Raises Invalid."""
    since, until = milliseconds(query.since), milliseconds(query.until)
    require_one_subject(query.user_id, query.device_id)
    if since is not None and until is not None and since >= until:
        raise _invalid("until", "must be later than since")
    return ItemFilter(
        subject=subject_in_query(query.user_id, query.device_id),
        action=query.action,
        event=query.event,
        statuses=None if query.status is None else frozenset({query.status}),
        request_id=query.request_id,
        since=since,
        until=until,
    )


def _own_ids(query: ReceiptQuery) -> ids.Bounds | None:
    """Return the bounds of the ids of the SDK entries that are searched. Raises Invalid."""
    if query.req_id is not None:
        return ids.sdk_item_id_bounds(query.req_id, query.uuid)
    if query.uuid is not None:
        raise _invalid("uuid", "requires reqId")
    return None


def _invalid(name: str, detail: str) -> Invalid:
    return Invalid((Fault(name, detail, "parameter", "parameter"),))


@router.get(
    ONE,
    operation_id="getReceipt",
    summary="Retrieve a receipt",
    response_model=schemas.ReceiptDocument,
    response_model_exclude_unset=True,
    responses=problem_responses("not-found", "storage-unavailable"),
)
async def get_receipt(
    request: Request,
    authenticator: Authentication,
    receipts: Receipts,
    item_id: Annotated[str, Path(alias="id", description="Id of the item.")],
) -> Any:
    """Return the receipt of an item, by your own id or the gateway's.

    Receipts are kept for the deduplication window.
    """
    context = context_of(request.scope)
    context.operation = f"GET {ONE}"
    _, app = await authenticator.enter(context, Scope.RECEIPTS_READ)
    receipt = await receipts.find(app.name, item_id)
    if receipt is None:
        raise NotFound(
            "No item of this app has this id, or its receipt is past the deduplication window."
        )
    explained = await receipts.explain(app.name, receipt)
    explanation = explained.get(receipt.seq)
    return receipt_document(receipt, explanation=explanation, prefix=context.prefix)
