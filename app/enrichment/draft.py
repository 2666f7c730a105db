"""One item on its way through the enrichment steps, what is known of its call, and field paths."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from app.ingest.faults import Move


class GeoPlace(NamedTuple):
    """The place of an address, as far as it is known; the fields are named as Leanplum does."""

    country: str | None = None
    region: str | None = None
    city: str | None = None
    location: str | None = None  # "latitude,longitude"


FindPlace = Callable[[str], GeoPlace | None]


def find_no_place(address: str) -> GeoPlace | None:
    """Return None: there is no database of addresses."""
    return None


class EnrichmentFacts(NamedTuple):
    """The facts of a call besides its body that enrichment uses.

    `address`: the end user's, if a trusted proxy or an SDK's connection shows it.
    """

    received_at: int  # milliseconds since the epoch
    address: str | None = None
    find_place: FindPlace = find_no_place


NOTHING_SAID: Mapping[str, Any] = MappingProxyType({})


class ItemDraft:
    """One item in enrichment: its current fields, its enrichment fields, and notes for its receipt.

    `said`: what the caller sent in fields that enrichment has derived from the clock or an address.
    """

    __slots__ = ("action", "extras", "facts", "fields", "moved", "said", "warnings")

    def __init__(
        self, action: str, fields: dict[str, Any], facts: EnrichmentFacts, extras: Mapping[str, Any]
    ) -> None:
        self.action, self.fields, self.facts, self.extras = action, fields, facts, extras
        self.warnings: tuple[str, ...] = ()
        self.moved: tuple[Move, ...] = ()
        self.said: Mapping[str, Any] = NOTHING_SAID

    def warn(self, warning: str) -> None:
        """Add a warning, once; it must not contain a user's value."""
        if warning not in self.warnings:
            self.warnings += (warning,)

    def derive(self, name: str, value: Any, said: Any = None) -> None:
        """Set a field that is derived from this moment alone.

        `said`: what the caller sent there, None for nothing; repeats are compared by it.
        """
        self.said = {name: said, **self.said}
        self.fields[name] = value


RunStep = Callable[[ItemDraft], bool]  # returns whether it changed anything
Predicate = Callable[[Any], bool]


class EnrichmentStep(NamedTuple):
    """One step of a pipeline."""

    name: str
    run: RunStep
    # The step has nothing to do for an item with none of these fields; None: it may have.
    fields: frozenset[str] | None = None
    revalidate: bool = False  # whether its changes have to be validated
    # Given the value of any of `fields`: whether the step has nothing to do for it.
    is_idle: Predicate | None = None


# A field, or one key in it: ("params", "color"). Keys are flat: they may contain dots.
FieldPath = tuple[str, str | None]


def field_path(text: str) -> FieldPath:
    """Return a path written like `event` or `params.color`."""
    name, dot, key = text.partition(".")
    return name, key if dot else None


def written(path: FieldPath) -> str:
    """Return the text of a field path."""
    name, key = path
    return name if key is None else f"{name}.{key}"


def locate(fields: dict[str, Any], path: FieldPath) -> tuple[dict[str, Any], str] | None:
    """Return the object with the value at a path, and its key there; None if there is none."""
    name, key = path
    if key is None:
        return (fields, name) if name in fields else None
    inner = fields.get(name)
    return (inner, key) if isinstance(inner, dict) and key in inner else None


def set_if_absent(fields: dict[str, Any], path: FieldPath, value: Any) -> bool:
    """Set a value where there is none, creating its object; return whether it was set."""
    name, key = path
    inner: Any = fields
    last = name
    if key is not None:
        inner, last = fields.setdefault(name, {}), key
    if not isinstance(inner, dict) or last in inner:
        return False
    inner[last] = value
    return True
