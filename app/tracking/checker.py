"""The plan checker: checks the items of one call against the tracking plan and the name limits.

Nothing is counted, and no name is stored, before the call's items are accepted, because a body may
be read twice. Pure.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import orjson

from app.errors import Fault, Invalid
from app.ingest import (
    MAX_FAULTS,
    ItemSteps,
    as_sent,
)
from app.model import NewItem, Notes
from app.tracking.names import (
    AppNames,
    Name,
    NameCheck,
    NameKind,
    NameLimits,
    NamePolicy,
    NameSets,
    NewName,
    check_name,
    empty_name_sets,
)
from app.tracking.plan.validate import NO_VIOLATIONS, Plan, Violation, Violations


class EnrichItem(Protocol):
    """The signature of `ItemSteps.enrich`."""

    def __call__(self, action: str, fields: dict[str, Any]) -> Notes:
        """See `ItemSteps.enrich`."""
        ...


class PlanChecker:
    """The steps of one call's items with the checks of the tracking plan and the names behind them.

    `violations`: everything found so far; `dropped_kinds`: for each new name that Leanplum would
    drop, its kind.
    """

    has_checks = True
    __slots__ = (
        "_closed_params",
        "_event_conforms",
        "_has_plan",
        "_inner_check",
        "_known_events",
        "_known_params",
        "_limits",
        "_names",
        "_pending",
        "_planned_events",
        "_policy",
        "_validate",
        "dropped_kinds",
        "enrich",
        "violations",
    )

    def __init__(
        self,
        steps: ItemSteps,
        plan: Plan | None,
        names: AppNames,
        limits: NameLimits,
        policy: NamePolicy,
    ) -> None:
        self._names, self._limits, self._policy = names, limits, policy
        self.enrich: EnrichItem = steps.enrich
        self._inner_check = steps.check if steps.has_checks else None
        self._has_plan = plan is not None
        self._validate = _no_violations if plan is None else plan.validate
        self._event_conforms: Mapping[str, Callable[[Any], bool]] = {}
        self._closed_params: Mapping[str, frozenset[str]] = {}
        if plan is not None:
            self._event_conforms = plan.conforms["events"]
            self._closed_params = plan.closed_params
        if names.plan is not plan:
            names.use_plan(plan)
        # Looked up here once: the sets and the dict are used for each event of the call.
        self._planned_events = names.planned_events
        self._known_events, self._known_params = names.known["events"], names.known["params"]
        self.violations: list[Violation] = []
        self.dropped_kinds: list[NameKind] = []
        self._pending: NameSets | None = None  # created with the first new name, which is rare

    def restart(self) -> "PlanChecker":
        """Forget what was found, because the body is read again from its start; return self."""
        self.violations = []
        self.dropped_kinds = []
        self._pending = None
        return self

    def check(self, action: str, fields: dict[str, Any], notes: Notes) -> Notes:
        """Check an item that passed validation; return the notes with violations added.

        Raises Invalid when a violation is enforced.
        """
        if self._inner_check is not None:
            notes = self._inner_check(action, fields, notes)
        # The fast path: most items are events that conform to the plan and have known names only.
        # (Chosen here, because a bound method in a slot would make each checker a cycle.)
        if action == "track":
            is_fine = self._is_planned(fields) if self._has_plan else self._has_known_names(fields)
            if is_fine:
                return notes
        violations, new_names = self._validate(action, fields), self._names.find_new(action, fields)
        if not violations and not new_names:
            return notes
        return self._with_findings(violations, new_names, notes)

    def _has_known_names(self, fields: Mapping[str, Any]) -> bool:
        """Return whether an event has no new name."""
        params = fields.get("params")
        return fields["event"] in self._known_events and (
            params is None or self._known_params.issuperset(params)
        )

    def _is_planned(self, fields: Mapping[str, Any]) -> bool:
        """Return whether an event conforms to the plan and has no new name."""
        event, params = fields["event"], fields.get("params")
        conforms = self._planned_events.get(event)
        if conforms is not None:
            return conforms(fields)
        conforms = self._event_conforms.get(event)
        if conforms is None or not conforms(fields) or event not in self._known_events:
            return False
        closed_params = self._closed_params.get(event)
        if closed_params is not None and closed_params <= self._known_params:
            # Conforming events can have no other names: from now on, one call of the validator is
            # the whole check.
            self._planned_events[event] = conforms
        return params is None or self._known_params.issuperset(params)

    def _with_findings(
        self, violations: Violations, new_names: Iterable[NewName], notes: Notes
    ) -> Notes:
        """Record what was found in an item; return the notes with it. Raises Invalid."""
        sent_violations = [
            violation._replace(fault=as_sent(violation.fault, notes.moved))
            for violation in violations
        ]
        self.violations += sent_violations
        checks, reserved = self._check_names(new_names)
        dropped = [check for check in checks if check.dropped]
        self.dropped_kinds += [check.new.name.kind for check in dropped]
        enforced = [violation.fault for violation in violations if violation.enforced]
        if self._policy == "enforce":
            enforced += _faults_of(dropped)
        if enforced:
            self._free(reserved)
            raise Invalid(tuple(enforced))
        faults = [violation.fault for violation in sent_violations]
        if self._policy != "off":
            faults += [as_sent(fault, notes.moved) for fault in _faults_of(checks)]
        return replace(notes, violations=tuple(faults[:MAX_FAULTS])) if faults else notes

    def _check_names(self, new_names: Iterable[NewName]) -> tuple[list[NameCheck], list[Name]]:
        """Check the new names of an item; also return those for which room was reserved.

        Names that fit are reserved at once, so that the later names of the call see less room.
        """
        checks: list[NameCheck] = []
        reserved: list[Name] = []
        for new in new_names:
            kind, name = new.name
            if self._pending is None:
                self._pending = empty_name_sets()
            check = check_name(new, self._names.known, self._pending, self._limits)
            checks.append(check)
            if not check.dropped and name not in self._pending[kind]:
                self._pending[kind].add(name)
                reserved.append(new.name)
        return checks, reserved

    def _free(self, reserved: Iterable[Name]) -> None:
        """Free the room of the names of a refused item."""
        if self._pending is not None:
            for kind, name in reserved:
                self._pending[kind].discard(name)

    @property
    def has_new_names(self) -> bool:
        """True when any checked item has a new name that fits."""
        return self._pending is not None and any(self._pending.values())

    def new_names(self, items: Sequence[NewItem]) -> Iterator[list[Name]]:
        """Yield, for each item that is about to be accepted, its new names that fit."""
        pending = self._pending or empty_name_sets()
        for item in items:
            new_names = self._names.find_new(item.action, parse_entry(orjson.loads(item.body)))
            yield [new.name for new in new_names if new.name.name in pending[new.name.kind]]

    def claim(self, names: Iterable[Name]) -> None:
        """Count names from now on, before they are in the database."""
        self._names.claim(names)


def _no_violations(action: str, fields: Mapping[str, Any]) -> Violations:
    return NO_VIOLATIONS


def _faults_of(checks: Iterable[NameCheck]) -> list[Fault]:
    return [check.fault for check in checks if check.fault is not None]


OBJECT_FIELDS = (
    "params",
    "userAttributes",
    "userAttributeValuesToAdd",
    "userAttributeValuesToIncrement",
    "events",
    "states",
)


def parse_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an SDK's entry as the fields that checks expect.

    SDKs send objects and numbers as text. Object fields that do not hold an object are left out.
    """
    fields = {**entry, "event": _text(entry.get("event")), "state": _text(entry.get("state"))}
    value = entry.get("value")
    if isinstance(value, str):
        fields["value"] = _number(value)
    for name in OBJECT_FIELDS:
        if name not in entry:
            continue
        parsed = _parse_json_text(entry[name])
        if isinstance(parsed, dict):
            fields[name] = parsed
        else:
            del fields[name]
    return fields


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _parse_json_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
