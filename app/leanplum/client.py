"""The one place that calls Leanplum."""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple, Self

import httpx
from pydantic import SecretStr


class Answer(NamedTuple):
    """An HTTP answer, as it came."""

    status: int
    body: bytes
    retry_after: str | None


class Unreachable(Exception):
    """No whole answer came. The text says why, in a few words and without what was sent. `sent`: Leanplum may have got
    the call and done it."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class LeanplumClient:
    """Sends bodies to Leanplum. Keys travel in the body, never in a URL or header (Leanplum's docs, Authentication).

    An answer is what is logged, stored and shown of a call, so none of `secrets` passes: where one is echoed, it is
    replaced by "[key]" before anything else sees the answer.
    """

    def __init__(
        self,
        *,
        timeout: float,
        connections: int,
        secrets: Iterable[SecretStr] = (),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._timeout = timeout
        self._secrets = [secret.get_secret_value().encode() for secret in secrets]
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

    async def call(self, url: str, action: str, body: bytes) -> Answer:
        """Make one call. Raises Unreachable where no whole answer came within the timeout."""
        failed: Unreachable | None = None
        try:
            # httpx's own timeouts begin anew with each piece of an answer; this one is for all of it.
            async with asyncio.timeout(self._timeout):
                response = await self._http.post(url, params={"action": action}, content=body, headers=JSON)
        except (httpx.HTTPError, TimeoutError) as error:
            failed = Unreachable(type(error).__name__, sent=not isinstance(error, NEVER_SENT))
        if failed is not None:
            raise failed  # outside the handler: the original holds the request, and so the key
        return Answer(response.status_code, self._masked(response.content), response.headers.get("retry-after"))

    def _masked(self, body: bytes) -> bytes:
        for secret in self._secrets:
            body = body.replace(secret, b"[key]")
        return body


NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
JSON = {"content-type": "application/json"}
