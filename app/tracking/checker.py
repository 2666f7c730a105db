"""What holds the items of one call against the tracking plan and the names that Leanplum keeps.
Pure.

Nothing is counted, and no name is taken, before the call's items are accepted: a body may be read
twice.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import orjson

from app.errors import Invalid
from app.ingest.json_pointers import as_sent
from app.ingest.ports import Refiner
from app.ingest.validate import MAX_FAULTS
from app.model import NewItem, Notes
from app.tracking.name_rules import (
    Caps,
    Known,
    Name,
    NameKind,
    Names,
    Seen,
    Verdict,
    judge,
    none_known,
)
from app.tracking.plan.validate import NONE, Plan, Violation, Violations

Policy = Literal["off", "warn", "enforce"]


class Refine(Protocol):
    """How a refiner refines."""

    def __call__(self, action: str, fields: dict[str, Any]) -> Notes:
        """See Refiner."""
        ...


class Gate:
    """The refiner of one call's items with the gate behind it: refined by `refiner`, judged here.
    `found`: what broke the plan; `beyond`: the kinds of the names that did not fit.
    """

    judges = True
    __slots__ = (
        "_caps",
        "_closed",
        "_coming",
        "_first",
        "_judge",
        "_known_events",
        "_known_params",
        "_names",
        "_passes",
        "_planned",
        "_policy",
        "_settled",
        "beyond",
        "found",
        "refine",
    )  # fmt: skip

    def __init__(
        self, refiner: Refiner, plan: Plan | None, names: Names, caps: Caps, policy: Policy
    ) -> None:
        self._names, self._caps, self._policy = names, caps, policy
        self.refine: Refine = refiner.refine
        self._first = refiner.judge if refiner.judges else None
        self._planned = plan is not None
        self._judge = nothing if plan is None else plan.judge
        self._passes: Mapping[str, Callable[[Any], bool]] = (
            {} if plan is None else plan.passes["events"]
        )
        self._settled, self._closed = names.settled_under(plan), {} if plan is None else plan.closed
        self._known_events, self._known_params = names.known["events"], names.known["params"]
        self.anew()

    def anew(self) -> "Gate":
        """The same, which has seen nothing yet: a body is read again from its start."""
        self.found: list[Violation] = []
        self.beyond: list[NameKind] = []
        self._coming: Known | None = None  # made where a name is new, which is seldom
        return self

    def judge(self, action: str, fields: dict[str, Any], notes: Notes) -> Notes:
        """Hold an item that passed the rules against the plan and the names; with what is to be
        told of it noted. Raises Invalid where it must not go on.
        """
        if self._first is not None:
            notes = self._first(action, fields, notes)
        # At the least cost: most items are good events. A bound method kept in a slot would make
        # each gate a cycle.
        if action == "track" and (
            self._as_planned(fields) if self._planned else self._known(fields)
        ):
            return notes
        found, new = self._judge(action, fields), self._names.new(action, fields)
        return self._noted(found, new, notes) if found or new else notes

    def _known(self, fields: Mapping[str, Any]) -> bool:
        """Whether an event brings no name that is new."""
        params = fields.get("params")
        return fields["event"] in self._known_events and (
            params is None or self._known_params.issuperset(params)
        )

    def _as_planned(self, fields: Mapping[str, Any]) -> bool:
        """Whether an event is as planned, too."""
        name, params, known = fields["event"], fields.get("params"), self._known_params
        if (passes := self._settled.get(name)) is not None:
            return passes(fields)
        if (
            (passes := self._passes.get(name)) is None
            or not passes(fields)
            or name not in self._known_events
        ):
            return False
        if (closed := self._closed.get(name)) is not None and closed <= known:
            self._settled[name] = passes
        return params is None or known.issuperset(params)

    def _noted(self, found: Violations, new: Iterable[Seen], notes: Notes) -> Notes:
        self.found += [one._replace(fault=as_sent(one.fault, notes.moved)) for one in found]
        verdicts, taken = self._seen(new)
        broken = [one for one in verdicts if one.breaks]
        self.beyond += [one.seen.name.kind for one in broken]
        enforced = [one.fault for one in found if one.enforced]
        if self._policy == "enforce":
            enforced += [one.fault for one in broken if one.fault is not None]
        if enforced:
            if self._coming is not None:
                for kind, name in taken:
                    self._coming[kind].discard(name)
            raise Invalid(tuple(enforced))
        told = (
            []
            if self._policy == "off"
            else [one.fault for one in verdicts if one.fault is not None]
        )
        violations = tuple(
            as_sent(fault, notes.moved) for fault in (*(one.fault for one in found), *told)
        )
        return replace(notes, violations=violations[:MAX_FAULTS]) if violations else notes

    def _seen(self, new: Iterable[Seen]) -> tuple[list[Verdict], list[Name]]:
        """Judge an item's new names. Those that fit, and are new in the call too, take their room
        at once.
        """
        verdicts, taken = list[Verdict](), list[Name]()
        for seen in new:
            kind, name = seen.name
            coming = self._coming = self._coming or none_known()
            verdicts.append(verdict := judge(seen, self._names.known, coming, self._caps))
            if not verdict.breaks and name not in coming[kind]:
                coming[kind].add(name)
                taken.append(seen.name)
        return verdicts, taken

    @property
    def brings_names(self) -> bool:
        """Whether any item that was judged has a new name that fits."""
        return self._coming is not None and any(self._coming.values())

    def new_names(self, items: Sequence[NewItem]) -> Iterator[list[Name]]:
        """The new names of each item that is about to be accepted."""
        coming = self._coming or none_known()
        for one in items:
            found = self._names.new(one.action, fields_of(orjson.loads(one.body)))
            yield [seen.name for seen in found if seen.name.name in coming[seen.name.kind]]

    def claim(self, names: Iterable[Name]) -> None:
        """Count names from now on."""
        self._names.claim(names)


def nothing(action: str, fields: Mapping[str, Any]) -> Violations:
    """Without a plan nothing breaks it."""
    return NONE


TEXTS = (
    "params",
    "userAttributes",
    "userAttributeValuesToAdd",
    "userAttributeValuesToIncrement",
    "events",
    "states",
)


def fields_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An item's fields with everything as it is in JSON: SDKs send objects as texts, and numbers as
    well. What is not of its kind is left out.
    """
    fields = {**entry, "event": _text(entry.get("event")), "state": _text(entry.get("state"))}
    if isinstance(value := entry.get("value"), str):
        fields["value"] = _number(value)
    for name in TEXTS:
        if name in entry and not isinstance(value := _parsed(entry[name]), dict):
            del fields[name]
        elif name in entry:
            fields[name] = value
    return fields


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
