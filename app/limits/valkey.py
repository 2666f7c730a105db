"""Buckets in Valkey (or Redis), for all replicas: the only place that speaks to it. Every call ends
within its time.
"""

import asyncio
import hashlib
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from app.limits.bucket import Decision, Limit
from app.limits.valkey_scripts import BEAT, TAKE

T = TypeVar("T")
PREFIX = "leanplum-gateway:limits:"
REPLICAS = "leanplum-gateway:replicas"
TAKE_SECONDS = 0.05  # unless told: callers wait for it
BEAT_SECONDS = 1.0  # nobody does; it may have to connect first
GONE_SECONDS = 5.0  # without a sign of life
CONNECTIONS = 2  # one for what callers wait for, one for signs of life
TURNS = 5  # of the event loop, in which an answer that has come is read
Call = tuple[Sequence[Limit], int]


class Valkey:
    """A server. Whatever goes wrong with it is raised: an error of redis-py, OSError,
    TimeoutError.
    """

    def __init__(self, url: str, take_seconds: float = TAKE_SECONDS) -> None:
        """Nothing is opened before it is needed. Schemes: redis, rediss, valkey, valkeys."""
        self._take_seconds = take_seconds
        # Never again by itself: who waits is answered without it, and one probe a second finds out
        # when it is back.
        never = Retry(NoBackoff(), 0)
        # Any: its types leave open which of its calls are awaited
        self._client: Any = Redis.from_url(
            url.replace("valkey", "redis", 1) if url.startswith("valkey") else url,
            max_connections=CONNECTIONS,
            protocol=2,
            retry=never,
            socket_timeout=None,
            socket_connect_timeout=None,
        )

    async def take(self, calls: Sequence[Call], now: float = -1) -> list[Decision]:
        """Decide the calls in their order, at once. `now`: in microseconds, instead of the server's
        own clock.
        """
        names = [PREFIX + limit.name for limits, _ in calls for limit in limits]
        words: list[Any] = [now]
        for limits, count in calls:
            words += (count, len(limits), *(word for limit in limits for word in _words(limit)))
        told = iter((await within(self._take_seconds, self._run(TAKE, names, words))).split())
        return [
            Decision(next(told) == b"1", limits, [float(next(told)) for _ in limits])
            for limits, _ in calls
        ]

    async def beat(self, replica: str) -> int:
        """Give a sign of life; how many replicas have given one lately."""
        return int(await within(BEAT_SECONDS, self._run(BEAT, [REPLICAS], [replica, GONE_SECONDS])))

    async def close(self, replica: str) -> None:
        """Take the replica out, if that can be done, and close the connections."""
        with suppress(Exception):  # it is forgotten in a few seconds anyway
            await within(
                self._take_seconds, self._client.execute_command("ZREM", REPLICAS, replica)
            )
        await self._client.aclose()

    async def _run(self, script: str, names: Sequence[str], words: Sequence[Any]) -> Any:
        """By the script's hash; with its text where the server does not know it, as after its
        restart.
        """
        rest = (len(names), *names, *words)
        try:
            return await self._client.execute_command("EVALSHA", _sha(script), *rest)
        except NoScriptError:
            return await self._client.execute_command("EVAL", script, *rest)


def _words(limit: Limit) -> tuple[float, float, int]:
    """Return the script's arguments for a bucket."""
    return limit.rate, limit.burst, int(limit.lends)


HASHES = {
    script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    for script in (TAKE, BEAT)
}


def _sha(script: str) -> str:
    return HASHES[script]


async def within(seconds: float, asking: Coroutine[Any, Any, T]) -> T:
    """The answer. Raises TimeoutError where there is none in time; one that came while the event
    loop was busy with other things counts, or a busy gateway would take its server for away.
    """
    task = asyncio.ensure_future(asking)
    task.add_done_callback(_seen)
    try:
        await asyncio.wait({task}, timeout=seconds)
        for _ in range(TURNS):
            if task.done():
                return task.result()
            await asyncio.sleep(0)
        raise TimeoutError
    finally:
        task.cancel()


def _seen(task: "asyncio.Future[Any]") -> None:
    """An error of a call that is no longer waited for is nobody's."""
    if not task.cancelled():
        task.exception()
