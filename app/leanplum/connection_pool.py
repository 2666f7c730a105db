"""A pool of HTTP connections that costs the same for each call, however many connections it has.

httpx's own pool looks at each connection, with a system call, at the begin and the end of each
call; with 16 connections that took half of the time that a call takes in the client. Here each
connection has an httpx transport of its own, and the one that was used last is taken first.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import chain
from typing import NamedTuple

import httpx


class _Spare(NamedTuple):
    """A transport that is not in use, with the time since when."""

    transport: httpx.AsyncBaseTransport
    since: float


class ConnectionPool(httpx.AsyncBaseTransport):
    """Sends each request by a transport that no other request is using.

    `make` returns a new transport. At most `most` are kept when they are not in use, each for
    `idle_seconds`.
    """

    def __init__(
        self,
        make: Callable[[], httpx.AsyncBaseTransport],
        most: int,
        idle_seconds: float,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make, self._most, self._idle_seconds, self._ticks = make, most, idle_seconds, ticks
        self._busy = set[httpx.AsyncBaseTransport]()
        # By scheme, host and port; those used last come last
        self._spare: dict[tuple[str, str, int | None], list[_Spare]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. The transport is in use until the response is closed."""
        url = request.url
        spare = self._spare.setdefault((url.scheme, url.host, url.port), [])
        transport = spare.pop().transport if spare else self._make()
        self._busy.add(transport)
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            await self._release(transport, spare)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Body(response.stream, lambda: self._release(transport, spare))
        return response

    async def _release(self, transport: httpx.AsyncBaseTransport, spare: list[_Spare]) -> None:
        """Keep a transport for further requests, and close those that were kept for too long."""
        if transport not in self._busy:
            return
        self._busy.remove(transport)
        now = self._ticks()
        spare.append(_Spare(transport, now))
        while spare and (len(spare) > self._most or spare[0].since < now - self._idle_seconds):
            await spare.pop(0).transport.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        spare = [kept.transport for kept in chain.from_iterable(self._spare.values())]
        transports = [*self._busy, *spare]
        self._busy.clear()
        self._spare.clear()
        for transport in transports:
            await transport.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of a response, which tells when it is closed."""

    def __init__(
        self, stream: httpx.AsyncByteStream, on_closed: Callable[[], Awaitable[None]]
    ) -> None:
        self._stream, self._on_closed = stream, on_closed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        """Close the body, whether it was read or not."""
        try:
            await self._stream.aclose()
        finally:
            await self._on_closed()
