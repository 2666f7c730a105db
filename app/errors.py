"""The tree of errors that the gateway raises.

Nothing here depends on HTTP: a table in `http/problems.py` maps each class to a status and a page.

GatewayError
├── Refusal                  the request cannot be accepted as it is; the caller can correct it
│   ├── Malformed            the body is not what its media type declares
│   ├── Invalid              well-formed, but breaks rules; carries every Fault found
│   ├── Unauthorized         the key is missing, mistyped, unknown, revoked or expired
│   ├── Forbidden            the key lacks the scope, or is not for this app
│   ├── Erased               the item's user was erased recently
│   ├── NotFound             nothing has this id or URL, or this caller may not see it
│   ├── IdConflict           the id was used before with different content
│   ├── TooLarge             the body, or the batch in it, exceeds a limit
│   ├── UnsupportedMediaType the media type or content encoding is not supported
│   ├── TooSlow              the body arrives too slowly
│   ├── KeyInUrl             the URL contains a key
│   └── RateLimited          a rate limit is exceeded
├── Unable                   the gateway cannot serve the request now; it may succeed later
│   ├── QueueFull            the queue is at its limit
│   ├── StorageUnavailable   the database cannot commit; nothing was committed
│   │   └── CommitUnknown    the outcome of the commit is unknown
│   ├── Stopping             the process shut down before the request was completed
│   ├── Overloaded           the limit of connections, or of bytes being read, is reached
│   ├── AuditBroken          the audit log was changed after it was sealed; the operator restores it
│   └── UpstreamUnavailable  Leanplum cannot be reached, fails, or asks for fewer calls
├── Upstream                 a call that waits for Leanplum failed
│   ├── KeyNotConfigured     it needs a Leanplum key that is not configured
│   ├── UpstreamRejected     Leanplum rejects it
│   └── UpstreamTimeout      Leanplum did not answer in time; it may have taken effect
├── CheckFailed              what a command was to check is not as it should be
└── StartRefused             the process cannot start; one line for each reason
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Self

MAY_BE_DONE = (
    "The outcome of the database commit is unknown: the change may have been made. "
    "Check before you repeat it."
)


RequestPart = Literal["pointer", "header", "parameter"]
PLACES: dict[frozenset[RequestPart], str] = {
    frozenset({"pointer"}): "body",
    frozenset({"header"}): "headers",
    frozenset({"parameter"}): "URL",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One error in a request: its place, a sentence for people, and a code for programs.

    `pointer` is a JSON Pointer (RFC 6901) into the body if `part` is "pointer"; otherwise it is the
    name of a header, or of a path or query parameter.
    """

    pointer: str
    detail: str
    code: str
    part: RequestPart = "pointer"

    def document(self) -> dict[str, str]:
        """Return the fault as an entry of `errors[]` in a problem document."""
        return {self.part: self.pointer, "detail": self.detail, "code": self.code}


class GatewayError(Exception):
    """The base of all errors that the gateway reports to callers and operators.

    `detail` is shown to the caller: it never contains a secret or an attribute value. `faults`
    names the places in the request that caused the error, if there are any.
    """

    faults: tuple[Fault, ...] = ()

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Refusal(GatewayError):
    """A request that cannot be accepted as it is. The caller is at fault, and can correct it."""

    def at(self, fault: Fault | None) -> Self:
        """Set the fault that caused this error, if it is known, and return the error."""
        self.faults = () if fault is None else (fault,)
        return self

    def at_header(self, name: str) -> Self:
        """Name the header that caused this error, with the error's detail; return the error."""
        return self.at(Fault(name, self.detail, "header", "header"))


class Malformed(Refusal):
    """A request that cannot be parsed: its body is not what its media type declares."""


class Invalid(Refusal):
    """A request that was parsed but breaks rules; `faults` has all of them."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        where = PLACES.get(frozenset(fault.part for fault in faults), "request")
        count = "1 error" if len(faults) == 1 else f"{len(faults)} errors"
        super().__init__(f"{count} in the {where}; see errors.")
        self.faults = faults


class Unauthorized(Refusal):
    """A caller key that is missing, mistyped, unknown, revoked or expired."""


class Forbidden(Refusal):
    """A known caller that lacks a scope, or that may not use the app."""


class Erased(Refusal):
    """A write for a user who was erased less than GATEWAY_ERASED_SECONDS ago.

    `until` is the time until which writes are refused, as RFC 3339; None if it is unknown.
    """

    def __init__(self, until: str | None = None) -> None:
        span = "for a while" if until is None else f"until {until}"
        super().__init__(
            f"This user was erased; writes are refused {span} (GATEWAY_ERASED_SECONDS)."
        )


class NotFound(Refusal):
    """An id or URL under which nothing exists, or nothing that this caller may see."""


class IdConflict(Refusal):
    """An id that was used within the deduplication window with different content."""


class TooLarge(Refusal):
    """A body, or a batch in it, that exceeds a limit."""


class UnsupportedMediaType(Refusal):
    """A media type or content encoding that is not supported here."""


class TooSlow(Refusal):
    """A body that does not arrive within the time limit."""


class KeyInUrl(Refusal):
    """A key in the URL, where logs and histories keep it."""


class RateLimited(Refusal):
    """A rate limit that is exceeded; `retry_after` is in seconds."""

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unable(GatewayError):
    """A request that the gateway cannot serve now; `retry_after` is in seconds.

    The caller is not at fault: the same request may succeed later.
    """

    def __init__(self, detail: str, retry_after: float = 5.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class QueueFull(Unable):
    """A queue at its limit (GATEWAY_MAX_QUEUED_ITEMS)."""


class StorageUnavailable(Unable):
    """A database that cannot commit now. Nothing was committed."""


class CommitUnknown(StorageUnavailable):
    """A commit whose outcome is unknown: it was sent, and the database never answered.

    `result` is what the write would have returned. `ids` are the ids of the items that were to be
    accepted, in order, so that a repeat with them is recognized; None for an item that was not part
    of the commit.
    """

    def __init__(
        self,
        detail: str = MAY_BE_DONE,
        *,
        result: object = None,
        ids: Sequence[str | None] = (),
    ) -> None:
        super().__init__(detail)
        self.result, self.ids = result, tuple(ids)


class Overloaded(Unable):
    """A limit of connections, or of bytes of bodies being read, that is reached."""


class Stopping(Unable):
    """A shutdown before the request was completed; it may have taken effect in part or whole."""

    def __init__(self) -> None:
        super().__init__(
            "The gateway shut down before the request was completed; it may have been accepted. "
            "Send it again with the same ids."
        )


class AuditBroken(Unable):
    """An audit log that was changed after it was sealed, so that it proves nothing.

    A repeat of the request fails until the operator has restored the log.
    """


class UpstreamUnavailable(Unable):
    """Leanplum cannot be reached, fails, or asks for fewer calls.

    `waiting` names the subjects whose items must be delivered first, if only they delay the call.
    """

    def __init__(
        self, detail: str, retry_after: float = 5.0, waiting: Collection[str] = ()
    ) -> None:
        super().__init__(detail, retry_after)
        self.waiting = frozenset(waiting)


class Upstream(GatewayError):
    """A call to Leanplum that failed while the caller waited.

    Leanplum, or the configuration of its keys, is at fault, and a repeat may do harm or not help.
    """


class KeyNotConfigured(Upstream):
    """A call that needs a kind of Leanplum key that is not configured."""


class UpstreamRejected(Upstream):
    """A call that Leanplum rejects, or answers in an unexpected form."""


class UpstreamTimeout(Upstream):
    """A call that Leanplum did not answer in time; it may have taken effect."""


class CheckFailed(GatewayError):
    """A check by a command that found something wrong."""


class StartRefused(GatewayError):
    """A process that cannot start; `lines` has one reason per line."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
