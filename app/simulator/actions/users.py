"""A user as a whole: exportUser, deleteUser, block, unblock; and registerDevice (fact sheet §3.5,
§3.6).
"""

import zlib
from typing import Any

from app.simulator.actions.attributes import PROFILE_FIELDS
from app.simulator.actions.handler import Extra, Turn, UserTurn
from app.simulator.people import User


def delete_user(turn: UserTurn) -> Extra:
    """The real one takes up to 15 days; here it is done at once."""
    turn.world.erase(turn.user)
    return {}


def block(turn: UserTurn) -> Extra:
    turn.world.block(turn.user, turn.now)
    return {}


def unblock(turn: UserTurn) -> Extra:
    turn.user.blocked = False
    return {}


def register_device(turn: Turn) -> Extra:
    """Make it a development device; `registered` is false for one that is (fact sheet §3.5)."""
    device_id, email = turn.needed("deviceId"), turn.needed("email")
    registered = device_id not in turn.world.content.registered
    turn.world.content.registered.setdefault(device_id, email)
    return {"registered": registered}


def export_user(turn: UserTurn) -> Extra:
    """Sessions and time are told of a user who had none, too (fact sheet §12.6)."""
    user = turn.user
    return {
        "userId": user.user_id,
        "userAttributes": {
            name: _exported(value) for name, value in (user.attributes | user.sets).items()
        },
        "events": {name: tally.summary() for name, tally in user.events.items()},
        "states": {name: tally.summary() for name, tally in user.states.items()},
        "created": user.created,
        "totalSessions": 0,
        "timeSpentInApp": 0.0,
        **{name: user.profile[name] for name in PROFILE_FIELDS if name in user.profile},
        "unsubscribeChannels": user.unsubscribed_channels,
        "unsubscribeCategories": [
            _exported_category(turn, each) for each in user.unsubscribed_categories
        ],
        "devices": [_exported_device(turn, device_id) for device_id in user.devices]
        + [{"deviceId": None, **fields} for fields in user.nameless_devices],
        "userBucket": _bucket(user),
    }


def _exported(value: Any) -> Any:
    """Booleans come back as strings, as recorded (fact sheet §3.6)."""
    return str(value) if isinstance(value, bool) else value


def _exported_device(turn: UserTurn, device_id: str) -> Extra:
    return {"deviceId": device_id, **turn.world.devices[device_id].attributes}


def _exported_category(turn: UserTurn, category: str) -> Extra:
    """Its id and name (fact sheet §12.6); one that the app does not have has no name (I)."""
    for known in turn.world.config.unsubscribe_categories:
        if str(known.id) == category:
            return {"id": known.id, "name": known.name}
    return {"id": int(category) if category.isdecimal() else category, "name": None}


def _bucket(user: User) -> int:
    return zlib.crc32(user.user_id.encode()) % 1000
