"""Receipts found by what their items came with (contract §4)."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from app import request_ids
from app.api import schemas
from app.api.receipts import receipt_document
from app.api.routes import KEY, gateway_of
from app.errors import Fault, Invalid
from app.http import authentication
from app.http import request as context
from app.http.openapi_parts import problem_responses
from app.model import Scope
from app.outbox.receipts import ReceiptFilter

LIST = "/v1/receipts"
REFUSED = (
    "unauthorized",
    "forbidden",
    "malformed",
    "rate-limited",
    "validation",
    "internal",
    "storage-unavailable",
)
router = APIRouter(dependencies=KEY, tags=["Receipts"])


@router.get(
    LIST,
    summary="What became of the items of a request id of an SDK's",
    response_model=schemas.ReceiptPage,
    response_model_exclude_unset=True,
    responses=problem_responses(*REFUSED),
)
async def find_receipts(
    request: Request,
    req_id: Annotated[
        str | None,
        Query(
            alias="reqId",
            description="of entries at `/api` that came with this `reqId`; compared without regard to case",
        ),
    ] = None,
    uuid: Annotated[str | None, Query(description="and with this `uuid`; needs `reqId`")] = None,
    cursor: Annotated[
        str | None, Query(pattern=r"^\d{1,18}$", description="`nextCursor` of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="of one page")] = 100,
) -> Any:
    """The receipts of durable entries at `/api` by their `reqId`, newest first; none where nothing
    is known of it: it never came, its receipt is past the time of `GATEWAY_DEDUP_SECONDS`, or
    Leanplum was asked while the SDK waited.
    """
    about, gateway = context.of(request.scope), gateway_of(request)
    about.operation = f"GET {LIST}"
    _, app = await authentication.enter(gateway, about, Scope.RECEIPTS_READ)
    found = await gateway.outbox.find_receipts(
        app.name, _chosen(req_id, uuid), int(cursor) if cursor else None, limit + 1
    )
    page: dict[str, Any] = {
        "receipts": [receipt_document(one, prefix=about.prefix) for one in found[:limit]]
    }
    if len(found) > limit:
        page["nextCursor"] = str(found[limit - 1].seq)
    return page


def _chosen(req_id: str | None, uuid: str | None) -> ReceiptFilter:
    """Return the filter that a query means. Raises Invalid."""
    if not req_id:
        name, detail = ("uuid", "needs reqId beside it") if uuid else ("reqId", "is required")
        raise Invalid((Fault(name, detail, "parameter", "parameter"),))
    return ReceiptFilter(request_ids.bounds(req_id, uuid or None))
