"""Problem documents (RFC 9457): which error is which problem type, and how it is sent."""

import asyncio
import math
from typing import Any, NamedTuple

import orjson

from app.errors import (
    AuditBroken,
    CommitUnknown,
    Erased,
    Forbidden,
    GatewayError,
    IdConflict,
    Invalid,
    KeyInUrl,
    KeyNotConfigured,
    Malformed,
    NotFound,
    Overloaded,
    QueueFull,
    RateLimited,
    Stopping,
    StorageUnavailable,
    TooLarge,
    TooSlow,
    Unauthorized,
    UnsupportedMediaType,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from app.http.problem_types import PROBLEMS

MEDIA_TYPE = "application/problem+json"
EXAMPLE_REQUEST = "4bf92f35"


class Answer(NamedTuple):
    """A complete HTTP response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


SLUGS: dict[type[GatewayError], str] = {
    Malformed: "malformed",
    Invalid: "validation",
    Unauthorized: "unauthorized",
    Forbidden: "forbidden",
    Erased: "forbidden",
    NotFound: "not-found",
    IdConflict: "id-conflict",
    TooLarge: "too-large",
    UnsupportedMediaType: "unsupported-media-type",
    TooSlow: "request-timeout",
    KeyInUrl: "key-in-url",
    RateLimited: "rate-limited",
    QueueFull: "queue-full",
    Overloaded: "overloaded",
    Stopping: "stopping",
    AuditBroken: "audit-broken",
    StorageUnavailable: "storage-unavailable",
    CommitUnknown: "storage-unavailable",
    KeyNotConfigured: "key-not-configured",
    UpstreamRejected: "upstream-rejected",
    UpstreamUnavailable: "upstream-unavailable",
    UpstreamTimeout: "upstream-timeout",
}


def document(
    slug: str,
    detail: str,
    instance: str | None = None,
    error: GatewayError | None = None,
    prefix: str = "",
) -> dict[str, Any]:
    """Return a problem document.

    `prefix` is the path prefix under which the caller reaches the gateway.
    """
    problem = PROBLEMS[slug]
    fields: dict[str, Any] = {
        "type": f"{prefix}/problems/{slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
    }
    if instance is not None:
        fields["instance"] = instance
    if error is not None and error.faults:
        fields["errors"] = [fault.document() for fault in error.faults]
    if isinstance(error, CommitUnknown) and error.ids:
        fields["ids"] = list(error.ids)
    return fields


def example(slug: str, prefix: str = "") -> dict[str, Any]:
    """Return an example of a problem document for the documentation."""
    problem = PROBLEMS[slug]
    fields = document(slug, problem.example, EXAMPLE_REQUEST, prefix=prefix)
    if problem.faults:
        fields["errors"] = [fault.document() for fault in problem.faults]
    return fields


def example_headers(slug: str) -> dict[str, str]:
    """Return the headers that belong to a problem's example."""
    headers = {"Content-Type": MEDIA_TYPE}
    if PROBLEMS[slug].status in {429, 503}:
        headers["Retry-After"] = "5"
    if slug == "unauthorized":
        headers["WWW-Authenticate"] = "Bearer"
    if slug == "method-not-allowed":
        headers["Allow"] = "POST"
    return headers


def of_error(error: GatewayError, prefix: str, instance: str | None = None) -> dict[str, Any]:
    """Return the problem document of an error."""
    return document(SLUGS[type(error)], error.detail, instance, error, prefix)


def stopping() -> Stopping:
    """Return the error that answers a cancelled request, and undo the cancellation.

    Only a shutdown cancels requests.
    """
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    return Stopping()


def answer(error: GatewayError, request_id: str, prefix: str) -> Answer:
    """Return the HTTP response to an error."""
    headers = []
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(retry_after))))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    return _render(of_error(error, prefix, request_id), headers)


def plain(
    slug: str, detail: str, request_id: str, prefix: str, *headers: tuple[bytes, bytes]
) -> Answer:
    """Return the HTTP response for a problem that has no error class."""
    return _render(document(slug, detail, request_id, prefix=prefix), list(headers))


def _render(problem: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> Answer:
    """Return a problem document as an HTTP response."""
    all_headers = [(b"content-type", MEDIA_TYPE.encode()), *headers]
    return Answer(problem["status"], all_headers, orjson.dumps(problem))
