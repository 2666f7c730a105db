"""Where in a message stands what a rule says of a field that was made of it. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from app.compat.segment import plain_values
from app.compat.segment.message import ATTRIBUTES, PARAMS, first_text
from app.compat.segment.users import DEVICE, PARAMETERS
from app.errors import Fault
from app.ingest.json_pointers import Path, parts, pointer
from app.ingest.segment_context import SegmentRules

Message = Mapping[str, Any]
SIMPLE = {"id": "messageId", "deviceId": "anonymousId", "newUserId": "userId"}
PLACES = {parameter: (traits, around) for parameter, _, traits, around in PARAMETERS}
WORTH = ("revenue", "value", "total")


def as_sent(fault: Fault, message: Any, common: Message, rules: SegmentRules) -> Fault:
    """Return a fault of the mapped fields with its pointer into the message, or into what its batch
    says for all.
    """
    path = parts(fault.pointer)
    if not path or not isinstance(message, dict):
        return fault
    whole = {
        **common,
        **message,
        "context": {**_object(common, "context"), **_object(message, "context")},
    }
    return replace(fault, pointer=pointer(_origin(path, whole, rules)))


def _origin(path: Path, message: Message, rules: SegmentRules) -> Path:
    name, rest = path[0], path[1:]
    if name == PARAMS:
        return _of_param(rest, message)
    if name == ATTRIBUTES:
        return _of_attribute(rest, message, rules)
    if name == "state":
        return _of_state(message)
    if name == "time":
        return (
            next(
                one
                for one in ("timestamp", "originalTimestamp", "time")
                if one in message or one == "time"
            ),
        )
    if name == "value":
        properties = _object(message, "properties")
        return (
            "properties",
            *(one for one in WORTH if plain_values.number(properties.get(one)) is not None),
        )[:2]
    if name == "currencyCode":
        return ("properties", "currency")
    if name in PLACES:
        return _of_parameter(name, message)
    if name == "devices":
        return _of_device(rest)
    return (SIMPLE.get(name, name), *rest)


def _of_param(rest: Path, message: Message) -> Path:
    """Return the place of a param: a property, the category, or what the context has of the
    page.
    """
    if not rest:
        return ("properties",)
    if (found := _found(_object(message, "properties"), rest[0])) is not None:
        return ("properties", *found, *rest[1:])
    if rest[0] == "category" and "category" in message:
        return ("category",)
    if rest[0] in _object(_object(message, "context"), "page"):
        return ("context", "page", *rest)
    return ("properties", *rest)


def _of_attribute(rest: Path, message: Message, rules: SegmentRules) -> Path:
    """Return the place of a user attribute: a trait, here or in the context; a group's has a
    prefix.
    """
    if not rest:
        return ("traits",)
    traits = _object(message, "traits")
    if message.get("type") == "group":
        prefixed = {
            f"{rules.group_prefix}{name}": one for name, one in {"id": None, **traits}.items()
        }
        found = _found(prefixed, rest[0])
        if found is None:
            return ("traits", *rest)
        own = (found[0].removeprefix(rules.group_prefix), *found[1:])
        return (
            ("groupId",) if own == ("id",) and "id" not in traits else ("traits", *own, *rest[1:])
        )
    if (found := _found(traits, rest[0])) is not None:
        return ("traits", *found, *rest[1:])
    beneath = _object(_object(message, "context"), "traits")
    if (found := _found(beneath, rest[0])) is not None:
        return ("context", "traits", *found, *rest[1:])
    return ("traits", *rest)


def _of_state(message: Message) -> Path:
    places: tuple[Path, ...] = (
        ("name",),
        ("properties", "name"),
        ("event",),
        ("category",),
        ("properties", "category"),
    )
    for place in places:
        of = message if len(place) == 1 else _object(message, place[0])
        if first_text(of.get(place[-1])):
            return place
    return ("name",)


def _of_parameter(name: str, message: Message) -> Path:
    """Return the place of a parameter of the user: a trait, here or in the context, or the context
    itself.
    """
    traits, around = PLACES[name]
    context = _object(message, "context")
    for home, nested, names in (
        (("traits",), _object(message, "traits"), traits),
        (("context", "traits"), _object(context, "traits"), traits),
        (("context",), context, around),
    ):
        for one in names:
            if (found := _found(nested, one)) is not None:
                return (*home, *found)
    return ("traits", name)


def _of_device(rest: Path) -> Path:
    field = rest[-1] if rest else ""
    if field == "deviceId":
        return ("anonymousId",)
    places = dict(DEVICE).get(field, ())
    return ("context", *places[0]) if places else ("context", "device")


def _found(nested: Message, wanted: str) -> Path | None:
    """Return where the value stands that has this name once it is flattened."""
    return next(
        (path for path in _paths(nested, ()) if plain_values.name(".".join(path)) == wanted), None
    )


def _paths(nested: Message, above: Path) -> Iterator[Path]:
    for name, inner in nested.items():
        if isinstance(inner, dict):
            yield from _paths(inner, (*above, name))
        else:
            yield (*above, name)


def _object(of: Message, name: str) -> Message:
    found = of.get(name)
    return found if isinstance(found, dict) else {}
