"""Running the gateway: the HTTP server, the deliverer without one, and how both stop."""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
import uvloop

from app.errors import StorageUnavailable
from app.outbox.outbox import Outbox
from app.server import process_limits
from app.server.application import create_app
from app.server.bootstrap import NOTHING_SHARED, Role, Services, Shared, gateway
from app.server.http1 import GatewayProtocol
from app.server.lifecycle import CUT, GIVE_UP, Lifecycle, Watchdog
from app.server.listening import listen, log_listening
from app.server.preparation import prepare
from app.server.process_reports import ProcessReports
from app.server.start_report import RunReport
from app.server.worker_events import exchange_events
from app.server.worker_links import WorkerLink
from app.settings import Settings
from app.telemetry import Metrics, traces

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
CUTTING_SIGNAL = 3  # the number of the signal that gives up what is in flight
SHARE_AFTER_CUT = 1 - CUT  # of the shutdown time, which is left once work in flight is cut off
POLL_SECONDS = 0.02
RECOUNT_SECONDS = 1.0  # longest wait for a count of the queue at a stop


class GatewayServer(uvicorn.Server):
    """The uvicorn server, with a stop in three steps and exit code 0.

    The first signal makes `/readyz` fail and, after the drain time, refuses new work. The second
    one ends the drain time at once. The third one gives up what is in flight.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        on_listening: Callable[[], None] = lambda: None,
        link: WorkerLink | None = None,
        *,
        delivers: bool = False,
    ) -> None:
        super().__init__(config)
        self._on_listening, self._link, self._delivers = on_listening, link, delivers
        self._drain_seconds = settings.gateway_drain_seconds
        self._root_path = settings.gateway_root_path
        self._lifecycle: Lifecycle = config.app.state.lifecycle  # type: ignore[union-attr]
        self._report = RunReport(settings)
        self._watchdog = Watchdog()
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, log where the server listens, and read the apps again on every SIGHUP.

        Apps are read again within a second anyway; the signal is for operators who expect it. A
        worker reports to its supervisor instead.
        """
        await super().startup(sockets)
        if self.should_exit:
            return
        if self._link is not None:
            self._link.on_stop, self._link.on_end = self._stop_worker, self._stop_without_drain
            await self._link.open()
            return
        apps = self._services().apps
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, apps.refresh)
        for listener in sockets or []:
            log_listening(listener, self._root_path)
            self._report.started(
                apps, delivers=self._delivers, accepts_at=listener.getsockname()[:2]
            )
        self._on_listening()

    def _services(self) -> Services:
        services: Services = self.config.app.services  # type: ignore[union-attr]
        return services

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server runs; ignore those that come after it has closed.

        A worker ignores them all: its supervisor stops it.
        """
        if self._link is not None:
            yield
            return
        with super().capture_signals():
            yield
        if self._signals:
            _ignore_signals()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Go one step further in the stop.

        The watchdog is armed here and not in the event loop, which may hang.
        """
        self._signals += 1
        self._report.note_signal(sig)
        drains = self._signals == 1 and self.started
        share = 1.0 if self._signals < CUTTING_SIGNAL else SHARE_AFTER_CUT
        self._watchdog.arm_for(
            drain=self._drain_seconds if drains else 0.0,
            shutdown=share * self._lifecycle.shutdown_seconds,
        )
        asyncio.get_running_loop().call_soon_threadsafe(self._advance_stop, self._signals)

    def _stop_worker(self, replaced: bool) -> None:
        """Go one step further in the stop of a worker."""
        self._lifecycle.replaced = replaced
        self.handle_exit(signal.SIGTERM, None)

    def _stop_without_drain(self) -> None:
        """Stop at once, since the supervisor is gone: the next start needs the port."""
        for _ in range(2 - min(self._signals, 2)):
            self.handle_exit(signal.SIGTERM, None)

    def _advance_stop(self, signals: int) -> None:
        if signals == 1 and self.started:
            self._lifecycle.drain()
            for connection in self._connections():
                connection.drain()
            asyncio.get_running_loop().call_later(self._drain_seconds, self._exit)
            return
        self._exit()
        if signals >= CUTTING_SIGNAL:
            self._lifecycle.cut()

    def _exit(self) -> None:
        self.should_exit = True

    def _connections(self) -> list[GatewayProtocol]:
        return [
            connection
            for connection in self.server_state.connections
            if isinstance(connection, GatewayProtocol)
        ]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new work, finish or cut off what is in flight, and close the gateway."""
        self._lifecycle.refuse()
        for connection in self._connections():
            connection.drain()
        await self._close_listeners(sockets or [])
        ending = asyncio.create_task(self._until_ended())
        cutting = asyncio.create_task(self._lifecycle.until_cut())
        await asyncio.wait({ending, cutting}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            await self._cut_off(ending)
        ending.cancel()
        cutting.cancel()
        for connection in self._connections():
            connection.transport.abort()
        await self.lifespan.shutdown()
        queued = self._services().outbox.queued
        if self._link is not None:
            await self._link.leave(queued)
            await self._link.close()
        else:
            self._report.stopped(queued)
        self._watchdog.close()

    async def _close_listeners(self, sockets: list[socket.socket]) -> None:
        """Stop listening.

        Connections that the kernel has established but nobody has accepted yet are served:
        closing the listener would reset them.
        """
        copies = [listener.dup() for listener in sockets]
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()
        pending = list[socket.socket]()
        for copy in copies:
            pending += _accept_pending(copy)
            copy.close()
        loop = asyncio.get_running_loop()
        for connection in pending:
            with contextlib.suppress(OSError):  # the caller is gone
                await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    async def _until_ended(self) -> None:
        """Wait until nothing is in flight, and no request can be on its way any more."""
        while True:
            open_to_work = any(connection.open_to_work for connection in self._connections())
            if not self.server_state.tasks and not open_to_work:
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _cut_off(self, ending: "asyncio.Task[None]") -> None:
        """Cancel what is in flight.

        Work that waits for others has been asked to give up when this is called, and gets a moment
        to do so. Whatever still runs is canceled, and so answered; then it gets a moment to send
        its response.
        """
        seconds = GIVE_UP * self._lifecycle.shutdown_seconds
        await asyncio.wait({ending}, timeout=seconds)
        for task in list(self.server_state.tasks):
            task.cancel()
        await asyncio.wait({ending}, timeout=seconds)


def _ignore_signals() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _accept_pending(listener: socket.socket) -> list[socket.socket]:
    """Accept the connections that wait to be accepted."""
    connections = list[socket.socket]()
    listener.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            connections.append(connection)
    return connections


def serve(
    settings: Settings,
    *,
    delivery: bool = True,
    listener: socket.socket | None = None,
    on_listening: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, in this process alone.

    `listener` is a socket that is bound already; `on_listening` is called once connections are
    accepted. Raises StartRefused if the settings or the database do not allow a start.
    """
    prepare(settings)
    with listener or listen(settings) as bound, traces.exporting():
        _serve(settings, bound, delivery=delivery, on_listening=on_listening)


def serve_in_worker(
    settings: Settings, listener: socket.socket, link: WorkerLink, shared: Shared
) -> None:
    """Accept items on the supervisor's socket, and leave the rest to the delivering worker.

    `shared` is what all workers share. What a process may hold at once is divided among them.
    """
    with listener, traces.exporting():
        _serve(_share(settings), listener, link=link, shared=shared)


def _share(settings: Settings) -> Settings:
    """Return the settings of one of several accepting processes."""
    shares = {
        name: -(-getattr(settings, name) // settings.gateway_workers)
        for name in ("gateway_relay_concurrency", "gateway_max_held_bytes")
    }
    return settings.model_copy(update=shares)


def _serve(
    settings: Settings,
    listener: socket.socket,
    *,
    delivery: bool = False,
    on_listening: Callable[[], None] = lambda: None,
    link: WorkerLink | None = None,
    shared: Shared = NOTHING_SHARED,
) -> None:
    settings = settings.model_copy(
        update={"gateway_max_connections": process_limits.allowed_connections(settings)}
    )
    config = uvicorn.Config(
        create_app(settings, delivery=delivery, link=link, shared=shared),
        http=GatewayProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        timeout_keep_alive=75,
    )
    _tune_collector()
    GatewayServer(config, settings, on_listening, link, delivers=delivery).run([listener])


def _tune_collector() -> None:
    """Let the garbage collector pass over what stays, and run as often as suits the load.

    Thousands of items are in memory at a time, and calls make hundreds of objects that live until
    Leanplum answers. By the interpreter's own thresholds, a deliverer spends a sixth of its
    processor time on traversing them.
    """
    gc.collect()
    gc.freeze()  # imported modules stay
    gc.set_threshold(10_000, 50, 40)


def deliver(settings: Settings) -> None:
    """Deliver what other processes accept, until SIGTERM or SIGINT.

    Then finish and settle what is in flight. Raises StartRefused as `serve` does.
    """
    prepare(settings, calls=False)
    _tune_collector()
    with traces.exporting(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_deliver(settings, Role(calls=False, shows_metrics=False)))


def deliver_in_worker(
    settings: Settings, link: WorkerLink, shared: Shared, *, delivery: bool
) -> None:
    """Deliver what the other workers accept, if wanted, seal, and do the housekeeping."""
    _tune_collector()
    with traces.exporting(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_deliver(settings, Role(delivers=delivery, calls=False), link, shared))


async def _recount(outbox: Outbox) -> None:
    """Count what other processes have accepted, to report it at the stop, if that is quick."""
    with contextlib.suppress(StorageUnavailable, TimeoutError):
        async with asyncio.timeout(RECOUNT_SECONDS):
            await outbox.recount_queued()


async def _deliver(
    settings: Settings,
    role: Role,
    link: WorkerLink | None = None,
    shared: Shared = NOTHING_SHARED,
) -> None:
    loop = asyncio.get_running_loop()
    lifecycle = Lifecycle(settings.gateway_shutdown_seconds)
    watchdog = Watchdog()
    report = RunReport(settings)
    ended = asyncio.Event()
    lifecycle.on_refuse.append(ended.set)

    def stop(sig: int, frame: FrameType | None) -> None:
        """Finish what is in flight; on a second signal, give it up."""
        report.note_signal(sig)
        if lifecycle.refusing:
            share, next_step = SHARE_AFTER_CUT, lifecycle.cut
        else:
            share, next_step = 1.0, lifecycle.refuse
        watchdog.arm_for(drain=0.0, shutdown=share * lifecycle.shutdown_seconds)
        loop.call_soon_threadsafe(next_step)

    if link is None:
        for number in STOP_SIGNALS:
            signal.signal(number, stop)
    async with gateway(
        settings, Metrics(link.name if link else ""), lifecycle, role, shared
    ) as opened:
        if link is None:
            loop.add_signal_handler(signal.SIGHUP, opened.apps.refresh)
            report.started(opened.apps, delivers=True, accepts_at=None)
        else:
            ProcessReports(opened, link)
            exchange_events(link, opened)
            link.on_stop = lambda replaced: stop(signal.SIGTERM, None)
            link.on_end = lambda: None if lifecycle.refusing else stop(signal.SIGTERM, None)
            await link.open()
        await ended.wait()
        await _recount(opened.outbox)
    if link is None:
        report.stopped(opened.outbox.queued)
    else:
        await link.leave(opened.outbox.queued)
        await link.close()
    _ignore_signals()
    watchdog.close()
