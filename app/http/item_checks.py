"""Checks of single items in a body: what is valid, and what the caller may send."""

from collections.abc import Sequence
from typing import Any

from app.errors import Forbidden, Invalid, KeyNotConfigured, Refusal
from app.http.authentication import require_leanplum_key, require_scope
from app.http.body import crowded_error
from app.ingest import ItemSteps, validate
from app.leanplum.actions import IN_DEVELOPMENT, key_for
from app.model import App, Caller, KeyKind, NewItem

RefusedItem = Refusal | KeyNotConfigured  # why one item of a batch is not accepted
RESETS_ANOMALIES = "setUserAttributes"  # with resetAnomalies it needs the development key


def validated_item(raw: Any, base: str, item_steps: ItemSteps) -> NewItem | RefusedItem:
    """Return the item in parsed JSON, or its refusal, whose pointers begin with `base`."""
    crowded = crowded_error(raw, base)
    if crowded is not None:
        return crowded
    try:
        return validate.of_any_action(raw, base, item_steps)
    except Invalid as refusal:
        return refusal


def permitted(
    app: App, caller: Caller, validated: Sequence[NewItem | RefusedItem]
) -> Sequence[NewItem | RefusedItem]:
    """Replace each item that may not be sent by its refusal.

    The caller's key may lack the scope of the action, or the app the Leanplum key.
    """
    actions = {item.action for item in validated if type(item) is NewItem}
    all_permitted = all(_permits(app, caller, action) for action in actions)
    if all_permitted and not _lacks_development_key(app, validated):
        return validated
    return [
        _permitted_item(app, caller, item) if isinstance(item, NewItem) else item
        for item in validated
    ]


def _permits(app: App, caller: Caller, action: str) -> bool:
    """Tell whether every item of the action may be sent."""
    known = validate.ITEM_ACTIONS[action]
    if known.scope not in caller.scopes or known.key not in app.keys:
        return False
    return action != RESETS_ANOMALIES or KeyKind.DEVELOPMENT in app.keys


def _lacks_development_key(app: App, validated: Sequence[NewItem | RefusedItem]) -> bool:
    """Tell whether an item may be development traffic, and the app has no key for that."""
    if KeyKind.DEVELOPMENT in app.keys:
        return False
    return any(IN_DEVELOPMENT in item.body for item in validated if type(item) is NewItem)


def _permitted_item(app: App, caller: Caller, item: NewItem) -> NewItem | RefusedItem:
    try:
        require_scope(caller, validate.ITEM_ACTIONS[item.action].scope)
        require_leanplum_key(app, key_for(item.action, item.body))
    except (Forbidden, KeyNotConfigured) as refusal:
        return refusal
    return item
