"""The tree of our errors. Nothing here knows HTTP: `api/problems.py` has the one table that turns
them into answers.

GatewayError
├── Refusal                  the request can't be taken; the caller can mend it
│   ├── Malformed            the body is not what its media type says
│   ├── Invalid              well-formed, but breaks rules; carries every Fault found
│   ├── Unauthorized         no key, a mistyped, unknown, revoked or expired one
│   ├── Forbidden            the key may not do this
│   ├── Erased               the item's user was erased a while ago
│   ├── NotFound
│   ├── IdConflict           an id was used before for another content
│   ├── TooLarge
│   ├── UnsupportedMediaType
│   ├── TooSlow              the body comes too slowly
│   ├── KeyInUrl             a key stands where logs and histories keep it
│   └── RateLimited
├── Unable                   the gateway can't take it now; the caller should try again
│   ├── QueueFull
│   ├── StorageUnavailable
│   │   └── CommitUnknown    the commit's answer was lost: it may have been made
│   ├── Stopping             the process ended before it was done
│   ├── Overloaded           as much is being read as may be
│   ├── AuditBroken          what was sealed can't be proven: somebody changed it
│   └── UpstreamUnavailable  Leanplum is away, or asks for fewer calls
├── Upstream                 what was asked of Leanplum while the caller waited came to nothing
│   ├── KeyNotConfigured     it needs a kind of Leanplum key that isn't there
│   ├── UpstreamRejected     Leanplum refuses it
│   └── UpstreamTimeout      no answer came in time: it may have been done
└── StartRefused             the process must not start like this; one line for each reason
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Self

MAY_BE_DONE = "The database's answer to the commit was lost: it may have been done. Look before doing it again."


RequestPart = Literal["pointer", "header", "parameter"]
PLACES: dict[frozenset[RequestPart], str] = {
    frozenset({"pointer"}): "body",
    frozenset({"header"}): "headers",
    frozenset({"parameter"}): "address",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a request: where, what and what to do, and a code for programs.

    `pointer` is a JSON Pointer (RFC 6901) into the body; or the name of a header, or of a parameter
    of the path or the query, where `part` says so.
    """

    pointer: str
    detail: str
    code: str
    part: RequestPart = "pointer"

    def document(self) -> dict[str, str]:
        """Return the fault as callers see it."""
        return {self.part: self.pointer, "detail": self.detail, "code": self.code}


class GatewayError(Exception):
    """Anything this gateway refuses or can't do. `detail` is shown to the caller: no secret, no
    attribute value.

    `faults`: where in the request it lies, as far as one place can be named.
    """

    faults: tuple[Fault, ...] = ()

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Refusal(GatewayError):
    """The request can't be taken as it is."""

    def at(self, fault: Fault | None) -> Self:
        """Return the same error, which names the place that is at fault, where one is."""
        self.faults = () if fault is None else (fault,)
        return self

    def at_header(self, name: str) -> Self:
        """Return the same error, which names a header and has its own words for it."""
        return self.at(Fault(name, self.detail, "header", "header"))


class Malformed(Refusal):
    """The body can't be read as what it says it is."""


class Invalid(Refusal):
    """What was sent breaks rules; `faults` has all of them."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        where = PLACES.get(frozenset(fault.part for fault in faults), "request")
        super().__init__(
            f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in the {where}: see errors."
        )
        self.faults = faults


class Unauthorized(Refusal):
    """The caller is not known."""


class Forbidden(Refusal):
    """The caller is known and may not do this."""


class Erased(Refusal):
    """The item's subject was erased, and nothing is taken or sent for it for a while."""

    def __init__(self) -> None:
        super().__init__(
            "This user was erased; nothing is taken for them for a while (GATEWAY_ERASED_SECONDS)."
        )


class NotFound(Refusal):
    """There is no such thing, or none that this caller may see."""


class IdConflict(Refusal):
    """The id was used within the window for an item with another content."""


class TooLarge(Refusal):
    """The body, or the batch in it, is over a limit."""


class UnsupportedMediaType(Refusal):
    """The body's media type or encoding is not one that is read here."""


class TooSlow(Refusal):
    """The body comes more slowly than is waited for."""


class KeyInUrl(Refusal):
    """A key stands in the address, where logs and histories keep it."""


class RateLimited(Refusal):
    """The caller's limit is spent; `retry_after` is in seconds."""

    def __init__(self, detail: str, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unable(GatewayError):
    """The gateway can't do it now; `retry_after` is in seconds."""

    def __init__(self, detail: str, retry_after: float = 5.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class QueueFull(Unable):
    """As many items wait as may wait."""


class StorageUnavailable(Unable):
    """The database can't commit now, so nothing may be promised. Nothing was committed."""


class CommitUnknown(StorageUnavailable):
    """The commit was asked for, and its answer never came: it may have been made.

    `result`: what the write would have returned. `ids`: of the items that were to be accepted, in
    their order, so that a repeat with them is recognized; None for one that takes no part.
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
    """As many connections, or bytes of bodies, as may be are held already."""


class Stopping(Unable):
    """The process ended before the request was done: it may have been, in part or as a whole."""

    def __init__(self) -> None:
        super().__init__(
            "The gateway stopped before this was done; it may have been taken. Send it again, with the same ids."
        )


class AuditBroken(Unable):
    """The audit in the database is not what was sealed, so nothing of it is proven."""


class UpstreamUnavailable(Unable):
    """Leanplum can't be reached, fails, or asks for fewer calls.

    `waiting`: the subjects whose items must be delivered first, where only that prevents the call.
    """

    def __init__(
        self, detail: str, retry_after: float = 5.0, waiting: Collection[str] = ()
    ) -> None:
        super().__init__(detail, retry_after)
        self.waiting = frozenset(waiting)


class Upstream(GatewayError):
    """Leanplum was asked, or could not be."""


class KeyNotConfigured(Upstream):
    """The call needs a kind of Leanplum key that is not configured."""


class UpstreamRejected(Upstream):
    """Leanplum refuses the call, or its answer makes no sense."""


class UpstreamTimeout(Upstream):
    """Leanplum did not answer in time. What was asked may have been done."""


class StartRefused(GatewayError):
    """The process must not start like this. `lines` has one reason a line."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
