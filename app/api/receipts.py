"""Receipts as callers see them (contract §4)."""

from typing import Any

import orjson

from app.clock import instant
from app.model import Receipt, Removed


def receipt_document(receipt: Receipt, removed: Removed | None = None, *, prefix: str) -> dict[str, Any]:
    """Return a receipt as JSON; times are RFC 3339 in UTC with milliseconds.

    `removed` is what an erasure has just removed, `prefix` the path prefix under which the caller finds the gateway.
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
    """The receipt of an item accepted this moment, rendered: the hot path's own short cut to the same words."""
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
