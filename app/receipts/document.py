"""Receipts as JSON: the one place that renders them, for HTTP, commands and console."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson

from app.clock import instant
from app.model import ERASURE_RECORD, Receipt
from app.receipts.wait_reasons import WaitExplanation

NOTHING_ERASED: Mapping[str, Any] = MappingProxyType({})


def receipt_document(
    receipt: Receipt,
    erased: Mapping[str, Any] = NOTHING_ERASED,
    explanation: WaitExplanation | None = None,
    *,
    prefix: str,
) -> dict[str, Any]:
    """Return a receipt as JSON; times are RFC 3339 in UTC with milliseconds.

    `erased` has the fields about an erasure that was just made, `explanation` is why the item
    waits, and `prefix` is the path prefix under which the caller reaches the gateway.
    """
    document: dict[str, Any] = {
        "id": receipt.id,
        "action": receipt.action,
        **_named("event", receipt.event),
        **user_or_device(receipt.subject),
        "status": receipt.status,
        "acceptedAt": instant(receipt.accepted_at),
        "attempts": receipt.attempts,
    }
    document |= erased
    if receipt.settled_at is not None:
        document["settledAt"] = instant(receipt.settled_at)
    elif receipt.next_attempt_at is not None:
        document["nextAttemptAt"] = instant(receipt.next_attempt_at)
    if explanation is not None:
        document["waitingFor"] = explanation.document()
    if receipt.leanplum_unreadable:
        document["leanplumUnreadable"] = True
    elif receipt.leanplum is not None:
        document["leanplum"] = receipt.leanplum
    elif receipt.settled_at is not None:
        document["leanplum"] = {"success": True}
    document |= receipt.notes or {}
    record_id = document.pop(ERASURE_RECORD, None)
    if record_id is not None:
        document["statementHref"] = statement_path(record_id, prefix)
    document["href"] = receipt_path(receipt.id, prefix)
    return document


def receipt_path(item_id: str, prefix: str) -> str:
    """Return the path of an item's receipt, as the caller reaches it."""
    return f"{prefix}/v1/receipts/{item_id}"


def statement_path(record_id: int, prefix: str) -> str:
    """Return the path of the statement of an erasure, as the caller reaches it."""
    return f"{prefix}/v1/erasures/{record_id}"


def _named(name: str, value: str | None) -> dict[str, str]:
    """Return a field with a value, or none."""
    return {} if value is None else {name: value}


def user_or_device(subject: str) -> dict[str, str]:
    """Return the field of a receipt with the user or device; erased subjects have none."""
    kind = {"u": "userId", "d": "deviceId"}.get(subject[0])
    return {} if kind is None else {kind: subject[1:]}


def fresh_receipt(
    item_id: str,
    action: str,
    subject: str,
    accepted_at: int,
    erased: Mapping[str, Any] = NOTHING_ERASED,
    *,
    notes: str | None = None,
    event: str | None = None,
    prefix: str,
) -> bytes:
    """Return the JSON of the receipt of an item that has just been accepted.

    It equals what `receipt_document` renders. This is the hot path: no Receipt is constructed.
    """
    return orjson.dumps(
        {
            "id": item_id,
            "action": action,
            **({} if event is None else {"event": event}),
            "userId" if subject[0] == "u" else "deviceId": subject[1:],
            "status": "accepted",
            "acceptedAt": instant(accepted_at),
            "attempts": 0,
            **erased,
            **(orjson.loads(notes) if notes is not None else {}),
            "href": receipt_path(item_id, prefix),
        }
    )
