"""The reply to a call: its entries as far as they are known, and the HTTP response."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Send

from app.compat.leanplum_sdk.response import Entry
from app.http.request import RequestContext

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
