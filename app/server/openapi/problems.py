"""Problems of operations in the OpenAPI document: those of each route, and those of every call."""

from collections.abc import Collection
from typing import Any

from app.http import PROBLEMS, problem_responses
from app.http.problems import MEDIA_TYPE

# Any call with a key may end in one of these, so routes do not declare them. Refusals of the HTTP
# server (408, 414, 431) are in the description of the document instead.
OF_ANY_CALL = (
    "malformed",
    "key-in-url",
    "unauthorized",
    "forbidden",
    "validation",
    "rate-limited",
    "internal",
    "overloaded",
    "stopping",
)
OF_PUBLIC_CALLS = ("key-in-url",)
WITH_BODY = ("too-large", "unsupported-media-type")
ORDER = {slug: index for index, slug in enumerate(PROBLEMS)}


def add_problems(operation: dict[str, Any], general: Collection[str]) -> None:
    """Add general problems to those that the route declares, in the order of the table."""
    responses = operation["responses"]
    slugs = {*general, *declared_problems(responses)}
    if "requestBody" in operation:
        slugs.update(WITH_BODY)
    for status, problem in problem_responses(*sorted(slugs, key=ORDER.__getitem__)).items():
        declared = responses.setdefault(str(status), problem)
        declared.get("content", {}).update(problem["content"])
        if "headers" in problem:
            declared.setdefault("headers", {}).update(problem["headers"])
    operation["responses"] = dict(sorted(responses.items()))


def declared_problems(responses: dict[str, Any]) -> set[str]:
    """Return the slugs of the problems among the responses of an operation."""
    return {slug for response in responses.values() for slug in problems_of(response)}


def problems_of(response: dict[str, Any]) -> tuple[str, ...]:
    """Return the slugs of the problems of a response."""
    return tuple(response.get("content", {}).get(MEDIA_TYPE, {}).get("examples", ()))


def remove_framework_error(responses: dict[str, Any]) -> None:
    """Remove FastAPI's own 422 response, which the problem `validation` replaces."""
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
