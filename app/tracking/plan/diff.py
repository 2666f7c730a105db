"""An old plan and a new one: what was added, removed, tightened, loosened.

A change breaks something where an item that the old plan let through may be refused by the new one.
What can't be told of two schemas (as two patterns) is taken for tightened.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.tracking.plan.file_format import KINDS, Kind, Schema
from app.tracking.plan.json_schemas import (
    CHECKS,
    MANY_SCHEMAS,
    NAMED_SCHEMAS,
    ONE_SCHEMA,
    TYPES,
    Definitions,
    resolved,
    words,
)
from app.tracking.plan.validate import Entry, Plan, Plans

Word = Literal["added", "removed", "tightened", "loosened", "changed"]
Words = tuple[Word, str]  # what happened to a schema, in words
MODES, POLICIES = ("off", "warn", "enforce"), ("allow", "warn", "enforce")
# Of schemas in schemas: what is below, as in one that refers to itself, is compared as text
DEEPEST = 12


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `breaking`: an item that was let through may be refused now."""

    word: Word
    where: str
    detail: str
    breaking: bool = False

    def __str__(self) -> str:
        return (
            f"{self.word:<9}  {self.where}: {self.detail}{' (breaking)' if self.breaking else ''}"
        )


def differences(old: Plans, new: Plans) -> list[Change]:
    """Everything that differs, app by app; what several apps share is told once."""
    names: list[str | None] = [*sorted({*old.of_apps, *new.of_apps})]
    if old.of_others is not None or new.of_others is not None:
        names.append(None)
    pairs: dict[tuple[int, int], tuple[list[str], Plan | None, Plan | None]] = {}
    for name in names:
        before, after = (
            plans.of_others if name is None else plans.of(name) for plans in (old, new)
        )
        pairs.setdefault((id(before), id(after)), ([], before, after))[0].append(
            name or "every other app"
        )
    several = len(pairs) > 1
    return [
        Change(
            one.word,
            f"{', '.join(apps)}: {one.where}" if several else one.where,
            one.detail,
            one.breaking,
        )
        for apps, before, after in pairs.values()
        for one in _of_plans(before, after)
    ]


def _of_plans(old: Plan | None, new: Plan | None) -> Iterator[Change]:
    if new is None or old is None:
        if new is not None:
            yield from _of_contents(_Nothing(), new)
        elif old is not None:
            yield Change("removed", "the plan", "is no longer there: everything is let through")
        return
    if old.digest == new.digest:
        return
    if old.version == new.version:
        yield Change("changed", "version", "is the same, though the plan is not")
    yield from _of_contents(old, new)


class _Nothing:
    """No plan: everything is let through."""

    entries: Mapping[Kind, Mapping[str, Entry]] = {kind: {} for kind in KINDS}
    unknown: Mapping[Kind, str] = dict.fromkeys(KINDS, "allow")
    definitions: Definitions = {}  # noqa: RUF012  # likewise


def _of_contents(old: Plan | _Nothing, new: Plan) -> Iterator[Change]:
    for kind in KINDS:
        before, after = old.unknown[kind], new.unknown[kind]
        if before != after:
            tighter = POLICIES.index(after) > POLICIES.index(before)
            breaking = after == "enforce"
            yield Change(_word(tighter), f"unknown.{kind}", f"{before} became {after}", breaking)
        for name in sorted({*old.entries[kind], *new.entries[kind]}):
            yield from _of_entries(old, new, kind, name)


def _of_entries(old: Plan | _Nothing, new: Plan, kind: Kind, name: str) -> Iterator[Change]:
    where = f"{kind}.{name}"
    before, after = old.entries[kind].get(name), new.entries[kind].get(name)
    compare = _Comparing(old.definitions, new.definitions)
    if after is None:
        policy = new.unknown[kind]
        yield Change("removed", where, f"unknown {kind} are under {policy}", policy == "enforce")
    elif before is None:
        asks = any(word == "tightened" for _, (word, _) in compare.schemas(True, after.schema, ""))
        breaking = old.unknown[kind] != "enforce" and after.mode == "enforce" and asks
        yield Change(
            "added", where, "was let through whatever it had" if breaking else "is new", breaking
        )
    else:
        enforced = after.mode == "enforce"
        if before.mode != after.mode:
            tighter = MODES.index(after.mode) > MODES.index(before.mode)
            yield Change(
                _word(tighter),
                f"{where}.mode",
                f"{before.mode} became {after.mode}",
                tighter and enforced,
            )
        for at, (word, detail) in compare.schemas(before.schema, after.schema, where):
            yield Change(word, at, detail, word == "tightened" and enforced)
        if (before.description, before.owner) != (after.description, after.owner):
            yield Change("changed", where, "has another description or owner")


def _word(tighter: bool) -> Word:
    return "tightened" if tighter else "loosened"


LOWER = words("minimum exclusiveMinimum minLength minItems minProperties minContains")
UPPER = words("maximum exclusiveMaximum maxLength maxItems maxProperties maxContains")
HERE = words("$ref type enum const required properties additionalProperties items") | LOWER | UPPER
OTHERS = sorted((CHECKS | ONE_SCHEMA | MANY_SCHEMAS | NAMED_SCHEMAS) - HERE)
ALL_TYPES = frozenset(TYPES)
MISSING = object()


@dataclass(frozen=True, slots=True)
class _Comparing:
    """Of two schemas, each with its own definitions."""

    old: Definitions
    new: Definitions

    def schemas(
        self, old: Schema, new: Schema, where: str, depth: int = 0
    ) -> Iterator[tuple[str, Words]]:
        """What differs, and where."""
        before, after = resolved(old, self.old), resolved(new, self.new)
        if before is False or after is False:
            if before is not after:
                yield (
                    where,
                    ("tightened", "is no longer allowed")
                    if after is False
                    else ("loosened", "is allowed now"),
                )
            return
        a, b = (one if isinstance(one, dict) else {} for one in (before, after))
        if depth > DEEPEST:
            yield from ((where, ("tightened", "differs deep inside")) for _ in range(a != b))
            return
        for found in (_types(a, b), _choices(a, b), _bounds(a, b), _required(a, b), _others(a, b)):
            yield from ((where, words) for words in found)
        yield from self._fields(a, b, where, depth)
        yield from self.schemas(a.get("items", True), b.get("items", True), f"{where}[]", depth + 1)

    def _fields(
        self, a: Mapping[str, Any], b: Mapping[str, Any], where: str, depth: int
    ) -> Iterator[tuple[str, Words]]:
        """A field that is not named is under additionalProperties."""
        old, new = a.get("properties", {}), b.get("properties", {})
        old_rest, new_rest = (
            a.get("additionalProperties", True),
            b.get("additionalProperties", True),
        )
        for name in sorted({*old, *new}):
            before, after = old.get(name, old_rest), new.get(name, new_rest)
            yield from self.schemas(before, after, f"{where}.{name}", depth + 1)
        if old_rest != new_rest:
            yield from self.schemas(old_rest, new_rest, f"{where}.*", depth + 1)


def _types(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Words]:
    before, after = _allowed(a), _allowed(b)
    if gone := before - after:
        if before == ALL_TYPES:
            yield "tightened", f"takes only {_listed(after)}"
        else:
            yield "tightened", f"no longer takes {_listed(gone)}"
    if gained := after - before:
        yield (
            "loosened",
            "takes every type" if after == ALL_TYPES else f"takes {_listed(gained)} too",
        )


def _allowed(schema: Mapping[str, Any]) -> frozenset[str]:
    types = schema.get("type")
    if types is None:
        return ALL_TYPES
    told = {types} if isinstance(types, str) else {*types}
    return frozenset(told | {"integer"} if "number" in told else told)


def _listed(types: Iterable[str]) -> str:
    return " or ".join(words for name, words in TYPES.items() if name in types)


def _choices(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Words]:
    before, after = _values(a), _values(b)
    if before is None and after is not None:
        yield "tightened", f"takes only {', '.join(map(repr, after))}"
    elif before is not None and after is None:
        yield "loosened", "takes other values too"
    elif before is not None and after is not None:
        for one in before:
            if one not in after:
                yield "tightened", f"no longer takes {one!r}"
        for one in after:
            if one not in before:
                yield "loosened", f"takes {one!r} too"


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    found: list[Any] | None = schema.get("enum")
    return found


def _bounds(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Words]:
    for keyword in sorted(LOWER | UPPER):
        before, after = a.get(keyword), b.get(keyword)
        if before == after:
            continue
        if after is None or before is None:
            tighter, told = (
                before is None,
                f"{keyword} is {after}" if before is None else f"{keyword} is gone",
            )
        else:
            tighter, told = (
                (after > before) == (keyword in LOWER),
                f"{keyword}: {before} became {after}",
            )
        yield _word(tighter), told


def _required(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Words]:
    before, after = {*a.get("required", ())}, {*b.get("required", ())}
    for name in sorted(after - before):
        yield "tightened", f"requires {name}"
    for name in sorted(before - after):
        yield "loosened", f"no longer requires {name}"


def _others(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Words]:
    for keyword in OTHERS:
        before, after = a.get(keyword, MISSING), b.get(keyword, MISSING)
        if before is MISSING and after is not MISSING:
            yield "tightened", f"has {keyword}"
        elif after is MISSING and before is not MISSING:
            yield "loosened", f"no longer has {keyword}"
        elif before != after:
            yield "tightened", f"has another {keyword}"
