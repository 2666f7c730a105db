"""The names that one app uses: events, states, parameters and user attributes.

Leanplum keeps a limited number of names of each kind for an app and silently drops the rest (fact
sheet §5). A known name costs an item one set lookup; only new names are checked. Pure.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from app.errors import Fault
from app.ingest.faults import pointer
from app.leanplum.values import NAME, TAKES

NameKind = Literal["events", "states", "params", "attributes"]
NamePolicy = Literal["off", "warn", "enforce"]
NAME_KINDS: tuple[NameKind, ...] = ("events", "states", "params", "attributes")
LABELS: dict[NameKind, str] = {
    "events": "event",
    "states": "state",
    "params": "parameter",
    "attributes": "user attribute",
}
# A name of one of these kinds can't also be one of the other.
EXCLUSIVE_KINDS: dict[NameKind, NameKind] = {"events": "states", "states": "events"}
MAX_NAME_LENGTH = 139
_NAME = re.compile(NAME)
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_name(text: str) -> bool:
    """Return whether Leanplum accepts a text as a name."""
    if len(text) > MAX_NAME_LENGTH:
        return False
    return _NAME.search(text) is not None and not _SURROGATE.search(text)


class Name(NamedTuple):
    """One name of an app."""

    kind: NameKind
    name: str


class NewName(NamedTuple):
    """A name in an item that the app has not used before; `pointer` leads to it in the item."""

    name: Name
    pointer: str


NameSets = dict[NameKind, set[str]]


def empty_name_sets() -> NameSets:
    """Return the name sets of a new app."""
    return {kind: set() for kind in NAME_KINDS}


@dataclass(frozen=True, slots=True)
class NameLimits:
    """The number of names of each kind that Leanplum keeps for an app.

    `warn_from` is the share of a limit (0 to 1) from which each new name is reported.
    """

    by_kind: Mapping[NameKind, int]
    warn_from: float


@dataclass(slots=True)
class AppNames:
    """The names of one app, as far as this process knows them.

    `claimed`: names of items that are being accepted and are not in the database yet.
    `planned_events`: for events whose item, if it conforms to the plan `plan`, can contain only
    known names: the function that tells whether it does. Emptied when a name is forgotten.
    """

    known: NameSets = field(default_factory=empty_name_sets)
    claimed: set[Name] = field(default_factory=set)
    planned_events: dict[str, Callable[[Any], bool]] = field(default_factory=dict)
    plan: object = None

    def use_plan(self, plan: object) -> None:
        """Reset `planned_events` for another plan."""
        self.planned_events, self.plan = {}, plan

    def find_new(self, action: str, fields: Mapping[str, Any]) -> Iterable[NewName]:
        """Return the names in an item that are not known yet."""
        find = _FINDERS.get(action)
        return () if find is None else find(self.known, fields)

    def claim(self, names: Iterable[Name]) -> None:
        """Count names from now on, before they are in the database."""
        for name in names:
            self.known[name.kind].add(name.name)
            self.claimed.add(name)

    def release(self, kept: Iterable[Name], dropped: Iterable[Name]) -> None:
        """End the claim of names; forget those that were dropped."""
        self.claimed.difference_update(kept)
        for name in dropped:
            self.claimed.discard(name)
            self.forget(name)

    def forget(self, name: Name) -> None:
        """Forget a name; it counts as new when it is used again."""
        self.known[name.kind].discard(name.name)
        self.planned_events.clear()

    def replace(self, stored: NameSets) -> None:
        """Replace the known names by those in the database, plus the claimed ones."""
        for name in self.claimed:
            stored[name.kind].add(name.name)
        if stored != self.known:
            self.known = stored
            self.planned_events.clear()


class NameCheck(NamedTuple):
    """The result of checking a new name.

    `dropped`: Leanplum would drop the name. `fault`: None when there is nothing to report.
    """

    new: NewName
    fault: Fault | None = None
    dropped: bool = False


def check_name(new: NewName, known: NameSets, pending: NameSets, limits: NameLimits) -> NameCheck:
    """Check a name that is not in `known`; `pending` has the new names of the same call."""
    (kind, name), at = new
    if name in pending[kind]:
        return NameCheck(new)
    if not is_name(name):
        return NameCheck(new, Fault(at, TAKES[NAME], "taxonomy-name"), dropped=True)
    label = LABELS[kind]
    other = EXCLUSIVE_KINDS.get(kind)
    if other is not None and (name in known[other] or name in pending[other]):
        detail = (
            f"is already one of this app's {LABELS[other]} names; "
            "a state and an event can't share a name"
        )
        return NameCheck(new, Fault(at, detail, "taxonomy-shared-name"), dropped=True)
    number, limit = len(known[kind]) + len(pending[kind]) + 1, limits.by_kind[kind]
    if number > limit:
        detail = f"exceeds the limit of {limit} {label} names per app; Leanplum drops new ones"
        return NameCheck(new, Fault(at, detail, "taxonomy-limit"), dropped=True)
    if number >= limits.warn_from * limit:
        detail = f"is new: number {number} of the {limit} {label} names that Leanplum keeps per app"
        return NameCheck(new, Fault(at, detail, "taxonomy-near-limit"))
    return NameCheck(new)


def _find_in_event(known: NameSets, fields: Mapping[str, Any]) -> Iterable[NewName]:
    """Find new names in an event. Events of a message (sent, opened …) are Leanplum's own."""
    name, params = fields["event"], fields.get("params")
    is_known = not name or name in known["events"]
    if is_known and (not params or params.keys() <= known["params"]):
        return ()
    new = [*_new_keys(known, "params", params, "/params")]
    if not is_known and "messageId" not in fields:
        new.insert(0, NewName(Name("events", name), "/event"))
    return new


def _find_in_state(known: NameSets, fields: Mapping[str, Any]) -> Iterable[NewName]:
    name, params = fields["state"], fields.get("params")
    is_known = not name or name in known["states"]
    if is_known and (not params or params.keys() <= known["params"]):
        return ()
    new = [*_new_keys(known, "params", params, "/params")]
    if not is_known:
        new.insert(0, NewName(Name("states", name), "/state"))
    return new


def _find_in_update(known: NameSets, fields: Mapping[str, Any]) -> Iterable[NewName]:
    new: list[NewName] = []
    for field_name in fields.keys() & _KIND_OF_FIELD:
        kind = _KIND_OF_FIELD[field_name]
        if not fields[field_name].keys() <= known[kind]:
            new += _new_keys(known, kind, fields[field_name], f"/{field_name}")
    return new


def _new_keys(
    known: NameSets, kind: NameKind, values: Mapping[str, Any] | None, base: str
) -> Iterator[NewName]:
    for name, value in (values or {}).items():
        # null clears an attribute
        if name not in known[kind] and value is not None:
            yield NewName(Name(kind, name), base + pointer([name]))


_KIND_OF_FIELD: dict[str, NameKind] = {
    "userAttributes": "attributes",
    "userAttributeValuesToAdd": "attributes",
    "userAttributeValuesToIncrement": "attributes",
    "events": "events",
    "states": "states",
}
_FINDERS: dict[str, Callable[[NameSets, Mapping[str, Any]], Iterable[NewName]]] = {
    "track": _find_in_event,
    "trackGeofence": _find_in_event,
    "advance": _find_in_state,
    "setUserAttributes": _find_in_update,
}
