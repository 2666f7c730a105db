"""The reasons why items wait, from the state of delivery and of the database. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.clock import instant, now_ms
from app.model import Receipt, Status
from app.outbox.delivery_states import DeliveryState
from app.outbox.receipts import Waits

NOTHING_KNOWN = Waits()


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


Explanations = Mapping[int, WaitExplanation]  # by the numbers of the items


def explain_all(receipts: Iterable[Receipt], waits: Mapping[int, Waits]) -> Explanations:
    """Return why items wait, by number; items that nothing is known to stop are left out."""
    explained = {
        each.seq: waiting_for(each, waits.get(each.seq, NOTHING_KNOWN)) for each in receipts
    }
    return {seq: each for seq, each in explained.items() if each is not None}


def waiting_for(
    receipt: Receipt, waits: Waits = NOTHING_KNOWN, now: int | None = None
) -> WaitExplanation | None:
    """Return why an item waits; None if nothing is known to stop it.

    That is so if it is settled or being sent, and while no deliverer runs. `waits` is what the
    database knows of other items and of delivery; `now` is in milliseconds.
    """
    since, state = receipt.accepted_at, waits.delivery or DeliveryState()
    if receipt.settled or waits.in_flight:
        return None
    if state.state == "held":
        return WaitExplanation("app-held", max(since, state.since))
    if receipt.status is Status.HELD or waits.held_next is not None:
        return WaitExplanation("app-held", since)
    due = receipt.next_attempt_at or 0
    if due > (now_ms() if now is None else now):
        return WaitExplanation("retry", since, due)
    if state.state == "open":
        return WaitExplanation("circuit-open", max(since, state.since))
    if waits.behind:
        return WaitExplanation("earlier-item", since)
    if state.limited_since is not None:
        return WaitExplanation("rate", max(since, state.limited_since), state.paused_until)
    return WaitExplanation("retry", since, due) if due else None
