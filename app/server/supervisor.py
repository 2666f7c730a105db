"""The supervisor of `serve --workers N`: it starts, restarts and stops the worker processes.

N workers accept; one delivers, seals the audit log and does the housekeeping. The supervisor owns
the socket that the others listen on, does no work itself, and passes questions between workers
(`worker_links.py`). uvicorn's own supervisor has workers of one kind, restarts one without a pause
for ever, and stops all at once: see decision 0041.
"""

import asyncio
import errno
import multiprocessing
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.context import ForkServerContext, ForkServerProcess

import structlog

from app.errors import StartRefused
from app.limits.shared_memory import SharedMemory
from app.server.listening import listen, log_listening
from app.server.start_report import RunReport
from app.server.worker_links import WORKERS, LinkHub, SupervisorLink
from app.server.worker_slots import Slot, Worker, describe_exit
from app.server.workers import WorkerJob, prepare_in_worker, run_worker
from app.settings import Settings

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
GROUP_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)
GRACE_SECONDS = 5.0  # beyond the time that the settings give a worker to stop; then it is killed

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

        `delivery`: the worker without a listener also delivers.
        """
        self._apps = apps
        self._settings, self._listener, self._on_listening = settings, listener, on_listening
        self._delivery, self._context = delivery, context
        self._memory = SharedMemory.create()
        stop_seconds = settings.gateway_shutdown_seconds + GRACE_SECONDS
        self._accepting = [
            Slot(
                f"accepting-{number}",
                partial(self._start, listener),
                stop_seconds=settings.gateway_drain_seconds + stop_seconds,
            )
            for number in range(1, settings.gateway_workers + 1)
        ]
        self._delivering = Slot(
            "delivering" if delivery else "sealing",
            partial(self._start, None),
            stop_seconds=stop_seconds,
        )
        self._slots = [self._delivering, *self._accepting]
        self._hub = LinkHub()
        self._hub.answerers[WORKERS] = lambda: {slot.name: slot.state for slot in self._slots}
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
            if not self._stopping.is_set():  # a worker does not start
                self.stop()
            self._listener.close()  # the workers have it, and answer who is connected already
            ends = await asyncio.gather(*accepting, return_exceptions=True)
            self._delivering.stop()
            ends += await asyncio.gather(delivering, return_exceptions=True)
            if self._replacing is not None:
                await self._replacing
        finally:
            logging_start.cancel()
            stopping.cancel()
        self._report.stopped(self._hub.queued)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return max(slot.exit_code for slot in self._slots)

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
        for slot in self._slots:
            if not self._stopping.is_set() and not await slot.replace():
                if not self._stopping.is_set():
                    log.error("workers.not_replaced", worker=slot.name)
                return
        log.info("workers.replaced")

    async def _log_listening(self) -> None:
        for slot in self._slots:
            await slot.ready.wait()
        log_listening(self._listener, self._settings.gateway_root_path)
        address = self._listener.getsockname()[:2]
        self._report.started(self._apps, delivers=self._delivery, accepts_at=address)
        self._on_listening()

    async def _start(self, listener: socket.socket | None, name: str) -> Worker:
        """Start a worker. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            job = WorkerJob(
                name, self._settings, listener, theirs, self._memory, delivery=self._delivery
            )
            process = self._context.Process(target=run_worker, args=(job,), name=name)
            await asyncio.to_thread(_start_unsignaled, process)
        except (OSError, EOFError) as error:  # EOFError: the process that forks has ended
            ours.close()
            raise OSError(errno.EAGAIN, str(error) or "no process can be forked") from error
        finally:
            theirs.close()
        return Worker(process, SupervisorLink(name, self._hub, ours))


def forkserver() -> ForkServerContext:
    """Return a context that forks workers from a process with the gateway already imported."""
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
    _start_unsignaled(process)
    theirs.close()
    try:
        refusal, apps = ours.recv()
    except EOFError:
        process.join()
        apps, refusal = (), f"the start ended with {describe_exit(process.exitcode or 0)}"
    process.join()
    if refusal is not None:
        raise StartRefused(refusal)
    found: Sequence[str] = apps
    return found


def _start_unsignaled(process: ForkServerProcess) -> None:
    """Start a process that gets no signal for the whole group, as a terminal or systemd sends it.

    Such a signal is for the supervisor, which stops its workers in order. The process that forks
    them inherits the mask if it is started here, and passes it on to them.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


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
