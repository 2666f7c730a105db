"""JSON Schemas (draft 2020-12): which are taken, compiled once, and what they find, told in our
words.

jsonschema-rs repeats the value that it was shown in each message, and a value must never come back:
only the kind of an error, what the schema itself says, and the path are used.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson
from jsonschema_rs import Draft202012Validator, RegexOptions, ValidationError, ValidationErrorKind

from app.errors import Fault
from app.ingest.validate import pointer
from app.patterns import PatternRefused, check_size
from app.tracking.plan.file_format import Schema
from app.tracking.plan.yaml_text import Path

Definitions = dict[str, Schema]
PATTERN_BYTES = 32 * 1024 * 1024  # what a pattern may keep in mind, which `check_size` bounds
DEFINITIONS = "#/definitions/"


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


ONE_SCHEMA = words(
    "additionalProperties contains else if items not propertyNames then unevaluatedItems unevaluatedProperties"
)
MANY_SCHEMAS = words("allOf anyOf oneOf prefixItems")
NAMED_SCHEMAS = words("dependentSchemas patternProperties properties")
CHECKS = words(
    "$ref const dependentRequired enum exclusiveMaximum exclusiveMinimum format maxContains maxItems maxLength "
    "maxProperties maximum minContains minItems minLength minProperties minimum multipleOf pattern required type "
    "uniqueItems"
)
NOTES = words(
    "$comment contentMediaType default deprecated description examples readOnly title writeOnly"
)
KEYWORDS = ONE_SCHEMA | MANY_SCHEMAS | NAMED_SCHEMAS | CHECKS | NOTES
Found = tuple[Path, str]  # where in a schema, and what is wrong there


def inside(schema: Schema, path: Path = ()) -> Iterator[tuple[Path, Schema]]:
    """The schema and every one in it, with where each stands."""
    yield path, schema
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        parts: Iterable[tuple[str | int, Any]] = ()
        if keyword in ONE_SCHEMA:
            yield from inside(value, (*path, keyword)) if isinstance(value, dict | bool) else ()
        elif keyword in MANY_SCHEMAS and isinstance(value, list):
            parts = enumerate(value)
        elif keyword in NAMED_SCHEMAS and isinstance(value, dict):
            parts = value.items()
        for name, one in parts:
            yield from inside(one, (*path, keyword, name)) if isinstance(one, dict | bool) else ()


def referred(schema: Schema) -> set[str]:
    """The definitions that a schema names."""
    return {
        str(one["$ref"]).removeprefix(DEFINITIONS).split("/")[0]
        for _, one in inside(schema)
        if isinstance(one, dict) and str(one.get("$ref", "")).startswith(DEFINITIONS)
    }


def faults(schema: Schema, definitions: Definitions) -> Iterator[Found]:
    """What keeps a schema from being taken."""
    found = False
    for path, one in inside(schema):
        for keyword in one if isinstance(one, dict) else ():
            if keyword not in KEYWORDS and not keyword.startswith("x-"):
                found = True
                yield (
                    (*path, keyword),
                    "is no keyword of JSON Schema that is taken here; check its spelling",
                )
        if isinstance(one, dict) and "$ref" in one:
            name = str(one["$ref"]).removeprefix(DEFINITIONS)
            if name not in definitions or not str(one["$ref"]).startswith(DEFINITIONS):
                found = True
                yield (
                    (*path, "$ref"),
                    f"takes {DEFINITIONS}NAME, with a name that is under definitions",
                )
        for at, sentence in _too_large(one):
            found = True
            yield (*path, *at), sentence
    if not found:
        yield from _uncompilable(schema, definitions)


def _too_large(schema: Schema) -> Iterator[Found]:
    """Patterns that could make searching slow: their engine takes linear time, but by how much
    depends on them.
    """
    if not isinstance(schema, dict):
        return
    names = schema.get("patternProperties", {})
    patterns: list[tuple[Path, Any]] = [(("pattern",), schema.get("pattern"))]
    patterns += [
        (("patternProperties", name), name) for name in (names if isinstance(names, dict) else ())
    ]
    for at, pattern in patterns:
        if isinstance(pattern, str):
            try:
                check_size(pattern)
            except PatternRefused as refused:
                yield at, str(refused)


def _uncompilable(schema: Schema, definitions: Definitions) -> Iterator[Found]:
    try:
        compiled(schema, definitions)
    except ValidationError as error:
        kind = error.kind
        if isinstance(kind, ValidationErrorKind.Format):
            sentence = (
                "is no regular expression that is taken here: no look-around, no back-references"
            )
        elif error.instance_path[-1:] == ["format"]:
            sentence = "is no format that is known"
        elif error.instance_path[-1:] == ["type"]:
            sentence = f"takes one of {', '.join(TYPES)}, or a list of them"
        else:
            sentence = f"can't be compiled: {_sentence(kind)}"
        yield tuple(error.instance_path), sentence
    except ValueError:
        yield (), "can't be compiled"


def compiled(schema: Schema, definitions: Definitions) -> Draft202012Validator:
    """The validator of a schema. Formats are checked; patterns take linear time, whatever a caller
    sends; nothing is fetched. Raises ValidationError.
    """
    return Draft202012Validator(
        {
            **(schema if isinstance(schema, dict) else {"allOf": [schema]}),
            "definitions": definitions,
        },
        validate_formats=True,
        ignore_unknown_formats=False,
        pattern_options=RegexOptions(dfa_size_limit=PATTERN_BYTES),
        offline=True,
    )


def resolved(schema: Schema, definitions: Definitions) -> Schema:
    """The schema that a mere reference leads to."""
    seen = set[str]()
    while (
        isinstance(schema, dict)
        and (name := str(schema.get("$ref", "")).removeprefix(DEFINITIONS)) in definitions
    ):
        if name in seen:
            break
        seen.add(name)
        schema = definitions[name]
    return schema


def of_entries(schema: Schema, definitions: Definitions) -> Schema:
    """What one entry must be, where a value may be a list of them; else what the value must be."""
    found = resolved(schema, definitions)
    if isinstance(found, dict) and ("items" in found or "array" in found.get("type", "")):
        items: Schema = found.get("items", True)
        return items
    return schema


def closed(fields: Schema, definitions: Definitions) -> frozenset[str] | None:
    """The names of all parameters that an item may have, of the schema of its fields; None where it
    may have others.
    """
    own = fields.get("properties", {}).get("params", True) if isinstance(fields, dict) else True
    params = resolved(own, definitions)
    if (
        not isinstance(params, dict)
        or params.get("additionalProperties") is not False
        or "patternProperties" in params
    ):
        return None
    return frozenset(params.get("properties", ()))


def told(errors: Iterable[ValidationError], base: str = "") -> Iterator[Fault]:
    """Errors as faults, one for each place and keyword; pointers start with `base`."""
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
            yield Fault(base + pointer(path), _sentence(kind), code)


TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
MOST_SHOWN = 20


def _words(values: Iterable[Any]) -> str:
    shown = [orjson.dumps(value).decode() for value in values]
    more = f" and {len(shown) - MOST_SHOWN} more" if len(shown) > MOST_SHOWN else ""
    return ", ".join(shown[:MOST_SHOWN]) + more


_SENTENCES: dict[str, Callable[[Any], str]] = {
    "type": lambda kind: f"takes {' or '.join(TYPES.get(one, one) for one in kind.types)}",
    "enum": lambda kind: f"takes one of {_words(kind.options)}",
    "const": lambda kind: f"takes {_words([kind.expected_value])}",
    "minimum": lambda kind: f"must not be less than {kind.limit}",
    "maximum": lambda kind: f"must not be more than {kind.limit}",
    "exclusiveMinimum": lambda kind: f"must be more than {kind.limit}",
    "exclusiveMaximum": lambda kind: f"must be less than {kind.limit}",
    "multipleOf": lambda kind: f"must be a multiple of {kind.multiple_of}",
    "minLength": lambda kind: f"takes at least {kind.limit} characters",
    "maxLength": lambda kind: f"takes at most {kind.limit} characters",
    "pattern": lambda kind: f"must match {kind.pattern}",
    "format": lambda kind: f"must have the format {kind.format}",
    "minItems": lambda kind: f"takes at least {kind.limit} entries",
    "maxItems": lambda kind: f"takes at most {kind.limit} entries",
    "uniqueItems": lambda kind: "must not have an entry twice",
    "minProperties": lambda kind: f"takes at least {kind.limit} fields",
    "maxProperties": lambda kind: f"takes at most {kind.limit} fields",
    "contains": lambda kind: "lacks an entry that the tracking plan asks for",
    "anyOf": lambda kind: "fits none of the forms that the tracking plan has for it",
    "oneOf": lambda kind: "must fit exactly one of the forms that the tracking plan has for it",
    "not": lambda kind: "has a form that the tracking plan forbids",
    "falseSchema": lambda kind: "is not allowed by the tracking plan, or nothing in it is",
    "propertyNames": lambda kind: "has a field whose name the tracking plan doesn't take",
}


def _sentence(kind: ValidationErrorKind) -> str:
    """What a kind of error means; everything in it is the schema's own."""
    made = _SENTENCES.get(kind.name)
    return made(kind) if made else "is not as the tracking plan says"
