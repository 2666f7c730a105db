"""JSON Schemas (draft 2020-12): the supported subset, compiled once, and errors as faults.

jsonschema-rs repeats the value in each error message, and values must never appear in an answer.
So a fault is made only of the error's kind, the schema's own content, and the path.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson
from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError, ValidationErrorKind

from app.errors import Fault
from app.ingest.faults import pointer
from app.patterns import PatternRefused, check_size
from app.tracking.plan.file_format import Definitions, Path, Schema

PATTERN_BYTES = 32 * 1024 * 1024  # memory of one pattern's states, which `check_size` bounds
DEFINITIONS = "#/definitions/"


def keywords(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


ONE_SCHEMA = keywords(
    "additionalProperties contains else if items not propertyNames then "
    "unevaluatedItems unevaluatedProperties"
)
MANY_SCHEMAS = keywords("allOf anyOf oneOf prefixItems")
NAMED_SCHEMAS = keywords("dependentSchemas patternProperties properties")
ASSERTIONS = keywords(
    "$ref const dependentRequired enum exclusiveMaximum exclusiveMinimum format maxContains "
    "maxItems maxLength maxProperties maximum minContains minItems minLength minProperties minimum "
    "multipleOf pattern required type uniqueItems"
)
ANNOTATIONS = keywords(
    "$comment contentMediaType default deprecated description examples readOnly title writeOnly"
)
KEYWORDS = ONE_SCHEMA | MANY_SCHEMAS | NAMED_SCHEMAS | ASSERTIONS | ANNOTATIONS
SchemaFault = tuple[Path, str]  # the path in a schema, and what is wrong there


# --- schemas ----------------------------------------------------------------------------------


def walk(schema: Schema, path: Path = ()) -> Iterator[tuple[Path, Schema]]:
    """Yield the schema and every schema in it, each with its path."""
    yield path, schema
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        parts: Iterable[tuple[Path, Any]] = ()
        if keyword in ONE_SCHEMA:
            parts = [((keyword,), value)]
        elif keyword in MANY_SCHEMAS and isinstance(value, list):
            parts = [((keyword, index), part) for index, part in enumerate(value)]
        elif keyword in NAMED_SCHEMAS and isinstance(value, dict):
            parts = [((keyword, name), part) for name, part in value.items()]
        for at, part in parts:
            if isinstance(part, dict | bool):
                yield from walk(part, (*path, *at))


def references(schema: Schema) -> set[str]:
    """Return the names of the definitions that a schema refers to."""
    names: set[str] = set()
    for _, part in walk(schema):
        target = str(part.get("$ref", "")) if isinstance(part, dict) else ""
        if target.startswith(DEFINITIONS):
            names.add(target.removeprefix(DEFINITIONS).split("/")[0])
    return names


def schema_faults(schema: Schema, definitions: Definitions) -> Iterator[SchemaFault]:
    """Yield everything that keeps a schema from being used."""
    is_faulty = False
    for path, part in walk(schema):
        if isinstance(part, dict):
            for at, detail in _faults_of_keywords(part, definitions):
                is_faulty = True
                yield (*path, *at), detail
    if not is_faulty:
        yield from _compilation_faults(schema, definitions)


def _faults_of_keywords(schema: dict[str, Any], definitions: Definitions) -> Iterator[SchemaFault]:
    for keyword in schema:
        if keyword not in KEYWORDS and not keyword.startswith("x-"):
            yield (keyword,), "is not a supported JSON Schema keyword; check its spelling"
    if "$ref" in schema:
        target = str(schema["$ref"])
        is_ours = target.startswith(DEFINITIONS)
        if not is_ours or target.removeprefix(DEFINITIONS) not in definitions:
            detail = f"must be {DEFINITIONS}NAME, where NAME is in this plan's definitions"
            yield ("$ref",), detail
    patterns: list[tuple[Path, Any]] = [(("pattern",), schema.get("pattern"))]
    named = schema.get("patternProperties")
    if isinstance(named, dict):
        patterns += [(("patternProperties", pattern), pattern) for pattern in named]
    for at, pattern in patterns:
        if isinstance(pattern, str):
            try:
                # The engine takes linear time, but the factor depends on the pattern.
                check_size(pattern)
            except PatternRefused as error:
                yield at, str(error)


def _compilation_faults(schema: Schema, definitions: Definitions) -> Iterator[SchemaFault]:
    try:
        compile_schema(schema, definitions)
    except ValidationError as error:
        if isinstance(error.kind, ValidationErrorKind.Format):
            detail = "is not a supported regular expression: no look-around, no back-references"
        elif error.instance_path[-1:] == ["format"]:
            detail = "is not a known format"
        elif error.instance_path[-1:] == ["type"]:
            detail = f"must be one of {', '.join(TYPES)}, or a list of them"
        else:
            detail = f"can't be compiled: {_detail(error.kind)}"
        yield tuple(error.instance_path), detail
    except ValueError:
        yield (), "can't be compiled"


def compile_schema(schema: Schema, definitions: Definitions) -> Draft202012Validator:
    """Return the validator of a schema. Raises ValidationError.

    Formats are asserted, patterns take linear time, and nothing is fetched.
    """
    own = schema if isinstance(schema, dict) else {"allOf": [schema]}
    return Draft202012Validator(
        {**own, "definitions": definitions},
        validate_formats=True,
        ignore_unknown_formats=False,
        pattern_options=RegexOptions(dfa_size_limit=PATTERN_BYTES),
        offline=True,
    )


def resolve(schema: Schema, definitions: Definitions) -> Schema:
    """Follow the references of a schema to their definition."""
    seen = set[str]()
    while isinstance(schema, dict):
        name = str(schema.get("$ref", "")).removeprefix(DEFINITIONS)
        if name not in definitions or name in seen:
            break
        seen.add(name)
        schema = definitions[name]
    return schema


def entry_schema(schema: Schema, definitions: Definitions) -> Schema:
    """Return the schema of one entry if the schema describes lists, else the schema itself."""
    resolved = resolve(schema, definitions)
    if isinstance(resolved, dict) and ("items" in resolved or "array" in resolved.get("type", "")):
        items: Schema = resolved.get("items", True)
        return items
    return schema


def closed_params(item_schema: Schema, definitions: Definitions) -> frozenset[str] | None:
    """Return the names of all parameters that an item may have; None if it may have others."""
    if not isinstance(item_schema, dict):
        return None
    params = resolve(item_schema.get("properties", {}).get("params", True), definitions)
    if not isinstance(params, dict) or "patternProperties" in params:
        return None
    if params.get("additionalProperties") is not False:
        return None
    return frozenset(params.get("properties", ()))


# --- errors -----------------------------------------------------------------------------------


def faults_of(errors: Iterable[ValidationError], base: str = "") -> Iterator[Fault]:
    """Yield errors as faults, one for each place and keyword; pointers start with `base`."""
    seen = set[tuple[str, str]]()
    for error in errors:
        for fault in _faults(error, base):
            if (fault.pointer, fault.code) not in seen:
                seen.add((fault.pointer, fault.code))
                yield fault


def _faults(error: ValidationError, base: str) -> Iterator[Fault]:
    kind = error.kind
    path = [str(step) for step in error.instance_path]
    code = "plan-" + re.sub("[A-Z]", lambda letter: "-" + letter[0].lower(), kind.name)
    match kind:
        case ValidationErrorKind.Required(name):
            yield Fault(base + pointer([*path, name]), "is required by the tracking plan", code)
        case ValidationErrorKind.AdditionalProperties(
            names
        ) | ValidationErrorKind.UnevaluatedProperties(names):
            for name in names:
                detail = "is not in the tracking plan; check its spelling"
                yield Fault(base + pointer([*path, name]), detail, "plan-unknown-param")
        case _:
            yield Fault(base + pointer(path), _detail(kind), code)


TYPES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
MAX_VALUES_SHOWN = 20


def _shown(values: Iterable[Any]) -> str:
    texts = [orjson.dumps(value).decode() for value in values]
    shown = ", ".join(texts[:MAX_VALUES_SHOWN])
    if len(texts) > MAX_VALUES_SHOWN:
        shown += f" and {len(texts) - MAX_VALUES_SHOWN} more"
    return shown


_DETAILS: dict[str, Callable[[Any], str]] = {
    "type": lambda kind: f"must be {' or '.join(TYPES.get(name, name) for name in kind.types)}",
    "enum": lambda kind: f"must be one of {_shown(kind.options)}",
    "const": lambda kind: f"must be {_shown([kind.expected_value])}",
    "minimum": lambda kind: f"must not be less than {kind.limit}",
    "maximum": lambda kind: f"must not be greater than {kind.limit}",
    "exclusiveMinimum": lambda kind: f"must be greater than {kind.limit}",
    "exclusiveMaximum": lambda kind: f"must be less than {kind.limit}",
    "multipleOf": lambda kind: f"must be a multiple of {kind.multiple_of}",
    "minLength": lambda kind: f"must have at least {kind.limit} characters",
    "maxLength": lambda kind: f"must have at most {kind.limit} characters",
    "pattern": lambda kind: f"must match {kind.pattern}",
    "format": lambda kind: f"must have the format {kind.format}",
    "minItems": lambda kind: f"must have at least {kind.limit} entries",
    "maxItems": lambda kind: f"must have at most {kind.limit} entries",
    "uniqueItems": lambda kind: "must not have duplicate entries",
    "minProperties": lambda kind: f"must have at least {kind.limit} fields",
    "maxProperties": lambda kind: f"must have at most {kind.limit} fields",
    "contains": lambda kind: "lacks an entry that the tracking plan requires",
    "anyOf": lambda kind: "matches none of the alternatives in the tracking plan",
    "oneOf": lambda kind: "must match exactly one of the alternatives in the tracking plan",
    "not": lambda kind: "has a form that the tracking plan forbids",
    "falseSchema": lambda kind: "is not allowed by the tracking plan, or nothing in it is",
    "propertyNames": lambda kind: "has a field whose name the tracking plan does not allow",
}


def _detail(kind: ValidationErrorKind) -> str:
    """Return a sentence for a kind of error, made only of the schema's own content."""
    render = _DETAILS.get(kind.name)
    return "does not conform to the tracking plan" if render is None else render(kind)
