"""Parts of the OpenAPI document that routes state beside themselves: bodies, parameters, problems."""

from collections.abc import Collection
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from app.http.body import JSON, NDJSON
from app.http.problems import MEDIA_TYPE, PROBLEMS, example

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
    """The requestBody of a thin route."""
    content: dict[str, Any] = {media: {"schema": {"$ref": REF + shape}}}
    if lines_of is not None:
        content[NDJSON] = {"schema": {"$ref": REF + lines_of}}
    return {"requestBody": {"required": required, "content": content}}


def parameters_of(shape: Any, known: Collection[str]) -> list[dict[str, Any]]:
    """The query parameters of a thin route: its action's, less those that are known otherwise."""
    schema = TypeAdapter(shape).json_schema()
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": told.get("description", told.get("title", name)),
            "schema": {key: value for key, value in told.items() if key != "description"},
        }
        for name, told in schema.get("properties", {}).items()
        if name not in known
    ]


def problem_responses(*slugs: str) -> dict[int | str, dict[str, Any]]:
    """The error responses for these problems, those of one status together."""
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
