"""A user as a whole, and the messages sent to them (fact sheet §3.5, §3.6); newsfeeds (§3.8)."""

import zlib
from copy import deepcopy
from typing import Any

from app.simulator.actions.attributes import PROFILE_FIELDS
from app.simulator.actions.context import (
    ActionContext,
    EntryFields,
    Skipped,
    UserActionContext,
)
from app.simulator.arguments import truthy
from app.simulator.config import NEWSFEED, SandboxMessage


def delete_user(context: UserActionContext) -> EntryFields:
    """Delete a user, at once; Leanplum takes up to 15 days."""
    context.world.erase(context.user)
    return {}


def block(context: UserActionContext) -> EntryFields:
    """Block a user, which erases their data."""
    context.world.block(context.user, context.now)
    return {}


def unblock(context: UserActionContext) -> EntryFields:
    """Unblock a user."""
    context.user.blocked = False
    return {}


def register_device(context: ActionContext) -> EntryFields:
    """Register a development device; `registered` is false for a known one (fact sheet §3.5)."""
    device_id, email = context.required_text("deviceId"), context.required_text("email")
    devices = context.world.content.registered
    registered = device_id not in devices
    devices.setdefault(device_id, email)
    return {"registered": registered}


def export_user(context: UserActionContext) -> EntryFields:
    """Return all data of a user; session figures also if there are none (fact sheet §12.6)."""
    user = context.user
    attributes = user.attributes | user.sets
    return {
        "userId": user.user_id,
        "userAttributes": {name: _export_value(value) for name, value in attributes.items()},
        "events": {name: tally.summary() for name, tally in user.events.items()},
        "states": {name: tally.summary() for name, tally in user.states.items()},
        "created": user.created,
        "totalSessions": 0,
        "timeSpentInApp": 0.0,
        **{name: user.profile[name] for name in PROFILE_FIELDS if name in user.profile},
        "unsubscribeChannels": user.unsubscribed_channels,
        "unsubscribeCategories": [
            _export_category(context, category) for category in user.unsubscribed_categories
        ],
        "devices": _export_devices(context),
        "userBucket": zlib.crc32(user.user_id.encode()) % 1000,
    }


def _export_value(value: Any) -> Any:
    """Return an attribute as exported: booleans are strings, as recorded (fact sheet §3.6)."""
    return str(value) if isinstance(value, bool) else value


def _export_devices(context: UserActionContext) -> list[EntryFields]:
    devices: list[EntryFields] = []
    for device_id in context.user.devices:
        attributes = context.world.devices[device_id].attributes
        devices.append({"deviceId": device_id, **attributes})
    for fields in context.user.nameless_devices:
        devices.append({"deviceId": None, **fields})
    return devices


def _export_category(context: UserActionContext, category_id: str) -> EntryFields:
    """Return id and name (fact sheet §12.6); an unknown category has no name (I)."""
    for category in context.world.config.unsubscribe_categories:
        if str(category.id) == category_id:
            return {"id": category.id, "name": category.name}
    return {"id": int(category_id) if category_id.isdecimal() else category_id, "name": None}


def send_message(context: UserActionContext) -> EntryFields:
    """Send a message; if its targeting excludes the user, only with `force`, and succeed anyway."""
    message = context.world.messages.get(context.text("messageId"))
    if message is None:
        raise Skipped(context.texts.message_entity_not_found)
    values = context.mapping("values")
    if not message.matches and not truthy(context.item.get("force")):
        return {"messagesSent": 0}
    sent = {"messageId": message.id, "values": values, "time": context.time}
    context.user.messages.append(sent)
    if message.kind == NEWSFEED:
        _add_to_newsfeed(context, message, values)
    return {"result": "Message sent", "messagesSent": 1}


def start_campaign(context: UserActionContext) -> EntryFields:
    """Start a campaign; every id exists, since no source has the answer for an unknown one (I)."""
    campaign_id, values = context.text("campaignId"), context.mapping("values")
    sent = {"campaignId": campaign_id, "values": values, "time": context.time}
    context.user.messages.append(sent)
    return {}


def _add_to_newsfeed(
    context: UserActionContext, message: SandboxMessage, values: dict[str, Any]
) -> None:
    """Add a message to the newsfeed; `values` override fields of the template (I)."""
    context.world.newsfeed_made += 1
    template = {"Title": message.name, "Subtitle": "", "Image": "", "Data": {}, "Open action": {}}
    fields = template | {name: value for name, value in values.items() if name in template}
    context.user.newsfeed[f"{message.id}##{context.world.newsfeed_made}"] = {
        "deliveryTimestamp": int(context.now * 1000),
        "isRead": False,
        "messageData": {"action": NEWSFEED, "vars": fields},
    }


def get_newsfeed(context: UserActionContext) -> EntryFields:
    """Return the whole newsfeed, regardless of the messages that the client already has (I)."""
    return {"newsfeedMessages": deepcopy(context.user.newsfeed)}


def mark_newsfeed_message_read(context: UserActionContext) -> EntryFields:
    """Mark a message as read; an unknown id succeeds too (I)."""
    message = context.user.newsfeed.get(context.required_text("newsfeedMessageId"))
    if message is not None:
        message["isRead"] = True
    return {}


def delete_newsfeed_message(context: UserActionContext) -> EntryFields:
    """Delete a message of the newsfeed; an unknown id succeeds too (I)."""
    context.user.newsfeed.pop(context.required_text("newsfeedMessageId"), None)
    return {}


def is_newsfeed_outdated(context: UserActionContext) -> bool:
    """Return True if the client's newsfeed differs: `syncNewsfeed` of `start` (I)."""
    name = "newsfeedMessages"
    client_ids = context.texts_of(name) if context.has(name) else []
    return set(client_ids) != set(context.user.newsfeed)
