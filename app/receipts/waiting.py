"""The reasons why items wait, from the state of delivery and of the database. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

from app.clock import instant
from app.model import Receipt, Status
from app.outbox.receipts import Waits


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
