"""Receipts over HTTP: list them, and retrieve one."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request

from app import ids
from app.api import schemas
from app.api.dependencies import KEY, Authentication
from app.errors import Fault, Invalid, NotFound
from app.http import Tag, context_of, problem_responses
from app.model import Scope
from app.outbox.receipts import ReceiptFilter
from app.receipts import ReceiptService, receipt_document

LIST, ONE = "/v1/receipts", "/v1/receipts/{id}"
router = APIRouter(dependencies=KEY, tags=[Tag.RECEIPTS])


async def _receipts(request: Request) -> ReceiptService:
    receipts: ReceiptService = request.state.receipts
    return receipts


Receipts = Annotated[ReceiptService, Depends(_receipts)]


@router.get(
    LIST,
    operation_id="listReceipts",
    summary="List receipts",
    response_model=schemas.ReceiptPage,
    response_model_exclude_unset=True,
    responses=problem_responses("storage-unavailable"),
)
async def find_receipts(
    request: Request,
    authenticator: Authentication,
    receipts: Receipts,
    req_id: Annotated[
        str | None,
        Query(
            alias="reqId",
            description="Of SDK entries (`/api`) sent with this `reqId`; case-insensitive.",
        ),
    ] = None,
    uuid: Annotated[
        str | None, Query(description="Of SDK entries with this `uuid`; requires `reqId`.")
    ] = None,
    cursor: Annotated[
        str | None, Query(pattern=r"^\d{1,18}$", description="`nextCursor` of the previous page.")
    ] = None,
    limit: Annotated[
        int, Query(ge=1, le=1_000, description="Maximum number of results per page.")
    ] = 100,
) -> Any:
    """Return the receipts of SDK entries (`/api`) by their `reqId`, newest first.

    There is no receipt of an entry that never arrived, that was relayed to Leanplum while the SDK
    waited, or that is older than `GATEWAY_DEDUP_SECONDS`.
    """
    context = context_of(request.scope)
    context.operation = f"GET {LIST}"
    _, app = await authenticator.enter(context, Scope.RECEIPTS_READ)
    receipt_filter = _receipt_filter(req_id, uuid)
    matching_receipts = await receipts.page(
        app.name, receipt_filter, int(cursor) if cursor else None, limit + 1
    )
    page: dict[str, Any] = {
        "receipts": [
            receipt_document(receipt, prefix=context.prefix)
            for receipt in matching_receipts[:limit]
        ]
    }
    if len(matching_receipts) > limit:
        page["nextCursor"] = str(matching_receipts[limit - 1].seq)
    return page


def _receipt_filter(req_id: str | None, uuid: str | None) -> ReceiptFilter:
    """Return the filter that the query parameters describe. Raises Invalid."""
    if req_id:
        return ReceiptFilter(ids.sdk_item_id_bounds(req_id, uuid or None))
    if uuid:
        raise Invalid((Fault("uuid", "requires reqId", "parameter", "parameter"),))
    raise Invalid((Fault("reqId", "is required", "parameter", "parameter"),))


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
    explanation = await receipts.explain(app.name, receipt)
    return receipt_document(receipt, explanation=explanation, prefix=context.prefix)
