"""The slots of the supervisor: workers that end, that do not start, and that are replaced."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from app.errors import StartRefused
from app.server.worker_slots import MOST_FAILURES, Slot, describe_exit
from tests.support.wait import until_async


class FakeWorker:
    """A worker without a process; `gets_ready` says whether it ever does its work."""

    class process:  # noqa: N801 - as the worker has it
        pid = 1

    def __init__(self, gets_ready: bool) -> None:
        self._gets_ready = gets_ready
        self._ended = asyncio.Event()
        self.signals = list[int]()
        self.code = 0

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def until_ready(self) -> bool:
        if not self._gets_ready:
            self.end(3)
        return self._gets_ready

    async def until_ended(self) -> int:
        await self._ended.wait()
        return self.code

    def signal(self, number: int) -> None:
        self.signals.append(number)
        self.end(0)

    def end(self, code: int) -> None:
        if not self._ended.is_set():
            self.code = code
            self._ended.set()


class Started:
    """The workers that a slot has started, in their order."""

    def __init__(self, *get_ready: bool) -> None:
        self._get_ready = list(get_ready)
        self.workers = list[FakeWorker]()

    def __call__(self, name: str) -> Any:
        gets_ready = self._get_ready.pop(0) if self._get_ready else True
        self.workers.append(FakeWorker(gets_ready))
        return self.workers[-1]


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@on_a_loop
async def test_a_worker_that_ends_is_followed_by_another() -> None:
    started = Started()
    slot = Slot("one", started, first_pause=0.001)
    running = asyncio.create_task(slot.run())
    for count in (1, 2, 3):
        await until_async(lambda count=count: len(started.workers) == count)  # type: ignore[misc]
        await slot.ready.wait()
        started.workers[-1].end(1)
    await until_async(lambda: len(started.workers) == 4)
    slot.stop()
    assert await running == 0


@on_a_loop
async def test_a_worker_that_fails_to_start_several_times_in_a_row_is_given_up() -> None:
    started = Started(*[False] * (MOST_FAILURES - 1), True, *[False] * MOST_FAILURES)
    slot = Slot("one", started, first_pause=0.001)
    running = asyncio.create_task(slot.run())
    await slot.ready.wait()
    started.workers[-1].end(1)
    with pytest.raises(StartRefused, match=r"one: ended 5 times before it was ready.*exit code 3"):
        await running
    assert len(started.workers) == 2 * MOST_FAILURES


@on_a_loop
async def test_a_stop_during_the_pause_starts_no_other() -> None:
    started = Started()
    slot = Slot("one", started, first_pause=60)
    running = asyncio.create_task(slot.run())
    await slot.ready.wait()
    started.workers[-1].end(7)
    await asyncio.sleep(0.01)
    slot.stop()
    assert await running == 7
    assert len(started.workers) == 1


@on_a_loop
async def test_a_replacement_is_ready_before_the_old_one_is_stopped() -> None:
    started = Started()
    slot = Slot("one", started, first_pause=0.001)
    running = asyncio.create_task(slot.run())
    await slot.ready.wait()
    assert await slot.replace()
    old, new = started.workers
    assert (old.ended, new.ended) == (True, False)
    new.end(1)
    await until_async(lambda: len(started.workers) == 3)
    slot.stop()
    assert await running == 0


@on_a_loop
async def test_a_replacement_that_does_not_get_ready_leaves_the_old_one() -> None:
    started = Started(True, False)
    slot = Slot("one", started, first_pause=0.001)
    running = asyncio.create_task(slot.run())
    await slot.ready.wait()
    assert not await slot.replace()
    assert [worker.ended for worker in started.workers] == [False, True]
    slot.stop()
    assert await running == 0
    assert len(started.workers) == 2


@pytest.mark.parametrize(
    ("code", "words"), [(3, "exit code 3"), (-9, "the signal SIGKILL"), (-15, "the signal SIGTERM")]
)
def test_an_exit_code_is_described_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words
