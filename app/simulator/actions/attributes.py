"""Attributes and counters of users, devices, and traffic sources (fact sheet §3.4, §3.5)."""

from collections.abc import Iterable
from typing import Any

from app.simulator.actions.context import EntryFields, Refused, UserActionContext
from app.simulator.arguments import as_list, number, text, truthy
from app.simulator.profiles import Tally, User

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

_COUNTER_FIELDS = ("count", "countIncrement", "value", "valueIncrement", "firstTime", "lastTime")

Counters = dict[str, dict[str, float]]
"""Fields to set or increment, by the name of the event or state."""


def set_user_attributes(context: UserActionContext) -> EntryFields:
    """Change a user; all is checked first, so that a refused action changes nothing (I).

    The entry has `isOffline` when the user has no session (fact sheet §12.7).
    """
    _check(context)
    events, states = _parse_counters(context, "event"), _parse_counters(context, "state")
    user = context.user
    new_id = context.text("newUserId")
    if new_id not in ("", user.user_id):
        user = context.world.change_user_id(user, new_id, context.now)
    apply_attributes(context, user)
    _apply_sets(context, user)
    _apply_increments(context, user)
    apply_profile(context, user)
    _apply_devices(context, user)
    _apply_unsubscriptions(context, user)
    _apply_counters(user.events, events)
    _apply_counters(user.states, states)
    if truthy(context.item.get("resetAnomalies")):
        user.profile.pop("anomalous", None)
    return {} if user.session(context.now) else {"isOffline": True}


def set_device_attributes(context: UserActionContext) -> EntryFields:
    """Set fields of a device: flat as documented, or in `deviceAttributes` (fact sheet §3.5)."""
    if not apply_device_fields(context):
        raise context.invalid("deviceAttributes")
    return {}


def set_traffic_source_info(context: UserActionContext) -> EntryFields:
    """Replace the user's traffic source."""
    context.user.traffic_source = context.mapping("trafficSource")
    return {}


def apply_attributes(context: UserActionContext, user: User) -> None:
    """Merge `userAttributes`: null removes one, and a plain value replaces a set."""
    for name, value in context.mapping("userAttributes").items():
        user.sets.pop(name, None)
        if value is None:
            user.attributes.pop(name, None)
        else:
            user.attributes[name] = value


def apply_profile(context: UserActionContext, user: User) -> None:
    """Set profile fields; `(detect)`, from the request's address, is kept as sent."""
    item = context.item
    places = {name: item[name] for name in PLACE_FIELDS if item.get(name) is not None}
    numbers = {
        name: context.number(name, 0.0) for name in NUMBER_FIELDS if item.get(name) is not None
    }
    user.profile.update(places | numbers)


def apply_device_fields(context: UserActionContext) -> bool:
    """Set the fields of the action's device; return False if there are none."""
    fields = _device_fields({**context.item, **context.mapping("deviceAttributes")})
    if context.device is not None:
        context.device.attributes.update(fields)
    return bool(fields)


def _device_fields(source: dict[str, Any]) -> dict[str, Any]:
    return {name: source[name] for name in DEVICE_FIELDS if source.get(name) is not None}


def _apply_sets(context: UserActionContext, user: User) -> None:
    for name, value in context.mapping("userAttributeValuesToAdd").items():
        _add_missing(_set_members(user, name), as_list(value))
    for name, value in context.mapping("userAttributeValuesToRemove").items():
        members = _set_members(user, name)
        removed = as_list(value)
        members[:] = [member for member in members if member not in removed]


def _set_members(user: User, name: str) -> list[Any]:
    """Return the set of this name, created from the attribute's value if there is one."""
    if name not in user.sets:
        value = user.attributes.pop(name, [])
        user.sets[name] = list(value) if isinstance(value, list) else [value]
    return user.sets[name]


def _apply_increments(context: UserActionContext, user: User) -> None:
    """Increment integers by integers, skip others; a missing attribute is 0 (fact sheet §3.4)."""
    for name, step in context.mapping("userAttributeValuesToIncrement").items():
        value = user.attributes.get(name, 0)
        if type(step) is int and type(value) is int:
            user.attributes[name] = value + step


def _check(context: UserActionContext) -> None:
    maps = ("ToAdd", "ToRemove", "ToIncrement")
    for name in ("userAttributes", *(f"userAttributeValues{suffix}" for suffix in maps)):
        context.mapping(name)
    for name in NUMBER_FIELDS:
        context.number(name, 0.0)
    for entry in _devices(context):
        if not isinstance(entry, dict) or not _is_id_or_absent(entry.get("deviceId")):
            raise context.invalid("devices")


def _is_id_or_absent(value: Any) -> bool:
    return value in (None, "") or bool(text(value))


def _devices(context: UserActionContext) -> list[Any]:
    return as_list(context.item.get("devices") or [])


def _apply_devices(context: UserActionContext, user: User) -> None:
    """Set devices; one without an id is kept too (fact sheet §12.5), but only once (I)."""
    for entry in _devices(context):
        device_id, fields = text(entry.get("deviceId")), _device_fields(entry)
        if device_id:
            context.world.link(device_id, user).attributes.update(fields)
        elif fields not in user.nameless_devices:
            user.nameless_devices.append(fields)


def _apply_unsubscriptions(context: UserActionContext, user: User) -> None:
    for name, current in (
        ("unsubscribeCategories", user.unsubscribed_categories),
        ("unsubscribeChannels", user.unsubscribed_channels),
    ):
        _add_missing(current, _texts(context.item.get(f"{name}ToAdd")))
        removed = _texts(context.item.get(f"{name}ToRemove"))
        current[:] = [member for member in current if member not in removed]


def _add_missing(members: list[Any], added: Iterable[Any]) -> None:
    for member in added:
        if member not in members:
            members.append(member)


def _texts(value: Any) -> list[str]:
    return [] if value in (None, "") else [text(member) for member in as_list(value)]


def _parse_counters(context: UserActionContext, kind: str) -> Counters:
    """Parse the counters of a kind, `event` or `state`. Raises Refused before anything changes."""
    return {
        name: _parse_counter(context, kind, name, given)
        for name, given in context.mapping(f"{kind}s").items()
    }


def _parse_counter(
    context: UserActionContext, kind: str, name: str, given: Any
) -> dict[str, float]:
    """Parse one counter; ISO times are refused at HTTP 200, as recorded."""
    if not isinstance(given, dict):
        raise context.invalid(f"{kind}s")
    counter: dict[str, float] = {}
    for field in _COUNTER_FIELDS:
        if given.get(field) is None:
            continue
        value = number(given[field])
        if value is None:
            message = context.texts.invalid_counter.format(kind=kind, name=name, field=field)
            raise Refused(message, 200)
        counter[field] = value
    return counter


def _apply_counters(tallies: dict[str, Tally], counters: Counters) -> None:
    for name, counter in counters.items():
        tally = tallies.setdefault(name, Tally())
        tally.count = int(counter.get("count", tally.count) + counter.get("countIncrement", 0))
        if "value" in counter or "valueIncrement" in counter:
            value = counter.get("value", tally.value or 0.0)
            tally.value = value + counter.get("valueIncrement", 0.0)
        tally.first_time = counter.get("firstTime", tally.first_time)
        tally.last_time = counter.get("lastTime", tally.last_time)
