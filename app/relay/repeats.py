"""A register of what is being asked and what was answered a moment ago, so that a repeat is not
asked again.

Pure but for futures, and for being told the time. It is the memory of one process: another replica
knows nothing of it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

KEPT_SECONDS = 120.0  # a phone that has given up waiting sends again much sooner
MOST_BYTES = 16 * 1024 * 1024
ENTRY_BYTES = 400  # of an answer beside its text, generously
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Told(NamedTuple):
    """The answer about one entry: `status` and `retry_after` of its call, and the fields that stand
    beside the entries. `waits`: it was not asked, since items of its own users wait; that tells
    nothing of other users.
    """

    entry: dict[str, Any]
    status: int = 200
    retry_after: float | None = None
    beside: Mapping[str, Any] = NOTHING
    waits: bool = False

    @property
    def good(self) -> bool:
        """Tell whether Leanplum did what was asked."""
        return self.status == 200 and self.entry.get("success") is True


Answer = asyncio.Future[Told | None]  # None: whoever was at work on it has given up


class _Kept(NamedTuple):
    entry: bytes
    until: float


class Repeats:
    """Requests by their keys. Who claims a key must release it."""

    def __init__(
        self,
        clock: Callable[[], float],
        seconds: float = KEPT_SECONDS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """`clock` is monotonic. Answers are kept for `seconds`; beyond `most_bytes` the oldest
        go.
        """
        self._clock, self._seconds, self._most = clock, seconds, most_bytes
        self._going: dict[bytes, Answer] = {}
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._bytes = 0

    def find(self, key: bytes) -> Answer | Told | None:
        """Return the answer that was given, or the one that is to come; None where there is
        neither.
        """
        if (going := self._going.get(key)) is not None:
            return going
        kept = self._kept.get(key)
        if kept is None or kept.until <= self._clock():
            return None
        return Told(orjson.loads(kept.entry))

    def claim(self, key: bytes) -> None:
        """Let others who come with this key have its answer, until it is released."""
        self._going[key] = asyncio.get_running_loop().create_future()

    def settle(self, key: bytes, told: Told, *, keep: bool = False) -> None:
        """Give a claimed key its answer. `keep`: a good one is remembered for a while."""
        self._going[key].set_result(told)
        if keep and told.good:
            # A copy: what orjson returns has spare room
            self._keep(key, bytes(memoryview(orjson.dumps(told.entry))))

    def release(self, key: bytes) -> None:
        """End a claim; whoever still waits learns that its owner has given up."""
        going = self._going.pop(key)
        if not going.done():
            going.set_result(None)

    def _keep(self, key: bytes, entry: bytes) -> None:
        now = self._clock()
        self._drop(key)
        self._kept[key] = _Kept(entry, now + self._seconds)
        self._bytes += len(entry) + ENTRY_BYTES
        while self._kept and (self._bytes > self._most or self._oldest.until <= now):
            self._drop(next(iter(self._kept)))

    @property
    def _oldest(self) -> _Kept:
        return next(iter(self._kept.values()))

    def _drop(self, key: bytes) -> None:
        if (old := self._kept.pop(key, None)) is not None:
            self._bytes -= len(old.entry) + ENTRY_BYTES
