"""A lock that several processes share."""

import multiprocessing
import time
from collections.abc import Iterator

import pytest

from app.limits.shared_memory import SharedMemory
from app.process_lock import ProcessLock
from tests.workers.taking import hold_a_lock
from tests.workers.worker_processes import ended_process


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory.create()
    yield memory
    memory.close()


def lock(memory: SharedMemory, byte: int = 0, wait_seconds: float = 30.0) -> ProcessLock:
    return ProcessLock(memory.descriptor, byte, wait_seconds=wait_seconds, pause_seconds=0.001)


def test_a_lock_is_free_once_the_process_that_holds_it_is_killed(memory: SharedMemory) -> None:
    with ended_process(hold_a_lock, memory) as holder:
        began = time.monotonic()
        with lock(memory, wait_seconds=0.2):
            assert time.monotonic() - began >= 0.2, "the other process has it"
        holder.kill()
        holder.join()
        began = time.monotonic()
        with lock(memory):
            assert time.monotonic() - began < 20


def test_each_byte_has_a_lock_of_its_own(memory: SharedMemory) -> None:
    with ended_process(hold_a_lock, memory):
        began = time.monotonic()
        with lock(memory, byte=1):
            assert time.monotonic() - began < 20


def test_an_error_inside_releases_the_lock(memory: SharedMemory) -> None:
    with pytest.raises(LookupError), lock(memory):
        raise LookupError
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=hold_a_lock, args=(memory, None))
    process.start()
    process.join(60)
    assert process.exitcode == 0
