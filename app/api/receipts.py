"""Receipts as callers see them (contract §4)."""

from datetime import UTC, datetime
from typing import Any

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
    document["href"] = f"/v1/receipts/{receipt.id}"
    return document


def instant(at: int) -> str:
    """Milliseconds since the epoch as RFC 3339."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
