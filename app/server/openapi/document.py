"""The OpenAPI document: FastAPI's, completed with bodies and problems from the tables."""

import re
from collections.abc import Iterator
from copy import deepcopy
from datetime import date, timedelta
from typing import Annotated, Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import Field, TypeAdapter

from app.api.schemas import DeadLetterChoice, KeyChange, KeyCreation, ProblemShape, Rotation
from app.http import JSON, Tag
from app.http.openapi_parts import REF
from app.ingest.validate import Batch, BatchItem
from app.leanplum.actions import ACTIONS
from app.leanplum.passthrough_parameters import EXAMPLE_END, EXAMPLE_START
from app.model import APP_NAME
from app.server.openapi.examples import add_parameter_examples, add_response_examples
from app.server.openapi.problems import (
    OF_ANY_CALL,
    OF_PUBLIC_CALLS,
    add_problems,
    problems_of,
    remove_framework_error,
)
from app.server.openapi.samples import add_samples
from app.server.openapi.shared_parts import share_parts
from app.server.openapi.tracking_plan import with_plans
from app.tracking.plan.validate import NO_PLANS, Plans

PREVIEWED = Annotated[
    BatchItem | Batch,
    Field(
        examples=[
            {
                "action": "track",
                "userId": "user-1",
                "event": "Purchase",
                "params": {"sku": "A-1"},
            }
        ]
    ),
]
BODIES: dict[str, TypeAdapter[Any]] = {
    **{
        action.shape.__name__: TypeAdapter(action.shape)
        for action in ACTIONS.values()
        if action.documented
    },
    "BatchItem": TypeAdapter(BatchItem),
    "Batch": TypeAdapter(Batch),
    "Previewed": TypeAdapter(PREVIEWED),
    "DeadLetterChoice": TypeAdapter(DeadLetterChoice),
    "NewKey": TypeAdapter(KeyCreation),
    "KeyChange": TypeAdapter(KeyChange),
    "Rotation": TypeAdapter(Rotation),
}
PROTECTED = "/v1/"  # calls below need a caller key
CONTACT = {"name": "The operators of this gateway"}
SERVERS = [
    {"url": "/", "description": "The gateway that serves this document"},
    {"url": "http://127.0.0.1:8000", "description": "A gateway on this machine"},
]
DESCRIPTION = """\
A gateway between your backends and Leanplum. A write that is answered with `202` is stored durably
and delivered at least once, in order for each user. Your backends never hold a Leanplum key.

Send a caller key as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Errors are
`application/problem+json` (RFC 9457).

Every response has an `X-Request-ID`; quote it when you report a problem. Any call may also be
refused before it is read, as a problem: 408 (it arrives too slowly), 414 or 431 (the URI or the
headers are too long).

In the code samples, `gateway` is the URL of the gateway and `key` is a caller key. Those in Python
use httpx; in those in Kotlin, `client` is a `java.net.http.HttpClient`.
"""


def openapi(app: FastAPI, plans: Plans = NO_PLANS) -> dict[str, Any]:
    """Return the document with the tracking plans' schemas.

    FastAPI's own 422 response is replaced by the problem `validation`.
    """
    document = _generated(app)
    _add_bodies(document["components"]["schemas"])
    for method, path, operation in _operations(document):
        remove_framework_error(operation["responses"])
        if path.startswith(PROTECTED):
            add_problems(operation, OF_ANY_CALL)
            _add_app_header(operation)
        else:
            add_problems(operation, OF_PUBLIC_CALLS)
            operation.setdefault("security", [])
        add_parameter_examples(operation)
        add_response_examples(document, operation)
        _require_only_in_body(document, path, operation)
        _add_headers(operation)
        add_samples(document, method, path, operation)
    document["components"]["schemas"] = _without_titles(document["components"]["schemas"])
    document["paths"] = _without_titles(document["paths"])
    document = with_plans(document, plans)
    share_parts(document)
    _remove_unused(document)
    return document


def with_current_dates(document: dict[str, Any], today: date) -> bytes:
    """Return the JSON of a document whose examples of exports are about the last week.

    Leanplum refuses older days, so the fixed days of the document would not work for long.
    """
    text = orjson.dumps(document)
    for days, fixed in ((7, EXAMPLE_START), (6, EXAMPLE_END)):
        current = f"{today - timedelta(days=days):%Y%m%d}"
        text = text.replace(fixed.encode(), current.encode())
    return text


def _generated(app: FastAPI) -> dict[str, Any]:
    """Return a copy of FastAPI's document, whose parts belong to the routes."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        contact=CONTACT,
        servers=SERVERS,
        routes=app.routes,
        tags=TAGS,
    )
    copied: dict[str, Any] = orjson.loads(orjson.dumps(document))
    return copied


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the method, the path and the content of each operation."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method, path, operation


def _add_bodies(schemas: dict[str, Any]) -> None:
    """Add the schemas of bodies that handlers read themselves, and of problems."""
    for name, adapter in [*BODIES.items(), ("Problem", TypeAdapter(ProblemShape))]:
        schema = adapter.json_schema(ref_template=REF + "{model}")
        components = {**schema.pop("$defs", {}), name: schema}
        for component, shape in components.items():
            assert schemas.setdefault(component, shape) == shape, f"two shapes named {component}"


def _require_only_in_body(document: dict[str, Any], path: str, operation: dict[str, Any]) -> None:
    """Require no field of a body that the path has already."""
    schema = operation.get("requestBody", {}).get("content", {}).get(JSON, {}).get("schema", {})
    if "$ref" not in schema:
        return
    shape = document["components"]["schemas"][schema["$ref"].removeprefix(REF)]
    in_path = set(re.findall(r"{(\w+)}", path))
    required = [name for name in shape.pop("required", ()) if name not in in_path]
    if required:
        shape["required"] = required


# Members of a schema whose content is a value rather than a schema.
VALUES = frozenset({"const", "default", "enum", "example", "examples"})


def _without_titles(node: Any) -> Any:
    """Return a part of the document without titles, which only repeat the names of fields."""
    if isinstance(node, list):
        return [_without_titles(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    return {
        name: inner if name in VALUES else _without_titles(inner)
        for name, inner in node.items()
        if name != "title" or not isinstance(inner, str)
    }


def _remove_unused(document: dict[str, Any]) -> None:
    """Remove the schemas that no operation refers to, directly or through another schema."""
    schemas = document["components"]["schemas"]
    shared = {name: part for name, part in document["components"].items() if name != "schemas"}
    used, added = set[str](), _references([document["paths"], shared])
    while added:
        used |= added
        added = _references([schemas[name] for name in added]) - used
    document["components"]["schemas"] = {name: schemas[name] for name in schemas if name in used}


def _references(node: Any) -> set[str]:
    """Return the names of the schemas to which a part of the document refers."""
    return set(re.findall(rf'"{REF}(\w+)"', orjson.dumps(node).decode()))


def _add_app_header(operation: dict[str, Any]) -> None:
    """Document the header that names the app, where a call is about one."""
    if not {Tag.API_KEYS, Tag.AUDIT}.intersection(operation["tags"]):
        operation.setdefault("parameters", []).append(deepcopy(APP_PARAMETER))


def _add_headers(operation: dict[str, Any]) -> None:
    """Document the response headers of an operation, from the table."""
    is_write = "202" in operation["responses"]
    is_limited = operation["tags"] != [Tag.OPERATIONS]
    for status, response in operation["responses"].items():
        names = ["X-Request-ID"]
        if status != "401" and (is_limited or problems_of(response)):
            names += LIMIT_HEADERS
        if is_write and "schemas/Receipt" in str(response.get("content")):
            names += ["Location", "Preference-Applied"]
        response.setdefault("headers", {}).update({name: HEADERS[name] for name in names})


APP_PARAMETER = {
    "name": "X-Leanplum-App",
    "in": "header",
    "description": "Name of the app; required if the key is for several apps.",
    "schema": {"type": "string", "pattern": APP_NAME},
}
LIMIT_HEADERS = ("RateLimit-Policy", "RateLimit")
HEADERS: dict[str, dict[str, Any]] = {
    name: {"schema": {"type": "string"}, "description": description}
    for name, description in (
        (
            "X-Request-ID",
            "Id of the request: yours or a generated one; it is in the log and the audit.",
        ),
        (
            "RateLimit-Policy",
            "Rate limit of the key, and of the app if it has one, such as "
            '"caller";q=1000;w=1, "app";q=5000;w=1 (draft-ietf-httpapi-ratelimit-headers).',
        ),
        (
            "RateLimit",
            'Remaining items and seconds until the limit is full, such as "caller";r=4999;t=1.',
        ),
        ("Location", "URL of the receipt."),
        ("Preference-Applied", "wait=N if the response waited for the item to settle (RFC 7240)."),
    )
}


TAGS = [
    {
        "name": Tag.EVENTS_AND_USERS,
        "description": "Track events and update users. Writes are accepted durably and delivered "
        "in the background; reads call Leanplum while you wait.",
    },
    {
        "name": Tag.MESSAGES,
        "description": "Send messages and start campaigns; read and change Leanplum's content.",
    },
    {"name": Tag.EXPORTS, "description": "Export and import data; manage postbacks."},
    {"name": Tag.RECEIPTS, "description": "Look up the outcome of accepted items."},
    {
        "name": Tag.DEAD_LETTERS,
        "description": "Replay or discard items that were rejected, that expired, or whose outcome "
        "is unknown.",
    },
    {
        "name": Tag.TRACKING_PLAN,
        "description": "Read the tracking plan, its violations, and the names that an app uses.",
    },
    {
        "name": Tag.API_KEYS,
        "description": "Manage caller keys; test the Leanplum keys of each app.",
    },
    {"name": Tag.AUDIT, "description": "Read the tamper-evident audit log and its proofs."},
    {
        "name": Tag.OPERATIONS,
        "description": "Health, metrics and documentation; no key is required.",
    },
]
