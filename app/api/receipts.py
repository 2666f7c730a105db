"""Receipts: find them, render them, and explain why an item waits."""

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
from app.outbox.receipts import ReceiptFilter, Waits
from app.telemetry import Metrics


class DeliveryState(NamedTuple):
    """The state of delivery for an app (`metrics.states`), and since when (epoch milliseconds)."""

    state: str = ""
    since: int = 0


NOTHING_KNOWN, NORMAL_DELIVERY = Waits(), DeliveryState()


@dataclass(frozen=True, slots=True)
class WaitExplanation:
    """The reason why an item waits; times in epoch milliseconds, `until` only if it is known."""

    reason: str
    since: int
    until: int | None = None

    def document(self) -> dict[str, str]:
        """Return the explanation as JSON."""
        until = {} if self.until is None else {"until": instant(self.until)}
        return {"reason": self.reason, "since": instant(self.since), **until}


def waiting_for(
    receipt: Receipt,
    waits: Waits = NOTHING_KNOWN,
    delivery: DeliveryState = NORMAL_DELIVERY,
) -> WaitExplanation | None:
    """Return why an item waits; None if it is settled, or if nothing is known to stop it.

    `waits` is what the database knows of other items; `delivery` is the state in this process, if
    it delivers.
    """
    since = receipt.accepted_at
    if receipt.settled:
        return None
    if delivery.state == "held":
        return WaitExplanation("app-held", max(since, delivery.since))
    if receipt.status is Status.HELD or waits.held_next is not None:
        return WaitExplanation("app-held", since)
    if receipt.status is Status.RETRYING:
        return WaitExplanation("retry", since, receipt.next_attempt_at)
    if delivery.state == "open":
        return WaitExplanation("circuit-open", max(since, delivery.since))
    return WaitExplanation("earlier-item", since) if waits.behind else None


class ReceiptService:
    """The service that finds receipts and explains why items wait."""

    def __init__(self, outbox: Outbox, metrics: Metrics) -> None:
        self._outbox, self._metrics = outbox, metrics

    async def find(self, app: str, item_id: str) -> Receipt | None:
        """Return the receipt of an item, by the caller's id or the gateway's."""
        return await self._outbox.receipt(app, item_id)

    async def settled(self, app: str, item_id: str, seconds: float) -> Receipt | None:
        """Return the receipt of an item once it is settled, or after so many seconds."""
        return await self._outbox.settled_receipt(app, item_id, seconds)

    async def page(
        self, app: str, receipt_filter: ReceiptFilter, cursor: int | None, limit: int
    ) -> list[Receipt]:
        """Return receipts, newest first, after the one at `cursor`."""
        return await self._outbox.find_receipts(app, receipt_filter, cursor, limit)

    async def explain(self, app: str, receipt: Receipt) -> WaitExplanation | None:
        """Return why an item waits, by the state of this process and the database."""
        if receipt.settled:
            return None
        metrics = self._metrics
        delivery = DeliveryState(metrics.states.get(app, ""), metrics.states_since.get(app, 0))
        waits = await self._outbox.waiting_for(app, receipt)
        return waiting_for(receipt, waits, delivery)


def receipt_document(
    receipt: Receipt,
    removed: Removed | None = None,
    explanation: WaitExplanation | None = None,
    *,
    prefix: str,
) -> dict[str, Any]:
    """Return a receipt as JSON; times are RFC 3339 in UTC with milliseconds.

    `removed` is what an erasure has just removed; `explanation` is why the item waits, if more is
    known than the receipt has; `prefix` is the path prefix under which the caller reaches the
    gateway.
    """
    document: dict[str, Any] = {
        "id": receipt.id,
        "action": receipt.action,
        **_user_or_device(receipt.subject),
        "status": receipt.status,
        "acceptedAt": instant(receipt.accepted_at),
        "attempts": receipt.attempts,
    }
    if removed is not None:
        document["erased"] = _erased_document(removed)
    if receipt.settled_at is not None:
        document["settledAt"] = instant(receipt.settled_at)
    elif receipt.next_attempt_at is not None:
        document["nextAttemptAt"] = instant(receipt.next_attempt_at)
    explanation = explanation or waiting_for(receipt)
    if explanation is not None:
        document["waitingFor"] = explanation.document()
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
    """Return the path of an item's receipt, as the caller reaches it."""
    return f"{prefix}/v1/receipts/{item_id}"


def _user_or_device(subject: str) -> dict[str, str]:
    """Return the field with the user or device; erased subjects have none."""
    kind = {"u": "userId", "d": "deviceId"}.get(subject[0])
    return {} if kind is None else {kind: subject[1:]}


def _erased_document(removed: Removed) -> dict[str, int]:
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
    """Return the JSON of the receipt of an item that has just been accepted.

    It equals what `receipt_document` renders. This is the hot path: no Receipt is constructed.
    """
    return orjson.dumps(
        {
            "id": item_id,
            "action": action,
            "userId" if subject[0] == "u" else "deviceId": subject[1:],
            "status": "accepted",
            "acceptedAt": instant(accepted_at),
            "attempts": 0,
            **({} if removed is None else {"erased": _erased_document(removed)}),
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
    summary="Retrieve a receipt",
    response_model=schemas.ReceiptDocument,
    response_model_exclude_unset=True,
    responses=problem_responses(
        "unauthorized",
        "forbidden",
        "not-found",
        "rate-limited",
        "internal",
        "storage-unavailable",
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
    explanation = await receipts.explain(app.name, receipt)
    return receipt_document(receipt, explanation=explanation, prefix=context.prefix)
