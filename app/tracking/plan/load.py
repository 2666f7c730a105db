"""From the files of a plan to the plan of each app, and to everything that is wrong with them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.errors import Invalid
from app.ingest import validate
from app.leanplum.values import MAX_PARAMS, NAME, TAKES
from app.tracking.name_rules import is_name
from app.tracking.plan import file_format, json_schemas
from app.tracking.plan import yaml_text as text
from app.tracking.plan.file_format import (
    KINDS,
    ONE,
    Defined,
    DefinedAttribute,
    File,
    Kind,
    Policy,
    Schema,
)
from app.tracking.plan.json_schemas import Definitions
from app.tracking.plan.validate import Entry, Plan, Plans
from app.tracking.plan.yaml_text import Path, Text, Told

# Names of one app (fact sheet §5)
LIMITS = {"events": 500, "states": 500, "params": 200, "attributes": 500}
FIELDS = ("params", "value", "currencyCode", "info")
ACTIONS = {"events": ("track", "event"), "states": ("advance", "state")}


@dataclass(frozen=True, slots=True)
class Made:
    """The plans of some files, and what there is to tell of them. `plans` is None where something
    is fatal.
    """

    plans: Plans | None
    told: tuple[Told, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    text: Text
    file: File


def made(files: Mapping[str, str]) -> Made:
    """The plans of files, given as their texts by their names."""
    parts, found = list[_Part](), list[Told]()
    for name, content in files.items():
        read = text.read(name, content)
        shaped = [read] if isinstance(read, Told) else file_format.of(read)
        if isinstance(shaped, list):
            found += shaped
        elif isinstance(read, Text):
            parts.append(_Part(read, shaped))
    if found or not parts:
        return Made(
            None,
            tuple(found)
            or (Told("", 0, "", "there is no plan: no file ends in .yaml, .yml or .json"),),
        )
    return _planned(parts)


def _planned(parts: Sequence[_Part]) -> Made:
    """The plan of each app that is named, and of those that are not. Apps of the same files share
    one.
    """
    found, plans = list[Told](), dict[tuple[int, ...], Plan | None]()

    def plan_of(app: str | None) -> Plan | None:
        of = tuple(
            at for at, part in enumerate(parts) if part.file.apps is None or app in part.file.apps
        )
        if of not in plans:
            plans[of] = _plan([parts[at] for at in of], found) if of else None
        return plans[of]

    apps = {app: plan_of(app) for part in parts for app in part.file.apps or ()}
    others = plan_of(None)
    found = sorted(dict.fromkeys(found), key=lambda told: (told.file, told.line))
    if any(one.fatal for one in found):
        return Made(None, tuple(found))
    return Made(
        Plans({app: plan for app, plan in apps.items() if plan is not None}, others), tuple(found)
    )


def _plan(parts: Sequence[_Part], found: list[Told]) -> Plan | None:
    """The plan that the parts make together; `found` gets what there is to tell. None where it
    can't be made.
    """
    own = [*_repeated(parts), *_faults(parts)]
    found += own
    if any(one.fatal for one in own):
        return None
    definitions = _definitions(parts)
    entries: dict[Kind, dict[str, Entry]] = {
        kind: {entry.name: entry for part in parts for entry in _entries(part, kind, definitions)}
        for kind in KINDS
    }
    broken = list(_broken_examples(parts, entries))
    found += broken
    unknown = next(
        (part.file.unknown for part in parts if part.file.unknown), file_format.Unknown()
    )
    policies: dict[Kind, Policy] = {kind: getattr(unknown, kind) for kind in KINDS}
    version = next(part.file.version for part in parts if part.file.version)
    digest = _digest(version, entries, policies, definitions)
    return (
        None
        if broken
        else Plan(version, digest, entries, policies, definitions, [one.text.file for one in parts])
    )


def _definitions(parts: Sequence[_Part]) -> Definitions:
    return {name: schema for part in parts for name, schema in part.file.definitions.items()}


def _of(part: _Part, kind: Kind) -> Mapping[str, Defined]:
    found: Mapping[str, Defined] = getattr(part.file, kind)
    return found


def _entries(part: _Part, kind: Kind, definitions: Definitions) -> Iterator[Entry]:
    for name, defined in _of(part, kind).items():
        schema = _schema(defined, definitions)
        yield Entry(
            kind,
            name,
            defined.mode or part.file.mode,
            schema,
            defined.description,
            defined.owner,
            tuple(defined.examples),
            json_schemas.compiled(schema, definitions),
        )


def _schema(defined: Defined, definitions: Definitions) -> dict[str, Any]:
    """What an item's fields must be, as one schema; of an attribute, what its value must be."""
    if isinstance(defined, DefinedAttribute):
        return (
            defined.schema_
            if isinstance(defined.schema_, dict)
            else {}
            if defined.schema_
            else {"not": {}}
        )
    own = {name: schema for name in FIELDS if (schema := getattr(defined, name, None)) is not None}
    required = set(getattr(defined, "required", ()))
    if "params" in own and not json_schemas.compiled(own["params"], definitions).is_valid({}):
        required.add("params")
    return {"properties": own} | ({"required": sorted(required)} if required else {})


def _digest(
    version: str,
    entries: Mapping[Kind, Mapping[str, Entry]],
    unknown: Any,
    definitions: Definitions,
) -> str:
    content: dict[str, Any] = {"version": version, "unknown": unknown, "definitions": definitions}
    for kind, found in entries.items():
        content[kind] = {
            name: [one.mode, one.schema, one.description, one.owner, one.examples]
            for name, one in found.items()
        }
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


# --- what is wrong ------------------------------------------------------------------------------------------------


def _repeated(parts: Sequence[_Part]) -> Iterator[Told]:
    """What only one file of a plan may say."""
    if not any(part.file.version for part in parts):
        yield parts[0].text.told(("version",), "is required: what changes of the plan are told by")
    for name in ("version", "unknown"):
        telling = [part for part in parts if getattr(part.file, name) is not None]
        for part in telling[1:]:
            if getattr(part.file, name) != getattr(telling[0].file, name):
                yield part.text.told((name,), f"is told differently by {telling[0].text.file}")
    for kind in (*KINDS, "definitions"):
        first: dict[str, str] = {}
        for part in parts:
            for name in getattr(part.file, kind):
                if first.setdefault(name, part.text.file) != part.text.file:
                    yield part.text.told((kind, name), f"is in {first[name]} already")


def _faults(parts: Sequence[_Part]) -> Iterator[Told]:
    definitions = _definitions(parts)
    events = {name for part in parts for name in part.file.events}
    used = set[str]()
    for part in parts:
        for name, schema in part.file.definitions.items():
            yield from _schema_faults(part, ("definitions", name), schema, definitions, used)
        for kind in KINDS:
            for name, defined in _of(part, kind).items():
                yield from _name_faults(part, (kind, name), name)
                yield from _defined_faults(part, kind, name, defined, definitions, used)
        for name in part.file.states.keys() & events:
            yield part.text.told(
                ("states", name), "is an event as well: a state and an event may not share a name"
            )
    yield from _beside(parts, definitions, used)


def _beside(parts: Sequence[_Part], definitions: Definitions, used: set[str]) -> Iterator[Told]:
    """What doesn't keep a plan from being loaded."""
    for part in parts:
        for name in part.file.definitions:
            if name not in used:
                yield part.text.told(("definitions", name), "is not used", fatal=False)
    names: dict[str, set[str]] = {
        kind: {name for part in parts for name in _of(part, kind)} for kind in KINDS
    }
    names["params"] = {
        name
        for part in parts
        for kind in ACTIONS
        for defined in getattr(part.file, kind).values()
        for name in _params(defined, definitions)
    }
    for kind, limit in LIMITS.items():
        if len(names[kind]) > limit:
            detail = f"has {len(names[kind])} names; Leanplum keeps {limit} of an app"
            yield parts[0].text.told((kind,), detail, fatal=False)


def _name_faults(part: _Part, path: Path, name: str) -> Iterator[Told]:
    if not is_name(name):
        yield part.text.told(path, TAKES[NAME])


def _params(defined: Defined, definitions: Definitions) -> Mapping[str, Schema]:
    """The parameters that a definition names."""
    params = json_schemas.resolved(getattr(defined, "params", None) or {}, definitions)
    found = params.get("properties", {}) if isinstance(params, dict) else {}
    return found if isinstance(found, dict) else {}


def _defined_faults(
    part: _Part, kind: Kind, name: str, defined: Defined, definitions: Definitions, used: set[str]
) -> Iterator[Told]:
    path: Path = (kind, name)
    own = {"schema": defined.schema_} if isinstance(defined, DefinedAttribute) else {}
    own |= {
        field: schema for field in FIELDS if (schema := getattr(defined, field, None)) is not None
    }
    for field, schema in own.items():
        yield from _schema_faults(part, (*path, field), schema, definitions, used)
    params = _params(defined, definitions)
    if len(params) > MAX_PARAMS:
        yield part.text.told(
            (*path, "params"), f"has {len(params)} parameters; Leanplum takes {MAX_PARAMS}"
        )
    for param, schema in params.items():
        at = (*path, "params", "properties", param)
        yield from _name_faults(part, at, param)
        flat = json_schemas.resolved(schema, definitions)
        if isinstance(flat, dict) and {"object", "array"} & {*_types(flat)}:
            yield part.text.told(
                at,
                "can't be an object or a list: parameters are flat, nested ones arrive as `a.b`",
                fatal=False,
            )


def _types(schema: Mapping[str, Any]) -> Sequence[str]:
    types = schema.get("type", ())
    return [types] if isinstance(types, str) else types


def _schema_faults(
    part: _Part, path: Path, schema: Schema, definitions: Definitions, used: set[str]
) -> Iterator[Told]:
    used |= json_schemas.referred(schema)
    for at, detail in json_schemas.faults(schema, definitions):
        yield part.text.told((*path, *at), detail)


def _broken_examples(
    parts: Sequence[_Part], entries: Mapping[Kind, Mapping[str, Entry]]
) -> Iterator[Told]:
    for part in parts:
        for kind in KINDS:
            for name, defined in _of(part, kind).items():
                for index, example in enumerate(defined.examples):
                    path = (kind, name, "examples", index)
                    for at, detail in _broken(entries[kind][name], example):
                        yield part.text.told(
                            (*path, *at), f"{detail}: the example breaks its own {ONE[kind]}"
                        )


def _broken(entry: Entry, example: Any) -> Iterator[tuple[Path, str]]:
    if entry.kind == "attributes":
        found = [*json_schemas.told(entry.validator.iter_errors(example))]
    elif not isinstance(example, dict):
        yield (), "takes the fields of an item, as value and params"
        return
    else:
        found = [*json_schemas.told(entry.validator.iter_errors(example))] or _against_the_rules(
            entry, example
        )
    for fault in found:
        yield tuple(fault.pointer.split("/")[1:]), fault.detail


def _against_the_rules(entry: Entry, example: dict[str, Any]) -> list[Any]:
    try:
        validate.single(ACTIONS[entry.kind][0], item(entry, example))
    except Invalid as refusal:
        return list(refusal.faults)
    return []


def item(entry: Entry, example: Mapping[str, Any]) -> dict[str, Any]:
    """The whole item of an example, as a caller sends it."""
    return {"userId": "user-1", ACTIONS[entry.kind][1]: entry.name, **example}
