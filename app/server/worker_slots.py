"""The jobs of the supervisor's workers: each has one process, which is started again if it ends."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess

import structlog

from app.errors import StartRefused
from app.server.worker_links import SupervisorLink

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a worker is started again
MOST_FAILURES = 5  # starts of a worker in a row that may fail
READY_SECONDS = 60.0  # that a start may take

log = structlog.get_logger("workers")


class Worker:
    """One worker process."""

    def __init__(self, process: ForkServerProcess, link: SupervisorLink) -> None:
        self.process, self.link = process, link
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

    @property
    def ended(self) -> bool:
        """Return whether the process has ended."""
        return self._ended.done()

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if not self._ended.done() and self.process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    async def _until_ended(self) -> int:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self.process.sentinel)
        self.process.join()
        code = self.process.exitcode
        return 1 if code is None else code


class Slot:
    """One of the N+1 jobs, and the worker that has it now: a new one if the last has ended."""

    def __init__(
        self, name: str, start: Callable[[str], Worker], first_pause: float = FIRST_PAUSE
    ) -> None:
        """`start` starts a worker of a name; `first_pause` is the shortest pause, in seconds."""
        self.name, self._start, self._first_pause = name, start, first_pause
        self._worker: Worker | None = None
        self._stop = asyncio.Event()
        self.ready = asyncio.Event()

    async def run(self) -> int:
        """Keep a worker running until `stop`; return the exit code of the last.

        Raises StartRefused if a worker ends several times in a row before it is ready.
        """
        failures = 0
        while True:
            worker = self._worker
            if worker is None or worker.ended:
                worker = self._worker = self._start(self.name)
            if await worker.until_ready():
                failures = 0
                self._log_ready(worker)
            elif not self._stop.is_set():
                failures += 1
                worker.signal(signal.SIGKILL)  # unless it has ended
            code = await self._until_ended()
            if self._stop.is_set():
                return code
            if failures >= MOST_FAILURES:
                raise StartRefused(
                    f"the worker {self.name}: ended {failures} times before it was ready, the last "
                    f"time with {describe_exit(code)}; the log says why"
                )
            pause = min(LONGEST_PAUSE, self._first_pause * 2.0 ** max(0, failures - 1))
            log.error("worker.ended", worker=self.name, how=describe_exit(code), again_in=pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)
                return code

    async def replace(self) -> bool:
        """Replace the worker by a new one, and stop it once that is ready.

        Return False if the new one does not get ready; then the old one goes on.
        """
        new = self._start(self.name)
        if not await new.until_ready() or self._stop.is_set():
            new.signal(signal.SIGKILL)
            await new.until_ended()
            return False
        self._log_ready(new)
        old, self._worker = self._worker, new
        if old is not None:
            old.signal(signal.SIGTERM)
            await old.until_ended()
        return True

    @property
    def ended(self) -> bool:
        """Return whether the worker has ended, and none follows."""
        return self._stop.is_set() and (self._worker is None or self._worker.ended)

    def stop(self) -> None:
        """Stop the worker, or pass a further signal on to it, and start no other."""
        self._stop.set()
        if self._worker is not None:
            self._worker.signal(signal.SIGTERM)

    def _log_ready(self, worker: Worker) -> None:
        log.info("worker.ready", worker=self.name, pid=worker.process.pid)
        self.ready.set()

    async def _until_ended(self) -> int:
        """Wait until the worker has ended, and whatever has replaced it meanwhile."""
        while True:
            worker = self._worker
            assert worker is not None
            code = await worker.until_ended()
            if worker is self._worker:
                return code


def describe_exit(code: int) -> str:
    """Return an exit code in words."""
    return f"exit code {code}" if code >= 0 else f"the signal {signal.Signals(-code).name}"
