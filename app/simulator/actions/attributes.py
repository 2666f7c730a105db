"""What is known of users and devices: attributes, devices, traffic source (fact sheet §3.4,
§3.5).
"""

from collections.abc import Iterable
from typing import Any

from app.simulator.actions.counters import apply_counters, checked_counters
from app.simulator.actions.handler import Extra, UserTurn
from app.simulator.people import User
from app.simulator.values import listed, text, truthy

NUMBER_FIELDS = (
    "created",
    "lastActive",
    "timeSpentInApp",
    "totalSessions",
    "timezoneOffsetSeconds",
)
PLACE_FIELDS = (
    "locale",
    "country",
    "region",
    "city",
    "location",
    "locationAccuracyType",
    "timezone",
)
PROFILE_FIELDS = (*NUMBER_FIELDS, *PLACE_FIELDS)
DEVICE_FIELDS = (
    *("appVersion", "systemName", "systemVersion", "browserName", "browserVersion"),
    *("deviceName", "deviceModel", "iosPushToken", "gcmRegistrationId", "webPushSubscription"),
    *("huaweiPushRegId", "iosPushTypes", "iosPushCategories", "versionName"),
)


def set_user_attributes(turn: UserTurn) -> Extra:
    """All is checked first, so that a refused call changes nothing (I). The answer says `isOffline`
    where the user has no open session (fact sheet §12.7).
    """
    _check(turn)
    events, states = checked_counters(turn, "event"), checked_counters(turn, "state")
    new_id = turn.text("newUserId")
    user = (
        turn.user
        if new_id in ("", turn.user.user_id)
        else turn.world.become(turn.user, new_id, turn.now)
    )
    apply_attributes(turn, user)
    _apply_sets(turn, user)
    _apply_increments(turn, user)
    apply_profile(turn, user)
    _apply_devices(turn, user)
    _apply_unsubscriptions(turn, user)
    apply_counters(user.events, events)
    apply_counters(user.states, states)
    if truthy(turn.item.get("resetAnomalies")):
        user.profile.pop("anomalous", None)
    return {} if user.session(turn.now) else {"isOffline": True}


def set_device_attributes(turn: UserTurn) -> Extra:
    """Flat as the docs say, or in `deviceAttributes` as one client sends with success (fact sheet
    §3.5).
    """
    if not apply_device_fields(turn):
        raise turn.invalid("deviceAttributes")
    return {}


def set_traffic_source_info(turn: UserTurn) -> Extra:
    turn.user.traffic_source = turn.mapping("trafficSource")
    return {}


def apply_attributes(turn: UserTurn, user: User) -> None:
    """Merge `userAttributes`; null clears one, and a plain value takes the place of a set."""
    for name, value in turn.mapping("userAttributes").items():
        user.sets.pop(name, None)
        if value is None:
            user.attributes.pop(name, None)
        else:
            user.attributes[name] = value


def apply_profile(turn: UserTurn, user: User) -> None:
    """`(detect)` means "from the request's address", which tells a simulator nothing: it is kept as
    sent.
    """
    given = {name: turn.item[name] for name in PLACE_FIELDS if turn.item.get(name) is not None}
    numbers = {
        name: turn.number(name, 0.0) for name in NUMBER_FIELDS if turn.item.get(name) is not None
    }
    user.profile.update(given | numbers)


def apply_device_fields(turn: UserTurn) -> bool:
    """Keep what the action says of its device; whether it said anything."""
    fields = _device_fields({**turn.item, **turn.mapping("deviceAttributes")})
    if turn.device is not None:
        turn.device.attributes.update(fields)
    return bool(fields)


def _device_fields(source: dict[str, Any]) -> dict[str, Any]:
    return {name: source[name] for name in DEVICE_FIELDS if source.get(name) is not None}


def _apply_sets(turn: UserTurn, user: User) -> None:
    for name, value in turn.mapping("userAttributeValuesToAdd").items():
        _add_missing(_members(user, name), listed(value))
    for name, value in turn.mapping("userAttributeValuesToRemove").items():
        members = _members(user, name)
        members[:] = [member for member in members if member not in listed(value)]


def _members(user: User, name: str) -> list[Any]:
    """The set of this name, begun from the attribute's list when it was given as one."""
    if name not in user.sets:
        known = user.attributes.pop(name, [])
        user.sets[name] = list(known) if isinstance(known, list) else [known]
    return user.sets[name]


def _apply_increments(turn: UserTurn, user: User) -> None:
    """Both sides must be integers, else it is skipped; a missing attribute counts as 0 (fact sheet
    §3.4).
    """
    for name, step in turn.mapping("userAttributeValuesToIncrement").items():
        known = user.attributes.get(name, 0)
        if type(step) is int and type(known) is int:
            user.attributes[name] = known + step


def _check(turn: UserTurn) -> None:
    maps = ("ToAdd", "ToRemove", "ToIncrement")
    for name in ("userAttributes", *(f"userAttributeValues{suffix}" for suffix in maps)):
        turn.mapping(name)
    for name in NUMBER_FIELDS:
        turn.number(name, 0.0)
    if not all(
        isinstance(entry, dict) and _is_id_or_absent(entry.get("deviceId"))
        for entry in _devices(turn)
    ):
        raise turn.invalid("devices")


def _is_id_or_absent(value: Any) -> bool:
    return value in (None, "") or bool(text(value))


def _devices(turn: UserTurn) -> list[Any]:
    return listed(turn.item.get("devices") or [])


def _apply_devices(turn: UserTurn, user: User) -> None:
    """Devices without an id are taken, too (fact sheet §12.5); the same one said again is still one
    (I).
    """
    for entry in _devices(turn):
        device_id, fields = text(entry.get("deviceId")), _device_fields(entry)
        if device_id:
            turn.world.link(device_id, user).attributes.update(fields)
        elif fields not in user.nameless_devices:
            user.nameless_devices.append(fields)


def _apply_unsubscriptions(turn: UserTurn, user: User) -> None:
    for name, known in (
        ("unsubscribeCategories", user.unsubscribed_categories),
        ("unsubscribeChannels", user.unsubscribed_channels),
    ):
        _add_missing(known, _texts(turn.item.get(f"{name}ToAdd")))
        removed = _texts(turn.item.get(f"{name}ToRemove"))
        known[:] = [each for each in known if each not in removed]


def _add_missing(known: list[Any], added: Iterable[Any]) -> None:
    for each in added:
        if each not in known:
            known.append(each)


def _texts(value: Any) -> list[str]:
    return [] if value in (None, "") else [text(each) for each in listed(value)]
