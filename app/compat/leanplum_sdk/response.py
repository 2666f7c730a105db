"""Responses in Leanplum's envelope. Pure.

Two things never reach an SDK: the fields by which Leanplum moves SDKs to another host, and, unless
the SDK caused them, the error texts that make SDKs switch themselves off (fact sheet §7).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.http.request import RequestContext
from app.leanplum.outcomes import HOSTS, REDIRECTS, is_config, message_of

Entry = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]  # of ASGI
DROPPED_FIELDS = HOSTS  # `uploadUrl` too: iOS would post files there with its key
SETTINGS_REFUSED = "Leanplum rejects the gateway's configuration; its operator has to correct it."
NO_ANSWER = "Leanplum's answer has no entry for this action."


def render_failure(reason: str, sent: Any = None) -> Entry:
    """Return the response entry of a failure."""
    return echo_req_id(sent, {"success": False, "error": {"message": _make_harmless(reason)}})


def render_success(sent: Any) -> Entry:
    """Return the response entry of a success."""
    return echo_req_id(sent, {"success": True})


def echo_req_id(sent: Any, entry: Entry) -> Entry:
    """Return a response entry with the reqId that was sent, by which Android and Unity match."""
    if not isinstance(sent, dict) or "reqId" not in sent or isinstance(sent["reqId"], dict | list):
        return entry
    return {"reqId": sent["reqId"], **entry}


def _make_harmless(text: str) -> str:
    """Return an error text with which no SDK switches itself off."""
    return f"Gateway: {text}" if is_config(text) else text


def clean_entry(entry: Entry, sent: Any) -> tuple[Entry, bool]:
    """Return Leanplum's entry as an SDK may see it, and whether the gateway's settings failed."""
    if REDIRECTS & entry.keys() or is_config(message_of(entry, "error")):
        return render_failure(SETTINGS_REFUSED, sent), True
    return {name: value for name, value in entry.items() if name not in DROPPED_FIELDS}, False


def match_entries(answered: Sequence[Entry], sent: Sequence[Any]) -> list[Entry | None]:
    """Return Leanplum's entries in the order of those sent: by position, else by reqId."""
    if len(answered) == len(sent):
        return list(answered)
    by_req_id = {str(entry["reqId"]).lower(): entry for entry in answered if "reqId" in entry}
    return [by_req_id.get(str(entry.get("reqId")).lower()) for entry in sent]


def render_envelope(
    entries: Sequence[Entry], extra_fields: Mapping[str, Any] | None = None
) -> bytes:
    """Return a response body; `extra_fields` are its fields other than the entries.

    The body always has an entry: the SDK for JavaScript reads the first one whatever it sent.
    """
    return orjson.dumps({"response": list(entries) or [{"success": True}], **(extra_fields or {})})


CORS = [(b"access-control-allow-origin", b"*"), (b"x-content-type-options", b"nosniff")]
JSON = [
    (b"content-type", b"application/json;charset=utf-8"),
    (b"cache-control", b"private, no-store"),
]


@dataclass(slots=True)
class Reply:
    """The response to a call, as far as it is known: an entry for each one sent.

    `extra_fields` are the other fields of the body; `end_user` are the headers that describe the
    end user to Leanplum.
    """

    entries: list[Entry | None]
    status: int = 200
    extra_fields: dict[str, Any] = field(default_factory=dict)
    retry_after: float | None = None
    end_user: Mapping[str, str] = field(default_factory=dict)


async def send_body(
    context: RequestContext,
    send: Send,
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
) -> int:
    """Send a whole response with the headers that each response has; return the status."""
    common = [*CORS, (b"x-request-id", context.request_id.encode()), *context.rate_headers]
    if status != 204:
        common.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *common]})
    await send({"type": "http.response.body", "body": body})
    return status
