"""Short words for holding one value against the rules, by the careful path and by the fast one."""

import json
from typing import Any

import orjson

from app.errors import Invalid
from app.ingest import validate
from app.model import NewItem

EVENT: dict[str, Any] = {"userId": "u", "event": "e"}
UPDATE: dict[str, Any] = {"userId": "u", "userAttributes": {"a": 1}}
STATE: dict[str, Any] = {"userId": "u", "state": "s"}
LIKE: dict[str, dict[str, Any]] = {action: {"userId": "u"} for action in validate.ITEM_ACTIONS} | {
    "track": EVENT,
    "setUserAttributes": UPDATE,
    "advance": STATE,
    "setDeviceAttributes": {"deviceId": "d", "appVersion": "1"},
    "setTrafficSourceInfo": {"userId": "u", "trafficSource": {"publisherName": "p"}},
    "sendMessage": {"userId": "u", "messageId": 1},
    "startCampaign": {"userId": "u", "campaignId": 1},
}


def refusal(action: str, raw: Any) -> Invalid | None:
    """Why an item is refused; None where it is good. Anything else than Invalid is raised."""
    try:
        validate.single(action, raw)
    except Invalid as error:
        return error
    return None


def faults(action: str, raw: Any) -> dict[str, str]:
    """The code of each fault by its pointer; empty where the item is good."""
    error = refusal(action, raw)
    return {fault.pointer: fault.code for fault in error.faults} if error else {}


def takes(action: str, **fields: Any) -> bool:
    """Whether a good item of `action` stays good with these fields; the fast path must say the
    same.
    """
    raw = LIKE[action] | fields
    careful = not faults(action, raw)
    fast = validate.fast_single(action, json.dumps(raw).encode()) is not None
    assert fast == careful, "the fast path and the careful one disagree"
    return careful


def body(action: str, **fields: Any) -> dict[str, Any]:
    """What Leanplum gets of a good item with these fields."""
    made: dict[str, Any] = orjson.loads(item(action, **fields).body)
    return made


def item(action: str, **fields: Any) -> NewItem:
    """The item that these fields make."""
    return validate.single(action, LIKE[action] | fields)
