"""Previews of items: what Leanplum would receive. Nothing is stored or sent."""

from collections.abc import Sequence
from typing import Any

import orjson

from app import ids
from app.errors import Fault, Invalid
from app.http.item_checks import RefusedItem, validated_item
from app.ingest import ItemSteps
from app.leanplum import mapping
from app.model import App, Item, NewItem

MOST_PREVIEWED = 100  # items of one call


def items_to_preview(raw: Any) -> tuple[list[Any], str]:
    """Return the items of a body, and a template of the JSON Pointer to each."""
    if isinstance(raw, dict) and "items" not in raw:
        return [raw], ""
    items = raw["items"] if isinstance(raw, dict) and raw.keys() == {"items"} else None
    if not isinstance(items, list):
        raise Invalid((Fault("", 'must be an item or {"items": [...]}', "type"),))
    if not items:
        raise Invalid((Fault("/items", "must contain at least one item", "count"),))
    if len(items) > MOST_PREVIEWED:
        raise Invalid((Fault("/items", f"must have at most {MOST_PREVIEWED} items", "count"),))
    return items, "/items/{}"


def validated_items(
    raw_items: Sequence[Any], base: str, item_steps: ItemSteps
) -> list[NewItem | RefusedItem]:
    """Return the items, enriched and checked, or why they would be refused.

    `base` is a template of the JSON Pointer to each.
    """
    return [
        validated_item(raw, base.format(index), item_steps) for index, raw in enumerate(raw_items)
    ]


def leanplum_entry(app: App, new: NewItem, now: int) -> dict[str, Any]:
    """Return the entry for Leanplum of an item accepted at `now` (epoch milliseconds).

    It has no reqId and uuid unless the id of the item is known: they derive from it.
    """
    item_id = new.id or ids.made(ids.new_prefix(now), 0)
    item = Item(0, item_id, app.name, new.subject, new.action, new.body, now, 0, now)
    entry: dict[str, Any] = orjson.loads(mapping.entry_for(item, "")[1])
    if new.id is None:
        entry.pop("reqId", None)
        entry.pop("uuid", None)
    return entry
