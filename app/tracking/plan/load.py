"""Loading: from the texts of plan files to the plan of each app, with all findings about them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from app.errors import Fault, Invalid
from app.ingest import validate
from app.leanplum.values import MAX_PARAMS, NAME, TAKES
from app.tracking.names import is_name
from app.tracking.plan import file_format, json_schemas
from app.tracking.plan.file_format import (
    KINDS,
    SINGULAR,
    AttributeDefinition,
    Definition,
    Definitions,
    Kind,
    ParsedFile,
    Path,
    PlanFinding,
    Schema,
    UnknownPolicies,
    UnknownPolicy,
)
from app.tracking.plan.validate import Plan, PlannedEntry, Plans

# Names of one app (fact sheet §5)
LIMITS = {"events": 500, "states": 500, "params": 200, "attributes": 500}
FIELDS = ("params", "value", "currencyCode", "info")


class ItemForm(NamedTuple):
    """The action of a kind's items, and the field that has the name."""

    action: str
    name_field: str


ITEM_FORMS: dict[Kind, ItemForm] = {
    "events": ItemForm("track", "event"),
    "states": ItemForm("advance", "state"),
}
Entries = Mapping[Kind, Mapping[str, PlannedEntry]]


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The plans of some files and the findings about them; `plans` is None if one is fatal."""

    plans: Plans | None
    findings: tuple[PlanFinding, ...]

    @property
    def fatal(self) -> list[PlanFinding]:
        """The findings that keep the plans from being loaded."""
        return [finding for finding in self.findings if finding.fatal]


def load_plans(texts: Mapping[str, str]) -> LoadResult:
    """Load the plans of files, given as texts by file name."""
    files: list[ParsedFile] = []
    findings: list[PlanFinding] = []
    for name, text in texts.items():
        parsed = file_format.parse(name, text)
        if isinstance(parsed, ParsedFile):
            files.append(parsed)
        else:
            findings += parsed
    if not files and not findings:
        detail = "there is no plan: no file ends in .yaml, .yml or .json"
        findings.append(PlanFinding("", 0, "", detail))
    if findings:
        return LoadResult(None, tuple(findings))
    return _build_plans(files)


def _build_plans(files: Sequence[ParsedFile]) -> LoadResult:
    """Build the plan of each app that is named, and of all others.

    Apps that the same files apply to share one plan.
    """
    findings: list[PlanFinding] = []
    plans: dict[tuple[str, ...], Plan | None] = {}

    def plan_of(app: str | None) -> Plan | None:
        own = [file for file in files if file.plan.apps is None or app in file.plan.apps]
        key = tuple(file.name for file in own)
        if own and key not in plans:
            builder = _Builder(own)
            plans[key] = builder.build()
            findings.extend(builder.findings)
        return plans[key] if own else None

    apps = {app: plan_of(app) for file in files for app in file.plan.apps or ()}
    others = plan_of(None)
    # Files that several plans share are reported once.
    ordered = sorted(dict.fromkeys(findings), key=lambda finding: (finding.file, finding.line))
    if any(finding.fatal for finding in ordered):
        return LoadResult(None, tuple(ordered))
    of_apps = {app: plan for app, plan in apps.items() if plan is not None}
    return LoadResult(Plans(of_apps, others), tuple(ordered))


class _Builder:
    """Builds one plan of the files that make it up."""

    def __init__(self, files: Sequence[ParsedFile]) -> None:
        self._files = files
        self._definitions: Definitions = {
            name: schema for file in files for name, schema in file.plan.definitions.items()
        }
        self._used: set[str] = set()  # definitions that something refers to
        self.findings: list[PlanFinding] = []

    def build(self) -> Plan | None:
        """Return the plan, or None if a finding is fatal; fills `findings`."""
        self.findings += _contradictions(self._files)
        self.findings += self._faults()
        self.findings += self._warnings()
        if any(finding.fatal for finding in self.findings):
            return None
        entries: dict[Kind, dict[str, PlannedEntry]] = {
            kind: {entry.name: entry for file in self._files for entry in self._entries(file, kind)}
            for kind in KINDS
        }
        broken_examples = list(self._broken_examples(entries))
        if broken_examples:
            self.findings += broken_examples
            return None
        version = next(file.plan.version for file in self._files if file.plan.version)
        given = [file.plan.unknown for file in self._files if file.plan.unknown]
        policies = given[0] if given else UnknownPolicies()
        unknown: dict[Kind, UnknownPolicy] = {kind: getattr(policies, kind) for kind in KINDS}
        return Plan(
            version=version,
            digest=_digest(version, entries, unknown, self._definitions),
            entries=entries,
            unknown=unknown,
            definitions=self._definitions,
            files=[file.name for file in self._files],
        )

    def _entries(self, file: ParsedFile, kind: Kind) -> Iterator[PlannedEntry]:
        for name, definition in _definitions_of(file, kind).items():
            schema = self._schema_of(definition)
            yield PlannedEntry(
                kind=kind,
                name=name,
                mode=definition.mode or file.plan.mode,
                schema=schema,
                description=definition.description,
                owner=definition.owner,
                examples=tuple(definition.examples),
                validator=json_schemas.compile_schema(schema, self._definitions),
            )

    def _schema_of(self, definition: Definition) -> dict[str, Any]:
        """Return one schema of an item's fields; for an attribute, the schema of its value."""
        if isinstance(definition, AttributeDefinition):
            if isinstance(definition.schema_, dict):
                return definition.schema_
            return {} if definition.schema_ else {"not": {}}
        fields = _schemas_of_fields(definition)
        required = set(getattr(definition, "required", ()))
        if "params" in fields:
            # Parameters that are not all optional can't be left out together.
            params = json_schemas.compile_schema(fields["params"], self._definitions)
            if not params.is_valid({}):
                required.add("params")
        schema: dict[str, Any] = {"properties": fields}
        if required:
            schema["required"] = sorted(required)
        return schema

    # --- findings -----------------------------------------------------------------------------

    def _faults(self) -> Iterator[PlanFinding]:
        """Yield what is wrong with names and schemas."""
        events = {name for file in self._files for name in file.plan.events}
        for file in self._files:
            for name, schema in file.plan.definitions.items():
                yield from self._schema_faults(file, ("definitions", name), schema)
            for kind in KINDS:
                for name, definition in _definitions_of(file, kind).items():
                    yield from _name_faults(file, (kind, name), name)
                    yield from self._definition_faults(file, (kind, name), definition)
            for name in file.plan.states.keys() & events:
                detail = "is also an event; a state and an event can't share a name"
                yield file.finding(("states", name), detail)

    def _definition_faults(
        self, file: ParsedFile, path: Path, definition: Definition
    ) -> Iterator[PlanFinding]:
        schemas = _schemas_of_fields(definition)
        if isinstance(definition, AttributeDefinition):
            schemas = {"schema": definition.schema_}
        for field, schema in schemas.items():
            yield from self._schema_faults(file, (*path, field), schema)
        params = self._params_of(definition)
        if len(params) > MAX_PARAMS:
            detail = f"has {len(params)} parameters; Leanplum accepts at most {MAX_PARAMS}"
            yield file.finding((*path, "params"), detail)
        for param, schema in params.items():
            at = (*path, "params", "properties", param)
            yield from _name_faults(file, at, param)
            if _allows_nesting(json_schemas.resolve(schema, self._definitions)):
                detail = (
                    "can't be an object or an array: parameters are flat, "
                    "nested ones arrive as `a.b`"
                )
                yield file.finding(at, detail, fatal=False)

    def _schema_faults(self, file: ParsedFile, path: Path, schema: Schema) -> Iterator[PlanFinding]:
        self._used |= json_schemas.references(schema)
        for at, detail in json_schemas.schema_faults(schema, self._definitions):
            yield file.finding((*path, *at), detail)

    def _params_of(self, definition: Definition) -> Mapping[str, Schema]:
        """Return the schemas of the parameters that a definition names."""
        own = getattr(definition, "params", None) or {}
        params = json_schemas.resolve(own, self._definitions)
        properties = params.get("properties", {}) if isinstance(params, dict) else {}
        return properties if isinstance(properties, dict) else {}

    def _warnings(self) -> Iterator[PlanFinding]:
        """Yield findings that do not keep the plan from being loaded."""
        names: dict[str, set[str]] = {kind: set() for kind in (*KINDS, "params")}
        for file in self._files:
            for name in file.plan.definitions:
                if name not in self._used:
                    yield file.finding(("definitions", name), "is not used", fatal=False)
            for kind in KINDS:
                for name, definition in _definitions_of(file, kind).items():
                    names[kind].add(name)
                    names["params"].update(self._params_of(definition))
        for kind_or_params, limit in LIMITS.items():
            count = len(names[kind_or_params])
            if count > limit:
                detail = f"has {count} names; Leanplum keeps {limit} per app"
                yield self._files[0].finding((kind_or_params,), detail, fatal=False)

    def _broken_examples(self, entries: Entries) -> Iterator[PlanFinding]:
        for file in self._files:
            for kind in KINDS:
                for name, definition in _definitions_of(file, kind).items():
                    for index, example in enumerate(definition.examples):
                        for at, detail in _example_faults(entries[kind][name], example):
                            path = (kind, name, "examples", index, *at)
                            text = f"{detail}: the example violates its own {SINGULAR[kind]}"
                            yield file.finding(path, text)


def _definitions_of(file: ParsedFile, kind: Kind) -> Mapping[str, Definition]:
    definitions: Mapping[str, Definition] = getattr(file.plan, kind)
    return definitions


def _schemas_of_fields(definition: Definition) -> dict[str, Schema]:
    schemas = {field: getattr(definition, field, None) for field in FIELDS}
    return {field: schema for field, schema in schemas.items() if schema is not None}


def _contradictions(files: Sequence[ParsedFile]) -> Iterator[PlanFinding]:
    """Yield findings about what only one file of a plan may say, and what is missing in all."""
    if not any(file.plan.version for file in files):
        yield files[0].finding(("version",), "is required: changes of the plan are shown by it")
    for field in ("version", "unknown"):
        giving = [file for file in files if getattr(file.plan, field) is not None]
        for file in giving[1:]:
            if getattr(file.plan, field) != getattr(giving[0].plan, field):
                yield file.finding((field,), f"differs from the one in {giving[0].name}")
    for kind in (*KINDS, "definitions"):
        defined_in: dict[str, str] = {}
        for file in files:
            for name in getattr(file.plan, kind):
                first = defined_in.setdefault(name, file.name)
                if first != file.name:
                    yield file.finding((kind, name), f"is already defined in {first}")


def _name_faults(file: ParsedFile, path: Path, name: str) -> Iterator[PlanFinding]:
    if not is_name(name):
        yield file.finding(path, TAKES[NAME])


def _allows_nesting(schema: Schema) -> bool:
    types = schema.get("type", ()) if isinstance(schema, dict) else ()
    allowed = {types} if isinstance(types, str) else {*types}
    return not allowed.isdisjoint({"object", "array"})


def _example_faults(entry: PlannedEntry, example: Any) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong with an example: its path in the example, and a sentence."""
    if entry.kind != "attributes" and not isinstance(example, dict):
        yield (), "must be an object with the fields of an item, such as value and params"
        return
    faults: Sequence[Fault] = [*json_schemas.faults_of(entry.validator.iter_errors(example))]
    if not faults and entry.kind != "attributes":
        faults = _item_faults(entry, example)
    for fault in faults:
        yield tuple(fault.pointer.split("/")[1:]), fault.detail


def _item_faults(entry: PlannedEntry, example: Mapping[str, Any]) -> Sequence[Fault]:
    """Return what validation, without a plan, finds in the item of an example."""
    try:
        validate.single(ITEM_FORMS[entry.kind].action, example_item(entry, example))
    except Invalid as error:
        return error.faults
    return ()


def example_item(entry: PlannedEntry, example: Mapping[str, Any]) -> dict[str, Any]:
    """Return an example as the whole item that a caller would send."""
    return {"userId": "user-1", ITEM_FORMS[entry.kind].name_field: entry.name, **example}


def _digest(
    version: str, entries: Entries, unknown: Mapping[Kind, str], definitions: Definitions
) -> str:
    content: dict[str, Any] = {"version": version, "unknown": unknown, "definitions": definitions}
    for kind, by_name in entries.items():
        content[kind] = {
            name: [entry.mode, entry.schema, entry.description, entry.owner, entry.examples]
            for name, entry in by_name.items()
        }
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
