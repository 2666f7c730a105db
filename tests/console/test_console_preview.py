"""The preview page: what Leanplum would receive of what is pasted."""

import json
from html import unescape

from app.model import Scope
from tests.console.visitor import ConsoleVisitor, signed_in
from tests.support.gateway import CANARY, Talk

ITEM = {"action": "track", "userId": "u1", "event": "Bought", "params": {"colour": CANARY}}


def previewed(visitor: ConsoleVisitor, pasted: object, app: str = "default") -> str:
    """Return the page after a preview, without escapes."""
    text = pasted if isinstance(pasted, str) else json.dumps(pasted)
    return unescape(visitor.post("/preview", {"app": app, "items": text}).text)


def test_the_entry_for_leanplum_is_shown_and_nothing_is_stored(gateway: Talk) -> None:
    visitor, before = signed_in(gateway), gateway.items()
    page = previewed(visitor, ITEM)
    assert '"action": "track"' in page
    assert '"event": "Bought"' in page
    assert f'"colour": "{CANARY}"' in page
    assert gateway.items() == before
    assert CANARY.encode() not in gateway.path.read_bytes()
    assert CANARY not in json.dumps(gateway.audit())


def test_several_items_are_shown_each_by_itself(gateway: Talk) -> None:
    page = previewed(signed_in(gateway), {"items": [ITEM, {"action": "track", "userId": "u1"}]})
    assert "Item 1" in page
    assert "Item 2" in page
    assert "/items/1/event" in page


def test_what_is_no_item_is_refused_with_the_reason(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    assert "not valid JSON: line 1, column 2" in previewed(visitor, "{")
    assert 'must be an item or {"items": [...]}' in previewed(visitor, [1])
    assert "at most 100 items" in previewed(visitor, {"items": [ITEM] * 101})


def test_what_was_pasted_stays_in_the_form(gateway: Talk) -> None:
    assert f"\n{json.dumps(ITEM)}</textarea>" in previewed(signed_in(gateway), ITEM)


def test_an_item_needs_the_scope_of_its_action(gateway: Talk) -> None:
    _, key = gateway.create_key(Scope.CONSOLE_READ)
    assert "missing scope events:write" in previewed(signed_in(gateway, key), ITEM)


def test_another_app_than_the_key_s_is_refused(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    assert visitor.post("/preview", {"app": "unknown", "items": "{}"}).status_code == 403


def test_a_preview_counts_as_many_items_as_it_has(gateway: Talk) -> None:
    _, key = gateway.create_key(Scope.CONSOLE_READ, ratePerSecond=1, rateBurst=20)
    visitor = signed_in(gateway, key)
    page = visitor.post("/preview", {"app": "default", "items": json.dumps({"items": [ITEM] * 30})})
    assert page.status_code == 429
    assert int(page.headers["retry-after"]) > 0
