"""Holding what callers sent against the rules. Pure: bytes or values in, items or faults out.

Good bodies take one pass through pydantic's core. Only when that finds a fault is the body read again, item by item,
so that each fault gets its pointer and its sentence, and no item is harmed by its neighbour.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from app.errors import Fault, Invalid
from app.intake.shapes import Batch, Event, State, StateItem, TrackItem, UserUpdate, UserUpdateItem
from app.intake.values import TAKES
from app.model import NewItem, Scope

MAX_FAULTS = 100


@dataclass(frozen=True, slots=True)
class Action:
    """What the gateway knows of one action: how its items look alone and in a batch, and who may send it."""

    name: str
    scope: Scope
    alone: TypeAdapter[Any]
    in_batch: TypeAdapter[Any]


ACTIONS = {
    action.name: action
    for action in (
        Action("track", Scope.EVENTS_WRITE, TypeAdapter(Event), TypeAdapter(TrackItem)),
        Action("setUserAttributes", Scope.USERS_WRITE, TypeAdapter(UserUpdate), TypeAdapter(UserUpdateItem)),
        Action("advance", Scope.EVENTS_WRITE, TypeAdapter(State), TypeAdapter(StateItem)),
    )
}
BATCH: TypeAdapter[Any] = TypeAdapter(Batch)
WITHOUT_CONTENT = frozenset({"id", "action", "userId", "deviceId", "time", "createDisposition"})


def item(action: str, fields: dict[str, Any]) -> NewItem:
    """The item that checked `fields` make. Raises Invalid for what no shape can say."""
    own_id = fields.pop("id", None)
    fields.pop("action", None)
    if (user := fields.get("userId")) is not None:
        subject = "u" + user
    elif (device := fields.get("deviceId")) is not None:
        subject = "d" + device
    else:
        raise Invalid((Fault("", "needs userId or deviceId: whom is it about?", "missing-subject"),))
    for check in CHECKS.get(action, ()):
        if (fault := check(fields)) is not None:
            raise Invalid((fault,))
    return NewItem(subject, action, orjson.dumps(fields).decode(), own_id)


def _event_named(fields: Mapping[str, Any]) -> Fault | None:
    """An empty event is how Leanplum is told of a message sent or seen (fact sheet, track)."""
    if fields["event"] or "messageId" in fields:
        return None
    return Fault("/event", "may be empty only with messageId", "empty-event")


def _changes_something(fields: Mapping[str, Any]) -> Fault | None:
    if fields.keys() - WITHOUT_CONTENT:
        return None
    return Fault("", "changes nothing: give userAttributes or another field to set", "empty-update")


CHECKS: dict[str, tuple[Callable[[Mapping[str, Any]], Fault | None], ...]] = {
    "track": (_event_named,),
    "setUserAttributes": (_changes_something,),
}


def single(action: str, raw: Any, base: str = "", *, batched: bool = False) -> NewItem:
    """One item of `action` from parsed JSON. Raises Invalid with every fault; pointers start with `base`."""
    adapter = ACTIONS[action].in_batch if batched else ACTIONS[action].alone
    try:
        return item(action, adapter.validate_python(raw))
    except ValidationError as error:
        faults = [*_faults(error, raw)]
        if isinstance(raw, dict) and not raw.keys() & {"userId", "deviceId"}:
            faults.append(Fault("", "needs userId or deviceId: whom is it about?", "missing-subject"))
    except Invalid as error:
        faults = [*error.faults]
    raise Invalid(tuple(Fault(base + fault.pointer, fault.detail, fault.code) for fault in faults[:MAX_FAULTS]))


def of_any_action(raw: Any, base: str = "") -> NewItem:
    """One item of a batch from parsed JSON. Raises Invalid with every fault; pointers start with `base`."""
    if not isinstance(raw, dict):
        raise Invalid((Fault(base, "takes an object", "type"),))
    action = raw.get("action")
    if not isinstance(action, str) or action not in ACTIONS:
        raise Invalid((Fault(base + "/action", f"takes one of {', '.join(ACTIONS)}", "unknown-action"),))
    return single(action, raw, base, batched=True)


def fast_single(action: str, body: bytes, given: Mapping[str, str]) -> NewItem | None:
    """The item that a good body makes; None where anything is wrong and the body must be read again with care."""
    try:
        fields = ACTIONS[action].alone.validate_json(body)
        if any(fields.setdefault(name, value) != value for name, value in given.items()):
            return None
        return item(action, fields)
    except (ValidationError, Invalid):
        return None


def fast_batch(body: bytes) -> list[NewItem] | None:
    """The items that a good batch makes; None where anything is wrong and it must be read again with care."""
    try:
        checked: list[dict[str, Any]] = BATCH.validate_json(body)["items"]
        return [item(fields["action"], fields) for fields in checked]
    except (ValidationError, Invalid):
        return None


def _faults(error: ValidationError, raw: Any) -> Iterator[Fault]:
    """pydantic's findings, one for each place in the body, in our words, and without the values."""
    seen = set()
    for found in error.errors(include_url=False, include_input=False):
        place = _pointer(found["loc"], raw, missing=found["type"] == "missing")
        if place not in seen:
            seen.add(place)
            yield Fault(place, _sentence(found), _CODES.get(found["type"], "type"))


def _pointer(loc: Sequence[str | int], raw: Any, *, missing: bool) -> str:
    """The JSON Pointer of a finding: the part of its path that is in the body; the rest names our types."""
    parts, at = [], raw
    for step in loc:
        inside = isinstance(at, dict) and step in at
        if not inside and not (isinstance(at, list) and isinstance(step, int) and step < len(at)):
            if missing:
                parts.append(str(step))
            break
        parts.append(str(step))
        at = at[step]
    return pointer(parts)


def pointer(parts: Sequence[str]) -> str:
    """A JSON Pointer (RFC 6901). What is no Unicode text in a key of the body is replaced by "?"."""
    made = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
    return made.encode("utf-8", "replace").decode()


_CODES = {
    "missing": "required",
    "extra_forbidden": "unknown-field",
    "string_pattern_mismatch": "characters",
    "string_too_short": "length",
    "string_too_long": "length",
    "too_long": "count",
    "literal_error": "choice",
    "zero_id": "zero-id",
    "time": "time",
    "finite_number": "range",
    "less_than": "range",
    "greater_than_equal": "range",
    "string_unicode": "characters",
}
_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda ctx: "is required",
    "extra_forbidden": lambda ctx: "is not a field here; check its spelling",
    "string_pattern_mismatch": lambda ctx: TAKES[ctx["pattern"]],
    "string_too_short": lambda ctx: "must not be empty",
    "string_too_long": lambda ctx: f"takes at most {ctx['max_length']} characters",
    "too_long": lambda ctx: f"takes at most {ctx['max_length']} entries",
    "literal_error": lambda ctx: f"takes {ctx['expected']}",
    "finite_number": lambda ctx: "takes a finite number",
    "less_than": lambda ctx: "is too large: whole numbers have at most 64 bits",
    "greater_than_equal": lambda ctx: f"must not be less than {ctx['ge']}",
    "string_type": lambda ctx: "takes text, or one of the types in the documentation",
    "string_unicode": lambda ctx: "is not Unicode text: it has a lone surrogate",
    "int_type": lambda ctx: "takes a whole number",
    "float_type": lambda ctx: "takes a number",
    "bool_type": lambda ctx: "takes true or false",
    "dict_type": lambda ctx: "takes an object",
    "list_type": lambda ctx: "takes a list",
}


def _sentence(found: Any) -> str:
    made = _SENTENCES.get(found["type"])
    return made(found.get("ctx", {})) if made else str(found["msg"])
