"""The faults of parsed JSON, in the gateway's own words and without the values. Pure.

A fault's place is a JSON Pointer (RFC 6901) into the body as it was sent, before enrichment moved
values.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from app import suggestions
from app.errors import Fault
from app.leanplum.values import INT_LIMIT, TAKES, TOO_LARGE

MAX_FAULTS = 100  # of one body or item that are reported
# More unknown fields of one body get no suggestion: each costs as much as ten faults
MAX_SUGGESTIONS = 5
UNKNOWN_FIELD = "unknown field"
NO_SUGGESTION = "; remove it or check its spelling"

Path = tuple[str, ...]  # the steps of a JSON Pointer


def found_by(adapter: TypeAdapter[Any], error: ValidationError, raw: Any) -> Iterator[Fault]:
    """Yield one fault for each place in `raw` that `adapter` finds wrong."""
    places: dict[Path, list[Any]] = {}
    for finding in error.errors(include_url=False, include_input=False):
        inside = (str(step) for step in finding.get("ctx", {}).get("at", ()))
        place = (*_place(finding["loc"], raw, missing=finding["type"] == "missing"), *inside)
        places.setdefault(place, []).append(finding)
    parents = {place[:length] for place in places for length in range(len(place))}
    suggested = 0
    for place, findings in places.items():
        if place in parents:
            # It only says that a value is none of the types that it might have been
            continue
        if any(finding["type"] == "extra_forbidden" for finding in findings):
            known = _fields_at(adapter, place[:-1]) if suggested < MAX_SUGGESTIONS else ()
            suggested += 1
            yield Fault(pointer(place), unknown_field(place[-1], known), "unknown-field")
        else:
            yield _fault(place, findings)


def unknown_field(name: str, known: Iterable[str]) -> str:
    """Return the sentence about a field that is not one of the known ones."""
    return UNKNOWN_FIELD + (suggestions.hint(name, [*known]) or NO_SUGGESTION)


def _fault(place: Path, findings: Sequence[Any]) -> Fault:
    """Return the fault at one place; a finding about the value outweighs those about its type."""
    types = {finding["type"] for finding in findings}
    about_value = [finding for finding in findings if finding["type"] not in _TYPES]
    # "" as an alternative to a name is not worth a sentence
    if about_value and not ({"string_type", "literal_error"} <= types):
        first = about_value[0]
        return Fault(pointer(place), _sentence(first), _CODES.get(first["type"], "type"))
    if "float_type" in types:
        types.discard("int_type")
    return Fault(pointer(place), _must_be([name for name in _TYPES if name in types]), "type")


def _must_be(types: Sequence[str]) -> str:
    """Return the sentence that names the types of JSON of which a value must be."""
    names = [_TYPES[name] for name in types]
    names[0] = _ARTICLES.get(names[0], "") + names[0]
    alternatives = ", ".join(names[:-1])
    return f"must be {alternatives} or {names[-1]}" if alternatives else f"must be {names[0]}"


def _place(loc: Sequence[str | int], raw: Any, *, missing: bool) -> Path:
    """Return the steps of a finding's path that are in the body; the others name our types."""
    steps: list[str] = []
    value = raw
    for step in loc:
        in_object = isinstance(value, dict) and step in value
        in_list = isinstance(value, list) and isinstance(step, int) and step < len(value)
        if in_object or in_list:
            steps.append(str(step))
            value = value[step]
    if missing:
        steps.append(str(loc[-1]))
    return tuple(steps)


# --- the fields of a shape --------------------------------------------------------------------


@lru_cache(maxsize=128)
def _schema(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    return adapter.json_schema()


def _fields_at(adapter: TypeAdapter[Any], place: Path) -> set[str]:
    """Return the names of the fields that an object at this place may have."""
    root = _schema(adapter)
    schemas = [*_alternatives(root, root)]
    for step in place:
        inner = [found for schema in schemas for found in _inside(schema, step)]
        schemas = [found for schema in inner for found in _alternatives(schema, root)]
    return {name for schema in schemas for name in schema.get("properties", ())}


def _alternatives(schema: Any, root: Mapping[str, Any]) -> Iterator[Any]:
    """Yield a schema, or those that it refers to or is one of."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield from _alternatives(root["$defs"][name], root)
    elif "anyOf" in schema:
        for alternative in schema["anyOf"]:
            yield from _alternatives(alternative, root)
    else:
        yield schema


def _inside(schema: Any, step: str) -> Iterator[Any]:
    """Yield the schemas of the values at one step further down."""
    properties = schema.get("properties", {})
    if step in properties:
        yield properties[step]
        return
    yield from schema.get("patternProperties", {}).values()
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield schema[keyword]


# --- the words --------------------------------------------------------------------------------

_TYPES = {
    "string_type": "string",
    "int_type": "integer",
    "float_type": "number",
    "bool_type": "boolean",
    "list_type": "array",
    "dict_type": "object",
    "none_required": "null",
}
_ARTICLES = {"integer": "an ", "array": "an ", "object": "an "} | dict.fromkeys(
    ("string", "number", "boolean"), "a "
)
_CODES = {
    "missing": "required",
    "string_pattern_mismatch": "characters",
    "string_too_short": "length",
    "string_too_long": "length",
    "too_long": "count",
    "too_short": "count",
    "literal_error": "choice",
    "zero_id": "zero-id",
    "depth": "depth",
    "time": "time",
    "too_large": "range",
    "finite_number": "range",
    "less_than": "range",
    "greater_than_equal": "range",
    "less_than_equal": "range",
    "string_unicode": "characters",
}
_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda ctx: "is required",
    "string_pattern_mismatch": lambda ctx: TAKES[ctx["pattern"]],
    "string_too_short": lambda ctx: "must not be empty",
    "string_too_long": lambda ctx: f"must have at most {ctx['max_length']} characters",
    "too_long": lambda ctx: f"must have at most {ctx['max_length']} entries",
    "too_short": lambda ctx: "must not be empty",
    "literal_error": lambda ctx: f"must be {ctx['expected']}",
    "finite_number": lambda ctx: "must be a finite number",
    "less_than": lambda ctx: TOO_LARGE,
    "greater_than_equal": lambda ctx: (
        f"must be at least {ctx['ge']}" if ctx["ge"] != -INT_LIMIT else TOO_LARGE
    ),
    "less_than_equal": lambda ctx: f"must be at most {ctx['le']}",
    "string_unicode": lambda ctx: "must be valid Unicode: it contains a lone surrogate",
}


_PARSED = {
    "int_parsing": "must be an integer",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
}


def parameter_sentence(finding: Any) -> str:
    """Return the sentence about a path or query parameter that FastAPI finds wrong."""
    kind = finding.get("type", "")
    if kind in _PARSED:
        return _PARSED[kind]
    if kind == "string_pattern_mismatch":
        return "is not valid; use a value that the API returned"
    return _sentence(finding)


def _sentence(finding: Any) -> str:
    sentence = _SENTENCES.get(finding.get("type", ""))
    return sentence(finding.get("ctx", {})) if sentence else str(finding["msg"])


class Renamed(NamedTuple):
    """A value that was moved from `old` to `new`."""

    old: Path
    new: Path


class Flattened(NamedTuple):
    """An object under `key` in a field whose values became keys with dots of the field."""

    field: str
    key: str
    nested: Mapping[str, Any]


Move = Renamed | Flattened


def pointer(parts: Sequence[str]) -> str:
    """Return a JSON Pointer; what is not valid Unicode in a key is replaced by "?"."""
    text = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
    return text.encode("utf-8", "replace").decode()


def parts(text: str) -> Path:
    """Return the steps of a JSON Pointer."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:])


def as_sent(fault: Fault, moves: Sequence[Move]) -> Fault:
    """Return a fault with its pointer into the body as it was sent, before the moves."""
    if not moves:
        return fault
    path = parts(fault.pointer)
    for move in reversed(moves):
        path = _renamed(path, move) if isinstance(move, Renamed) else _flattened(path, move)
    return replace(fault, pointer=pointer(path))


def _renamed(path: Path, move: Renamed) -> Path:
    length = len(move.new)
    return move.old + path[length:] if path[:length] == move.new else path


def _flattened(path: Path, move: Flattened) -> Path:
    if len(path) < 2 or path[0] != move.field or not path[1].startswith(f"{move.key}."):
        return path
    inside = leaf(move.nested, path[1][len(move.key) + 1 :])
    return path if inside is None else (move.field, move.key, *inside, *path[2:])


def leaf(nested: Mapping[str, Any], name: str) -> Path | None:
    """Return the path of the value whose keys, joined by dots, are `name`; None without one."""
    if name in nested and not isinstance(nested[name], dict):
        return (name,)
    for key, inner in nested.items():
        if not isinstance(inner, dict) or not name.startswith(f"{key}."):
            continue
        inside = leaf(inner, name[len(key) + 1 :])
        if inside is not None:
            return (key, *inside)
    return None
