"""Memory of answers to synchronous calls: a cache, daily quotas, and repeats. Pure.

All of it is the memory of one process: another replica knows nothing of it. Times are arguments or
come from a clock that is an argument, in seconds.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

MAX_CACHE_BYTES = 64_000_000
DAY = 86_400
PACIFIC = -8 * 3_600  # Leanplum counts exports anew at 00:00 PST (fact sheet §3.6)
KEPT_SECONDS = 120.0  # a phone that has given up waiting sends again much sooner
MAX_REPEATS_BYTES = 16 * 1024 * 1024
ENTRY_BYTES = 400  # of an answer beside its text, generously
NO_FIELDS: Mapping[str, Any] = MappingProxyType({})


class CachedAnswer(NamedTuple):
    """An answer's body, its entity tag (RFC 9110 §8.8.3), and the time at which it expires."""

    body: bytes
    etag: str
    until: float


class AnswerCache:
    """The latest answers, each for `seconds`. Beyond 64 MB the oldest are removed."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._answers: OrderedDict[tuple[str, ...], CachedAnswer] = OrderedDict()
        self._bytes = 0

    def get(self, name: tuple[str, ...], now: float) -> CachedAnswer | None:
        """Return the answer under this name that has not expired."""
        answer = self._answers.get(name)
        return answer if answer is not None and now < answer.until else None

    def put(self, name: tuple[str, ...], body: bytes, now: float) -> CachedAnswer:
        """Store an answer. Its tag depends on its name, too, so no other app's has the same."""
        digest = hashlib.blake2b(repr(name).encode() + body, digest_size=16).hexdigest()
        answer = CachedAnswer(body, f'"{digest}"', now + self.seconds)
        if self.seconds > 0:
            self._remove(name)
            self._answers[name] = answer
            self._bytes += len(body)
            while self._bytes > MAX_CACHE_BYTES:
                self._remove(next(iter(self._answers)))
        return answer

    def _remove(self, name: tuple[str, ...]) -> None:
        answer = self._answers.pop(name, None)
        if answer is not None:
            self._bytes -= len(answer.body)


class DailyQuotas:
    """Counts of the day's successful calls, by app and action.

    Calls before the process started, or of another process, are refused by Leanplum itself. Times
    are in seconds since the epoch.
    """

    def __init__(self) -> None:
        self._day = 0
        self._counts: dict[tuple[str, str], int] = {}

    def wait(self, app: str, action: str, per_day: int, now: float) -> float:
        """Return the seconds until an action may be called again; 0 where it may be now."""
        self._begin_day(now)
        if self._counts.get((app, action), 0) < per_day:
            return 0.0
        return DAY - (now + PACIFIC) % DAY

    def count(self, app: str, action: str, now: float) -> None:
        """Count a successful call."""
        self._begin_day(now)
        self._counts[app, action] = self._counts.get((app, action), 0) + 1

    def _begin_day(self, now: float) -> None:
        day = int((now + PACIFIC) // DAY)
        if day != self._day:
            self._day = day
            self._counts.clear()


class EntryAnswer(NamedTuple):
    """The answer to one entry: `status` and `retry_after` are those of its call.

    `extra_fields`: the fields of the call's answer beside its entries. `waits`: the entry was not
    sent, since items of its own users wait; that says nothing of other users.
    """

    entry: dict[str, Any]
    status: int = 200
    retry_after: float | None = None
    extra_fields: Mapping[str, Any] = NO_FIELDS
    waits: bool = False

    @property
    def succeeded(self) -> bool:
        """Return whether Leanplum did what the entry asked for."""
        return self.status == 200 and self.entry.get("success") is True


# The answer that a claimed request will have; None where its owner has given up
PendingAnswer = asyncio.Future[EntryAnswer | None]


class _KeptEntry(NamedTuple):
    entry: bytes
    until: float


class Repeats:
    """A register of requests in progress and of recent answers, so that repeats are not sent again.

    Requests are identified by their keys. A caller that claims a key must release it.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        seconds: float = KEPT_SECONDS,
        max_bytes: int = MAX_REPEATS_BYTES,
    ) -> None:
        """Keep answers for `seconds`, and remove the oldest beyond `max_bytes`.

        `clock` is monotonic.
        """
        self._clock, self._seconds, self._max_bytes = clock, seconds, max_bytes
        self._pending: dict[bytes, PendingAnswer] = {}
        self._kept: OrderedDict[bytes, _KeptEntry] = OrderedDict()
        self._bytes = 0

    def find(self, key: bytes) -> PendingAnswer | EntryAnswer | None:
        """Return the answer, given or pending, to the request with this key; None without one."""
        pending = self._pending.get(key)
        if pending is not None:
            return pending
        kept = self._kept.get(key)
        if kept is None or kept.until <= self._clock():
            return None
        return EntryAnswer(orjson.loads(kept.entry))

    def claim(self, key: bytes) -> None:
        """Let other requests with this key wait for its answer, until it is released."""
        self._pending[key] = asyncio.get_running_loop().create_future()

    def settle(self, key: bytes, answer: EntryAnswer, *, keep: bool = False) -> None:
        """Give a claimed key its answer. `keep`: remember it for a while, if it succeeded."""
        self._pending[key].set_result(answer)
        if keep and answer.succeeded:
            # A copy: orjson's result has spare room
            self._keep(key, bytes(memoryview(orjson.dumps(answer.entry))))

    def release(self, key: bytes) -> None:
        """End a claim; requests that still wait learn that its owner has given up."""
        pending = self._pending.pop(key)
        if not pending.done():
            pending.set_result(None)

    def _keep(self, key: bytes, entry: bytes) -> None:
        now = self._clock()
        self._remove(key)
        self._kept[key] = _KeptEntry(entry, now + self._seconds)
        self._bytes += len(entry) + ENTRY_BYTES
        while self._kept and (self._bytes > self._max_bytes or self._oldest.until <= now):
            self._remove(next(iter(self._kept)))

    @property
    def _oldest(self) -> _KeptEntry:
        return next(iter(self._kept.values()))

    def _remove(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= len(kept.entry) + ENTRY_BYTES
