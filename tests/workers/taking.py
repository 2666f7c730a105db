"""A process that takes from a bucket which others share."""

import signal
from typing import Any

from app.limits.buckets import Limit
from app.limits.shared_memory import SharedBuckets, SharedMemory
from app.process_lock import ProcessLock


def take_in_a_process(memory: SharedMemory, started: Any, taken: Any) -> None:
    """Take single items from a bucket that does not fill up, until it is empty."""
    buckets, count = SharedBuckets(lambda: 1_000.0, memory), 0
    started.wait()
    while buckets.take([Limit("a", 10.0, 2_000, 2_000)], 1).allowed:
        count += 1
    taken.put(count)


def hold_a_lock(memory: SharedMemory, held: Any) -> None:
    """Hold the first lock until the process is killed; end at once if nobody waits for that."""
    with ProcessLock(memory.descriptor, 0, wait_seconds=30.0, pause_seconds=0.001):
        if held is not None:
            held.set()
            signal.pause()
