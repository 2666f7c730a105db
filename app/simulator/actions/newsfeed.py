"""A user's newsfeed (inbox), as SDKs ask for it; undocumented (fact sheet §3.8)."""

from copy import deepcopy
from typing import Any

from app.simulator.actions.handler import Extra, UserTurn
from app.simulator.sandbox import NEWSFEED, SandboxMessage


def deliver(turn: UserTurn, message: SandboxMessage, values: dict[str, Any]) -> None:
    """Put a message into the feed; `values` override the template's fields of the same name (I)."""
    turn.world.newsfeed_made += 1
    template = {"Title": message.name, "Subtitle": "", "Image": "", "Data": {}, "Open action": {}}
    fields = template | {name: value for name, value in values.items() if name in template}
    turn.user.newsfeed[f"{message.id}##{turn.world.newsfeed_made}"] = {
        "deliveryTimestamp": int(turn.now * 1000),
        "isRead": False,
        "messageData": {"action": NEWSFEED, "vars": fields},
    }


def get_newsfeed(turn: UserTurn) -> Extra:
    """The whole feed, whichever messages the client says that it has (I)."""
    return {"newsfeedMessages": deepcopy(turn.user.newsfeed)}


def mark_read(turn: UserTurn) -> Extra:
    """An id that is not in the feed is a success too (I)."""
    if message := turn.user.newsfeed.get(turn.needed("newsfeedMessageId")):
        message["isRead"] = True
    return {}


def delete_message(turn: UserTurn) -> Extra:
    """An id that is not in the feed is a success too (I)."""
    turn.user.newsfeed.pop(turn.needed("newsfeedMessageId"), None)
    return {}


def to_be_synced(turn: UserTurn) -> bool:
    """Whether the feed differs from what the client says that it has: `syncNewsfeed` of `start`
    (I).
    """
    known = turn.names("newsfeedMessages") if turn.given("newsfeedMessages") else []
    return set(known) != set(turn.user.newsfeed)
