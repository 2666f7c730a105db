"""Answers that change seldom, for a short while. Pure but for being told the time, in seconds."""

import hashlib
from collections import OrderedDict
from typing import NamedTuple

MOST_BYTES = 64_000_000


class Kept(NamedTuple):
    """An answer's body, its entity tag (RFC 9110 §8.8.3), and when it is asked for anew."""

    body: bytes
    etag: str
    until: float


class Cache:
    """The latest answers, `seconds` each; 64 MB together at most, the oldest go first."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._kept: OrderedDict[tuple[str, ...], Kept] = OrderedDict()
        self._bytes = 0

    def get(self, name: tuple[str, ...], now: float) -> Kept | None:
        """What was kept under the name and is young enough."""
        kept = self._kept.get(name)
        return kept if kept is not None and now < kept.until else None

    def put(self, name: tuple[str, ...], body: bytes, now: float) -> Kept:
        """Keep an answer. Its tag is of its name, too: no other app's answer has the same."""
        digest = hashlib.blake2b(repr(name).encode() + body, digest_size=16).hexdigest()
        kept = Kept(body, f'"{digest}"', now + self.seconds)
        if self.seconds > 0:
            self._drop(name)
            self._kept[name] = kept
            self._bytes += len(body)
            while self._bytes > MOST_BYTES:
                self._drop(next(iter(self._kept)))
        return kept

    def _drop(self, name: tuple[str, ...]) -> None:
        if (old := self._kept.pop(name, None)) is not None:
            self._bytes -= len(old.body)
