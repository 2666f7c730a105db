"""Answers in Leanplum's envelope. Pure.

Two things never pass: the fields by which Leanplum moves SDKs to another host, and, in what is not
about the SDK's own doing, the texts that make SDKs switch themselves off (fact sheet §7).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.http.request import RequestContext
from app.leanplum.outcomes import HOSTS, REDIRECTS, is_config, message_of

Entry = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]  # of ASGI
LEADING_AWAY = REDIRECTS
NOT_PASSED_ON = HOSTS  # `uploadUrl` too: iOS would post files there with its key
OURS = "Leanplum rejects the gateway's configuration; its operator has to correct it."
UNTOLD = "Leanplum's answer has no entry for this action."


def failed(reason: str, sent: Any = None) -> Entry:
    """An entry that tells of a failure."""
    return echoed(sent, {"success": False, "error": {"message": safe(reason)}})


def done(sent: Any) -> Entry:
    """An entry that tells of success."""
    return echoed(sent, {"success": True})


def echoed(sent: Any, entry: Entry) -> Entry:
    """With the action's own reqId, which Android and Unity match by."""
    if not isinstance(sent, dict) or "reqId" not in sent or isinstance(sent["reqId"], dict | list):
        return entry
    return {"reqId": sent["reqId"], **entry}


def safe(text: str) -> str:
    """A text that no SDK takes for the end."""
    return f"Gateway: {text}" if is_config(text) else text


def cleaned(entry: Entry, sent: Any) -> tuple[Entry, bool]:
    """Leanplum's entry as an SDK may see it, and whether it tells of a fault that is ours."""
    if LEADING_AWAY & entry.keys() or is_config(message_of(entry, "error")):
        return failed(OURS, sent), True
    return {name: value for name, value in entry.items() if name not in NOT_PASSED_ON}, False


def matched(found: Sequence[Entry], sent: Sequence[Any]) -> list[Entry | None]:
    """Leanplum's entries in the order of what was sent: by position, else by reqId."""
    if len(found) == len(sent):
        return list(found)
    told = {str(entry["reqId"]).lower(): entry for entry in found if "reqId" in entry}
    return [told.get(str(one.get("reqId")).lower()) for one in sent]


def envelope(entries: Sequence[Entry], beside: Mapping[str, Any] | None = None) -> bytes:
    """The body. It is never empty: the JavaScript SDK looks at the first entry whatever it sent."""
    return orjson.dumps({"response": list(entries) or [{"success": True}], **(beside or {})})


CORS = [(b"access-control-allow-origin", b"*"), (b"x-content-type-options", b"nosniff")]
JSON = [
    (b"content-type", b"application/json;charset=utf-8"),
    (b"cache-control", b"private, no-store"),
]


@dataclass(slots=True)
class Reply:
    """The answer to a call, as far as it is known: one for each entry, and what stands beside
    them.
    """

    entries: list[Entry | None]
    status: int = 200
    beside: dict[str, Any] = field(default_factory=dict)
    retry_after: float | None = None
    # The headers that tell Leanplum of the end user
    end_user: Mapping[str, str] = field(default_factory=dict)

    def tell(self, at: Sequence[int], found: Sequence[Entry]) -> None:
        """The answers of the entries at these places."""
        for index, entry in zip(at, found, strict=True):
            self.entries[index] = entry


async def send_body(
    context: RequestContext,
    send: Send,
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
) -> int:
    """Send a whole response, with the headers that every response has; return the status."""
    common = [*CORS, (b"x-request-id", context.request_id.encode()), *context.rate_headers]
    if status != 204:
        common.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *common]})
    await send({"type": "http.response.body", "body": body})
    return status
