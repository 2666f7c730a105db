"""Android notification channels: add, delete, get (fact sheet §3.5, §3.6)."""

from app.simulator.actions.handler import Extra, Turn

_TEXTS = ("description", "groupId", "sound")
_NUMBERS = ("lightColor", "lockscreenVisibility")
_FLAGS = ("enableLights", "enableVibration", "bypassDnd", "showBadge", "default")


def add_channel(turn: Turn) -> Extra:
    """A channel of a known id is updated (I); an absent `importance` is 3, though the docs call it
    required.
    """
    channel_id, known = turn.needed("id"), turn.world.content.channels
    created = channel_id not in known
    channel = {
        "id": channel_id,
        "name": turn.needed("name"),
        "importance": int(turn.number("importance", 3)),
    }
    known[channel_id] = channel | _options(turn)
    told = {"channelId": channel_id, "name": channel["name"], "importance": channel["importance"]}
    return {"channelCreated": created, "channelUpdated": not created, **told}


def delete_channel(turn: Turn) -> Extra:
    """An unknown channel is answered with channelDeleted:false (I)."""
    channel_id = turn.needed("channelId")
    known = turn.world.content.channels.pop(channel_id, None)
    return {"channelDeleted": known is not None, "channelId": channel_id}


def get_channels(turn: Turn) -> Extra:
    return {"notificationChannels": list(turn.world.content.channels.values())}


def _options(turn: Turn) -> Extra:
    texts = {name: turn.text(name) for name in _TEXTS if turn.given(name)}
    numbers = {name: turn.number(name, 0) for name in _NUMBERS if turn.given(name)}
    flags = {name: turn.flag(name, default=False) for name in _FLAGS if turn.given(name)}
    pattern = (
        {"vibrationPattern": turn.listing("vibrationPattern")}
        if turn.given("vibrationPattern")
        else {}
    )
    return {**texts, **numbers, **flags, **pattern}
