"""Validation of what callers send. Pure: bytes or values in, items or faults out.

A valid body takes one pass through pydantic's core. Only a body in which that finds a fault is read
again, item by item, so that each fault gets its pointer and its sentence, and an invalid item does
not affect the others.

`ItemSteps` are the steps around validation. An object of them is made for each call, because what
it works with (the caller, the app, the clock, the end user's address) belongs to the call:

- A valid body is validated, then enriched, then checked.
- A body with a fault is read again: enriched first, because enrichment may correct the fault, then
  validated for all its faults. If it has none, it is checked.
"""

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Any, Literal, Protocol, Required, Union

import orjson
from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from app import suggestions
from app.errors import Fault, Invalid
from app.ingest.event_names import NAME_FIELDS
from app.ingest.faults import MAX_FAULTS, as_sent, found_by
from app.leanplum.actions import ACCEPTED_ACTIONS, About, Action
from app.leanplum.values import Text, Time, described
from app.model import NO_NOTES, KeyKind, NewItem, Notes, Scope

# Item fields that only enrichment reads; they are neither stored nor sent on.
ENRICHMENT_FIELDS: dict[str, TypeAdapter[Any]] = {
    "sentAt": TypeAdapter(Time),
    "ip": TypeAdapter(Text),
    "userAgent": TypeAdapter(Text),
}
_NAMES = frozenset(ENRICHMENT_FIELDS)


def pop_enrichment_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Remove the valid enrichment fields from an item and return them.

    Invalid ones stay in the item, so that validation reports them.
    """
    if _NAMES.isdisjoint(fields):
        return {}
    removed: dict[str, Any] = {}
    for name, adapter in ENRICHMENT_FIELDS.items():
        if name not in fields:
            continue
        try:
            removed[name] = adapter.validate_python(fields[name])
        except ValidationError:
            continue
        del fields[name]
    return removed


class ItemSteps(Protocol):
    """The steps around validation, for the items of one call."""

    @property
    def has_checks(self) -> bool:
        """True when `check` does anything."""
        ...

    def enrich(self, action: str, fields: dict[str, Any]) -> Notes:
        """Enrich an item in place and return notes on what changed.

        `fields` is any JSON object, validated or not. Idempotent; raises nothing.
        """
        ...

    def check(self, action: str, fields: dict[str, Any], notes: Notes) -> Notes:
        """Check enriched fields that passed validation; return the notes with violations added.

        Raises Invalid when a violation is enforced.
        """
        ...


class NoSteps:
    """The steps of a call without enrichment and checks."""

    has_checks = False

    def enrich(self, action: str, fields: dict[str, Any]) -> Notes:
        """Remove the enrichment fields, which no later step knows."""
        pop_enrichment_fields(fields)
        return NO_NOTES

    def check(self, action: str, fields: dict[str, Any], notes: Notes) -> Notes:
        """Return the notes unchanged."""
        return notes


NO_STEPS = NoSteps()


def render_notes(notes: Notes) -> str | None:
    """Return the notes as the JSON text that a receipt shows; None when they are empty."""
    document: dict[str, Any] = {}
    if notes.time_correction:
        document["timeCorrection"] = {"seconds": notes.time_correction}
    enrichment: dict[str, Any] = {}
    if notes.steps:
        enrichment["steps"] = notes.steps
    if notes.warnings:
        enrichment["warnings"] = notes.warnings
    if enrichment:
        document["enrichment"] = enrichment
    if notes.violations:
        document["violations"] = [fault.document() for fault in notes.violations]
    return orjson.dumps(document).decode() if document else None


@dataclass(frozen=True, slots=True)
class QueuedAction:
    """An action whose items are queued: scope, key, and their shape, alone and in a batch."""

    name: str
    scope: Scope
    key: KeyKind
    about: About
    check: Callable[[Mapping[str, Any]], Fault | None]
    alone: TypeAdapter[Any]
    in_batch: TypeAdapter[Any]


def _in_batch(action: Action) -> Any:
    """Return the shape of an item in a batch: its shape alone, and the name of its action."""
    name = f"{action.name[0].upper()}{action.name[1:]}Item"
    name_of_action: Any = Annotated[Literal[action.name], described("Leanplum's action.")]
    annotations = {"__annotations__": {"action": Required[name_of_action]}}
    made: Any = types.new_class(
        name, (action.shape,), {"total": False}, lambda body: body.update(annotations)
    )
    made.__doc__ = f"`{action.name}`, in a batch."
    made.__pydantic_config__ = ConfigDict(extra="forbid")
    return made


SHAPES: dict[str, Any] = {name: _in_batch(action) for name, action in ACCEPTED_ACTIONS.items()}
_AnyShape: Any = Union[tuple(SHAPES.values())]  # noqa: UP007  # of a table
BatchItem: Any = Annotated[_AnyShape, Field(discriminator="action")]
ITEM_ACTIONS = {
    name: QueuedAction(
        name,
        scope=action.scope,
        key=action.key,
        about=action.about,
        check=action.check,
        alone=TypeAdapter(action.shape),
        in_batch=TypeAdapter(SHAPES[name]),
    )
    for name, action in ACCEPTED_ACTIONS.items()
}


EXAMPLE_ITEMS = [
    {"action": "track", "userId": "user-1", "event": "Purchase", "value": 9.99},
    {"action": "setUserAttributes", "userId": "user-1", "userAttributes": {"plan": "pro"}},
    {"action": "advance", "userId": "user-1", "state": "Checkout"},
]


class Batch(TypedDict):
    """A batch of items of any actions, mixed."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]  # for pydantic
        extra="forbid",
        json_schema_extra={"examples": [{"items": EXAMPLE_ITEMS}]},
    )
    # After the first fault a batch is read again, item by item
    items: Annotated[list[BatchItem], FailFast(), described("The items.", [EXAMPLE_ITEMS[0]])]


BATCH: TypeAdapter[Any] = TypeAdapter(Batch)


def item(
    action: str, fields: dict[str, Any], item_steps: ItemSteps = NO_STEPS, notes: Notes = NO_NOTES
) -> NewItem:
    """Return the item that validated and enriched `fields` make.

    Raises Invalid for rules that no shape can express, and for the tracking plan's.
    """
    own_id = fields.pop("id", None)
    fields.pop("action", None)
    known = ITEM_ACTIONS[action]
    subject = subject_of(fields)
    if subject is None or known.check(fields) is not None:
        raise Invalid(tuple(_joint_faults(action, fields)))
    notes = item_steps.check(action, fields, notes)
    # Equal contents need equal texts: a repeat of the id is compared with this one
    sorting = orjson.OPT_SORT_KEYS if own_id is not None else None
    body = orjson.dumps(fields, option=sorting).decode()
    event = fields.get(NAME_FIELDS.get(action, "")) or None  # a valid name, or an empty one
    if notes is NO_NOTES:
        # Takes half the time of NewItem(…)
        return tuple.__new__(NewItem, (subject, action, body, own_id, None, None, event))
    content = _as_repeated(fields, notes) if own_id is not None and notes.said else None
    return NewItem(subject, action, body, own_id, render_notes(notes), content, event)


def _as_repeated(fields: Mapping[str, Any], notes: Notes) -> str:
    """Return the content that is the same in each repeat, whenever and from wherever it is sent."""
    content = {name: value for name, value in {**fields, **notes.said}.items() if value is not None}
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS).decode()


def subject_of(fields: Mapping[str, Any]) -> str | None:
    """Return the subject of an item, as u<userId> or d<deviceId>; None if it names nobody."""
    if (user := fields.get("userId")) is not None:
        return f"u{user}"
    device = fields.get("deviceId")
    return None if device is None else f"d{device}"


def _joint_faults(action: str, fields: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults that concern more than one field."""
    known = ITEM_ACTIONS[action]
    if (
        ACCEPTED_ACTIONS[action].required <= fields.keys()
        and (fault := known.check(fields)) is not None
    ):
        yield fault
    if subject_of(fields) is None and known.about is not About.DEVICE:
        yield Fault("", "userId or deviceId is required", "missing-subject")


def checked(adapter: TypeAdapter[Any], raw: Any) -> dict[str, Any]:
    """Return parsed JSON in the adapter's shape. Raises Invalid with every fault."""
    try:
        fields: dict[str, Any] = adapter.validate_python(raw)
    except ValidationError as error:
        raise Invalid(tuple(islice(found_by(adapter, error, raw), MAX_FAULTS))) from None
    return fields


def single(
    action: str,
    raw: Any,
    base: str = "",
    *,
    item_steps: ItemSteps = NO_STEPS,
    batched: bool = False,
    faults: Sequence[Fault] = (),
) -> NewItem:
    """Return the item of `action` that parsed JSON makes; `raw` is enriched in place.

    Raises Invalid with every fault, including the given `faults`. Pointers start with `base`, and
    lead into `raw` as it was before it was enriched.
    """
    adapter = ITEM_ACTIONS[action].in_batch if batched else ITEM_ACTIONS[action].alone
    fields: Any = raw if isinstance(raw, dict) else {}
    notes = item_steps.enrich(action, fields)
    found = [*faults]
    try:
        fields = adapter.validate_python(raw)
    except ValidationError as error:
        found += islice(found_by(adapter, error, raw), MAX_FAULTS)
    if isinstance(raw, dict):
        found += _joint_faults(action, fields)
    try:
        if not found:
            return item(action, fields, item_steps, notes)
    except Invalid as error:
        found += error.faults
    sent = (as_sent(fault, notes.moved) for fault in found[:MAX_FAULTS])
    raise Invalid(tuple(replace(fault, pointer=base + fault.pointer) for fault in sent))


def of_any_action(raw: Any, base: str = "", item_steps: ItemSteps = NO_STEPS) -> NewItem:
    """Return the item of a batch that parsed JSON makes.

    Raises Invalid with every fault; pointers start with `base`.
    """
    if not isinstance(raw, dict):
        raise Invalid((Fault(base, "must be an object", "type"),))
    if "action" not in raw:
        missing = f"is required: one of {', '.join(ITEM_ACTIONS)}"
        raise Invalid((Fault(f"{base}/action", missing, "required"),))
    action = raw["action"]
    if not isinstance(action, str) or action not in ITEM_ACTIONS:
        raise Invalid((Fault(f"{base}/action", _unknown_action(action), "unknown-action"),))
    return single(action, raw, base, item_steps=item_steps, batched=True)


def _unknown_action(action: Any) -> str:
    """Return the sentence about an action that is unknown, or no text."""
    meant = suggestions.hint(action, ITEM_ACTIONS) if isinstance(action, str) else ""
    return f"unknown action{meant}" if meant else f"must be one of {', '.join(ITEM_ACTIONS)}"


def fast_single(action: str, body: bytes, item_steps: ItemSteps = NO_STEPS) -> NewItem | None:
    """Return the item that a valid body makes; None if it must be read again to find the faults."""
    try:
        fields = ITEM_ACTIONS[action].alone.validate_json(body)
        notes = item_steps.enrich(action, fields)
        if notes.reshaped:  # enrichment made new fields, which have to be valid as well
            fields = ITEM_ACTIONS[action].alone.validate_python(fields)
        return item(action, fields, item_steps, notes)
    except (ValidationError, Invalid):
        return None


def fast_batch(body: bytes, item_steps: ItemSteps = NO_STEPS) -> list[NewItem] | None:
    """Return the items that a valid batch makes; None if it must be read again for its faults."""
    try:
        return [_enriched(fields, item_steps) for fields in BATCH.validate_json(body)["items"]]
    except (ValidationError, Invalid):
        return None


def _enriched(fields: dict[str, Any], item_steps: ItemSteps) -> NewItem:
    """Return the item that one valid entry of a batch makes."""
    action = fields["action"]
    notes = item_steps.enrich(action, fields)
    if notes.reshaped:
        fields = ITEM_ACTIONS[action].in_batch.validate_python(fields)
    return item(action, fields, item_steps, notes)
