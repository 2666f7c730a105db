"""Receipts as callers see them (contract §4)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from app.clock import instant
from app.model import Receipt, Removed, Status
from app.outbox.outbox import Outbox
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


async def explained(
    outbox: Outbox, metrics: Metrics, app: str, receipt: Receipt
) -> WaitingFor | None:
    """Return why an item waits, from all that this process and the database know."""
    if receipt.settled:
        return None
    way = Way(metrics.states.get(app, ""), metrics.states_since.get(app, 0))
    return waiting_for(receipt, await outbox.waiting_for(app, receipt), way)


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
