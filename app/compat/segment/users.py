"""Messages about users: identify, group, alias. Pure."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from app.compat.segment import plain_values
from app.compat.segment.message import ATTRIBUTES, Fields, Making, first_text, object_of, whom
from app.errors import Fault, Invalid


def _login(making: Making) -> Fields:
    """The same for identify: with both ids, the anonymous user becomes the known one, or is merged
    into it.

    It waits behind the known user's items, so that no later one makes the device that user's before
    the merge; earlier ones of the device that come later are the known user's as well, since
    Leanplum infers the user of a device.
    """
    user, anonymous = (
        plain_values.whose(making.message.get("userId")),
        plain_values.whose(making.message.get("anonymousId")),
    )
    if not (making.rules.login and user and anonymous):
        return whom(making)
    if making.rules.anonymous == "user":
        return {"userId": anonymous, "newUserId": user}
    if (device := plain_values.device_id(anonymous)) is None:
        return {"userId": user}
    making.subject = f"u{user}"
    return {"deviceId": device, "newUserId": user}


def _country(found: Any) -> str | None:
    return found.upper() if isinstance(found, str) and re.fullmatch("[A-Za-z]{2}", found) else None


def _words(found: Any) -> str | None:
    return found if isinstance(found, str) and found else None


Fits = Callable[[Any], Any]
PARAMETERS: tuple[tuple[str, Fits, tuple[str, ...], tuple[str, ...]], ...] = (
    # Leanplum's parameter, what fits it, the traits it may be, then where it may be in the context
    ("created", plain_values.moment, ("createdAt", "created_at"), ()),
    ("country", _country, ("address.country", "country"), ("location.country",)),
    ("region", _words, ("address.state", "address.region", "region"), ("location.region",)),
    ("city", _words, ("address.city", "city"), ("location.city",)),
    ("locale", _words, ("locale",), ("locale",)),
    ("timezone", _words, ("timezone",), ("timezone",)),
)


def identify(making: Making) -> Fields:
    whom = _login(making)
    beneath, traits = (
        object_of(making.context, "traits", "/context"),
        object_of(making.message, "traits"),
    )
    attributes = making.flat(ATTRIBUTES, {**beneath, **traits})
    fields = whom | _parameters(making, attributes)
    devices = _devices(making.context, whom.get("deviceId"))
    return fields | {ATTRIBUTES: attributes} | ({"devices": devices} if devices else {})


def _parameters(making: Making, traits: Fields) -> Fields:
    """What has a parameter of its own; it is taken out of the traits."""
    fields: Fields = {}
    context = making.context
    placed: Fields = {
        name: context[name] for name in ("location", "locale", "timezone") if name in context
    }
    left = making.left("", plain_values.flattened(placed, []))
    around = (
        {name: plain_values.value(one) for name, one in left.items()}
        if isinstance(left, dict)
        else {}
    )
    for parameter, fits, named, beside in PARAMETERS:
        fields |= _first(parameter, fits, traits, named, take=True) or _first(
            parameter, fits, around, beside, take=False
        )
    latitude, longitude = (
        plain_values.number(around.get(f"location.{name}")) for name in ("latitude", "longitude")
    )
    if latitude is not None and longitude is not None:
        fields["location"] = f"{latitude},{longitude}"
    return fields


def _first(
    parameter: str, fits: Fits, among: Fields, names: Iterable[str], *, take: bool
) -> Fields:
    for name in names:
        if (found := fits(among.get(name))) is not None:
            if take:
                del among[name]
            return {parameter: found}
    return {}


DEVICE: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("appVersion", (("app", "version"), ("app", "build"))),
    ("systemName", (("os", "name"),)),
    ("systemVersion", (("os", "version"),)),
    ("deviceModel", (("device", "model"),)),
    ("deviceName", (("device", "name"),)),
)
TOKENS = {"ios": "iosPushToken", "android": "gcmRegistrationId"}


def _devices(context: Mapping[str, Any], device_id: str | None) -> list[Fields]:
    """What the context tells of the device, for what Leanplum knows of it."""
    if device_id is None:
        return []
    around = {
        name: context[name]
        for name in ("app", "os", "device")
        if isinstance(context.get(name), dict)
    }
    found: Fields = {}
    for parameter, places in DEVICE:
        told = next(
            (
                text
                for part, name in places
                if (text := plain_values.text_id(around.get(part, {}).get(name)))
            ),
            None,
        )
        found |= {parameter: plain_values.value(told)} if told else {}
    device = around.get("device", {})
    kind, token = first_text(device.get("type")).lower(), first_text(device.get("token"))
    if token and kind in TOKENS:
        found[TOKENS[kind]] = plain_values.value(token)
    return [{"deviceId": device_id, **found}] if found else []


def group(making: Making) -> Fields:
    group = plain_values.text_id(making.message.get("groupId"))
    if not group:
        raise Invalid((Fault("/groupId", "is required: the id of the group", "required"),))
    prefix = making.rules.group_prefix
    traits = {"id": group, **object_of(making.message, "traits")}
    told = {f"{prefix}{name}": one for name, one in traits.items()}
    return whom(making) | {ATTRIBUTES: making.flat(ATTRIBUTES, told)}


def alias(making: Making) -> Fields:
    """The previous id becomes the new one. It is a device's where it is the message's own
    anonymousId.
    """
    message = making.message
    user, anonymous = (
        plain_values.whose(message.get("userId")),
        plain_values.whose(message.get("anonymousId")),
    )
    previous = plain_values.whose(message.get("previousId")) or anonymous
    if not user or not previous:
        raise Invalid((Fault("", "previousId and userId are required", "required"),))
    if (
        previous == anonymous
        and making.rules.anonymous == "device"
        and (device := plain_values.device_id(previous))
    ):
        making.subject = f"u{user}"
        return {"deviceId": device, "newUserId": user}
    return {"userId": previous, "newUserId": user}
