"""Receipts as callers see them (contract §4)."""

from typing import Any

import orjson

from app.clock import instant
from app.model import Receipt


def receipt_document(receipt: Receipt) -> dict[str, Any]:
    """A receipt as JSON; times are RFC 3339 in UTC with milliseconds."""
    document: dict[str, Any] = {
        "id": receipt.id,
        "action": receipt.action,
        "userId" if receipt.subject[0] == "u" else "deviceId": receipt.subject[1:],
        "status": receipt.status,
        "acceptedAt": instant(receipt.accepted_at),
        "attempts": receipt.attempts,
    }
    if receipt.settled_at is not None:
        document["settledAt"] = instant(receipt.settled_at)
    elif receipt.next_attempt_at is not None:
        document["nextAttemptAt"] = instant(receipt.next_attempt_at)
    if receipt.leanplum is not None:
        document["leanplum"] = receipt.leanplum
    elif receipt.settled_at is not None:
        document["leanplum"] = {"success": True}
    document |= receipt.notes or {}
    document["href"] = f"/v1/receipts/{receipt.id}"
    return document


def fresh_receipt(item_id: str, action: str, subject: str, accepted_at: int, notes: str | None = None) -> bytes:
    """The receipt of an item accepted this moment, rendered: the hot path's own short cut to the same words."""
    return orjson.dumps(
        {
            "id": item_id,
            "action": action,
            "userId" if subject[0] == "u" else "deviceId": subject[1:],
            "status": "accepted",
            "acceptedAt": instant(accepted_at),
            "attempts": 0,
            **(orjson.loads(notes) if notes is not None else {}),
            "href": f"/v1/receipts/{item_id}",
        }
    )
