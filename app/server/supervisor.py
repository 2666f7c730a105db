"""The supervisor of `serve --workers N`: it starts, restarts and stops the worker processes.

N workers accept; one delivers, seals the audit log and does the housekeeping. The supervisor owns
the socket that the others listen on, does no work itself, and passes questions between workers
(`worker_links.py`). uvicorn's own supervisor has workers of one kind, restarts one without a pause
for ever, and stops all at once: see decision 0041.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.context import ForkServerContext, ForkServerProcess

import structlog

from app.errors import StartRefused
from app.limits.shared_memory import SharedMemory
from app.server import run
from app.server.preparation import prepare
from app.server.worker_links import LinkHub, SupervisorLink
from app.server.workers import WorkerJob, run_worker
from app.settings import Settings

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a worker is started again
MOST_FAILURES = 5  # starts of a worker in a row that may fail
READY_SECONDS = 60.0  # that a start may take
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

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
                self._tell_ready(worker)
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
        self._tell_ready(new)
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

    def _tell_ready(self, worker: Worker) -> None:
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


class Supervisor:
    """Runs the workers of one gateway until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        *,
        delivery: bool = True,
        on_listening: Callable[[], None] = lambda: None,
    ) -> None:
        """`delivery`: the worker that seals and does the housekeeping delivers, too."""
        self._settings, self._listener, self._on_listening = settings, listener, on_listening
        self._delivery, self._hub = delivery, LinkHub()
        self._memory = SharedMemory.create()
        self._context = forkserver()
        names = [f"accepting-{number}" for number in range(1, settings.gateway_workers + 1)]
        self._accepting = [Slot(name, partial(self._start, listener)) for name in names]
        self._delivering = Slot("delivering" if delivery else "sealing", partial(self._start, None))
        self._stopping = asyncio.Event()
        self._replacing: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Run the workers until SIGTERM or SIGINT; return the exit code.

        Each further signal is passed on. SIGHUP replaces the workers, one after the other. Raises
        StartRefused if a worker does not start.
        """
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.replace_workers)
        delivering = asyncio.create_task(self._delivering.run())
        accepting = [asyncio.create_task(slot.run()) for slot in self._accepting]
        telling = asyncio.create_task(self._tell_listening())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait(
                {stopping, delivering, *accepting}, return_when=asyncio.FIRST_COMPLETED
            )
            if not self._stopping.is_set():  # a worker has failed
                self.stop()
            self._listener.close()  # the workers have it, and answer who is connected already
            codes = await asyncio.gather(*accepting, return_exceptions=True)
            self._delivering.stop()
            codes += await asyncio.gather(delivering, return_exceptions=True)
        finally:
            telling.cancel()
            stopping.cancel()
        for code in codes:
            if isinstance(code, BaseException):
                raise code
        return 0 if not any(codes) else 1

    def stop(self) -> None:
        """Stop the accepting workers, and the other one last; or pass a further signal on."""
        if self._stopping.is_set() and all(slot.ended for slot in self._accepting):
            self._delivering.stop()
        self._stopping.set()
        for slot in self._accepting:
            slot.stop()

    def replace_workers(self) -> None:
        """Replace all workers, one after the other, unless that is in progress."""
        if self._replacing is None or self._replacing.done():
            self._replacing = asyncio.create_task(self._replace_all())

    async def _replace_all(self) -> None:
        log.info("workers.replacing")
        for slot in [self._delivering, *self._accepting]:
            if self._stopping.is_set():
                return
            if not await slot.replace():
                log.error("workers.not_replaced", worker=slot.name)
                return
        log.info("workers.replaced")

    async def _tell_listening(self) -> None:
        for slot in [self._delivering, *self._accepting]:
            await slot.ready.wait()
        run.log_listening(self._listener, self._settings.gateway_root_path)
        self._on_listening()

    def _start(self, listener: socket.socket | None, name: str) -> Worker:
        ours, theirs = socket.socketpair()
        job = WorkerJob(
            name, self._settings, listener, theirs, self._memory, delivery=self._delivery
        )
        process = self._context.Process(target=run_worker, args=(job,), name=name)
        process.start()
        theirs.close()
        return Worker(process, SupervisorLink(name, self._hub, ours))


def forkserver() -> ForkServerContext:
    """Return what starts processes: by forks of one that has imported all of the gateway."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["app.server.workers"])
    return context


def describe_exit(code: int) -> str:
    """Return an exit code in words."""
    return f"exit code {code}" if code >= 0 else f"the signal {signal.Signals(-code).name}"


def serve(
    settings: Settings,
    *,
    delivery: bool = True,
    listener: socket.socket | None = None,
    on_listening: Callable[[], None] = lambda: None,
) -> int:
    """Serve until SIGTERM or SIGINT, in as many processes as configured; return the exit code.

    `listener` is a socket that is bound already; `on_listening` is called once connections are
    accepted. Raises StartRefused if the settings or the database do not allow a start.
    """
    if settings.gateway_workers == 1:
        run.serve(settings, delivery=delivery, listener=listener, on_listening=on_listening)
        return 0
    prepare(settings)
    with listener or run.listen(settings) as bound:
        supervising = _supervise(settings, bound, delivery=delivery, on_listening=on_listening)
        return asyncio.run(supervising)


async def _supervise(
    settings: Settings,
    listener: socket.socket,
    *,
    delivery: bool,
    on_listening: Callable[[], None],
) -> int:
    supervisor = Supervisor(settings, listener, delivery=delivery, on_listening=on_listening)
    return await supervisor.run()
