"""The OpenAPI document with a tracking plan: events and states, each with its own schema and
examples; attributes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import orjson

from app.http import JSON
from app.tracking.plan.file_format import SINGULAR, Kind
from app.tracking.plan.load import ITEM_FORMS, example_item
from app.tracking.plan.validate import Plan, PlannedEntry, Plans

REF = "#/components/schemas/"
EVENTS, STATES = "/v1/events", "/v1/users/{userId}/states"
BASES: dict[Kind, tuple[str, str]] = {"events": ("Event", EVENTS), "states": ("State", STATES)}
TOLD = {
    "off": "It is not judged.",
    "warn": "What breaks this is accepted, and its receipt lists the violations.",
    "enforce": "What breaks this is refused.",
}
Document = dict[str, Any]


def with_plans(document: Document, plans: Plans) -> Document:
    """The document with what the plans have in it. Apps with plans of their own are named."""
    apart = _apart(plans)
    if not apart:
        return document
    document = orjson.loads(orjson.dumps(document))  # parts of it are the routes' own
    schemas = document["components"]["schemas"]
    known = frozenset(schemas)
    for number, (_, plan) in enumerate(apart):
        for name, schema in plan.definitions.items():
            schemas[_definition(number, name)] = _rewritten(schema, number)
    for kind, (base, path) in BASES.items():
        _add_kind(document, kind, base, path, apart)
    _add_attributes(schemas, apart)
    document["components"]["schemas"] = dict(
        sorted(schemas.items(), key=lambda one: one[0] in known)
    )  # the plan's first
    return document


def _apart(plans: Plans) -> list[tuple[str, Plan]]:
    """The plans, each with the apps that it is for ("" where it is the only one)."""
    found = [*plans.each()]
    return found if len(found) > 1 else [("", plan) for _, plan in found]


def _add_kind(
    document: Document, kind: Kind, base: str, path: str, apart: Sequence[tuple[str, Plan]]
) -> None:
    schemas = document["components"]["schemas"]
    refs = list[Document]()
    examples = dict[str, Document]()
    for number, (apps, plan) in enumerate(apart):
        for entry in plan.entries[kind].values():
            name = _free(schemas, f"{base}_{entry.name}")
            schemas[name] = _schema(schemas[base], entry, apps, number)
            refs.append({"$ref": REF + name})
            examples |= dict(_examples(entry, apps, path))
    if not refs:
        return
    if any(plan.unknown[kind] != "enforce" for _, plan in apart):
        name = _free(schemas, f"Other{base}")
        schemas[name] = _other(
            schemas[base], kind, [entry for _, plan in apart for entry in plan.entries[kind]]
        )
        refs.append({"$ref": REF + name})
    content = document["paths"][path]["post"]["requestBody"]["content"][JSON]
    content["schema"] = {"oneOf": refs} if len(apart) == 1 else {"anyOf": refs}
    if examples:
        content["examples"] = examples


def _schema(base: Document, entry: PlannedEntry, apps: str, number: int) -> Document:
    """The body's own schema, with what the plan says of its fields."""
    made = deepcopy(base)
    field = ITEM_FORMS[entry.kind].name_field
    owner = [f"Owner: {entry.owner}."] if entry.owner else []
    made["title"] = entry.name + (f" ({apps})" if apps else "")
    made["description"] = " ".join(
        [*([entry.description] if entry.description else []), *owner, TOLD[entry.mode]]
    )
    for name, schema in entry.schema["properties"].items():
        made["properties"][name] = _property(made["properties"][name], _rewritten(schema, number))
    made["properties"][field] = {"const": entry.name, "type": "string"}
    made["required"] = sorted({*made.get("required", ()), field, *entry.schema.get("required", ())})
    made["examples"] = [example_item(entry, example) for example in entry.examples] or [
        example_item(entry, {})
    ]
    return made


def _property(base: Any, schema: Any) -> Any:
    """What the plan says of a field, which it may say by true alone."""
    if isinstance(schema, bool):
        return base if schema else {"not": {}}
    kind = {"type": base["type"]} if "type" in base and not {"type", "$ref"} & schema.keys() else {}
    return kind | schema


def _other(base: Document, kind: Kind, names: Sequence[str]) -> Document:
    made = deepcopy(base)
    made["title"] = f"Any other {SINGULAR[kind]}"
    made["description"] = f"Any {SINGULAR[kind]} that the tracking plan does not have."
    made["properties"][ITEM_FORMS[kind].name_field]["not"] = {"enum": sorted(set(names))}
    return made


def _examples(entry: PlannedEntry, apps: str, path: str) -> Iterator[tuple[str, Document]]:
    for index, example in enumerate(entry.examples or ({},)):
        value = example_item(entry, example)
        if "{userId}" in path:
            del value["userId"]
        name = entry.name + (f" ({apps})" if apps else "") + (f" {index + 1}" if index else "")
        told = {"description": entry.description} if entry.description else {}
        yield name, {"summary": name, **told, "value": value}


def _add_attributes(schemas: dict[str, Any], apart: Sequence[tuple[str, Plan]]) -> None:
    """null clears an attribute."""
    found: dict[str, list[Any]] = {}
    for number, (_, plan) in enumerate(apart):
        for entry in plan.entries["attributes"].values():
            told = {"description": entry.description} if entry.description else {}
            schema = _rewritten(entry.schema, number) | told
            found.setdefault(entry.name, []).extend(
                [] if schema in found.get(entry.name, ()) else [schema]
            )
    if not found:
        return
    attributes = schemas["UserUpdate"]["properties"]["userAttributes"]
    attributes["properties"] = {
        name: {"anyOf": [*forms, {"type": "null"}]} for name, forms in found.items()
    }
    if all(plan.unknown["attributes"] == "enforce" for _, plan in apart):
        attributes["additionalProperties"] = False


def _definition(number: int, name: str) -> str:
    return re.sub(r"\W+", "_", f"Plan{number + 1}_{name}", flags=re.ASCII)


def _rewritten(schema: Any, number: int) -> Any:
    """The same with its references to the plan's definitions led into the document's schemas."""
    if isinstance(schema, Mapping):
        return {
            key: REF + _definition(number, str(value).rpartition("/")[2])
            if key == "$ref" and isinstance(value, str)
            else _rewritten(value, number)
            for key, value in schema.items()
        }
    return [_rewritten(one, number) for one in schema] if isinstance(schema, list) else schema


def _free(schemas: Mapping[str, Any], wanted: str) -> str:
    """A name for a schema that no other has."""
    name = re.sub(r"\W+", "_", wanted, flags=re.ASCII)
    return (
        name
        if name not in schemas
        else next(
            told
            for count in range(2, len(schemas) + 3)
            if (told := f"{name}_{count}") not in schemas
        )
    )
