"""Problem documents (RFC 9457): one table maps every error to a status, a slug, a title and advice.

The error responses in `openapi/` and the pages under `/problems` come from the same table.
"""

import asyncio
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from app.errors import (
    AuditBroken,
    CommitUnknown,
    Erased,
    Fault,
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

MEDIA_TYPE = "application/problem+json"
EXAMPLE_REQUEST = "4bf92f35"
INTERNAL = "The gateway failed to handle this request; the cause is in its log."


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem type: a row of the table. `example` is a detail as callers get it."""

    slug: str
    status: int
    title: str
    advice: str
    example: str


class Answer(NamedTuple):
    """A complete HTTP response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


PROBLEMS: dict[str, Problem] = {
    problem.slug: problem
    for problem in (
        Problem(
            "malformed",
            400,
            "Malformed request",
            advice="Send JSON (or NDJSON to /v1/batch) in UTF-8, as the Content-Type declares. "
            "The detail says where reading failed.",
            example="The body is not valid JSON: line 1, column 17.",
        ),
        Problem(
            "key-in-url",
            400,
            "API key in URL",
            advice="Rotate the key: URLs are kept in logs and histories. Then send the new key "
            "in a header: Authorization: Bearer KEY.",
            example="The URL contains an API key. Send it in a header (Authorization: Bearer "
            "KEY or X-API-Key: KEY), and rotate it: URLs are kept in logs and "
            "histories.",
        ),
        Problem(
            "unauthorized",
            401,
            "Missing or invalid API key",
            advice="Send a caller key as Authorization: Bearer KEY or X-API-Key: KEY.",
            example="Missing API key: send Authorization: Bearer KEY or X-API-Key: KEY.",
        ),
        Problem(
            "forbidden",
            403,
            "Forbidden",
            advice="Use a key with the scope, and for the app, that the detail names. Writes "
            "for an erased user are refused for GATEWAY_ERASED_SECONDS.",
            example="Forbidden: missing scope events:write",
        ),
        Problem(
            "not-found",
            404,
            "Not found",
            advice="Check the URL and the id. Receipts are kept for the deduplication window "
            "(GATEWAY_DEDUP_SECONDS).",
            example="No route matches POST /v1/event; did you mean /v1/events?",
        ),
        Problem(
            "method-not-allowed",
            405,
            "Method not allowed",
            advice="Use one of the methods in the Allow header.",
            example="PUT is not allowed on /v1/events; allowed: POST",
        ),
        Problem(
            "request-timeout",
            408,
            "Request timeout",
            advice="Send the request again with the same item ids, on a faster connection or in "
            "smaller parts.",
            example="The body arrived too slowly.",
        ),
        Problem(
            "id-conflict",
            409,
            "Idempotency conflict",
            advice="The id was used before with different content. Send the original content "
            "again, or use a new id.",
            example="This id was used within the deduplication window for an item with "
            "different content.",
        ),
        Problem(
            "too-large",
            413,
            "Payload too large",
            advice="Split the request; the detail names the limit.",
            example="The batch has 1200 items; the limit is 1000.",
        ),
        Problem(
            "url-too-long",
            414,
            "URI too long",
            advice="Shorten the query, or send its parameters in the body.",
            example="The URI exceeds 32768 bytes.",
        ),
        Problem(
            "unsupported-media-type",
            415,
            "Unsupported media type",
            advice="Set Content-Type, and Content-Encoding if the body is compressed, to a "
            "value that the detail names.",
            example="The Content-Type must be application/json.",
        ),
        Problem(
            "validation",
            422,
            "Validation failed",
            advice="Correct every entry in errors[]: pointer is a JSON Pointer into the body as "
            "you sent it; header names a header; parameter names a path or query "
            "parameter.",
            example="1 error in the body; see errors.",
        ),
        Problem(
            "rate-limited",
            429,
            "Rate limit exceeded",
            advice="Wait for the number of seconds in Retry-After, then send the request again. "
            "No part of the request was accepted.",
            example="1 item would exceed this key's limit of 1000 per second.",
        ),
        Problem(
            "head-too-large",
            431,
            "Request header fields too large",
            advice="Send fewer or shorter headers.",
            example="The request has more than 100 header fields or 65536 bytes of them.",
        ),
        Problem(
            "internal",
            500,
            "Internal server error",
            advice="Send the request again with the same item ids; accepted items are not "
            "accepted twice. The operator finds the cause in the log under the request "
            "id.",
            example=INTERNAL,
        ),
        Problem(
            "key-not-configured",
            501,
            "Leanplum key not configured",
            advice="The operator sets the variable that the detail names; the key is in "
            "Leanplum's dashboard.",
            example="Leanplum's data export key is required: LEANPLUM_DATA_EXPORT_KEY is not set.",
        ),
        Problem(
            "upstream-rejected",
            502,
            "Rejected by Leanplum",
            advice="The detail has Leanplum's error message. Sending the same request again has "
            "the same result.",
            example="Leanplum rejected the request: Invalid message id.",
        ),
        Problem(
            "upstream-unavailable",
            503,
            "Leanplum is unavailable",
            advice="Send the request again after Retry-After. Writes are still accepted; they "
            "do not wait for Leanplum.",
            example="Leanplum cannot be reached: connection refused.",
        ),
        Problem(
            "upstream-timeout",
            504,
            "Leanplum timed out",
            advice="The call may have taken effect. If doing it twice would do harm, check "
            "before you send it again.",
            example="Leanplum did not answer in time.",
        ),
        Problem(
            "queue-full",
            503,
            "Queue full",
            advice="Send the request again after Retry-After. The operator checks why items are "
            "not being delivered.",
            example="The queue is full: 10000000 items are waiting (GATEWAY_MAX_QUEUED_ITEMS).",
        ),
        Problem(
            "overloaded",
            503,
            "Gateway overloaded",
            advice="Send the request again after Retry-After, on fewer connections or with "
            "fewer large bodies at once. If the detail names connections, the operator can raise "
            "GATEWAY_MAX_CONNECTIONS; if it names bytes, GATEWAY_MAX_HELD_BYTES.",
            example="The limit of bytes being read at once is reached.",
        ),
        Problem(
            "stopping",
            503,
            "Gateway is shutting down",
            advice="Send the request again after Retry-After, on a new connection and with the "
            "same ids; accepted items are not accepted twice.",
            example="The gateway shut down before the request was completed; it may have been "
            "accepted. Send it again with the same ids.",
        ),
        Problem(
            "audit-broken",
            503,
            "Audit log integrity check failed",
            advice="The operator runs `audit verify`, which lists what was changed, and "
            "restores it (docs/audit.md).",
            example="The audit log differs from what was sealed; `audit verify` lists the "
            "differences.",
        ),
        Problem(
            "storage-unavailable",
            503,
            "Storage unavailable",
            advice="Send the request again after Retry-After, with the same ids. If the detail "
            "says that items may have been accepted, use the ids that the response "
            "names; accepted items are not accepted twice.",
            example="The database cannot commit now; nothing was accepted.",
        ),
    )
}
EXAMPLE_FAULTS = (
    Fault("/event", "is required", "required"),
    Fault("/curencyCode", "unknown field; did you mean currencyCode?", "unknown-field"),
)
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
    if slug != "validation":
        return document(slug, problem.example, EXAMPLE_REQUEST, prefix=prefix)
    error = Invalid(EXAMPLE_FAULTS)
    return document(slug, error.detail, EXAMPLE_REQUEST, error, prefix)


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
