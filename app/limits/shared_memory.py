"""Token buckets in memory that the workers of one gateway share.

The memory is a table of slots. A bucket's slot is one of 16 neighbours, found by a hash of its
name. If all of them are taken, the bucket that misses least of being full is replaced: its callers
may then send that much more, once. A lock of the operating system guards the table.
"""

import mmap
import os
import struct
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from multiprocessing import reduction
from typing import Any

from app.limits.buckets import Buckets, Decision, Limit
from app.process_lock import ProcessLock

SLOT = struct.Struct("=16sdddq")  # the hash of the name; deficit, its time, rate, `whole`
SLOTS, NEIGHBOURS = 262_144, 16
TABLE_BYTES = SLOTS * SLOT.size
EMPTY = bytes(16)
CACHED_NAMES = 10_000
LOCKED_BYTE = 0  # which of the file's bytes is the lock of the table
# A decision takes microseconds. If the lock is held for longer, its holder was stopped; then a
# decision that is a little wrong is better than none.
LOCK_SECONDS, LOCK_PAUSE = 0.05, 0.00005
_Bucket = tuple[float, float, float, int]


class SharedMemory:
    """A file in memory, which is passed on to worker processes."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def create(cls) -> "SharedMemory":
        """Return new memory, filled with zeros."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("leanplum-gateway-limits")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, TABLE_BYTES)
        return cls(descriptor)

    def __reduce__(self) -> tuple[Callable[[Any], "SharedMemory"], tuple[Any]]:
        """Pass the descriptor on to the process that is started."""
        return _received, (reduction.DupFd(self.descriptor),)

    def close(self) -> None:
        """Close this process's descriptor."""
        os.close(self.descriptor)


def _received(descriptor: Any) -> SharedMemory:
    return SharedMemory(descriptor.detach())


class SharedBuckets(Buckets):
    """Buckets that all processes with the same memory share, exactly.

    `clock` must be the same clock in all of them, as the monotonic clock of Linux is.
    """

    def __init__(self, clock: Callable[[], float], memory: SharedMemory) -> None:
        super().__init__(clock)
        self._lock = ProcessLock(
            memory.descriptor, LOCKED_BYTE, wait_seconds=LOCK_SECONDS, pause_seconds=LOCK_PAUSE
        )
        self._table = _Table(memory.descriptor, clock)
        self._buckets = self._table  # type: ignore[assignment]

    def take(self, limits: Sequence[Limit], count: int) -> Decision:
        """Take `count` items from every one of the buckets, or nothing from any."""
        with self._lock:
            return super().take(limits, count)

    def give(self, limits: Sequence[Limit], count: int) -> Decision:
        """Give `count` items back to every one of the buckets, up to its deficit."""
        with self._lock:
            return super().give(limits, count)

    def put(self, limit: Limit, deficit: float) -> None:
        """Set a bucket's deficit, as another source knows it."""
        with self._lock:
            super().put(limit, deficit)


class _Table:
    """The table, with what `Buckets` uses of a dictionary."""

    def __init__(self, descriptor: int, clock: Callable[[], float]) -> None:
        self._memory, self._clock = mmap.mmap(descriptor, TABLE_BYTES), clock

    def __len__(self) -> int:
        return 0  # nothing is ever swept: a full bucket is as good as an empty slot

    def get(self, name: str) -> _Bucket | None:
        """Return a bucket; None if it is full, or was replaced."""
        key, begin = _place(name)
        offset = self._find(key, begin)
        return None if offset is None else SLOT.unpack_from(self._memory, offset)[1:]

    def __setitem__(self, name: str, bucket: _Bucket) -> None:
        key, begin = _place(name)
        offset = self._find(key, begin)
        if offset is None:
            offset = self._replaceable(begin)
        SLOT.pack_into(self._memory, offset, key, *bucket)

    def _find(self, key: bytes, begin: int) -> int | None:
        end = begin + NEIGHBOURS * SLOT.size
        offset = self._memory.find(key, begin, end)
        while offset >= 0 and (offset - begin) % SLOT.size:  # by chance inside of a slot
            offset = self._memory.find(key, offset + 1, end)
        return offset if offset >= 0 else None

    def _replaceable(self, begin: int) -> int:
        """Return the place of the slot that is empty, or whose bucket misses least."""
        now = self._clock()
        missing = dict[int, float]()
        for number in range(NEIGHBOURS):
            offset = begin + number * SLOT.size
            key, deficit, at, rate, _ = SLOT.unpack_from(self._memory, offset)
            left = 0.0 if key == EMPTY else deficit - (now - at) * rate
            if left <= 0:
                return offset
            missing[offset] = left
        return min(missing, key=missing.__getitem__)


@lru_cache(CACHED_NAMES)
def _place(name: str) -> tuple[bytes, int]:
    """Return the hash of a bucket's name, and where its slots begin."""
    key = blake2b(name.encode(), digest_size=16).digest()
    slot = int.from_bytes(key[:8], "little") % (SLOTS - NEIGHBOURS)
    return key, slot * SLOT.size
