"""One table turns every error into HTTP: a status, a slug with a page of its own, a title and what
to do (RFC 9457).

The same table makes the error responses in `openapi/` and the pages at `/problems`.
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


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of problem."""

    slug: str
    status: int
    title: str
    advice: str


class Answer(NamedTuple):
    """An HTTP answer, ready to be sent."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


PROBLEMS: dict[str, Problem] = {
    problem.slug: problem
    for problem in (
        Problem(
            "malformed",
            400,
            "The request can't be read",
            "Send JSON (or NDJSON to /v1/batch) in UTF-8, as the Content-Type says.",
        ),
        Problem(
            "key-in-url",
            400,
            "A key stands in the address",
            "Rotate the key: addresses are kept in logs and histories. Then send it as Authorization: Bearer KEY.",
        ),
        Problem(
            "unauthorized",
            401,
            "The caller is not known",
            "Send a caller key as Authorization: Bearer KEY or X-API-Key: KEY.",
        ),
        Problem(
            "forbidden",
            403,
            "This may not be done",
            "Use a key that has the scope named in the detail, or ask for one. "
            "For a user who was erased nothing is taken for a while.",
        ),
        Problem(
            "not-found",
            404,
            "There is no such thing",
            "Check the address. Receipts are kept for the de-duplication window.",
        ),
        Problem(
            "method-not-allowed",
            405,
            "The method is not taken here",
            "Use a method that the Allow header names.",
        ),
        Problem(
            "request-timeout",
            408,
            "The request came too slowly",
            "Send it again, with the same item ids, on a faster connection or in smaller parts.",
        ),
        Problem(
            "id-conflict",
            409,
            "The id stands for another content",
            "Send the first content again, or use a new id.",
        ),
        Problem(
            "too-large", 413, "The body is too large", "Split it: the limits are in the detail."
        ),
        Problem(
            "url-too-long",
            414,
            "The address is too long",
            "Send what is in the query in the body, or less of it.",
        ),
        Problem(
            "unsupported-media-type",
            415,
            "The media type is not taken",
            "Set Content-Type, and Content-Encoding if any, as the detail says.",
        ),
        Problem(
            "validation",
            422,
            "The request breaks rules",
            "Mend every place that errors[] names: a pointer is a JSON Pointer into the body as you sent it; "
            "header and parameter name a header, or a parameter of the path or the query.",
        ),
        Problem(
            "rate-limited",
            429,
            "The limit is spent",
            "Wait as long as Retry-After says. Nothing of the request was taken.",
        ),
        Problem(
            "head-too-large",
            431,
            "The headers are too many or too large",
            "Send fewer and shorter headers.",
        ),
        Problem(
            "internal",
            500,
            "The gateway failed",
            "It is logged under the request id. Try again with the same item ids: what was taken is not taken twice.",
        ),
        Problem(
            "key-not-configured",
            501,
            "A Leanplum key is missing",
            "The operator sets the variable that the detail names; Leanplum's dashboard has the key.",
        ),
        Problem(
            "upstream-rejected",
            502,
            "Leanplum refused it",
            "Leanplum's own words are in the detail. Trying again changes nothing.",
        ),
        Problem(
            "upstream-unavailable",
            503,
            "Leanplum is away",
            "Try again after Retry-After. Writes are taken meanwhile; they don't wait for Leanplum.",
        ),
        Problem(
            "upstream-timeout",
            504,
            "Leanplum did not answer in time",
            "Try again; look first whether it was done, where doing it twice would do harm.",
        ),
        Problem(
            "queue-full",
            503,
            "Too many items wait",
            "Try again after Retry-After; the operator should see why Leanplum is behind.",
        ),
        Problem(
            "overloaded",
            503,
            "The gateway has its hands full",
            "Try again after Retry-After, on fewer connections; the operator can raise GATEWAY_MAX_CONNECTIONS.",
        ),
        Problem(
            "stopping",
            503,
            "The gateway is stopping",
            "Try again after Retry-After, on a new connection and with the same ids: "
            "what was taken with them is not taken twice.",
        ),
        Problem(
            "audit-broken",
            503,
            "The audit is not what was sealed",
            "The operator runs `audit verify`, which names what was changed, and puts it back (docs/audit.md).",
        ),
        Problem(
            "storage-unavailable",
            503,
            "Nothing can be made durable now",
            "Try again after Retry-After, with the same ids. Where the detail says that something may have been taken, "
            "use the ids that it names: what was taken with them is not taken twice.",
        ),
    )
}
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
    """Return the problem document; `prefix` is the path prefix under which the caller finds the
    gateway.
    """
    problem = PROBLEMS[slug]
    made: dict[str, Any] = {
        "type": f"{prefix}/problems/{slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
    }
    if instance is not None:
        made["instance"] = instance
    if error is not None and error.faults:
        made["errors"] = [one.document() for one in error.faults]
    if isinstance(error, CommitUnknown) and error.ids:
        made["ids"] = list(error.ids)
    return made


def of_error(error: GatewayError, prefix: str, instance: str | None = None) -> dict[str, Any]:
    """Return the problem document of one of our errors."""
    return document(SLUGS[type(error)], error.detail, instance, error, prefix)


def stopping() -> Stopping:
    """Return the error to answer with in place of a cancellation of the request, which only a stop
    brings about.
    """
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    return Stopping()


def answer(error: GatewayError, request_id: str, prefix: str) -> Answer:
    """Return the HTTP answer to one of our errors."""
    headers = []
    if (after := getattr(error, "retry_after", None)) is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(after))))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    return rendered(of_error(error, prefix, request_id), headers)


def plain(
    slug: str, detail: str, request_id: str, prefix: str, *headers: tuple[bytes, bytes]
) -> Answer:
    """Return the HTTP answer for a problem that is none of our errors."""
    return rendered(document(slug, detail, request_id, prefix=prefix), list(headers))


def rendered(made: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> Answer:
    """A problem document as an HTTP answer."""
    return Answer(
        made["status"], [(b"content-type", MEDIA_TYPE.encode()), *headers], orjson.dumps(made)
    )
