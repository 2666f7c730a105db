"""One item on its way through the steps, and what is known of its call."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from app.ingest.json_pointers import Move


class Place(NamedTuple):
    """Where an address is, as far as it is known; in Leanplum's words."""

    country: str | None = None
    region: str | None = None
    city: str | None = None
    location: str | None = None


FindPlace = Callable[[str], Place | None]


def nowhere(address: str) -> Place | None:
    """Finds no place: what there is without a database of addresses."""
    return None


class Facts(NamedTuple):
    """What is known of a call beside its body. `address`: the end user's, where something trusted
    named it.
    """

    received_at: int  # milliseconds since the epoch
    address: str | None = None
    place: FindPlace = nowhere


NOTHING_SAID: Mapping[str, Any] = MappingProxyType({})


class Draft:
    """One item: its fields as they are now, what was said for enrichment alone, and what receipts
    will tell.
    """

    __slots__ = ("action", "extras", "facts", "fields", "moved", "said", "warnings")

    def __init__(
        self, action: str, fields: dict[str, Any], facts: Facts, extras: Mapping[str, Any]
    ) -> None:
        self.action, self.fields, self.facts, self.extras = action, fields, facts, extras
        self.warnings: tuple[str, ...] = ()
        self.moved: tuple[Move, ...] = ()
        self.said: Mapping[str, Any] = NOTHING_SAID

    def warn(self, warning: str) -> None:
        """Tell the caller; never with a value of a user's. Once is enough."""
        if warning not in self.warnings:
            self.warnings += (warning,)

    def make(self, name: str, value: Any, said: Any = None) -> None:
        """Set a field to what is true at this moment alone; `said`: what the caller said there,
        None for nothing.
        """
        self.said = {name: said, **self.said}
        self.fields[name] = value


Run = Callable[[Draft], bool]  # does a step; whether it changed anything
Glance = Callable[[Any], bool]  # sees whether there is nothing to do about a field's value


class Step(NamedTuple):
    """One step of a recipe."""

    name: str
    run: Run
    # It has nothing to do where an item has none of these; None: it may have
    fields: frozenset[str] | None = None
    reshapes: bool = False  # what it makes has to be held against the rules again
    idle: Glance | None = None  # sees it by the value of each of them


# A field, or one key in it: ("params", "color"). Keys are flat: they may have dots in them.
Spot = tuple[str, str | None]


def spot(path: str) -> Spot:
    """The place that a path like `event` or `params.color` names."""
    name, dot, key = path.partition(".")
    return name, key if dot else None


def found_at(fields: dict[str, Any], at: Spot) -> tuple[dict[str, Any], str] | None:
    """Where a value stands: the object that has it, and its key there; None where there is none."""
    name, key = at
    if key is None:
        return (fields, name) if name in fields else None
    inner = fields.get(name)
    return (inner, key) if isinstance(inner, dict) and key in inner else None


def put(fields: dict[str, Any], at: Spot, value: Any) -> bool:
    """Set a value where there is none, making its object where that is missing; whether there was
    room for it.
    """
    name, key = at
    inner: Any = fields if key is None else fields.setdefault(name, {})
    last = name if key is None else key
    if not isinstance(inner, dict) or last in inner:
        return False
    inner[last] = value
    return True
