"""Limits, and a client of a shared limiter that is opened for one question alone."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from app.limits.buckets import Limit
from app.limits.valkey import Valkey


def limit(name: str = "a", rate: float = 10, burst: int = 20) -> Limit:
    return Limit(name, rate, burst, burst)


T = TypeVar("T")


def asked(url: str, asking: Callable[[Valkey], Coroutine[Any, Any, T]], seconds: float = 5.0) -> T:
    """What a client finds out that is opened for this alone, with all the time that a busy machine
    may need.
    """

    async def opened() -> T:
        client = Valkey(url, seconds)
        try:
            return await asking(client)
        finally:
            await client.close("nobody")

    return asyncio.run(opened())
