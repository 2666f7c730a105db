"""Large pieces of work on the event loop and in the reading thread: others have their turn."""

import asyncio
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from app.compat.leanplum_sdk import request
from app.errors import TooLarge
from app.ingest.time_slices import SLICE_SECONDS, RestingThread, in_slices, turn


def work(pieces: int) -> Iterator[int]:
    """Of a millisecond each, all of it the processor's."""
    for piece in range(pieces):
        until = time.perf_counter() + 0.001
        while time.perf_counter() < until:
            pass
        yield piece


async def ticks(log: list[str]) -> None:
    """Somebody else, who wants a turn again and again."""
    while True:
        log.append("tick")
        await asyncio.sleep(0)


async def beside_ticks(*works: list[int]) -> list[str]:
    log = list[str]()
    ticking = asyncio.create_task(ticks(log))

    async def one(wanted: list[int]) -> None:
        def logged() -> Iterator[int]:
            for piece in work(len(wanted)):
                log.append("work")
                yield piece

        assert await in_slices(logged()) == wanted

    await asyncio.gather(*map(one, works))
    ticking.cancel()
    return log


def longest_without_a_tick(log: list[str]) -> int:
    return max(len(part) for part in "".join("w" if one == "work" else " " for one in log).split())


def test_others_have_their_turn_after_each_slice_and_the_order_stays() -> None:
    log = asyncio.run(beside_ticks(list(range(40))))
    assert log.count("work") == 40
    assert longest_without_a_tick(log) <= SLICE_SECONDS * 1000 + 1


def test_many_who_work_take_turns_of_one_slice_among_them_all() -> None:
    log = asyncio.run(beside_ticks(*[list(range(12))] * 10))
    after_the_first_slices = log[log.index("tick", log.index("work")) :]
    assert longest_without_a_tick(after_the_first_slices) <= SLICE_SECONDS * 1000 + 1


def test_what_is_little_waits_for_nobody() -> None:
    async def beside_a_turn() -> list[int]:
        async with turn():
            return await asyncio.wait_for(in_slices(iter([1, 2, 3])), 1)

    assert asyncio.run(beside_a_turn()) == [1, 2, 3]


def test_work_that_fails_gives_its_turn_up() -> None:
    def failing() -> Iterator[int]:
        yield from work(10)
        raise LookupError

    async def twice() -> list[int]:
        with pytest.raises(LookupError):
            await in_slices(failing())
        return await asyncio.wait_for(in_slices(work(10)), 5)

    assert asyncio.run(twice()) == list(range(10))


def test_the_reading_thread_rests_between_two_bodies_for_as_long_as_it_worked() -> None:
    spans = list[tuple[float, float]]()

    def read() -> None:
        began = time.monotonic()
        time.sleep(0.05)
        spans.append((began, time.monotonic()))

    async def three() -> None:
        reader = RestingThread("reading")
        await asyncio.gather(*(reader.call(read) for _ in range(3)))

    asyncio.run(three())
    for (began, ended), (next_began, _) in pairwise(spans):
        assert next_began - ended >= 0.9 * (ended - began)


@pytest.mark.parametrize(
    "members", [{f"k{number}": 1 for number in range(400_000)}, {"params": [[]] * 400_000}]
)
def test_a_call_of_very_many_members_is_refused_before_each_is_looked_at(
    members: request.Args,
) -> None:
    spent = time.process_time()
    with pytest.raises(TooLarge):
        request.make_call("/api", {}, {"action": "track", "userId": "u", "params": members})
    assert time.process_time() - spent < 0.1
