"""The table of problem types: for each slug its status, title, cause, advice and an example.

The error responses in `openapi/` and the pages under `/problems` come from this table.
"""

from dataclasses import dataclass

from app.errors import Fault

INTERNAL = "The gateway failed to handle this request; the cause is in its log."


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem type: a row of the table.

    `cause` says when it is sent, `advice` what to do then. `example` is a detail as callers get it,
    `faults` are the entries of `errors[]` that come with it.
    """

    slug: str
    status: int
    title: str
    cause: str
    advice: str
    example: str
    faults: tuple[Fault, ...] = ()


PROBLEMS: dict[str, Problem] = {
    problem.slug: problem
    for problem in (
        Problem(
            "malformed",
            400,
            "Malformed request",
            cause="The request cannot be read: its body is not what its Content-Type declares, a "
            "header is wrong or repeated, or the key is for several apps and none is named.",
            advice="Send JSON (or NDJSON to /v1/batch) in UTF-8, as the Content-Type declares. "
            "The detail says where reading failed.",
            example="The body is not valid JSON: line 1, column 17.",
        ),
        Problem(
            "key-in-url",
            400,
            "API key in URL",
            cause="The path or the query contains a caller key, or a parameter that is named like "
            "one. Nothing was done.",
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
            cause="There is no caller key, or it is mistyped, unknown, revoked or expired. A "
            "Leanplum key is not a caller key.",
            advice="Send a caller key as Authorization: Bearer KEY or X-API-Key: KEY.",
            example="Missing API key: send Authorization: Bearer KEY or X-API-Key: KEY.",
        ),
        Problem(
            "forbidden",
            403,
            "Forbidden",
            cause="The key is valid, but it lacks the scope of this call or may not use this app; "
            "or the user was erased recently.",
            advice="Use a key with the scope, and for the app, that the detail names. Writes "
            "for an erased user are refused until the time that the detail names.",
            example="Forbidden: missing scope events:write",
        ),
        Problem(
            "not-found",
            404,
            "Not found",
            cause="No route has this path, or nothing that this key may see has this id; or "
            "Leanplum found nothing.",
            advice="Check the URL and the id. Receipts are kept for the deduplication window "
            "(GATEWAY_DEDUP_SECONDS).",
            example="No route matches POST /v1/event; did you mean /v1/events?",
        ),
        Problem(
            "method-not-allowed",
            405,
            "Method not allowed",
            cause="The path exists, but not with this method.",
            advice="Use one of the methods in the Allow header.",
            example="PUT is not allowed on /v1/events; allowed: POST",
        ),
        Problem(
            "request-timeout",
            408,
            "Request timeout",
            cause="The headers or the body arrived too slowly, or stopped arriving. Nothing was "
            "accepted.",
            advice="Send the request again with the same item ids, on a faster connection or in "
            "smaller parts.",
            example="The body arrived too slowly.",
        ),
        Problem(
            "id-conflict",
            409,
            "Idempotency conflict",
            cause="An item of this app has the same id, was accepted within the deduplication "
            "window, and differs. Nothing new was accepted.",
            advice="The id was used before with different content. Send the original content "
            "again, or use a new id.",
            example="This id was used within the deduplication window for an item with "
            "different content.",
        ),
        Problem(
            "too-large",
            413,
            "Payload too large",
            cause="The body, also after decompression, or the number of items in it exceeds a "
            "limit. Nothing was accepted.",
            advice="Split the request; the detail names the limit.",
            example="The batch has 1200 items; the limit is 1000.",
        ),
        Problem(
            "url-too-long",
            414,
            "URI too long",
            cause="The path and the query together are longer than the gateway reads.",
            advice="Shorten the query, or send its parameters in the body.",
            example="The URI exceeds 32768 bytes.",
        ),
        Problem(
            "unsupported-media-type",
            415,
            "Unsupported media type",
            cause="The Content-Type or the Content-Encoding is missing, or is one that this call "
            "does not take.",
            advice="Set Content-Type, and Content-Encoding if the body is compressed, to a "
            "value that the detail names.",
            example="The Content-Type must be application/json.",
            faults=(
                Fault(
                    "Content-Type", "The Content-Type must be application/json.", "header", "header"
                ),
            ),
        ),
        Problem(
            "validation",
            422,
            "Validation failed",
            cause="The request can be read, but fields of its body, headers or parameters are "
            "missing, unknown or have wrong values. Nothing was accepted, except the items of a "
            "batch that have no errors.",
            advice="Correct every entry in errors[]: pointer is a JSON Pointer into the body as "
            "you sent it; header names a header; parameter names a path or query "
            "parameter.",
            example="2 errors in the body; see errors.",
            faults=(
                Fault("/event", "is required", "required"),
                Fault("/curencyCode", "unknown field; did you mean currencyCode?", "unknown-field"),
            ),
        ),
        Problem(
            "rate-limited",
            429,
            "Rate limit exceeded",
            cause="The key, its app or the address has no tokens left for so many items; or "
            "Leanplum's daily quota for such a call is used up.",
            advice="Wait for the number of seconds in Retry-After, then send the request again. "
            "No part of the request was accepted.",
            example="1 item would exceed this key's limit of 1000 per second.",
        ),
        Problem(
            "head-too-large",
            431,
            "Request header fields too large",
            cause="The request has too many headers, or they are too long in total.",
            advice="Send fewer or shorter headers.",
            example="The request has more than 100 header fields or 65536 bytes of them.",
        ),
        Problem(
            "internal",
            500,
            "Internal server error",
            cause="The gateway failed in a way that it does not expect.",
            advice="Send the request again with the same item ids; accepted items are not "
            "accepted twice. The operator finds the cause in the log under the request "
            "id.",
            example=INTERNAL,
        ),
        Problem(
            "key-not-configured",
            501,
            "Leanplum key not configured",
            cause="Leanplum requires a kind of client key for this call that the gateway does not "
            "have for this app.",
            advice="The operator sets the variable that the detail names; the key is in "
            "Leanplum's dashboard.",
            example="Leanplum's data export key is required: LEANPLUM_DATA_EXPORT_KEY is not set.",
        ),
        Problem(
            "upstream-rejected",
            502,
            "Rejected by Leanplum",
            cause="Leanplum refused the call, or answered in a form that is not its API's. A "
            "Leanplum key that is wrong also shows here.",
            advice="The detail has Leanplum's error message. Sending the same request again has "
            "the same result.",
            example="Leanplum rejected the request: Invalid message id.",
        ),
        Problem(
            "upstream-unavailable",
            503,
            "Leanplum is unavailable",
            cause="Leanplum could not be reached, failed, or asked for fewer calls; or an earlier "
            "item of this user must be delivered first.",
            advice="Send the request again after Retry-After. Writes are still accepted; they "
            "do not wait for Leanplum.",
            example="Leanplum cannot be reached: connection refused.",
        ),
        Problem(
            "upstream-timeout",
            504,
            "Leanplum timed out",
            cause="The call was sent to Leanplum, and the answer did not arrive completely in "
            "time.",
            advice="The call may have taken effect. If doing it twice would do harm, check "
            "before you send it again.",
            example="Leanplum's answer is missing or incomplete: no answer in time.",
        ),
        Problem(
            "queue-full",
            503,
            "Queue full",
            cause="As many items wait for delivery as the gateway may keep. Nothing was accepted.",
            advice="Send the request again after Retry-After. The operator checks why items are "
            "not being delivered.",
            example="The queue is full: 10000000 items are waiting (GATEWAY_MAX_QUEUED_ITEMS).",
        ),
        Problem(
            "overloaded",
            503,
            "Gateway overloaded",
            cause="The gateway has as many open connections, or as many bytes of unfinished "
            "bodies, as it may have. Nothing was accepted.",
            advice="Send the request again after Retry-After, on fewer connections or with "
            "fewer large bodies at once. If the detail names connections, the operator can raise "
            "GATEWAY_MAX_CONNECTIONS; if it names bytes, GATEWAY_MAX_HELD_BYTES.",
            example="The limit of bytes being read at once is reached.",
        ),
        Problem(
            "stopping",
            503,
            "Gateway is shutting down",
            cause="The process was shut down, such as for an upgrade, before the request was "
            "completed.",
            advice="Send the request again after Retry-After, on a new connection and with the "
            "same ids; accepted items are not accepted twice.",
            example="The gateway shut down before the request was completed; it may have been "
            "accepted. Send it again with the same ids.",
        ),
        Problem(
            "audit-broken",
            503,
            "Audit log integrity check failed",
            cause="Records of the audit log differ from those that were sealed, so the gateway "
            "gives no proofs of them.",
            advice="The operator runs `audit verify`, which lists what was changed, and "
            "restores it (docs/audit.md).",
            example="The audit log differs from what was sealed; `audit verify` lists the "
            "differences.",
        ),
        Problem(
            "storage-unavailable",
            503,
            "Storage unavailable",
            cause="The database did not commit within GATEWAY_COMMIT_SECONDS, or is not "
            "reachable. The detail says whether the items may have been accepted all the "
            "same.",
            advice="Send the request again after Retry-After, with the same ids. If the detail "
            "says that items may have been accepted, use the ids that the response "
            "names; accepted items are not accepted twice.",
            example="The database cannot commit now; nothing was accepted.",
        ),
    )
}
