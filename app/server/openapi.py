"""The OpenAPI document: FastAPI's own, with the bodies of the thin routes and the problems put in
from our tables.
"""

import re
from typing import Annotated, Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import Field, TypeAdapter

from app.api.schemas import DeadLetterChoice, KeyChange, NewKey, ProblemShape, Rotation
from app.http.openapi_parts import REF, problem_responses
from app.ingest.validate import Batch, BatchItem
from app.leanplum.actions import ACTIONS
from app.server.openapi_plan import with_plans
from app.tracking.plan.validate import NO_PLANS, Plans

PREVIEWED = Annotated[
    BatchItem | Batch,
    Field(
        examples=[
            {
                "action": "track",
                "userId": "user-1",
                "event": "Purchase",
                "params": {"basket": {"items": 3}},
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
    "NewKey": TypeAdapter(NewKey),
    "KeyChange": TypeAdapter(KeyChange),
    "Rotation": TypeAdapter(Rotation),
}
DESCRIPTION = """
A gateway between your backends and Leanplum. What it answers `202` is on disk and will be delivered: in order for each
user, at least once, in batches, without your backends ever holding a Leanplum key.

Send a caller key as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Errors are `application/problem+json` (RFC 9457).

Any call may also be refused before it is looked at: with 400 (`key-in-url`: a key never stands in an address), 408 (it
came too slowly), 414 or 431 (its address or its headers are too long) or 503 (`overloaded`), always as a problem.
"""


def openapi(app: FastAPI, plans: Plans = NO_PLANS) -> dict[str, Any]:
    """The whole document, with what the tracking plans have in it. FastAPI's own 422 is left out:
    what it would say, ours says.
    """
    made = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=TAGS
    )
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for name, adapter in [*BODIES.items(), ("Problem", TypeAdapter(ProblemShape))]:
        schema = adapter.json_schema(ref_template=REF + "{model}")
        for one, shape in {**schema.pop("$defs", {}), name: schema}.items():
            assert schemas.setdefault(one, shape) == shape, (
                f"two shapes are called {one}: what is asked, and an answer"
            )
    made = with_plans(made, plans)
    for path, operations in made["paths"].items():
        for operation in operations.values():
            _without_own_422(operation)
            if path.startswith("/v1/"):  # each may be called with a query parameter that it has not
                operation["responses"].setdefault("422", problem_responses("validation")[422])
            _with_headers(operation)
    _without_unused(made)
    return made


def _without_unused(made: dict[str, Any]) -> None:
    """Leave out the schemas that no operation leads to."""
    schemas = made["components"]["schemas"]
    used, found = set[str](), _referred(made["paths"])
    while found:
        used |= found
        found = {name for one in found for name in _referred(schemas[one])} - used
    made["components"]["schemas"] = {name: schemas[name] for name in schemas if name in used}


def _referred(node: Any) -> set[str]:
    return set(re.findall(rf'"{REF}(\w+)"', orjson.dumps(node).decode()))


def _with_headers(operation: dict[str, Any]) -> None:
    """The headers that answers have, from the one table."""
    write, limited = operation["tags"] == ["Writes"], operation["tags"] != ["Around it"]
    for status, response in operation["responses"].items():
        names = ["X-Request-ID", *(LIMIT_HEADERS if limited and status != "401" else ())]
        if write and "schemas/Receipt" in str(response.get("content")):
            names += ["Location", "Preference-Applied"]
        response.setdefault("headers", {}).update({name: HEADERS[name] for name in names})


LIMIT_HEADERS = ("RateLimit-Policy", "RateLimit")
HEADERS: dict[str, dict[str, Any]] = {
    name: {"schema": {"type": "string"}, "description": description}
    for name, description in (
        (
            "X-Request-ID",
            "The request's id: yours, or one made here; it is in the log and the audit",
        ),
        (
            "RateLimit-Policy",
            "The key's limit, and the app's where it has one: as in \"caller\";q=1000;w=1 or "
            '"caller";q=1000;w=1, "app";q=5000;w=1 (draft-ietf-httpapi-ratelimit-headers)',
        ),
        ("RateLimit", 'What is left, and in how many seconds all is: as in "caller";r=4999;t=1'),
        ("Location", "Where the receipt is"),
        ("Preference-Applied", "wait=N, where the answer waited for the item to settle (RFC 7240)"),
    )
}


def _without_own_422(operation: dict[str, Any]) -> None:
    ours = operation["responses"].get("422", {})
    if any("HTTPValidationError" in str(content) for content in ours.get("content", {}).values()):
        del operation["responses"]["422"]


TAGS = [
    {"name": "Writes", "description": "Accepted durably, delivered in the background."},
    {"name": "Leanplum", "description": "Asked of Leanplum while you wait."},
    {"name": "Receipts", "description": "What became of an item."},
    {
        "name": "Dead letters",
        "description": "What Leanplum refused, what was given up, what was perhaps done.",
    },
    {
        "name": "Tracking plan",
        "description": "What is tracked: the plan, what broke it, the names that there are.",
    },
    {"name": "Keys", "description": "Who may call, what, for which apps, how fast, until when."},
    {"name": "Audit", "description": "Who did what, with proofs that it is as it was recorded."},
    {"name": "Around it", "description": "For operators: no key needed."},
]
