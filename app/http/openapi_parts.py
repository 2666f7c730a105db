"""Parts of the OpenAPI document that routes declare explicitly: bodies, parameters, problems."""

from collections.abc import Collection
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from app.http.body import JSON, NDJSON
from app.http.problem_types import PROBLEMS
from app.http.problems import MEDIA_TYPE, example

REF = "#/components/schemas/"


class Tag(StrEnum):
    """The groups of operations in the documentation."""

    EVENTS_AND_USERS = "Events & users"
    MESSAGES = "Messages & content"
    EXPORTS = "Exports & imports"
    RECEIPTS = "Receipts"
    DEAD_LETTERS = "Dead letters"
    TRACKING_PLAN = "Tracking plan"
    API_KEYS = "API keys"
    AUDIT = "Audit"
    OPERATIONS = "Operations"


def body_of(
    shape: str, *, lines_of: str | None = None, required: bool = True, media: str = JSON
) -> dict[str, Any]:
    """Return the `requestBody` of a route whose handler reads the body itself."""
    content: dict[str, Any] = {media: {"schema": {"$ref": REF + shape}}}
    if lines_of is not None:
        content[NDJSON] = {"schema": {"$ref": REF + lines_of}}
    return {"requestBody": {"required": required, "content": content}}


def parameters_of(shape: Any, known: Collection[str]) -> list[dict[str, Any]]:
    """Return the query parameters of a route: those of the shape, without the `known` names."""
    schema = TypeAdapter(shape).json_schema()
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": field.get("description", field.get("title", name)),
            "schema": {key: value for key, value in field.items() if key != "description"},
        }
        for name, field in schema.get("properties", {}).items()
        if name not in known
    ]


def problem_responses(*slugs: str) -> dict[int | str, dict[str, Any]]:
    """Return the error responses for these problems, grouped by status."""
    responses: dict[int | str, dict[str, Any]] = {}
    for slug in slugs:
        problem = PROBLEMS[slug]
        response = responses.setdefault(
            problem.status,
            {
                "description": problem.title,
                "content": {MEDIA_TYPE: {"schema": {"$ref": REF + "Problem"}, "examples": {}}},
            },
        )
        response["content"][MEDIA_TYPE]["examples"][slug] = {"value": example(slug)}
        if problem.status in {429, 503}:
            response["headers"] = {
                "Retry-After": {
                    "schema": {"type": "integer"},
                    "description": "Seconds to wait before a retry",
                }
            }
    return responses
