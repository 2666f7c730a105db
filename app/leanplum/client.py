"""The one place that calls Leanplum."""

from typing import NamedTuple, Self

import httpx


class Answer(NamedTuple):
    """An HTTP answer, as it came."""

    status: int
    body: bytes
    retry_after: str | None


class Unreachable(Exception):
    """No answer came. The text says why, in a few words and without what was sent."""


class LeanplumClient:
    """Sends bodies to Leanplum. Keys travel in the body, never in a URL or header (Leanplum's docs, Authentication)."""

    def __init__(self, *, timeout: float, connections: int, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = httpx.AsyncClient(
            timeout=timeout,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            follow_redirects=False,
            transport=transport,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def multi(self, url: str, body: bytes) -> Answer:
        """Send one `multi`. Raises Unreachable where no whole answer came: what was sent was perhaps done."""
        reason = ""
        try:
            response = await self._http.post(url, params=MULTI, content=body, headers=JSON)
        except httpx.HTTPError as error:
            reason = type(error).__name__
        if reason:
            raise Unreachable(reason)  # outside the handler: the original holds the request, and so the key
        return Answer(response.status_code, response.content, response.headers.get("retry-after"))


MULTI = {"action": "multi"}
JSON = {"content-type": "application/json"}
