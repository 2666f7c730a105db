"""The names that an app has: Leanplum keeps so many of each kind, and what comes beyond them it
drops without a word.

Names that are known cost an item a look into a set. What is new is judged: does it fit, is it fit
to be a name at all?
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from app.errors import Fault
from app.ingest.validate import pointer
from app.leanplum.values import NAME, TAKES

NameKind = Literal["events", "states", "params", "attributes"]
NAME_KINDS: tuple[NameKind, ...] = ("events", "states", "params", "attributes")
SINGULAR = {
    "events": "event",
    "states": "state",
    "params": "parameter",
    "attributes": "user attribute",
}
# Which may not share a name
OTHERS: dict[NameKind, NameKind] = {"events": "states", "states": "events"}
LONGEST = 139
_NAME = re.compile(NAME)
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_name(text: str) -> bool:
    """Whether Leanplum takes a text as a name."""
    return len(text) <= LONGEST and _NAME.search(text) is not None and not _SURROGATE.search(text)


class Name(NamedTuple):
    """One name of an app."""

    kind: NameKind
    name: str


class Seen(NamedTuple):
    """A name that is new, and where in the item it stands."""

    name: Name
    pointer: str


Known = dict[NameKind, set[str]]


def none_known() -> Known:
    """What is known of a new app."""
    return {kind: set() for kind in NAME_KINDS}


@dataclass(frozen=True, slots=True)
class Caps:
    """How many names of a kind Leanplum keeps of an app, and from which share on new ones are
    warned of.
    """

    of: Mapping[NameKind, int]
    warn_from: float


@dataclass(slots=True)
class Names:
    """The names of one app, as this process knows them. `claimed`: those that are just being
    accepted. `settled`: of the events that can have no name but known ones under the plan `under`,
    what tells whether an item is as planned.
    """

    known: Known = field(default_factory=none_known)
    claimed: set[Name] = field(default_factory=set)
    settled: dict[str, Callable[[Any], bool]] = field(default_factory=dict)
    under: object = None

    def settled_under(self, plan: object) -> dict[str, Callable[[Any], bool]]:
        """What is settled under this plan; it is emptied where a name is known no longer."""
        if plan is not self.under:
            self.settled, self.under = {}, plan
        return self.settled

    def new(self, action: str, fields: Mapping[str, Any]) -> Iterable[Seen]:
        """The names in an item that are not known yet."""
        look = _LOOKS.get(action)
        return look(self.known, fields) if look is not None else ()

    def claim(self, names: Iterable[Name]) -> None:
        """Count names from now on, before they are on disk."""
        for name in names:
            self.known[name.kind].add(name.name)
            self.claimed.add(name)

    def settle(self, kept: Iterable[Name], dropped: Iterable[Name]) -> None:
        """Of what was claimed: what was accepted, and what was not."""
        self.claimed.difference_update(kept)
        for name in dropped:
            self.claimed.discard(name)
            self.forget(name)

    def forget(self, name: Name) -> None:
        """It is new when it comes again."""
        self.known[name.kind].discard(name.name)
        self.settled.clear()

    def replace(self, known: Known) -> None:
        """Take what was read from the database, and keep what is on its way there."""
        for name in self.claimed:
            known[name.kind].add(name.name)
        if known != self.known:
            self.known = known
            self.settled.clear()


class Verdict(NamedTuple):
    """What is to be said of a new name. `breaks`: Leanplum would drop it. `fault`: None where it
    just is one more.
    """

    seen: Seen
    fault: Fault | None
    breaks: bool


def judge(seen: Seen, known: Known, coming: Known, caps: Caps) -> Verdict:
    """Judge a name that is not `known`, given those that come in the same call."""
    (kind, name), at = seen
    if name in coming[kind]:
        return Verdict(seen, None, False)
    count, cap = len(known[kind]) + len(coming[kind]) + 1, caps.of[kind]
    other = OTHERS.get(kind)
    if not is_name(name):
        return Verdict(seen, Fault(at, TAKES[NAME], "taxonomy-name"), True)
    if other is not None and (name in known[other] or name in coming[other]):
        detail = f"is the name of a {SINGULAR[other]} of this app already; a state and an event may not share one"
        return Verdict(
            seen, Fault(at, detail.replace("a event", "an event"), "taxonomy-shared-name"), True
        )
    if count > cap:
        detail = f"is one {SINGULAR[kind]} name too many: Leanplum keeps {cap} of an app and drops the rest"
        return Verdict(seen, Fault(at, detail, "taxonomy-limit"), True)
    if count >= caps.warn_from * cap:
        detail = f"is a new {SINGULAR[kind]} name, number {count} of the {cap} that Leanplum keeps of an app"
        return Verdict(seen, Fault(at, detail, "taxonomy-near-limit"), False)
    return Verdict(seen, None, False)


def _event(known: Known, fields: Mapping[str, Any]) -> Iterable[Seen]:
    """A message's own events (sent, opened …) take no name of the app's (fact sheet §5)."""
    name, params = fields["event"], fields.get("params")
    if (name in known["events"] or not name) and (not params or params.keys() <= known["params"]):
        return ()
    own = () if "messageId" in fields else _named(known, "events", name, "/event")
    return [*own, *_keys(known, "params", params, "/params")]


def _state(known: Known, fields: Mapping[str, Any]) -> Iterable[Seen]:
    name, params = fields["state"], fields.get("params")
    if (name in known["states"] or not name) and (not params or params.keys() <= known["params"]):
        return ()
    return [*_named(known, "states", name, "/state"), *_keys(known, "params", params, "/params")]


def _update(known: Known, fields: Mapping[str, Any]) -> Iterable[Seen]:
    found: list[Seen] = []
    for name in fields.keys() & _MAPS:
        kind = _MAPS[name]
        if not fields[name].keys() <= known[kind]:
            found += _keys(known, kind, fields[name], f"/{name}")
    return found


def _named(known: Known, kind: NameKind, name: str, at: str) -> Iterator[Seen]:
    if name and name not in known[kind]:
        yield Seen(Name(kind, name), at)


def _keys(known: Known, kind: NameKind, found: Mapping[str, Any] | None, at: str) -> Iterator[Seen]:
    for name, value in (found or {}).items():
        if name not in known[kind] and value is not None:  # null clears an attribute
            yield Seen(Name(kind, name), at + pointer([name]))


_MAPS: dict[str, NameKind] = {
    "userAttributes": "attributes",
    "userAttributeValuesToAdd": "attributes",
    "userAttributeValuesToIncrement": "attributes",
    "events": "events",
    "states": "states",
}
_LOOKS: dict[str, Callable[[Known, Mapping[str, Any]], Iterable[Seen]]] = {
    "track": _event,
    "trackGeofence": _event,
    "advance": _state,
    "setUserAttributes": _update,
}
