"""Translation of pointers into mapped fields to pointers into the message. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from app.compat.segment import plain_values
from app.compat.segment.mapping import (
    ATTRIBUTES,
    DEVICE_PARAMETERS,
    PARAMS,
    USER_PARAMETERS,
    VALUE_PROPERTIES,
    first_text,
)
from app.errors import Fault
from app.ingest import (
    Path,
    SegmentRules,
    parts,
    pointer,
)

Message = Mapping[str, Any]
MESSAGE_FIELDS = {"id": "messageId", "deviceId": "anonymousId", "newUserId": "userId"}
_USER_PARAMETERS = {parameter.name: parameter for parameter in USER_PARAMETERS}
_DEVICE_PATHS = {parameter.name: parameter.paths[0] for parameter in DEVICE_PARAMETERS}


def locate_fault(fault: Fault, message: Any, common: Message, rules: SegmentRules) -> Fault:
    """Return a fault of mapped fields with a pointer into the message or its common fields."""
    path = parts(fault.pointer)
    if not path or not isinstance(message, dict):
        return fault
    context = {**_get_object(common, "context"), **_get_object(message, "context")}
    whole = {**common, **message, "context": context}
    return replace(fault, pointer=pointer(_locate(path, whole, rules)))


def _locate(path: Path, message: Message, rules: SegmentRules) -> Path:
    name, rest = path[0], path[1:]
    if name == PARAMS:
        return _locate_param(rest, message)
    if name == ATTRIBUTES:
        return _locate_attribute(rest, message, rules)
    if name == "state":
        return _locate_state(message)
    if name == "time":
        names = ("timestamp", "originalTimestamp")
        return (next((field for field in names if field in message), "time"),)
    if name == "value":
        return _locate_value(_get_object(message, "properties"))
    if name == "currencyCode":
        return ("properties", "currency")
    if name in _USER_PARAMETERS:
        return _locate_user_parameter(name, message)
    if name == "devices":
        return _locate_device_parameter(rest)
    return (MESSAGE_FIELDS.get(name, name), *rest)


def _locate_value(properties: Message) -> Path:
    for name in VALUE_PROPERTIES:
        if plain_values.to_number(properties.get(name)) is not None:
            return ("properties", name)
    return ("properties",)


def _locate_param(rest: Path, message: Message) -> Path:
    """Return the path of a param: a property, the category, or a field of the context's page."""
    if not rest:
        return ("properties",)
    path = _find_path(_get_object(message, "properties"), rest[0])
    if path is not None:
        return ("properties", *path, *rest[1:])
    if rest[0] == "category" and "category" in message:
        return ("category",)
    if rest[0] in _get_object(_get_object(message, "context"), "page"):
        return ("context", "page", *rest)
    return ("properties", *rest)


def _locate_attribute(rest: Path, message: Message, rules: SegmentRules) -> Path:
    """Return the path of a user attribute: a trait, of the message or of its context."""
    if not rest:
        return ("traits",)
    traits = _get_object(message, "traits")
    if message.get("type") == "group":
        return _locate_group_trait(rest, traits, rules.group_prefix)
    path = _find_path(traits, rest[0])
    if path is not None:
        return ("traits", *path, *rest[1:])
    path = _find_path(_get_object(_get_object(message, "context"), "traits"), rest[0])
    if path is not None:
        return ("context", "traits", *path, *rest[1:])
    return ("traits", *rest)


def _locate_group_trait(rest: Path, traits: Message, prefix: str) -> Path:
    """Return the path of a trait of a group, which has a prefix, or of the group's id."""
    prefixed = {f"{prefix}{name}": value for name, value in {"id": None, **traits}.items()}
    path = _find_path(prefixed, rest[0])
    if path is None:
        return ("traits", *rest)
    own_path = (path[0].removeprefix(prefix), *path[1:])
    if own_path == ("id",) and "id" not in traits:
        return ("groupId",)
    return ("traits", *own_path, *rest[1:])


def _locate_state(message: Message) -> Path:
    paths: tuple[Path, ...] = (
        ("name",),
        ("properties", "name"),
        ("event",),
        ("category",),
        ("properties", "category"),
    )
    for path in paths:
        parent = message if len(path) == 1 else _get_object(message, path[0])
        if first_text(parent.get(path[-1])):
            return path
    return ("name",)


def _locate_user_parameter(name: str, message: Message) -> Path:
    """Return the path of a user's parameter: a trait, or a field of the context."""
    parameter = _USER_PARAMETERS[name]
    context = _get_object(message, "context")
    sources: tuple[tuple[Path, Message, tuple[str, ...]], ...] = (
        (("traits",), _get_object(message, "traits"), parameter.traits),
        (("context", "traits"), _get_object(context, "traits"), parameter.traits),
        (("context",), context, parameter.context),
    )
    for base, fields, flat_names in sources:
        for flat_name in flat_names:
            path = _find_path(fields, flat_name)
            if path is not None:
                return (*base, *path)
    return ("traits", name)


def _locate_device_parameter(rest: Path) -> Path:
    field = rest[-1] if rest else ""
    if field == "deviceId":
        return ("anonymousId",)
    return ("context", *_DEVICE_PATHS.get(field, ("device",)))


def _find_path(nested: Message, flat_name: str) -> Path | None:
    """Return the path of the value that has this name after flattening."""
    paths = _find_leaf_paths(nested, ())
    return next((path for path in paths if plain_values.to_name(".".join(path)) == flat_name), None)


def _find_leaf_paths(nested: Message, parent: Path) -> Iterator[Path]:
    for name, inner in nested.items():
        if isinstance(inner, dict):
            yield from _find_leaf_paths(inner, (*parent, name))
        else:
            yield (*parent, name)


def _get_object(parent: Message, name: str) -> Message:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}
