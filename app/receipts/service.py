"""The service that finds receipts and explains why items wait."""

from collections.abc import Sequence
from typing import NamedTuple

from app.model import Receipt
from app.outbox.item_filter import ItemFilter
from app.outbox.outbox import Outbox
from app.outbox.receipts import Origin
from app.outbox.search import EXAMINED, ReceiptPage, ReceiptSearch
from app.receipts.wait_reasons import Explanations, explain_all


class AppReceiptPage(NamedTuple):
    """Receipts with their apps, newest first; `before` is where the search goes on, if it does."""

    receipts: Sequence[tuple[str, Receipt]]
    before: int | None


class ReceiptService:
    """The service that finds receipts and explains why items wait."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def find(self, app: str, item_id: str) -> Receipt | None:
        """Return the receipt of an item, by the caller's id or the gateway's."""
        return await self._outbox.receipt(app, item_id)

    async def settled(self, app: str, item_id: str, seconds: float) -> Receipt | None:
        """Return the receipt of an item once it is settled, or after so many seconds."""
        return await self._outbox.settled_receipt(app, item_id, seconds)

    async def search(self, wanted: ReceiptSearch) -> ReceiptPage:
        """Return a page of receipts, newest first."""
        return await self._outbox.search_receipts(wanted)

    async def search_apps(
        self, apps: Sequence[str], which: ItemFilter, before: int | None, limit: int
    ) -> AppReceiptPage:
        """Return receipts of several apps, newest first, each with its app.

        Where the search of an app went less far than the others', the page ends there. All of them
        together examine as many items as the search of one app.
        """
        share = EXAMINED // max(1, len(apps))
        wanted = [
            ReceiptSearch(app, which, before=before, limit=limit, examined=share) for app in apps
        ]
        pages = [(search.app, await self.search(search)) for search in wanted]
        ends = [page.before for _, page in pages if page.before is not None]
        end = max(ends, default=None)
        found = [
            (app, receipt)
            for app, page in pages
            for receipt in page.receipts
            if end is None or receipt.seq >= end
        ]
        return AppReceiptPage(sorted(found, key=lambda entry: -entry[1].seq), end)

    async def origin(self, receipt: Receipt) -> Origin | None:
        """Return where an item came from; None if it was removed meanwhile."""
        return await self._outbox.origin(receipt)

    async def explain(self, app: str, *receipts: Receipt) -> Explanations:
        """Return why items of an app wait, as far as the database tells."""
        waiting = [receipt for receipt in receipts if not receipt.settled]
        return explain_all(waiting, await self._outbox.waiting_for(app, waiting) if waiting else {})
