"""Holding what callers sent against the rules. Pure: bytes or values in, items or faults out.

Good bodies take one pass through pydantic's core. Only when that finds a fault is the body read
again, item by item, so that each fault gets its pointer and its sentence, and no item is harmed by
its neighbour.
"""

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Any, Literal, Required, Union

import orjson
from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from app.errors import Fault, Invalid
from app.ingest.json_pointers import as_sent
from app.ingest.json_pointers import pointer as pointer
from app.ingest.ports import PLAIN, Refiner, told
from app.leanplum.actions import LATER, About
from app.leanplum.actions import Action as Known
from app.leanplum.values import INT_LIMIT, TAKES, TOO_LARGE
from app.model import NO_NOTES, KeyKind, NewItem, Notes, Scope

MAX_FAULTS = 100


@dataclass(frozen=True, slots=True)
class Action:
    """An action that is accepted for later: who may send it, and how its items look alone and in a
    batch.
    """

    name: str
    scope: Scope
    key: KeyKind
    about: About
    check: Callable[[Mapping[str, Any]], Fault | None]
    alone: TypeAdapter[Any]
    in_batch: TypeAdapter[Any]


def _in_batch(action: Known) -> Any:
    """The shape of an item in a batch: as alone, and it says what it is."""
    name = f"{action.name[0].upper()}{action.name[1:]}Item"
    says = {"__annotations__": {"action": Required[Literal[action.name]]}}
    made: Any = types.new_class(
        name, (action.shape,), {"total": False}, lambda body: body.update(says)
    )
    made.__doc__ = f"`{action.name}`, in a batch."
    made.__pydantic_config__ = ConfigDict(extra="forbid")
    return made


SHAPES: dict[str, Any] = {name: _in_batch(action) for name, action in LATER.items()}
BatchItem: Any = Annotated[Union[tuple(SHAPES.values())], Field(discriminator="action")]  # noqa: UP007
ACTIONS = {
    name: Action(
        name,
        known.scope,
        known.key,
        known.about,
        known.check,
        TypeAdapter(known.shape),
        TypeAdapter(SHAPES[name]),
    )
    for name, known in LATER.items()
}


class Batch(TypedDict):
    """Items of any of the actions, mixed."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {"action": "track", "userId": "user-1", "event": "Purchase", "value": 9.99},
                        {
                            "action": "setUserAttributes",
                            "userId": "user-1",
                            "userAttributes": {"plan": "pro"},
                        },
                        {"action": "advance", "userId": "user-1", "state": "Checkout"},
                    ]
                }
            ]
        },
    )
    # With the first fault a batch is read again, item by item
    items: Annotated[list[BatchItem], FailFast()]


BATCH: TypeAdapter[Any] = TypeAdapter(Batch)


def item(
    action: str, fields: dict[str, Any], refiner: Refiner = PLAIN, notes: Notes = NO_NOTES
) -> NewItem:
    """The item that checked and refined `fields` make. Raises Invalid for what no shape can say."""
    own_id = fields.pop("id", None)
    fields.pop("action", None)
    known = ACTIONS[action]
    subject = subject_of(fields)
    if subject is None or known.check(fields) is not None:
        raise Invalid(tuple(_beside(action, fields)))
    notes = refiner.judge(action, fields, notes)
    # One content, one text: it will be compared
    sorting = orjson.OPT_SORT_KEYS if own_id is not None else None
    body = orjson.dumps(fields, option=sorting).decode()
    if notes is NO_NOTES:
        # Half the price of NewItem(…)
        return tuple.__new__(NewItem, (subject, action, body, own_id, None, None))
    content = _as_said(fields, notes) if own_id is not None and notes.said else None
    return NewItem(subject, action, body, own_id, told(notes), content)


def _as_said(fields: Mapping[str, Any], notes: Notes) -> str:
    """What a repeat will say again, whenever and from wherever it is sent."""
    said = {name: value for name, value in {**fields, **notes.said}.items() if value is not None}
    return orjson.dumps(said, option=orjson.OPT_SORT_KEYS).decode()


def subject_of(fields: Mapping[str, Any]) -> str | None:
    """Whom an item is about, as Leanplum locks it; None where nobody is named."""
    if (user := fields.get("userId")) is not None:
        return f"u{user}"
    device = fields.get("deviceId")
    return None if device is None else f"d{device}"


def _beside(action: str, fields: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong beside the single fields."""
    known = ACTIONS[action]
    if LATER[action].required <= fields.keys() and (fault := known.check(fields)) is not None:
        yield fault
    if subject_of(fields) is None and known.about is not About.DEVICE:
        yield Fault("", "needs userId or deviceId: whom is it about?", "missing-subject")


def checked(adapter: TypeAdapter[Any], raw: Any) -> dict[str, Any]:
    """Parsed JSON as the adapter's shape. Raises Invalid with every fault."""
    try:
        fields: dict[str, Any] = adapter.validate_python(raw)
    except ValidationError as error:
        raise Invalid(tuple(islice(_faults(error, raw), MAX_FAULTS))) from None
    return fields


def single(
    action: str,
    raw: Any,
    base: str = "",
    *,
    refiner: Refiner = PLAIN,
    batched: bool = False,
    faults: Sequence[Fault] = (),
) -> NewItem:
    """One item of `action` from parsed JSON, which is refined. Raises Invalid with every fault,
    those given too; pointers start with `base`, and lead into `raw` as it was before it was
    refined.
    """
    adapter = ACTIONS[action].in_batch if batched else ACTIONS[action].alone
    fields: Any = raw if isinstance(raw, dict) else {}
    notes = refiner.refine(action, fields)
    found = [*faults]
    try:
        fields = adapter.validate_python(raw)
    except ValidationError as error:
        found += islice(_faults(error, raw), MAX_FAULTS)
    if isinstance(raw, dict):
        found += _beside(action, fields)
    try:
        if not found:
            return item(action, fields, refiner, notes)
    except Invalid as error:
        found += error.faults
    sent = (as_sent(fault, notes.moved) for fault in found[:MAX_FAULTS])
    raise Invalid(tuple(replace(fault, pointer=base + fault.pointer) for fault in sent))


def of_any_action(raw: Any, base: str = "", refiner: Refiner = PLAIN) -> NewItem:
    """One item of a batch from parsed JSON. Raises Invalid with every fault; pointers start with
    `base`.
    """
    if not isinstance(raw, dict):
        raise Invalid((Fault(base, "takes an object", "type"),))
    action = raw.get("action")
    if not isinstance(action, str) or action not in ACTIONS:
        raise Invalid(
            (Fault(base + "/action", f"takes one of {', '.join(ACTIONS)}", "unknown-action"),)
        )
    return single(action, raw, base, refiner=refiner, batched=True)


def fast_single(action: str, body: bytes, refiner: Refiner = PLAIN) -> NewItem | None:
    """The item that a good body makes; None where anything is wrong and the body must be read again
    with care.
    """
    try:
        fields = ACTIONS[action].alone.validate_json(body)
        notes = refiner.refine(action, fields)
        if notes.reshaped:  # what the refiner made anew is held against the rules as well
            fields = ACTIONS[action].alone.validate_python(fields)
        return item(action, fields, refiner, notes)
    except (ValidationError, Invalid):
        return None


def fast_batch(body: bytes, refiner: Refiner = PLAIN) -> list[NewItem] | None:
    """The items that a good batch makes; None where anything is wrong and it must be read again
    with care.
    """
    try:
        checked: list[dict[str, Any]] = BATCH.validate_json(body)["items"]
        return [
            item(one["action"], one, refiner, notes)
            if not (notes := refiner.refine(one["action"], one)).reshaped
            else _again(one, refiner, notes)
            for one in checked
        ]
    except (ValidationError, Invalid):
        return None


def _again(fields: dict[str, Any], refiner: Refiner, notes: Notes) -> NewItem:
    """The item of a batch that the refiner made anew, which is held against the rules as well."""
    action = fields["action"]
    return item(action, ACTIONS[action].in_batch.validate_python(fields), refiner, notes)


def _faults(error: ValidationError, raw: Any) -> Iterator[Fault]:
    """pydantic's findings, one for each place in the body, in our words, and without the values."""
    places: dict[tuple[str, ...], list[Any]] = {}
    for found in error.errors(include_url=False, include_input=False):
        inside = (str(step) for step in found.get("ctx", {}).get("at", ()))
        place = (*_place(found["loc"], raw, missing=found["type"] == "missing"), *inside)
        places.setdefault(place, []).append(found)
    above = {place[:length] for place in places for length in range(len(place))}
    for place, findings in places.items():
        # Else this only says that a value is none of the types it might have been
        if place not in above:
            yield _fault(place, findings)


def _fault(place: tuple[str, ...], findings: Sequence[Any]) -> Fault:
    """One fault of what was found at one place: what is said of a value beats what is said of its
    type.
    """
    names = {found["type"] for found in findings}
    of_value = [found for found in findings if found["type"] not in _TYPES]
    # "" as an alternative to a name says nothing
    if of_value and not ({"string_type", "literal_error"} <= names):
        first = of_value[0]
        return Fault(pointer(place), _sentence(first), _CODES.get(first["type"], "type"))
    if "float_type" in names:
        names.discard("int_type")
    takes = [_TYPES[name] for name in _TYPES if name in names]
    return Fault(
        pointer(place),
        f"takes {', '.join(takes[:-1])}{' or ' if takes[1:] else ''}{takes[-1]}",
        "type",
    )


def _place(loc: Sequence[str | int], raw: Any, *, missing: bool) -> tuple[str, ...]:
    """Where a finding is: the steps of its path that are in the body; the others name our types."""
    parts: list[str] = []
    at = raw
    for step in loc:
        if (isinstance(at, dict) and step in at) or (
            isinstance(at, list) and isinstance(step, int) and step < len(at)
        ):
            parts.append(str(step))
            at = at[step]  # type: ignore[index]  # one of the two kinds above
    if missing:
        parts.append(str(loc[-1]))
    return tuple(parts)


_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "none_required": "null",
}
_CODES = {
    "missing": "required",
    "extra_forbidden": "unknown-field",
    "string_pattern_mismatch": "characters",
    "string_too_short": "length",
    "string_too_long": "length",
    "too_long": "count",
    "too_short": "count",
    "literal_error": "choice",
    "zero_id": "zero-id",
    "depth": "depth",
    "time": "time",
    "too_large": "range",
    "finite_number": "range",
    "less_than": "range",
    "greater_than_equal": "range",
    "less_than_equal": "range",
    "string_unicode": "characters",
}
_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda ctx: "is required",
    "extra_forbidden": lambda ctx: "is not a field here; check its spelling",
    "string_pattern_mismatch": lambda ctx: TAKES[ctx["pattern"]],
    "string_too_short": lambda ctx: "must not be empty",
    "string_too_long": lambda ctx: f"takes at most {ctx['max_length']} characters",
    "too_long": lambda ctx: f"takes at most {ctx['max_length']} entries",
    "too_short": lambda ctx: "must not be empty",
    "literal_error": lambda ctx: f"takes {ctx['expected']}",
    "finite_number": lambda ctx: "takes a finite number",
    "less_than": lambda ctx: TOO_LARGE,
    "greater_than_equal": lambda ctx: (
        f"must not be less than {ctx['ge']}" if ctx["ge"] != -INT_LIMIT else TOO_LARGE
    ),
    "less_than_equal": lambda ctx: f"must not be more than {ctx['le']}",
    "string_unicode": lambda ctx: "is not Unicode text: it has a lone surrogate",
}


def _sentence(found: Any) -> str:
    made = _SENTENCES.get(found["type"])
    return made(found.get("ctx", {})) if made else str(found["msg"])
