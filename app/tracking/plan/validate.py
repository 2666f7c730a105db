"""Validation of an item's fields against a plan.

The fields are validated and enriched before. A conforming item costs one call of a compiled
validator.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jsonschema_rs import Draft202012Validator

from app.errors import Fault
from app.ingest.faults import pointer
from app.tracking.plan.file_format import SINGULAR, Definitions, Kind, Mode, UnknownPolicy
from app.tracking.plan.json_schemas import closed_params, compile_schema, entry_schema, faults_of


class Violation(NamedTuple):
    """One violation of the plan by an item.

    `name`: of the event, state or attribute; `planned`: whether the plan defines it; `enforced`:
    whether the item is refused for it.
    """

    kind: Kind
    name: str
    planned: bool
    enforced: bool
    fault: Fault


Violations = Sequence[Violation]
NO_VIOLATIONS: Violations = ()


@dataclass(frozen=True, slots=True)
class PlannedEntry:
    """One event, state or attribute of a plan.

    `schema` describes an item's fields; for an attribute, its value.
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
    def conforms(self) -> Callable[[Any], bool]:
        """The function that tells whether a value conforms; with the mode off, every value does."""
        return _always if self.mode == "off" else self.validator.is_valid

    def violations(self, value: Any, base: str = "") -> Iterator[Violation]:
        """Yield everything wrong with a value; pointers start with `base`."""
        for fault in faults_of(self.validator.iter_errors(value), base):
            yield self.violation(fault)

    def violation(self, fault: Fault) -> Violation:
        """Return a fault as a violation of this entry."""
        is_enforced = self.mode == "enforce"
        return Violation(self.kind, self.name, planned=True, enforced=is_enforced, fault=fault)


def _always(value: Any) -> bool:
    return True


class Plan:
    """The plan of an app.

    `digest`: the same for the same content, from whatever files it was loaded.
    `conforms`: by kind and name, the function that tells whether an item's fields (an attribute's
    value) conform to the plan.
    `closed_params`: for each event that allows no other parameters than those it names, these.
    """

    def __init__(
        self,
        *,
        version: str,
        digest: str,
        entries: Mapping[Kind, Mapping[str, PlannedEntry]],
        unknown: Mapping[Kind, UnknownPolicy],
        definitions: Definitions,
        files: Sequence[str],
    ) -> None:
        self.version, self.digest, self.files = version, digest, tuple(files)
        self.entries, self.unknown, self.definitions = entries, unknown, definitions
        self.conforms: dict[Kind, dict[str, Callable[[Any], bool]]] = {
            kind: {name: entry.conforms for name, entry in by_name.items()}
            for kind, by_name in entries.items()
        }
        self.closed_params: dict[str, frozenset[str]] = {}
        for name, entry in entries["events"].items():
            params = closed_params(entry.schema, definitions)
            if entry.mode != "off" and params is not None:
                self.closed_params[name] = params
        # Validators of what is added to a set, by attribute; compiled at first use
        self._set_validators: dict[str, Draft202012Validator] = {}
        self._all_attributes_conform = self._compile_attributes()
        self._validators: dict[str, Callable[[Mapping[str, Any]], Violations]] = {
            "track": self._validate_event,
            "advance": self._validate_state,
            "setUserAttributes": self._validate_update,
        }

    def validate(self, action: str, fields: Mapping[str, Any]) -> Violations:
        """Return the violations of the plan by an item with these fields."""
        validate = self._validators.get(action)
        return NO_VIOLATIONS if validate is None else validate(fields)

    def _validate_event(self, fields: Mapping[str, Any]) -> Violations:
        name = fields["event"]
        conforms = self.conforms["events"].get(name)
        if conforms is not None:
            if conforms(fields):
                return NO_VIOLATIONS
            return [*self.entries["events"][name].violations(fields)]
        # Events of a message (sent, opened …) are Leanplum's own.
        if not name or "messageId" in fields:
            return NO_VIOLATIONS
        return self._unknown_name("events", name, "/event")

    def _validate_state(self, fields: Mapping[str, Any]) -> Violations:
        name = fields["state"]
        conforms = self.conforms["states"].get(name)
        if conforms is None:
            return self._unknown_name("states", name, "/state") if name else NO_VIOLATIONS
        if conforms(fields):
            return NO_VIOLATIONS
        return [*self.entries["states"][name].violations(fields)]

    def _unknown_name(self, kind: Kind, name: str, at: str) -> Violations:
        policy = self.unknown[kind]
        if policy == "allow":
            return NO_VIOLATIONS
        label = SINGULAR[kind]
        detail = f"unknown {label}: it is not in the tracking plan; check its spelling"
        fault = Fault(at, detail, f"plan-unknown-{label}")
        is_enforced = policy == "enforce"
        return [Violation(kind, name, planned=False, enforced=is_enforced, fault=fault)]

    # --- user attributes ----------------------------------------------------------------------

    def _validate_update(self, fields: Mapping[str, Any]) -> Violations:
        violations: list[Violation] = []
        attributes = fields.get("userAttributes")
        # One call for all attributes; only when it fails is each one validated.
        if attributes is not None and not self._all_attributes_conform(attributes):
            violations += self._validate_attributes(attributes)
        for field in fields.keys() & _NAMING_FIELDS.keys():
            kind = _NAMING_FIELDS[field]
            for name, value in fields[field].items():
                at = f"/{field}{pointer([name])}"
                entry = self.entries[kind].get(name)
                if entry is None:
                    violations += self._unknown_name(kind, name, at)
                elif field == "userAttributeValuesToAdd" and entry.mode != "off":
                    violations += self._validate_added(entry, at, value)
        return violations or NO_VIOLATIONS

    def _validate_attributes(self, attributes: Mapping[str, Any]) -> Iterator[Violation]:
        for name, value in attributes.items():
            at = "/userAttributes" + pointer([name])
            entry = self.entries["attributes"].get(name)
            if entry is None:
                yield from self._unknown_name("attributes", name, at)
            elif value is not None and not entry.conforms(value):
                yield from entry.violations(value, at)

    def _validate_added(self, entry: PlannedEntry, at: str, value: Any) -> Iterator[Violation]:
        """Validate what is added to an attribute's set: one value or a list of values."""
        values = value if isinstance(value, list) else [value]
        for fault in faults_of(self._set_validator(entry).iter_errors(values)):
            inside = fault.pointer if values is value else fault.pointer.removeprefix("/0")
            yield entry.violation(replace(fault, pointer=at + inside))

    def _set_validator(self, entry: PlannedEntry) -> Draft202012Validator:
        validator = self._set_validators.get(entry.name)
        if validator is None:
            items = entry_schema(entry.schema, self.definitions)
            validator = compile_schema({"items": items}, self.definitions)
            self._set_validators[entry.name] = validator
        return validator

    def _compile_attributes(self) -> Callable[[Any], bool]:
        """Return the function that tells whether all attributes of an update conform.

        null clears an attribute and is always allowed.
        """
        properties: dict[str, Any] = {}
        for name, entry in self.entries["attributes"].items():
            if entry.mode == "off":
                properties[name] = True
            else:
                properties[name] = {"anyOf": [{"type": "null"}, entry.schema]}
        allows_others = self.unknown["attributes"] == "allow"
        schema: dict[str, Any] = {"properties": properties, "additionalProperties": allows_others}
        return compile_schema(schema, self.definitions).is_valid


# The fields of an update whose keys are names, other than userAttributes.
_NAMING_FIELDS: dict[str, Kind] = {
    "userAttributeValuesToAdd": "attributes",
    "userAttributeValuesToRemove": "attributes",
    "userAttributeValuesToIncrement": "attributes",
    "events": "events",
    "states": "states",
}


@dataclass(frozen=True, slots=True)
class Plans:
    """The loaded plans: of the apps that a file names, and of all other apps."""

    of_apps: Mapping[str, Plan]
    of_others: Plan | None = None

    def of(self, app: str) -> Plan | None:
        """Return the plan of an app; None if it has none."""
        return self.of_apps.get(app, self.of_others)

    def each(self) -> Iterator[tuple[str, Plan]]:
        """Yield every plan once, with the names of its apps as text."""
        others = "every other app" if self.of_apps else "every app"
        apps: dict[int, list[str]] = {}
        plans: dict[int, Plan] = {}
        for app, plan in [*self.of_apps.items(), (others, self.of_others)]:
            if plan is not None:
                plans[id(plan)] = plan
                apps.setdefault(id(plan), []).append(app)
        for key, plan in plans.items():
            yield ", ".join(apps[key]), plan


NO_PLANS = Plans({})
