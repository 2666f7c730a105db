"""The slots of the supervisor: workers that end, that do not start, and that are replaced."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from app.errors import StartRefused
from app.server import worker_slots
from app.server.worker_slots import MOST_FAILURES, Slot, describe_exit
from tests.support.wait import until_async


class FakeLink:
    """The link to a FakeWorker."""

    def __init__(self, worker: "FakeWorker") -> None:
        self._worker = worker
        self.ready = asyncio.Event()
        self.refusal: str | None = None
        self.answering = True

    def stop(self, *, replaced: bool = False) -> None:
        self._worker.stops.append(replaced)
        if self._worker.stops_when_asked:
            self._worker.end(0)


class FakeWorker:
    """A worker without a process; `gets_ready` says whether it ever does its work."""

    pid = 1

    def __init__(self, gets_ready: bool, refusal: str | None = None) -> None:
        self.link = FakeLink(self)
        self.link.refusal = refusal
        self._gets_ready = gets_ready
        self._ended, self.hangs = asyncio.Event(), asyncio.Event()
        self.stops = list[bool]()
        self.stops_when_asked = True
        self.code = 0

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def until_ready(self) -> bool:
        if not self._gets_ready:
            self.end(3)
        else:
            self.link.ready.set()
        return self._gets_ready

    async def until_ended(self) -> int:
        await self._ended.wait()
        return self.code

    async def until_hanging(self) -> None:
        await self.hangs.wait()

    def kill(self) -> None:
        self.end(-9)

    def end(self, code: int) -> None:
        if not self._ended.is_set():
            self.code = code
            self._ended.set()


class Started:
    """The workers that a slot has started, in their order."""

    def __init__(self, *get_ready: bool, refusal: str | None = None) -> None:
        self._get_ready, self._refusal = list(get_ready), refusal
        self.workers = list[FakeWorker]()
        self.errors = list[OSError]()

    async def __call__(self, name: str) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        gets_ready = self._get_ready.pop(0) if self._get_ready else True
        self.workers.append(FakeWorker(gets_ready, self._refusal))
        return self.workers[-1]

    def slot(self, **options: float) -> Slot:
        return Slot("one", self, **{"first_pause": 0.001, "stop_seconds": 60.0} | options)


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


async def stopped(slot: Slot, running: "asyncio.Task[None]") -> int:
    slot.stop()
    await running
    return slot.exit_code


@on_a_loop
async def test_a_worker_that_ends_is_followed_by_another() -> None:
    started = Started()
    slot = started.slot()
    running = asyncio.create_task(slot.run())
    for count in (1, 2, 3):
        await until_async(lambda count=count: len(started.workers) == count)  # type: ignore[misc]
        await until_async(started.workers[-1].link.ready.is_set)
        started.workers[-1].end(1)
    await until_async(lambda: len(started.workers) == 4)
    assert await stopped(slot, running) == 0


@on_a_loop
async def test_if_no_worker_ever_starts_the_slot_is_given_up() -> None:
    started = Started(*[False] * MOST_FAILURES)
    with pytest.raises(StartRefused, match="the worker one does not start: exit code 3"):
        await started.slot().run()
    assert len(started.workers) == MOST_FAILURES


@on_a_loop
async def test_a_reason_that_a_worker_gives_ends_the_start_at_once() -> None:
    started = Started(False, refusal="GATEWAY_APPS_FILE: no such file")
    with pytest.raises(StartRefused, match="GATEWAY_APPS_FILE: no such file"):
        await started.slot().run()
    assert len(started.workers) == 1


@on_a_loop
async def test_once_a_worker_was_ready_others_are_started_again_and_again() -> None:
    started = Started(True, *[False] * (MOST_FAILURES + 2))
    slot = started.slot(first_pause=0.00001)
    running = asyncio.create_task(slot.run())
    await slot.ready.wait()
    started.workers[-1].end(1)
    await until_async(lambda: len(started.workers) == MOST_FAILURES + 4)
    assert await stopped(slot, running) == 0


@on_a_loop
async def test_a_process_that_cannot_be_forked_is_tried_again() -> None:
    started = Started()
    started.errors = [OSError(11, "Resource temporarily unavailable")] * 2
    slot = started.slot()
    running = asyncio.create_task(slot.run())
    await slot.ready.wait()
    assert await stopped(slot, running) == 0


@on_a_loop
async def test_a_worker_that_hangs_is_killed_and_replaced() -> None:
    started = Started()
    slot = started.slot()
    running = asyncio.create_task(slot.run())
    await slot.ready.wait()
    started.workers[0].hangs.set()
    await until_async(lambda: len(started.workers) == 2)
    assert started.workers[0].code == -9
    assert await stopped(slot, running) == 0


@on_a_loop
async def test_a_stop_during_the_pause_starts_no_other_and_is_no_failure() -> None:
    started = Started()
    slot = started.slot(first_pause=60.0)
    running = asyncio.create_task(slot.run())
    await slot.ready.wait()
    started.workers[-1].end(7)
    await asyncio.sleep(0.01)
    assert await stopped(slot, running) == 0
    assert len(started.workers) == 1


@on_a_loop
async def test_a_worker_that_does_not_stop_is_killed_and_that_is_a_failure() -> None:
    started = Started()
    slot = started.slot(stop_seconds=0.05)
    running = asyncio.create_task(slot.run())
    await slot.ready.wait()
    started.workers[0].stops_when_asked = False
    assert await stopped(slot, running) == 1
    assert started.workers[0].code == -9


@on_a_loop
async def test_a_replacement_is_ready_before_the_old_one_is_stopped() -> None:
    started = Started()
    slot = started.slot()
    running = asyncio.create_task(slot.run())
    await slot.ready.wait()
    assert await slot.replace()
    old, new = started.workers
    assert (old.ended, new.ended) == (True, False)
    assert old.stops == [True]
    new.end(1)
    await until_async(lambda: len(started.workers) == 3)
    assert await stopped(slot, running) == 0


@on_a_loop
async def test_a_stop_during_a_replacement_reaches_both_workers_at_every_step() -> None:
    started = Started()
    slot = started.slot()
    running = asyncio.create_task(slot.run())
    await slot.ready.wait()
    started.workers[0].stops_when_asked = False
    replacing = asyncio.create_task(slot.replace())
    await until_async(lambda: started.workers[0].stops == [True])
    slot.stop()
    assert not slot.ended
    slot.stop()
    assert started.workers[0].stops == [True, False, False]
    started.workers[0].end(0)
    await running
    await replacing
    assert (slot.ended, slot.exit_code) == (True, 0)


@on_a_loop
async def test_a_replacement_that_does_not_get_ready_leaves_the_old_one() -> None:
    started = Started(True, False)
    slot = started.slot()
    running = asyncio.create_task(slot.run())
    await slot.ready.wait()
    assert not await slot.replace()
    assert not started.workers[0].ended
    assert await stopped(slot, running) == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [(2, "exit code 2"), (-9, "the signal SIGKILL"), (-15, "the signal SIGTERM"),
     (worker_slots.LOST_STATUS, "an unknown exit code")],
)  # fmt: skip
def test_an_exit_code_is_described_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words
