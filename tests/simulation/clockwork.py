"""Virtual time: an event loop that never waits, and chance that one seed decides.

Timers of the loop fire in their order, and the clock jumps from one to the next. Threads take no
virtual time: the loop stands still until what it asked of them is done.
"""

import asyncio
import queue
import random
import selectors
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Args = TypeVarTuple("Args")
HANG_SECONDS = 20.0  # of real time: a thread that takes longer never comes back
Pause = Callable[[], float]  # draws seconds of virtual time
Task = asyncio.Task[Any]
# Draws the pauses of whoever runs, and has the tasks that it began.
RUNNING: ContextVar["Runner | None"] = ContextVar("RUNNING", default=None)


class Runner:
    """Something that runs tasks and may be killed with them: a simulated process."""

    def __init__(self, name: str, pause: Pause) -> None:
        self.name, self.pause, self.dead = name, pause, False
        self.tasks = set[Task]()

    async def cancel(self) -> None:
        """Cancel every task, as often as it takes."""
        while tasks := [task for task in self.tasks if not task.done()]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


class _Selector(selectors.SelectSelector):
    """Instead of waiting for input, move the clock to the next timer."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.loop.pass_time(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock of its own."""

    def __init__(self, start: float = 1_000.0) -> None:
        self.now = start
        self._heard = queue.SimpleQueue[Callable[[], object]]()  # what threads have to say
        self._owner = threading.get_ident()
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        self.set_task_factory(_remembered)
        self.set_exception_handler(self._note)
        self._broken: BaseException | None = None

    def _note(self, _: object, context: dict[str, Any]) -> None:
        """Remember what a callback of the simulation failed on: nothing after it means anything."""
        if "handle" in context:
            self._broken = context.get("exception")

    def time(self) -> float:
        """The virtual clock, in seconds."""
        return self.now

    def pass_time(self, timeout: float | None) -> None:
        """Take what threads have said; with nothing to do, move the clock on."""
        if self._broken is not None:
            raise self._broken
        heard = False
        while not self._heard.empty():
            self.call_soon(self._heard.get())
            heard = True
        if heard or timeout == 0:
            return
        if timeout is None:
            raise RuntimeError("every task of the simulation waits for something that never comes")
        self.now += timeout + 1e-9

    def call_soon_threadsafe(
        self, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        """Note what a thread wants done; the loop does it when it looks next."""
        if threading.get_ident() == self._owner:
            return self.call_soon(callback, *args, context=context)
        self._heard.put(partial(callback, *args))
        return asyncio.Handle(callback, args, self, context)

    def await_threads(self, done: Callable[[], bool]) -> None:
        """Stand still until it is done, by what threads say."""
        while not done():
            self._heard.get(timeout=HANG_SECONDS)()

    def run_in_executor(
        self, executor: Any, func: Callable[[*Args], T], *args: *Args
    ) -> "asyncio.Future[T]":
        """Do on the loop what belongs on a thread, after a pause, and tell of it after another."""
        told: asyncio.Future[T] = self.create_future()
        runner = RUNNING.get()
        pause = runner.pause if runner is not None else lambda: 0.0

        def run() -> None:
            if runner is not None and runner.dead:
                return
            try:
                result = func(*args)
            except Exception as error:
                self.call_later(pause(), tell, told.set_exception, error)
            else:
                self.call_later(pause(), tell, told.set_result, result)

        def tell(how: Callable[[Any], None], what: Any) -> None:
            if not told.done():
                how(what)

        self.call_later(pause(), run)
        return told


def _remembered(
    loop: asyncio.AbstractEventLoop, coro: Any, *, context: Context | None = None
) -> Task:
    task: Task = asyncio.Task(coro, loop=loop, context=context)
    runner = context.get(RUNNING) if context is not None else RUNNING.get()
    if runner is not None:
        runner.tasks.add(task)
        task.add_done_callback(runner.tasks.discard)
    return task


def pauses(chance: random.Random, slow: float) -> Pause:
    """Pauses as a database makes them: mostly short; `slow` is the share of long ones."""

    def pause() -> float:
        drawn = chance.random()
        if drawn < slow:
            return chance.uniform(0.05, 0.6)
        return chance.uniform(0.0, 0.03) if drawn < 0.3 else chance.uniform(0.0, 0.002)

    return pause


def run_in_virtual_time(
    body: Callable[[VirtualLoop], Coroutine[Any, Any, None]], seed: int
) -> None:
    """Run `body` to its end on a virtual clock, with all chance decided by `seed`."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        with _in_step(loop, seed):
            runner.run(body(loop))


@contextmanager
def _in_step(loop: VirtualLoop, seed: int) -> Iterator[None]:
    """Let `time.monotonic` be the loop's clock, since the code compares it with the loop's timers;
    and let threads run only while the loop waits for them."""
    state, interval, monotonic = random.getstate(), sys.getswitchinterval(), time.monotonic
    random.seed(seed)
    sys.setswitchinterval(1.0)
    time.monotonic = loop.time
    try:
        yield
    finally:
        time.monotonic = monotonic
        sys.setswitchinterval(interval)
        random.setstate(state)


def weighted(chance: random.Random, weights: Mapping[str, float]) -> str:
    """One of the names, by their weights."""
    return chance.choices(list(weights), list(weights.values()))[0]
