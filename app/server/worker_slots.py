"""Slots of the supervisor: each runs one worker process, and starts it again if it ends."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess

import structlog

from app.errors import StartRefused
from app.server.worker_links import PING, SupervisorLink

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a worker is started again
STEADY_SECONDS = 60.0  # a worker that was ready for so long did not fail to start
MOST_FAILURES = 5  # starts in a row that may fail before any worker of the slot was ready
READY_SECONDS = 60.0  # that a start may take
PING_SECONDS = 5.0  # between questions whether a worker's event loop runs
MOST_UNANSWERED = 6  # such questions in a row; then the worker hangs, and is killed
STATUS_SECONDS = 2.0  # that the exit code of an ended process may take to arrive
LOST_STATUS = 255  # the exit code if the process that forks workers is gone, and nobody knows it

log = structlog.get_logger("workers")


class Worker:
    """One worker process."""

    def __init__(self, process: ForkServerProcess, link: SupervisorLink) -> None:
        assert process.pid is not None, "the process is started"
        self.pid: int = process.pid
        self._process, self.link = process, link
        self._linked = asyncio.create_task(link.run())
        self._ended = asyncio.create_task(self._until_ended())

    async def until_ready(self) -> bool:
        """Wait until the worker does its work.

        Return False if it ended before, or takes longer than a minute.
        """
        ready = asyncio.create_task(self.link.ready.wait())
        await asyncio.wait(
            {ready, self._ended}, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        ready.cancel()
        return self.link.ready.is_set() and not self._ended.done()

    async def until_ended(self) -> int:
        """Wait until the process has ended; return its exit code, negative for a signal."""
        return await asyncio.shield(self._ended)

    async def until_hanging(self) -> None:
        """Wait until the worker does not answer any more. Cancel it to end the wait."""
        unanswered = 0
        while unanswered < MOST_UNANSWERED:
            await asyncio.sleep(PING_SECONDS)
            unanswered = 0 if await self.link.ask(PING) else unanswered + 1

    @property
    def ended(self) -> bool:
        """Return whether the process has ended."""
        return self._ended.done()

    def kill(self) -> None:
        """End the process at once."""
        if not self._ended.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def _until_ended(self) -> int:
        """Wait for the end of the process itself.

        Its sentinel would not do: that is also readable if the process that forked it has ended.
        """
        if hasattr(os, "pidfd_open"):
            with suppress(ProcessLookupError):  # it has ended already
                await _until_readable(os.pidfd_open(self.pid), close=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(STATUS_SECONDS):
                await _until_readable(self._process.sentinel)
        self._process.join(0)
        with suppress(TimeoutError):  # the link has what the worker sent last
            await asyncio.wait_for(asyncio.shield(self._linked), STATUS_SECONDS)
        code = self._process.exitcode
        return LOST_STATUS if code is None else code


async def _until_readable(file: int, *, close: bool = False) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(file, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(file)
        if close:
            os.close(file)


class Slot:
    """One of the N+1 jobs, and its worker: a new one if the last has ended.

    `exit_code` is 1 if a worker did not stop as it should.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[str], Awaitable[Worker]],
        *,
        stop_seconds: float,
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        """`start` starts a worker of a name, or raises OSError.

        `stop_seconds`: a worker that takes longer to stop is killed. `first_pause` is the shortest
        pause, in seconds.
        """
        self.name, self._start = name, start
        self._stop_seconds, self._first_pause = stop_seconds, first_pause
        # Those that have not ended: the current one, and what it replaces or is replaced by
        self._workers = list[Worker]()
        self._worker: Worker | None = None
        self._stopping = asyncio.Event()
        self._endings = set[asyncio.Task[None]]()
        self.ready = asyncio.Event()  # some worker of the slot was ready
        self.exit_code = 0

    async def run(self) -> None:
        """Keep a worker running until `stop`, and wait until all have ended.

        Raises StartRefused if none has ever been ready, after several tries.
        """
        failures = 0
        while not self._stopping.is_set():
            worker, ready_at = await self._current(), time.monotonic()
            if worker is not None:
                await self._watch(worker)
            if self._stopping.is_set():
                break
            steady = self.ready.is_set() and time.monotonic() - ready_at > STEADY_SECONDS
            failures = 1 if steady else failures + 1
            how = await _describe_end(worker)
            if not self.ready.is_set() and (failures >= MOST_FAILURES or _refusal(worker)):
                raise StartRefused(f"the worker {self.name} does not start: {how}")
            pause = min(LONGEST_PAUSE, self._first_pause * 2.0 ** (failures - 1))
            log.error("worker.ended", worker=self.name, how=how, again_in=pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
        while self._workers:
            await self._workers[0].until_ended()
            await asyncio.gather(*self._endings)

    async def replace(self) -> bool:
        """Replace the worker by a new one, and stop it once that is ready.

        Return False if the new one does not get ready; then the old one goes on.
        """
        new = await self._begin()
        if new is None:
            return False
        if not await new.until_ready() or self._stopping.is_set():
            if not self._stopping.is_set():
                new.kill()
            await new.until_ended()
            return False
        self._log_ready(new)
        old, self._worker = self._worker, new
        if old is not None and not old.ended:
            self._end(old, replaced=True)
            await old.until_ended()
        return True

    @property
    def ended(self) -> bool:
        """Return whether all workers have ended, and none follows."""
        return self._stopping.is_set() and not self._workers

    @property
    def state(self) -> str:
        """Describe the current worker."""
        if self._stopping.is_set():
            return "stopping"
        if self._worker is None or self._worker.ended or not self._worker.link.ready.is_set():
            return "starting"
        return "ready" if self._worker.link.answering else "not answering"

    def stop(self) -> None:
        """Let all workers take the next step of a stop, and start no other."""
        self._stopping.set()
        for worker in self._workers:
            self._end(worker)

    async def _current(self) -> Worker | None:
        """Return the worker, a new one if it has ended; None if it cannot be started."""
        if self._worker is None or self._worker.ended:
            self._worker = await self._begin()
        return self._worker

    async def _begin(self) -> Worker | None:
        try:
            worker = await self._start(self.name)
        except OSError as error:
            log.error("worker.not_started", worker=self.name, reason=error.strerror)
            return None
        self._workers.append(worker)
        self._keep(self._until_gone(worker))
        if self._stopping.is_set():
            self._end(worker)
        return worker

    async def _watch(self, worker: Worker) -> None:
        """Wait until the worker has ended, or whatever has replaced it meanwhile."""
        if await worker.until_ready():
            self._log_ready(worker)
        elif not self._stopping.is_set():
            worker.kill()
        while True:
            hanging = asyncio.create_task(worker.until_hanging())
            ended = asyncio.create_task(worker.until_ended())
            await asyncio.wait({hanging, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                log.error("worker.hanging", worker=self.name, pid=worker.pid)
                worker.kill()
            hanging.cancel()
            await ended
            if self._worker is worker or self._worker is None:
                return
            worker = self._worker

    def _end(self, worker: Worker, *, replaced: bool = False) -> None:
        """Let a worker take the next step of a stop, and kill it if it takes too long."""
        worker.link.stop(replaced=replaced)
        self._keep(self._kill_later(worker))

    async def _kill_later(self, worker: Worker) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._stop_seconds):
                await worker.until_ended()
        if not worker.ended:
            log.error("worker.killed", worker=self.name, pid=worker.pid)
            worker.kill()

    async def _until_gone(self, worker: Worker) -> None:
        code = await worker.until_ended()
        self._workers.remove(worker)
        failed = code not in {0, LOST_STATUS} and worker.link.ready.is_set()
        if self._stopping.is_set() and failed:
            log.error("worker.failed_to_stop", worker=self.name, how=describe_exit(code))
            self.exit_code = 1

    def _keep(self, ending: Awaitable[None]) -> None:
        task = asyncio.ensure_future(ending)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    def _log_ready(self, worker: Worker) -> None:
        if not worker.ended:
            log.info("worker.ready", worker=self.name, pid=worker.pid)
            self.ready.set()


def _refusal(worker: Worker | None) -> str | None:
    return None if worker is None else worker.link.refusal


async def _describe_end(worker: Worker | None) -> str:
    if worker is None:
        return "the process cannot be started"
    return worker.link.refusal or describe_exit(await worker.until_ended())


def describe_exit(code: int) -> str:
    """Return an exit code in words."""
    if code == LOST_STATUS:
        return "an unknown exit code"
    return f"exit code {code}" if code >= 0 else f"the signal {signal.Signals(-code).name}"
