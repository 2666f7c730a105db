"""Parts that several operations share, as components of the OpenAPI document.

Responses, headers and parameters are replaced by references, and so are equal fields of schemas.
Generated clients then have one type for each, and the document is a quarter of the size.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson

from app.http.openapi_parts import REF
from app.http.problems import MEDIA_TYPE
from app.server.openapi.problems import OF_ANY_CALL, problems_of

Document = dict[str, Any]
# Shorter fields, or less frequent ones, are easier to read where they are used.
LEAST_BYTES, LEAST_USES = 90, 2
# Names of components for fields whose own name says too little outside their schema.
FIELD_NAMES = {
    "apps": "AppNames",
    "created": "CreatedAt",
    "event": "EventName",
    "events": "EventCounters",
    "id": "ItemId",
    "location": "GeoLocation",
    "name": "KeyName",
    "state": "StateName",
    "states": "StateCounters",
}
SUCCESS_SUFFIXES = {"200": "", "202": "Accepted", "304": "NotModified"}


def share_parts(document: Document) -> None:
    """Replace what several operations share by references to components."""
    for operation in _operations(document):
        for parameter in operation.get("parameters", ()):
            _tidy(parameter)
    _share_responses(document)
    _share_headers(document)
    _share_parameters(document)
    _share_fields(document["components"]["schemas"])


def _operations(document: Document) -> Iterator[Document]:
    for operations in document["paths"].values():
        yield from operations.values()


def _tidy(parameter: Document) -> None:
    """Remove what says nothing: null, which no parameter can be, and what is repeated."""
    schema = parameter["schema"]
    schema.pop("description", None)
    if not parameter.get("required"):
        parameter.pop("required", None)
    forms = [form for form in schema.get("anyOf", ()) if form != {"type": "null"}]
    if len(forms) == 1:
        del schema["anyOf"]
        schema.update(forms[0])


def _share_responses(document: Document) -> None:
    """Share every problem response, and what is the same in three operations or more."""
    shared: Document = {}
    counts = Counter(
        _key(response)
        for operation in _operations(document)
        for response in operation["responses"].values()
    )
    for operation in _operations(document):
        for status, response in operation["responses"].items():
            is_problem = [*response.get("content", {})] == [MEDIA_TYPE]
            if not is_problem and counts[_key(response)] < 3:
                continue
            name = _response_name(status, response)
            same = shared.setdefault(name, response)
            assert same == response, f"two responses named {name}"
            operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
    document["components"]["responses"] = dict(sorted(shared.items()))


def _response_name(status: str, response: Document) -> str:
    """Return a name made of the problems that distinguish a response, or of its schema."""
    slugs = problems_of(response)
    if slugs:
        specific = [slug for slug in slugs if slug not in OF_ANY_CALL]
        return "Or".join(_pascal_case(slug) for slug in specific or slugs)
    schemas = [content["schema"]["$ref"] for content in response.get("content", {}).values()]
    return "".join(ref.removeprefix(REF) for ref in schemas) + SUCCESS_SUFFIXES[status]


def _share_headers(document: Document) -> None:
    """Share the headers of all responses; one with a description of its own stays."""
    shared: Document = {}
    responses = [*document["components"]["responses"].values()]
    for operation in _operations(document):
        responses += operation["responses"].values()
    for response in responses:
        for name, header in response.get("headers", {}).items():
            if shared.setdefault(name, header) == header:
                response["headers"][name] = {"$ref": f"#/components/headers/{name}"}
    document["components"]["headers"] = shared


def _share_parameters(document: Document) -> None:
    """Share the parameters that are the same in several operations."""
    parameters = [
        parameter
        for operation in _operations(document)
        for parameter in operation.get("parameters", ())
    ]
    counts = Counter(map(_key, parameters))
    shared: Document = {}
    for operation in _operations(document):
        for index, parameter in enumerate(operation.get("parameters", ())):
            name = _pascal_case(parameter["name"])
            if counts[_key(parameter)] < LEAST_USES:
                continue
            if shared.setdefault(name, parameter) == parameter:
                operation["parameters"][index] = {"$ref": f"#/components/parameters/{name}"}
    document["components"]["parameters"] = shared


def _share_fields(schemas: Document) -> None:
    """Share the fields that are the same in several schemas."""
    fields = [
        (name, field)
        for schema in schemas.values()
        for name, field in schema.get("properties", {}).items()
        if "$ref" not in field and len(_key(field)) >= LEAST_BYTES
    ]
    counts = Counter((name, _key(field)) for name, field in fields)
    chosen: dict[str, bytes] = {}
    for (name, key), count in counts.most_common():
        if count >= LEAST_USES:
            chosen.setdefault(name, key)
    for schema in [*schemas.values()]:
        for name, field in schema.get("properties", {}).items():
            if chosen.get(name) == _key(field):
                component = FIELD_NAMES.get(name) or _pascal_case(name)
                if schemas.setdefault(component, field) == field:
                    schema["properties"][name] = {"$ref": f"{REF}{component}"}


def _pascal_case(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.split("-"))


def _key(part: Document) -> bytes:
    return orjson.dumps(part, option=orjson.OPT_SORT_KEYS)
