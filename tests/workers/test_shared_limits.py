"""Buckets in the memory that workers share: they are those of one process, for all of them."""

import multiprocessing
import random
from collections.abc import Iterator

import pytest

from app.limits import shared_memory
from app.limits.buckets import Buckets, Limit
from app.limits.shared_memory import SharedBuckets, SharedMemory
from tests.workers.taking import take_in_a_process


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    found = SharedMemory.create()
    yield found
    found.close()


def limit(name: str, rate: float = 10.0, burst: int = 20) -> Limit:
    return Limit(name, rate, burst, burst)


def test_they_decide_as_the_buckets_of_one_process_do(memory: SharedMemory) -> None:
    clock, chance = Clock(), random.Random(7)
    one, shared = Buckets(clock), SharedBuckets(clock, memory)
    for _ in range(5_000):
        clock.now += chance.random()
        limits = [
            limit(f"caller:{chance.randrange(5)}", 1.0 + chance.randrange(4), 5),
            limit(f"app:{chance.randrange(3)}"),
        ][: chance.randrange(1, 3)]
        count = chance.randrange(4)
        if chance.random() < 0.1:
            assert shared.give(limits, count) == one.give(limits, count)
        else:
            assert shared.take(limits, count) == one.take(limits, count)


def test_two_with_the_same_memory_share_their_buckets(memory: SharedMemory) -> None:
    clock = Clock()
    one, other = SharedBuckets(clock, memory), SharedBuckets(clock, memory)
    assert one.take([limit("a")], 15).allowed
    assert not other.take([limit("a")], 6).allowed
    assert other.take([limit("a")], 5).allowed
    other.put(limit("a"), 0.0)
    assert one.take([limit("a")], 20).allowed


def test_if_all_places_are_taken_the_bucket_that_misses_least_is_replaced(
    memory: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def neighbours(name: str) -> tuple[bytes, int]:
        key, _ = place(name)
        return key, 0

    place = shared_memory._place
    monkeypatch.setattr(shared_memory, "_place", neighbours)
    buckets = SharedBuckets(Clock(), memory)
    for number in range(shared_memory.NEIGHBOURS):
        buckets.take([limit(f"{number}")], number + 2)
    buckets.take([limit("more")], 1)
    missing = [20 - buckets.take([limit(f"{n}")], 0).limits[0].remaining(buckets.take([limit(f"{n}")], 0).deficits[0])
               for n in range(3)]  # fmt: skip
    assert missing == [0, 3, 4]


def test_an_old_bucket_that_is_full_again_gives_its_place_away(
    memory: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shared_memory._place
    monkeypatch.setattr(shared_memory, "_place", lambda name: (place(name)[0], 0))
    clock = Clock()
    buckets = SharedBuckets(clock, memory)
    for number in range(shared_memory.NEIGHBOURS):
        buckets.take([limit(f"{number}")], 10)
    clock.now += 1.0
    buckets.take([limit("0")], 10)
    buckets.take([limit("new")], 20)
    assert buckets.take([limit("0")], 0).deficits == (10.0,)


def test_several_processes_take_exactly_what_there_is(memory: SharedMemory) -> None:
    context = multiprocessing.get_context("forkserver")
    started, taken = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=take_in_a_process, args=(memory, started, taken)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    counts = [taken.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sum(counts) == 2_000
