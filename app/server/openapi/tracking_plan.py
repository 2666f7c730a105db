"""Tracking plans in the OpenAPI document: a schema and examples for each event and state."""

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import orjson

from app.http import JSON
from app.tracking.plan.file_format import SINGULAR, Kind
from app.tracking.plan.load import ITEM_FORMS, example_item
from app.tracking.plan.validate import Plan, PlannedEntry, Plans

REF = "#/components/schemas/"
MODE_TEXTS = {
    "off": "Violations are not checked.",
    "warn": "Violations are accepted and listed in the receipt.",
    "enforce": "Violations are refused.",
}
Document = dict[str, Any]


class PlannedBody(NamedTuple):
    """A body that plans describe: its path, its schema, and the prefix of the plans' schemas."""

    path: str
    schema: str
    prefix: str


BODIES: dict[Kind, PlannedBody] = {
    "events": PlannedBody("/v1/events", "Event", "Event"),
    "states": PlannedBody("/v1/users/{userId}/states", "StateChange", "State"),
}


def with_plans(document: Document, plans: Plans) -> Document:
    """Return the document with the plans' schemas; with several plans, each names its apps."""
    numbered = _plans_by_apps(plans)
    if not numbered:
        return document
    document = orjson.loads(orjson.dumps(document))  # its parts belong to the routes
    schemas = document["components"]["schemas"]
    known = frozenset(schemas)
    for number, (_, plan) in enumerate(numbered):
        for name, schema in plan.definitions.items():
            schemas[_definition(number, name)] = _rewritten(schema, number)
    for kind in BODIES:
        _add_kind(document, kind, numbered)
    _add_attributes(schemas, numbered)
    # The plans' schemas come first.
    names = sorted(schemas, key=lambda name: name in known)
    document["components"]["schemas"] = {name: schemas[name] for name in names}
    return document


def _plans_by_apps(plans: Plans) -> list[tuple[str, Plan]]:
    """Return each plan with the names of its apps; a single plan has none."""
    with_apps = [*plans.each()]
    return with_apps if len(with_apps) > 1 else [("", plan) for _, plan in with_apps]


def _add_kind(document: Document, kind: Kind, numbered: Sequence[tuple[str, Plan]]) -> None:
    """Replace the schema of a body by those of the plans' entries of this kind."""
    body = BODIES[kind]
    schemas = document["components"]["schemas"]
    refs = list[Document]()
    examples = dict[str, Document]()
    for number, (apps, plan) in enumerate(numbered):
        for entry in plan.entries[kind].values():
            name = _free(schemas, f"{body.prefix}_{entry.name}")
            schemas[name] = _schema(schemas[body.schema], entry, apps, number)
            refs.append({"$ref": REF + name})
            examples |= dict(_examples(entry, apps, body.path))
    if not refs:
        return
    if any(plan.unknown[kind] != "enforce" for _, plan in numbered):
        name = _free(schemas, f"Other{body.prefix}")
        planned_names = [entry for _, plan in numbered for entry in plan.entries[kind]]
        schemas[name] = _other(schemas[body.schema], kind, planned_names)
        refs.append({"$ref": REF + name})
    content = document["paths"][body.path]["post"]["requestBody"]["content"][JSON]
    content["schema"] = {"oneOf": refs} if len(numbered) == 1 else {"anyOf": refs}
    if examples:
        content["examples"] = examples


def _schema(base: Document, entry: PlannedEntry, apps: str, number: int) -> Document:
    """Return the body's schema, restricted by the plan's schema of its fields."""
    merged = deepcopy(base)
    field = ITEM_FORMS[entry.kind].name_field
    merged["title"] = _title(entry, apps)
    sentences = [entry.description] if entry.description else []
    if entry.owner:
        sentences.append(f"Owner: {entry.owner}.")
    merged["description"] = " ".join([*sentences, MODE_TEXTS[entry.mode]])
    for name, schema in entry.schema["properties"].items():
        merged["properties"][name] = _property(
            merged["properties"][name], _rewritten(schema, number)
        )
    merged["properties"][field] = {"const": entry.name, "type": "string"}
    merged["required"] = sorted(
        {*merged.get("required", ()), field, *entry.schema.get("required", ())}
    )
    merged["examples"] = [example_item(entry, example) for example in entry.examples or ({},)]
    return merged


def _title(entry: PlannedEntry, apps: str) -> str:
    return f"{entry.name} ({apps})" if apps else entry.name


def _property(base: Any, schema: Any) -> Any:
    """Return the schema of a field: the plan's, or the base if the plan has only `true`."""
    if isinstance(schema, bool):
        return base if schema else {"not": {}}
    kind = {"type": base["type"]} if "type" in base and not {"type", "$ref"} & schema.keys() else {}
    return kind | schema


def _other(base: Document, kind: Kind, names: Sequence[str]) -> Document:
    merged = deepcopy(base)
    merged["title"] = f"Any other {SINGULAR[kind]}"
    merged["description"] = f"Any {SINGULAR[kind]} that the tracking plan does not have."
    merged["properties"][ITEM_FORMS[kind].name_field]["not"] = {"enum": sorted(set(names))}
    return merged


def _examples(entry: PlannedEntry, apps: str, path: str) -> Iterator[tuple[str, Document]]:
    for index, example in enumerate(entry.examples or ({},)):
        value = example_item(entry, example)
        if "{userId}" in path:
            del value["userId"]
        name = _title(entry, apps)
        if index:
            name += f" {index + 1}"
        document: Document = {"summary": name}
        if entry.description:
            document["description"] = entry.description
        yield name, document | {"value": value}


def _add_attributes(schemas: dict[str, Any], numbered: Sequence[tuple[str, Plan]]) -> None:
    """Add the plans' attributes to the user update; null, which clears one, is always allowed."""
    forms_by_name: dict[str, list[Any]] = {}
    for number, (_, plan) in enumerate(numbered):
        for entry in plan.entries["attributes"].values():
            schema = _rewritten(entry.schema, number)
            if entry.description:
                schema |= {"description": entry.description}
            forms = forms_by_name.setdefault(entry.name, [])
            if schema not in forms:
                forms.append(schema)
    if not forms_by_name:
        return
    attributes = schemas["UserUpdate"]["properties"]["userAttributes"]
    attributes["properties"] = {
        name: {"anyOf": [*forms, {"type": "null"}]} for name, forms in forms_by_name.items()
    }
    if all(plan.unknown["attributes"] == "enforce" for _, plan in numbered):
        attributes["additionalProperties"] = False


def _definition(number: int, name: str) -> str:
    return re.sub(r"\W+", "_", f"Plan{number + 1}_{name}", flags=re.ASCII)


def _rewritten(schema: Any, number: int) -> Any:
    """Return a schema whose references to the plan's definitions point into the document."""
    if isinstance(schema, Mapping):
        return {
            key: REF + _definition(number, str(value).rpartition("/")[2])
            if key == "$ref" and isinstance(value, str)
            else _rewritten(value, number)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_rewritten(inner, number) for inner in schema]
    return schema


def _free(schemas: Mapping[str, Any], wanted: str) -> str:
    """Return a name for a schema that no other schema has."""
    name = re.sub(r"\W+", "_", wanted, flags=re.ASCII)
    candidate, count = name, 2
    while candidate in schemas:
        candidate, count = f"{name}_{count}", count + 1
    return candidate
