"""Holding an item's fields against a plan: what breaks it, and whether the item may go on.

Fields have passed the rules, and the enrichment has done its part. A good item costs one call of a
compiled validator.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jsonschema_rs import Draft202012Validator

from app.errors import Fault
from app.ingest.validate import pointer
from app.tracking.plan.file_format import ONE, Kind, Mode, Policy
from app.tracking.plan.json_schemas import Definitions, closed, compiled, of_entries, told


class Violation(NamedTuple):
    """One thing about an item that breaks the plan. `name`: of the event, state or attribute;
    `planned`: whether the plan has it; `enforced`: the item is refused for it.
    """

    kind: Kind
    name: str
    planned: bool
    enforced: bool
    fault: Fault


Violations = Sequence[Violation]
NONE: Violations = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, state or attribute of a plan. `schema` is of the item's fields; of an attribute,
    of its value.
    """

    kind: Kind
    name: str
    mode: Mode
    schema: dict[str, Any]
    description: str | None
    owner: str | None
    examples: tuple[Any, ...]
    validator: Draft202012Validator

    @property
    def passes(self) -> Callable[[Any], bool]:
        """Whether something is as the plan says; with the mode off everything is."""
        return _anything if self.mode == "off" else self.validator.is_valid

    def faults(self, value: Any, base: str = "") -> Iterator[Violation]:
        """Everything that is wrong with a value."""
        for fault in told(self.validator.iter_errors(value), base):
            yield Violation(self.kind, self.name, True, self.mode == "enforce", fault)


def _anything(value: Any) -> bool:
    return True


class Plan:
    """The plan of an app. `digest` is the same for the same content, wherever it was read from.
    `passes`: whether an item's fields (of an attribute, its value) are as the plan says, by kind
    and name. `closed`: of the events that take no other parameters than those that are named,
    these.
    """

    def __init__(
        self,
        version: str,
        digest: str,
        entries: Mapping[Kind, Mapping[str, Entry]],
        unknown: Mapping[Kind, Policy],
        definitions: Definitions,
        files: Sequence[str],
    ) -> None:
        self.version, self.digest, self.files = version, digest, tuple(files)
        self.entries, self.unknown, self.definitions = entries, unknown, definitions
        self.passes: dict[Kind, dict[str, Callable[[Any], bool]]] = {
            kind: {name: entry.passes for name, entry in found.items()}
            for kind, found in entries.items()
        }
        self.closed = {
            name: params
            for name, entry in entries["events"].items()
            if entry.mode != "off" and (params := closed(entry.schema, definitions)) is not None
        }
        # By attribute, once something is added to it
        self._sets: dict[str, Draft202012Validator] = {}
        self._attributes_pass = self._of_all_attributes()
        self._judges: dict[str, Callable[[Mapping[str, Any]], Violations]] = {
            "track": self._event,
            "advance": self._state,
            "setUserAttributes": self._update,
        }

    def judge(self, action: str, fields: Mapping[str, Any]) -> Violations:
        """What breaks the plan about an item with these fields."""
        judge = self._judges.get(action)
        return NONE if judge is None else judge(fields)

    def _event(self, fields: Mapping[str, Any]) -> Violations:
        name = fields["event"]
        passes = self.passes["events"].get(name)
        if passes is not None:
            return NONE if passes(fields) else [*self.entries["events"][name].faults(fields)]
        # A message was sent, seen, opened …: Leanplum's own event
        if not name or "messageId" in fields:
            return NONE
        return self._not_planned("events", name, "/event")

    def _state(self, fields: Mapping[str, Any]) -> Violations:
        name = fields["state"]
        passes = self.passes["states"].get(name)
        if passes is not None:
            return NONE if passes(fields) else [*self.entries["states"][name].faults(fields)]
        return self._not_planned("states", name, "/state") if name else NONE

    def _not_planned(self, kind: Kind, name: str, at: str) -> Violations:
        policy = self.unknown[kind]
        if policy == "allow":
            return NONE
        fault = Fault(
            at,
            f"is no {ONE[kind]} of the tracking plan; check its spelling",
            f"plan-unknown-{ONE[kind]}",
        )
        return [Violation(kind, name, False, policy == "enforce", fault)]

    # --- user attributes -----------------------------------------------------------------------------------------

    def _update(self, fields: Mapping[str, Any]) -> Violations:
        found: list[Violation] = []
        attributes = fields.get("userAttributes")
        if attributes is not None and not self._attributes_pass(attributes):
            found += self._attributes(attributes)
        for field in fields.keys() & _OTHER:
            kind, judged = _OTHER[field]
            for name, value in fields[field].items():
                found += self._named(kind, name, f"/{field}{pointer([name])}", value, judged=judged)
        return found or NONE

    def _attributes(self, attributes: Mapping[str, Any]) -> Iterator[Violation]:
        for name, value in attributes.items():
            at, entry = "/userAttributes" + pointer([name]), self.entries["attributes"].get(name)
            if entry is None:
                yield from self._not_planned("attributes", name, at)
            elif value is not None and not entry.passes(value):
                yield from entry.faults(value, at)

    def _named(
        self, kind: Kind, name: str, at: str, value: Any, *, judged: bool
    ) -> Iterator[Violation]:
        """Of what is added to an attribute's set, each value is held against the schema of the
        set's entries; of the rest, only the name can be judged.
        """
        entry = self.entries[kind].get(name)
        if entry is None:
            yield from self._not_planned(kind, name, at)
        elif judged and entry.mode != "off":
            many = isinstance(value, list)
            for fault in told(self._set_of(entry).iter_errors(value if many else [value])):
                where = fault.pointer if many else fault.pointer.removeprefix("/0")
                yield Violation(
                    kind, name, True, entry.mode == "enforce", replace(fault, pointer=at + where)
                )

    def _set_of(self, entry: Entry) -> Draft202012Validator:
        if entry.name not in self._sets:
            self._sets[entry.name] = compiled(
                {"items": of_entries(entry.schema, self.definitions)}, self.definitions
            )
        return self._sets[entry.name]

    def _of_all_attributes(self) -> Callable[[Any], bool]:
        """Whether all attributes of an update are as they must be, found by one call. null clears
        one: it always may be sent.
        """
        judged = {
            name: {"anyOf": [{"type": "null"}, entry.schema]}
            for name, entry in self.entries["attributes"].items()
            if entry.mode != "off"
        }
        names = dict.fromkeys(self.entries["attributes"], True) | judged
        others = self.unknown["attributes"] == "allow"
        return compiled(
            {"properties": names, "additionalProperties": others}, self.definitions
        ).is_valid


_OTHER: dict[str, tuple[Kind, bool]] = {
    "userAttributeValuesToAdd": ("attributes", True),
    "userAttributeValuesToRemove": ("attributes", False),
    "userAttributeValuesToIncrement": ("attributes", False),
    "events": ("events", False),
    "states": ("states", False),
}


@dataclass(frozen=True, slots=True)
class Plans:
    """The plans that are loaded: of the apps that they name, and of the others."""

    of_apps: Mapping[str, Plan]
    of_others: Plan | None = None

    def of(self, app: str) -> Plan | None:
        """The plan of an app; None where there is none for it."""
        return self.of_apps.get(app, self.of_others)

    def each(self) -> Iterator[tuple[str, Plan]]:
        """Every plan, once, with the names of the apps that it is for, in words."""
        apps: dict[int, tuple[list[str], Plan]] = {}
        for app, plan in [
            *self.of_apps.items(),
            ("every other app" if self.of_apps else "every app", self.of_others),
        ]:
            if plan is not None:
                apps.setdefault(id(plan), ([], plan))[0].append(app)
        for names, plan in apps.values():
            yield ", ".join(names), plan


NO_PLANS = Plans({})
