"""The pool of connections to Leanplum."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from app.leanplum.connection_pool import ConnectionPool

URL = "https://leanplum.test/api"


class Body(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"done"


@dataclass(eq=False)
class Transport(httpx.AsyncBaseTransport):
    """A transport that answers every request, or fails, and knows whether it is closed."""

    failure: Exception | None = None
    closed: bool = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert not self.closed
        if self.failure is not None:
            raise self.failure
        return httpx.Response(200, stream=Body())

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class Made:
    """A pool with a clock, and the transports that it made."""

    most: int = 2
    idle_seconds: float = 3.0
    transports: list[Transport] = field(default_factory=list)
    failure: Exception | None = None
    now: float = 0.0

    def __post_init__(self) -> None:
        self.pool = ConnectionPool(self.make, self.most, self.idle_seconds, lambda: self.now)

    def make(self) -> Transport:
        self.transports.append(Transport(self.failure))
        return self.transports[-1]

    async def send(self, url: str = URL) -> httpx.Response:
        return await self.pool.handle_async_request(httpx.Request("POST", url))

    async def call(self, url: str = URL) -> bytes:
        response = await self.send(url)
        try:
            return await response.aread()
        finally:
            await response.aclose()

    @property
    def closed(self) -> list[bool]:
        return [transport.closed for transport in self.transports]


def run(body: Callable[[Made], Coroutine[Any, Any, None]], **options: Any) -> None:
    asyncio.run(body(Made(**options)))


def test_calls_one_after_the_other_share_one_connection() -> None:
    async def body(made: Made) -> None:
        assert [await made.call() for _ in range(3)] == [b"done"] * 3
        assert len(made.transports) == 1

    run(body)


def test_calls_at_once_have_a_connection_each_until_their_bodies_are_closed() -> None:
    async def body(made: Made) -> None:
        first, second = await made.send(), await made.send()
        assert len(made.transports) == 2
        await first.aclose()
        await made.call()
        assert len(made.transports) == 2
        await second.aclose()
        await second.aclose()

    run(body)


def test_a_connection_is_used_for_one_host_alone() -> None:
    async def body(made: Made) -> None:
        for url in (URL, "https://other.test/api", "http://leanplum.test/api", URL):
            await made.call(url)
        assert len(made.transports) == 3

    run(body)


def test_no_more_connections_are_kept_than_the_limit_says() -> None:
    async def body(made: Made) -> None:
        for response in [await made.send() for _ in range(4)]:
            await response.aclose()
        assert made.closed == [True, True, False, False]

    run(body, most=2)


def test_a_connection_that_nobody_used_for_long_is_closed_by_the_next_call() -> None:
    async def body(made: Made) -> None:
        for response in [await made.send() for _ in range(2)]:
            await response.aclose()
        made.now = 2.0
        await made.call()
        assert made.closed == [False, False]
        made.now = 3.5
        await made.call()
        assert made.closed == [True, False]

    run(body, idle_seconds=3.0)


def test_a_failed_call_does_not_keep_its_transport_busy() -> None:
    async def body(made: Made) -> None:
        for _ in range(2):
            with pytest.raises(httpx.ConnectError):
                await made.call()
        assert len(made.transports) == 1

    run(body, failure=httpx.ConnectError("refused"))


def test_closing_the_pool_closes_connections_in_use_and_not_in_use() -> None:
    async def body(made: Made) -> None:
        in_use, _ = await made.send(), await made.call()
        await made.pool.aclose()
        assert made.closed == [True, True]
        await in_use.aclose()

    run(body)
