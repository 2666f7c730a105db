"""The differences between an old plan and a new one: added, removed, tightened, loosened.

A change is breaking if the new plan may refuse an item that the old one let through. Where two
schemas cannot be compared (two patterns, for example), the change counts as tightened.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from app.tracking.plan.file_format import KINDS, Definitions, Kind, Schema
from app.tracking.plan.json_schemas import (
    ASSERTIONS,
    MANY_SCHEMAS,
    NAMED_SCHEMAS,
    ONE_SCHEMA,
    TYPES,
    keywords,
    resolve,
)
from app.tracking.plan.validate import Plan, PlannedEntry, Plans

ChangeKind = Literal["added", "removed", "tightened", "loosened", "changed"]
MODES, POLICIES = ("off", "warn", "enforce"), ("allow", "warn", "enforce")
# Below this depth schemas are only tested for equality, because a schema may refer to itself.
MAX_DEPTH = 12


@dataclass(frozen=True, slots=True)
class Change:
    """One difference; `breaking` if an item that was let through may be refused now."""

    kind: ChangeKind
    where: str
    detail: str
    breaking: bool = False

    def __str__(self) -> str:
        note = " (breaking)" if self.breaking else ""
        return f"{self.kind:<9}  {self.where}: {self.detail}{note}"


def diff_plans(old: Plans, new: Plans) -> list[Change]:
    """Return all differences, app by app; what several apps share is listed once."""
    pairs: dict[tuple[int, int], tuple[Plan | None, Plan | None]] = {}
    apps: dict[tuple[int, int], list[str]] = {}
    for app in sorted({*old.of_apps, *new.of_apps}):
        before, after = old.of(app), new.of(app)
        key = (id(before), id(after))
        pairs[key] = before, after
        apps.setdefault(key, []).append(app)
    if old.of_others is not None or new.of_others is not None:
        key = (id(old.of_others), id(new.of_others))
        pairs[key] = old.of_others, new.of_others
        apps.setdefault(key, []).append("every other app")
    changes: list[Change] = []
    for key, (before, after) in pairs.items():
        prefix = f"{', '.join(apps[key])}: " if len(pairs) > 1 else ""
        changes += [
            replace(change, where=prefix + change.where) for change in _diff_plan(before, after)
        ]
    return changes


def _diff_plan(old: Plan | None, new: Plan | None) -> Iterator[Change]:
    if new is None:
        if old is not None:
            yield Change("removed", "the plan", "no longer exists: every item is let through")
    elif old is None:
        yield from _diff_contents(_NoPlan(), new)
    elif old.digest != new.digest:
        if old.version == new.version:
            yield Change("changed", "version", "is the same although the plan has changed")
        yield from _diff_contents(old, new)


class _NoPlan:
    """The absence of a plan: every item is let through."""

    entries: Mapping[Kind, Mapping[str, PlannedEntry]] = {kind: {} for kind in KINDS}
    unknown: Mapping[Kind, str] = dict.fromkeys(KINDS, "allow")
    definitions: Definitions = {}  # noqa: RUF012  # never changed


def _diff_contents(old: Plan | _NoPlan, new: Plan) -> Iterator[Change]:
    for kind in KINDS:
        before, after = old.unknown[kind], new.unknown[kind]
        if before != after:
            change_kind = _direction(POLICIES.index(after) > POLICIES.index(before))
            detail = f"{before} became {after}"
            yield Change(change_kind, f"unknown.{kind}", detail, breaking=after == "enforce")
        for name in sorted({*old.entries[kind], *new.entries[kind]}):
            yield from _diff_entry(old, new, kind, name)


def _diff_entry(old: Plan | _NoPlan, new: Plan, kind: Kind, name: str) -> Iterator[Change]:
    where = f"{kind}.{name}"
    before, after = old.entries[kind].get(name), new.entries[kind].get(name)
    diff = _SchemaDiff(old.definitions, new.definitions)
    if after is None:
        policy = new.unknown[kind]
        detail = f"unknown {kind} are under {policy}"
        yield Change("removed", where, detail, breaking=policy == "enforce")
        return
    is_enforced = after.mode == "enforce"
    if before is None:
        changes = diff.compare(True, after.schema, where)
        restricts = any(change.kind == "tightened" for change in changes)
        breaking = old.unknown[kind] != "enforce" and is_enforced and restricts
        detail = "was let through with any content" if breaking else "is new"
        yield Change("added", where, detail, breaking)
        return
    if before.mode != after.mode:
        is_tighter = MODES.index(after.mode) > MODES.index(before.mode)
        detail = f"{before.mode} became {after.mode}"
        breaking = is_tighter and is_enforced
        yield Change(_direction(is_tighter), f"{where}.mode", detail, breaking)
    for change in diff.compare(before.schema, after.schema, where):
        yield replace(change, breaking=change.kind == "tightened" and is_enforced)
    if (before.description, before.owner) != (after.description, after.owner):
        yield Change("changed", where, "has another description or owner")


def _direction(is_tighter: bool) -> ChangeKind:
    return "tightened" if is_tighter else "loosened"


LOWER_BOUNDS = keywords("minimum exclusiveMinimum minLength minItems minProperties minContains")
UPPER_BOUNDS = keywords("maximum exclusiveMaximum maxLength maxItems maxProperties maxContains")
BOUNDS = sorted(LOWER_BOUNDS | UPPER_BOUNDS)
COMPARED = keywords("$ref type enum const required properties additionalProperties items")
ALL_KEYWORDS = ASSERTIONS | ONE_SCHEMA | MANY_SCHEMAS | NAMED_SCHEMAS
# Keywords that are compared as a whole
OTHER_KEYWORDS = sorted(ALL_KEYWORDS - COMPARED - LOWER_BOUNDS - UPPER_BOUNDS)
ALL_TYPES = frozenset(TYPES)
MISSING = object()
Difference = tuple[ChangeKind, str]  # the kind of a change of one schema, and a sentence
SchemaObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _SchemaDiff:
    """Compares two schemas, each with the definitions of its plan."""

    old: Definitions
    new: Definitions

    def compare(self, old: Schema, new: Schema, where: str, depth: int = 0) -> Iterator[Change]:
        """Yield what differs, as changes that are not breaking yet."""
        before, after = resolve(old, self.old), resolve(new, self.new)
        if after is False:
            if before is not False:
                yield Change("tightened", where, "is no longer allowed")
            return
        if before is False:
            yield Change("loosened", where, "is allowed now")
            return
        a: SchemaObject = before if isinstance(before, dict) else {}
        b: SchemaObject = after if isinstance(after, dict) else {}
        if depth > MAX_DEPTH:
            if a != b:
                yield Change("tightened", where, "differs deep inside")
            return
        for kind, detail in _compare_keywords(a, b):
            yield Change(kind, where, detail)
        yield from self._compare_fields(a, b, where, depth)
        items = a.get("items", True), b.get("items", True)
        yield from self.compare(*items, where=f"{where}[]", depth=depth + 1)

    def _compare_fields(
        self, a: SchemaObject, b: SchemaObject, where: str, depth: int
    ) -> Iterator[Change]:
        """Compare fields; one that a schema does not name is under its additionalProperties."""
        old, new = a.get("properties", {}), b.get("properties", {})
        old_rest = a.get("additionalProperties", True)
        new_rest = b.get("additionalProperties", True)
        for name in sorted({*old, *new}):
            before, after = old.get(name, old_rest), new.get(name, new_rest)
            yield from self.compare(before, after, f"{where}.{name}", depth + 1)
        if old_rest != new_rest:
            yield from self.compare(old_rest, new_rest, f"{where}.*", depth + 1)


def _compare_keywords(a: SchemaObject, b: SchemaObject) -> Iterator[Difference]:
    yield from _compare_types(a, b)
    yield from _compare_choices(a, b)
    yield from _compare_bounds(a, b)
    yield from _compare_required(a, b)
    for keyword in OTHER_KEYWORDS:
        before, after = a.get(keyword, MISSING), b.get(keyword, MISSING)
        if before is MISSING and after is not MISSING:
            yield "tightened", f"has {keyword}"
        elif after is MISSING and before is not MISSING:
            yield "loosened", f"no longer has {keyword}"
        elif before != after:
            yield "tightened", f"has another {keyword}"


def _compare_types(a: SchemaObject, b: SchemaObject) -> Iterator[Difference]:
    before, after = _types(a), _types(b)
    removed, added = before - after, after - before
    if removed:
        if before == ALL_TYPES:
            yield "tightened", f"now must be {_listed(after)}"
        else:
            yield "tightened", f"can no longer be {_listed(removed)}"
    if added:
        types = "of any type" if after == ALL_TYPES else _listed(added)
        yield "loosened", f"can now be {types}"


def _types(schema: SchemaObject) -> frozenset[str]:
    types = schema.get("type")
    if types is None:
        return ALL_TYPES
    named = frozenset({types} if isinstance(types, str) else types)
    return named | {"integer"} if "number" in named else named


def _listed(types: Iterable[str]) -> str:
    return " or ".join(label for name, label in TYPES.items() if name in types)


def _compare_choices(a: SchemaObject, b: SchemaObject) -> Iterator[Difference]:
    before, after = _choices(a), _choices(b)
    if after is None:
        if before is not None:
            yield "loosened", "can now have other values"
        return
    if before is None:
        yield "tightened", f"now must be one of {', '.join(map(repr, after))}"
        return
    for value in before:
        if value not in after:
            yield "tightened", f"can no longer be {value!r}"
    for value in after:
        if value not in before:
            yield "loosened", f"can now be {value!r}"


def _choices(schema: SchemaObject) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _compare_bounds(a: SchemaObject, b: SchemaObject) -> Iterator[Difference]:
    for keyword in BOUNDS:
        before, after = a.get(keyword), b.get(keyword)
        if before == after:
            continue
        if before is None:
            yield "tightened", f"{keyword} is {after}"
        elif after is None:
            yield "loosened", f"{keyword} is gone"
        else:
            is_tighter = (after > before) == (keyword in LOWER_BOUNDS)
            yield _direction(is_tighter), f"{keyword}: {before} became {after}"


def _compare_required(a: SchemaObject, b: SchemaObject) -> Iterator[Difference]:
    before, after = {*a.get("required", ())}, {*b.get("required", ())}
    for name in sorted(after - before):
        yield "tightened", f"requires {name}"
    for name in sorted(before - after):
        yield "loosened", f"no longer requires {name}"
