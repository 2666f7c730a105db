"""The service that finds receipts and explains why items wait."""

from app.model import Receipt
from app.outbox.outbox import Outbox
from app.outbox.search import ReceiptPage, ReceiptSearch
from app.receipts.waiting import DeliveryState, WaitExplanation, waiting_for
from app.telemetry import Metrics


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

    async def search(self, wanted: ReceiptSearch) -> ReceiptPage:
        """Return a page of receipts, newest first."""
        return await self._outbox.search_receipts(wanted)

    async def explain(self, app: str, receipt: Receipt) -> WaitExplanation | None:
        """Return why an item waits, by the state of this process and the database."""
        if receipt.settled:
            return None
        metrics = self._metrics
        delivery = DeliveryState(metrics.states.get(app, ""), metrics.states_since.get(app, 0))
        waits = await self._outbox.waiting_for(app, receipt)
        return waiting_for(receipt, waits, delivery)
