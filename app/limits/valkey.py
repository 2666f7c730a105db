"""Token buckets in Valkey (or Redis) that all replicas share: the only module that talks to it.

Each operation is one Lua script, of commands that Redis has as well, and ends within a timeout.
"""

import asyncio
import hashlib
import ssl
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from app.errors import StartRefused
from app.limits.buckets import Decision, Limit
from app.urls import mask_url

T = TypeVar("T")
PREFIX = "leanplum-gateway:limits:"
REPLICAS = "leanplum-gateway:replicas"
TAKE_SECONDS = 0.05  # the default timeout of a decision: a caller waits for it
HEARTBEAT_SECONDS = 1.0  # nobody waits for a heartbeat, and it may have to connect first
GONE_SECONDS = 5.0  # a replica without a heartbeat for so long is gone
CONNECTIONS = 2  # one for decisions, one for heartbeats
CERTIFICATE_ADVICE = (
    "SSL_CERT_FILE must name a file with the authority that signed the server's certificate, and "
    "the URL must name the server as the certificate does"
)
LATE_READS = 5  # turns of the event loop after a timeout, in which an answer is still read
TakeRequest = tuple[Sequence[Limit], int]  # the limits of one call, and its count

TAKE_SCRIPT = """
-- Decides many calls, one after the other: takes a call's count from every one of its buckets, or
-- nothing from any.
-- KEYS: the buckets, call by call.
-- ARGV: the time in microseconds (-1: the server's own); then for each call its count, the number
-- of its buckets, and for each of them the rate, the burst, and whether it lends (1 or 0): then a
-- call larger than the burst passes where one item would, and the deficit beyond the burst is a
-- debt.
-- A negative count is given back to each bucket, up to its deficit.
-- A bucket is stored as its deficit, the time of that, and its burst then: a smaller burst doesn't
-- cancel a debt.
-- Returns for each call 1 or 0, and the deficit of each of its buckets: after the call where it
-- passed.
local now, own = tonumber(ARGV[1]), tonumber(ARGV[1]) < 0
if own then
  local time = redis.call('TIME')
  now = time[1] * 1e6 + time[2]
end
local stored, since, held, changed, results = {}, {}, {}, {}, {}
local tolerance = 1e-6
local key, arg = 1, 2
while arg < #ARGV do
  local count, last = tonumber(ARGV[arg]), key + ARGV[arg + 1] - 1
  local passes, deficits, at = true, {}, arg + 2
  for place = key, last do
    local name, lends = KEYS[place], ARGV[at + 2] == '1'
    local rate, burst = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    if not stored[name] then
      local text = redis.call('GET', name) or '0 0'
      local deficit, time, burst_then = string.match(text, '(%S+) (%S+) ?(%S*)')
      stored[name], since[name] = tonumber(deficit), tonumber(time)
      held[name] = tonumber(burst_then) or burst
      if since[name] > now then -- the server's clock was set back
        since[name], changed[name] = now, rate
      end
    end
    local deficit = math.max(0, stored[name] - (now - since[name]) * rate / 1e6)
    if deficit > burst and held[name] > burst then -- a smaller burst counts from now on
      deficit = deficit - (math.min(held[name], deficit) - burst)
      stored[name], since[name], held[name], changed[name] = deficit, now, burst, rate
    end
    deficits[place] = deficit
    local needed = (lends and count > burst) and 1 or count
    passes = passes and (count < 0 or deficit + needed <= burst + tolerance)
    at = at + 3
  end
  results[#results + 1] = passes and '1' or '0'
  for place = key, last do
    if passes then
      local given = arg + 2 + 3 * (place - key)
      local name, rate, burst = KEYS[place], tonumber(ARGV[given]), tonumber(ARGV[given + 1])
      deficits[place] = math.max(0, deficits[place] + count)
      stored[name], since[name], held[name], changed[name] = deficits[place], now, burst, rate
    end
    results[#results + 1] = string.format('%.17g', deficits[place])
  end
  key, arg = last + 1, at
end
for name, rate in pairs(changed) do
  redis.call('SET', name, string.format('%.17g %.0f %.17g', stored[name], now, held[name]))
  if own then -- it expires once it is full and its debt paid; not under a time that was given
    redis.call('PEXPIRE', name, math.ceil(stored[name] / rate * 1000) + 1)
  end
end
return table.concat(results, ' ')
"""

HEARTBEAT_SCRIPT = """
-- Records a heartbeat of one replica; returns how many replicas there are.
-- KEYS: the replicas. ARGV: this one, and the seconds without a heartbeat after which one is gone.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], 60)
return redis.call('ZCARD', KEYS[1])
"""

# The names by which the server keeps the scripts; not a matter of security
SHA1 = {
    script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    for script in (TAKE_SCRIPT, HEARTBEAT_SCRIPT)
}


class Valkey:
    """A client of one server. Raises redis-py's errors, OSError or TimeoutError on any failure."""

    def __init__(self, url: str, take_seconds: float = TAKE_SECONDS) -> None:
        """Connect on first use. URL schemes: redis, rediss, valkey, valkeys."""
        self._take_seconds = take_seconds
        # No retries: callers are answered without the server, and one probe a second finds out
        # when it is back.
        no_retry = Retry(NoBackoff(), 0)
        # Any: redis-py's types leave open which of its calls are awaited
        self._client: Any = Redis.from_url(
            _redis_url(url),
            max_connections=CONNECTIONS,
            protocol=2,
            retry=no_retry,
            socket_timeout=None,
            socket_connect_timeout=None,
        )

    async def take(self, calls: Sequence[TakeRequest], now: float = -1) -> list[Decision]:
        """Decide the calls in their order, in one round trip.

        `now` is in microseconds; without it, the server's own clock counts.
        """
        names = [PREFIX + limit.name for limits, _ in calls for limit in limits]
        arguments: list[Any] = [now]
        for limits, count in calls:
            arguments += (count, len(limits))
            for limit in limits:
                arguments += (limit.rate, limit.burst, int(limit.lends))
        text = await within(self._take_seconds, self._run(TAKE_SCRIPT, names, arguments))
        results = iter(text.split())
        decisions = list[Decision]()
        for limits, _ in calls:
            allowed = next(results) == b"1"
            decisions.append(Decision(allowed, limits, [float(next(results)) for _ in limits]))
        return decisions

    async def beat(self, replica: str) -> int:
        """Send a heartbeat, and return how many replicas have sent one lately."""
        heartbeat = self._run(HEARTBEAT_SCRIPT, [REPLICAS], [replica, GONE_SECONDS])
        return int(await within(HEARTBEAT_SECONDS, heartbeat))

    async def close(self, replica: str) -> None:
        """Remove the replica, if that is possible, and close the connections."""
        with suppress(Exception):  # it expires in a few seconds anyway
            removal = self._client.execute_command("ZREM", REPLICAS, replica)
            await within(self._take_seconds, removal)
        await self._client.aclose()

    async def _run(self, script: str, names: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run a script by its hash, or by its text where the server was restarted since."""
        rest = (len(names), *names, *arguments)
        try:
            return await self._client.execute_command("EVALSHA", SHA1[script], *rest)
        except NoScriptError:
            return await self._client.execute_command("EVAL", script, *rest)


def check_certificate(url: str) -> None:
    """Raise StartRefused if the server shows a certificate that is not trusted.

    A server that cannot be reached may be there later; a certificate does not change by itself.
    """
    seconds = HEARTBEAT_SECONDS
    with BlockingRedis.from_url(
        _redis_url(url), socket_connect_timeout=seconds, socket_timeout=seconds
    ) as client:
        try:
            client.ping()
        except RedisError as error:
            if _is_of_certificate(error):
                raise StartRefused(
                    f"GATEWAY_SHARED_LIMITS_URL: {mask_url(url)} can't be used: {error}; "
                    f"{CERTIFICATE_ADVICE}"
                ) from error


def _redis_url(url: str) -> str:
    return url.replace("valkey", "redis", 1) if url.startswith("valkey") else url


def _is_of_certificate(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


async def within(seconds: float, call: Coroutine[Any, Any, T]) -> T:
    """Return the result of a call to the server. Raises TimeoutError where none came in time.

    A result that came while the event loop was busy counts: else a busy gateway would take its
    server for unavailable.
    """
    task = asyncio.ensure_future(call)
    task.add_done_callback(_ignore_error)
    try:
        await asyncio.wait({task}, timeout=seconds)
        for _ in range(LATE_READS):
            if task.done():
                return task.result()
            await asyncio.sleep(0)
        raise TimeoutError
    finally:
        task.cancel()


def _ignore_error(task: "asyncio.Future[Any]") -> None:
    """Retrieve the error of a call that nobody waits for, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()
