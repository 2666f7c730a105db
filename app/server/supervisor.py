"""The supervisor of `serve --workers N`: it starts, restarts and stops the worker processes.

N workers accept; one delivers, seals the audit log and does the housekeeping. The supervisor owns
the socket that the others listen on, does no work itself, and passes questions between workers
(`worker_links.py`). uvicorn's own supervisor has workers of one kind, restarts one without a pause
for ever, and stops all at once: see decision 0041.
"""

import asyncio
import multiprocessing
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.context import ForkServerContext

import structlog

from app.errors import StartRefused
from app.limits.shared_memory import SharedMemory
from app.server.listening import listen, log_listening
from app.server.start_report import RunReport
from app.server.worker_links import LinkHub, SupervisorLink
from app.server.worker_slots import Slot, Worker, describe_exit
from app.server.workers import WorkerJob, prepare_in_worker, run_worker
from app.settings import Settings

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger("workers")


class Supervisor:
    """Runs the workers of one gateway until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        context: ForkServerContext,
        *,
        apps: Sequence[str] = (),
        delivery: bool = True,
        on_listening: Callable[[], None] = lambda: None,
    ) -> None:
        """`context` starts processes. `apps` are those that are configured, for the log.

        `delivery`: the worker that keeps house delivers, too.
        """
        self._apps = apps
        self._settings, self._listener, self._on_listening = settings, listener, on_listening
        self._delivery, self._hub = delivery, LinkHub()
        self._memory = SharedMemory.create()
        self._context = context
        names = [f"accepting-{number}" for number in range(1, settings.gateway_workers + 1)]
        self._accepting = [Slot(name, partial(self._start, listener)) for name in names]
        self._delivering = Slot("delivering" if delivery else "sealing", partial(self._start, None))
        self._stopping = asyncio.Event()
        self._report = RunReport(settings)
        self._replacing: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Run the workers until SIGTERM or SIGINT; return the exit code.

        Each further signal is passed on. SIGHUP replaces the workers, one after the other. Raises
        StartRefused if a worker does not start.
        """
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop_by, number)
        loop.add_signal_handler(signal.SIGHUP, self.replace_workers)
        delivering = asyncio.create_task(self._delivering.run())
        accepting = [asyncio.create_task(slot.run()) for slot in self._accepting]
        logging_start = asyncio.create_task(self._log_listening())
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
            logging_start.cancel()
            stopping.cancel()
        self._report.stopped(self._hub.queued)
        for code in codes:
            if isinstance(code, BaseException):
                raise code
        return 0 if not any(codes) else 1

    def _stop_by(self, number: int) -> None:
        self._report.note_signal(number)
        self.stop()

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

    async def _log_listening(self) -> None:
        for slot in [self._delivering, *self._accepting]:
            await slot.ready.wait()
        log_listening(self._listener, self._settings.gateway_root_path)
        address = self._listener.getsockname()[:2]
        self._report.started(self._apps, delivers=self._delivery, accepts_at=address)
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
    context.set_forkserver_preload(["app.server.worker_preload"])
    return context


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
        from app.server import run

        run.serve(settings, delivery=delivery, listener=listener, on_listening=on_listening)
        return 0
    context = forkserver()
    apps = _prepare(context, settings)
    with listener or listen(settings) as bound:
        supervising = _supervise(
            settings, bound, context, apps=apps, delivery=delivery, on_listening=on_listening
        )
        return asyncio.run(supervising)


def _prepare(context: ForkServerContext, settings: Settings) -> Sequence[str]:
    """Do what may refuse the start, in a process of its own: the supervisor imports no services.

    Return the names of the apps. Raises StartRefused.
    """
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=prepare_in_worker, args=(settings, theirs), name="prepare")
    process.start()
    theirs.close()
    try:
        refusal, apps = ours.recv()
    except EOFError:
        process.join()
        ended = describe_exit(process.exitcode or 0)
        apps, refusal = (), f"the start ended with {ended}; the log says why"
    process.join()
    if refusal is not None:
        raise StartRefused(refusal)
    found: Sequence[str] = apps
    return found


async def _supervise(
    settings: Settings,
    listener: socket.socket,
    context: ForkServerContext,
    *,
    apps: Sequence[str],
    delivery: bool,
    on_listening: Callable[[], None],
) -> int:
    supervisor = Supervisor(
        settings, listener, context, apps=apps, delivery=delivery, on_listening=on_listening
    )
    return await supervisor.run()
