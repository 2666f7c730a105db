"""Receipts: render them, explain why an item waits, and find them (contract §4)."""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request

from app import ids
from app.api import schemas
from app.api.dependencies import KEY, Authentication
from app.clock import instant
from app.errors import Fault, Invalid, NotFound
from app.http import Tag, context_of, problem_responses
from app.model import Receipt, Removed, Scope, Status
from app.outbox.outbox import Outbox
from app.outbox.receipts import ReceiptFilter
from app.outbox.waiting_reason import Waits
from app.telemetry import Metrics


class Way(NamedTuple):
    """How the way to Leanplum is for an app (`metrics.states`), and since when."""

    state: str = ""
    since: int = 0


NOTHING_KNOWN, AS_IT_SHOULD_BE = Waits(), Way()


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """Why an item waits; times in milliseconds. `until`: where that is known."""

    reason: str
    since: int
    until: int | None = None

    def document(self) -> dict[str, str]:
        """Return it as JSON."""
        until = {} if self.until is None else {"until": instant(self.until)}
        return {"reason": self.reason, "since": instant(self.since), **until}


def waiting_for(
    receipt: Receipt, waits: Waits = NOTHING_KNOWN, way: Way = AS_IT_SHOULD_BE
) -> WaitingFor | None:
    """Return why an item waits; None where it has settled, or nothing is known to stop it. `waits`:
    what the database tells of others; `way`: how the way to Leanplum is, where this process
    delivers.
    """
    since = receipt.accepted_at
    if receipt.settled:
        return None
    if receipt.status is Status.HELD or waits.held_next is not None or way.state == "held":
        return WaitingFor("app-held", max(since, way.since) if way.state == "held" else since)
    if receipt.status is Status.RETRYING:
        return WaitingFor("retry", since, receipt.next_attempt_at)
    if way.state == "open":
        return WaitingFor("circuit-open", max(since, way.since))
    return WaitingFor("earlier-item", since) if waits.behind else None


class ReceiptService:
    """Read receipts, and explain why items wait."""

    def __init__(self, outbox: Outbox, metrics: Metrics) -> None:
        self._outbox, self._metrics = outbox, metrics

    async def find(self, app: str, item_id: str) -> Receipt | None:
        """Return the receipt of an item, by its own id or the gateway's."""
        return await self._outbox.receipt(app, item_id)

    async def settled(self, app: str, item_id: str, seconds: float) -> Receipt | None:
        """Return the receipt of an item once it is settled, or as it is after so many seconds."""
        return await self._outbox.settled_receipt(app, item_id, seconds)

    async def page(
        self, app: str, chosen: ReceiptFilter, cursor: int | None, limit: int
    ) -> list[Receipt]:
        """Return receipts, newest first, after the one at `cursor`."""
        return await self._outbox.find_receipts(app, chosen, cursor, limit)

    async def explain(self, app: str, receipt: Receipt) -> WaitingFor | None:
        """Return why an item waits, from all that this process and the database know."""
        if receipt.settled:
            return None
        metrics = self._metrics
        way = Way(metrics.states.get(app, ""), metrics.states_since.get(app, 0))
        return waiting_for(receipt, await self._outbox.waiting_for(app, receipt), way)


def receipt_document(
    receipt: Receipt,
    removed: Removed | None = None,
    waits: WaitingFor | None = None,
    *,
    prefix: str,
) -> dict[str, Any]:
    """Return a receipt as JSON; times are RFC 3339 in UTC with milliseconds.

    `removed` is what an erasure has just removed, `prefix` the path prefix under which the caller
    finds the gateway; `waits` is why the item waits, where more is known than the receipt itself
    tells.
    """
    document: dict[str, Any] = {
        "id": receipt.id,
        "action": receipt.action,
        **_named(receipt.subject),
        "status": receipt.status,
        "acceptedAt": instant(receipt.accepted_at),
        "attempts": receipt.attempts,
    }
    if removed is not None:
        document["erased"] = _told(removed)
    if receipt.settled_at is not None:
        document["settledAt"] = instant(receipt.settled_at)
    elif receipt.next_attempt_at is not None:
        document["nextAttemptAt"] = instant(receipt.next_attempt_at)
    if (reason := waits or waiting_for(receipt)) is not None:
        document["waitingFor"] = reason.document()
    if receipt.leanplum_unreadable:
        document["leanplumUnreadable"] = True
    elif receipt.leanplum is not None:
        document["leanplum"] = receipt.leanplum
    elif receipt.settled_at is not None:
        document["leanplum"] = {"success": True}
    document |= receipt.notes or {}
    document["href"] = receipt_path(receipt.id, prefix)
    return document


def receipt_path(item_id: str, prefix: str) -> str:
    """Return where the caller finds the receipt of an item."""
    return f"{prefix}/v1/receipts/{item_id}"


def _named(subject: str) -> dict[str, str]:
    """Whom it is about; a subject that was erased is named no more."""
    kind = {"u": "userId", "d": "deviceId"}.get(subject[0])
    return {} if kind is None else {kind: subject[1:]}


def _told(removed: Removed) -> dict[str, int]:
    return {
        "waiting": removed.waiting,
        "inFlight": removed.in_flight,
        "deadLetters": removed.dead_letters,
        "receipts": removed.receipts,
        "ids": removed.ids,
    }


def fresh_receipt(
    item_id: str,
    action: str,
    subject: str,
    accepted_at: int,
    removed: Removed | None = None,
    notes: str | None = None,
    *,
    prefix: str,
) -> bytes:
    """The receipt of an item accepted this moment, rendered: the hot path's own short cut to the
    same words.
    """
    return orjson.dumps(
        {
            "id": item_id,
            "action": action,
            "userId" if subject[0] == "u" else "deviceId": subject[1:],
            "status": "accepted",
            "acceptedAt": instant(accepted_at),
            "attempts": 0,
            **({} if removed is None else {"erased": _told(removed)}),
            **(orjson.loads(notes) if notes is not None else {}),
            "href": receipt_path(item_id, prefix),
        }
    )


# --- routes --------------------------------------------------------------------------------------

LIST, ONE = "/v1/receipts", "/v1/receipts/{id}"
REFUSED = (
    "unauthorized",
    "forbidden",
    "malformed",
    "rate-limited",
    "validation",
    "internal",
    "storage-unavailable",
)
router = APIRouter(dependencies=KEY, tags=[Tag.RECEIPTS])


async def _receipts(request: Request) -> ReceiptService:
    receipts: ReceiptService = request.state.receipts
    return receipts


Receipts = Annotated[ReceiptService, Depends(_receipts)]


@router.get(
    LIST,
    summary="List receipts",
    response_model=schemas.ReceiptPage,
    response_model_exclude_unset=True,
    responses=problem_responses(*REFUSED),
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
    """The receipts of durable entries at `/api` by their `reqId`, newest first; none where nothing
    is known of it: it never came, its receipt is past the time of `GATEWAY_DEDUP_SECONDS`, or
    Leanplum was asked while the SDK waited.
    """
    context = context_of(request.scope)
    context.operation = f"GET {LIST}"
    _, app = await authenticator.enter(context, Scope.RECEIPTS_READ)
    chosen = _chosen(req_id, uuid)
    found = await receipts.page(app.name, chosen, int(cursor) if cursor else None, limit + 1)
    page: dict[str, Any] = {
        "receipts": [receipt_document(receipt, prefix=context.prefix) for receipt in found[:limit]]
    }
    if len(found) > limit:
        page["nextCursor"] = str(found[limit - 1].seq)
    return page


def _chosen(req_id: str | None, uuid: str | None) -> ReceiptFilter:
    """Return the filter that a query means. Raises Invalid."""
    if req_id:
        return ReceiptFilter(ids.sdk_item_id_bounds(req_id, uuid or None))
    if uuid:
        raise Invalid((Fault("uuid", "requires reqId", "parameter", "parameter"),))
    raise Invalid((Fault("reqId", "is required", "parameter", "parameter"),))


@router.get(
    ONE,
    summary="Retrieve a receipt",
    response_model=schemas.Receipt,
    response_model_exclude_unset=True,
    responses=problem_responses(
        "unauthorized", "forbidden", "not-found", "rate-limited", "internal", "storage-unavailable"
    ),
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
    waits = await receipts.explain(app.name, receipt)
    return receipt_document(receipt, waits=waits, prefix=context.prefix)
