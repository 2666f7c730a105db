"""Running the server: uvicorn, told how this gateway stops (contract §11), and the sandbox."""

import asyncio
import contextlib
import errno
import gc
import secrets
import signal
import socket
from collections.abc import Iterator
from types import FrameType
from typing import Any

import structlog
import uvicorn
import uvloop
from sqlalchemy import Engine

from app.apps import Apps, read
from app.audit.signing_keys import to_write
from app.callers import key_format
from app.callers.store import ALL_SCOPES, KeyStore, StoredKey, every_key
from app.clock import now_ms
from app.database.engine import connect, transaction
from app.enrichment import service
from app.errors import StartRefused
from app.leanplum.client import LeanplumClient
from app.model import App, KeyKind
from app.relay import key_checks
from app.relay.key_checks import Checked
from app.server import process_limits
from app.server.application import create_app
from app.server.bootstrap import check_bootstrap_key, gateway, prepare
from app.server.http1 import Protocol
from app.server.lifecycle import CUT, GIVE_UP, Lifecycle, Watchdog
from app.settings import Settings, load
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from app.telemetry import Metrics

SANDBOX_KEYS = ("production", "development", "data_export", "content_read_only")
# The name of its own keys, and of what says in the database that it is a sandbox's
SANDBOX = "sandbox"
# Users of the examples: they exist, so that each example does what it says.
SANDBOX_USERS = ("user-1", "user-to-erase")
# Never the real one: what waits there must not reach the real Leanplum
SANDBOX_DATABASE = "sqlite:///data/sandbox.db"
STOPS = (signal.SIGTERM, signal.SIGINT)
CUTS_OFF = 3  # the signal that gives up what is in flight
CUT_OFF_SHARE = 1 - CUT  # of the shutdown time, that is left then
LOOK_SECONDS = 0.02
NO_SANDBOX = (
    "GATEWAY_DATABASE_URL: this database has keys and doesn't say that it is a sandbox's; a real gateway's queue the "
    f"sandbox would eat. Unset it; where a sandbox of before made it ({SANDBOX_DATABASE}), delete the file"
)


class Server(uvicorn.Server):
    """uvicorn, but a signal first makes `/readyz` fail, after the drain time refuses new work, and
    ends with 0.

    A second signal ends the drain time; a third one the time that what is in flight has.
    """

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        self._drain_seconds = settings.gateway_drain_seconds
        self._lifecycle: Lifecycle = config.app.state.lifecycle  # type: ignore[union-attr]
        self._watchdog = Watchdog()
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """From now on SIGHUP reads the apps again, which would happen within a second anyway."""
        await super().startup(sockets)
        if not self.should_exit:
            refresh_apps = self.config.app.services.apps.refresh  # type: ignore[union-attr]
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, refresh_apps)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A signal that comes when all is closed changes nothing any more."""
        with super().capture_signals():
            yield
        if self._signals:
            _ignore_signals()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Go one step further in the stop. The watchdog is told here: the event loop may hang."""
        self._signals += 1
        drain = self._drain_seconds if self._signals == 1 and self.started else 0.0
        share = 1.0 if self._signals < CUTS_OFF else CUT_OFF_SHARE
        self._watchdog.arm_for(drain, share * self._lifecycle.shutdown_seconds)
        asyncio.get_running_loop().call_soon_threadsafe(self._go_on, self._signals)

    def _go_on(self, signals: int) -> None:
        if signals == 1 and self.started:
            self._lifecycle.drain()
            for connection in self._connections():
                connection.drain()
            asyncio.get_running_loop().call_later(self._drain_seconds, self._exit)
        elif signals < CUTS_OFF:
            self._exit()
        else:
            self._exit()
            self._lifecycle.cut()

    def _exit(self) -> None:
        self.should_exit = True

    def _connections(self) -> list[Protocol]:
        return [one for one in self.server_state.connections if isinstance(one, Protocol)]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new work, let what is in flight end, cut off what does not, and close the
        gateway.
        """
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
        self._watchdog.all_is_closed()

    async def _close_listeners(self, sockets: list[socket.socket]) -> None:
        """Stop listening. Who is connected already, and was not looked at yet, is taken: closing
        the listener would reset it.
        """
        copies = [one.dup() for one in sockets]
        for server in self.servers:
            server.close()
        for one in sockets:
            one.close()
        accepted = list[socket.socket]()
        for copy in copies:
            accepted += _accepted(copy)
            copy.close()
        for one in accepted:
            with contextlib.suppress(OSError):  # it is gone again
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, one)

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def _until_ended(self) -> None:
        """Wait until nothing is in flight, and no request can be on its way any more."""
        while True:
            if not self.server_state.tasks and not any(
                one.open_to_work for one in self._connections()
            ):
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def _cut_off(self, ending: "asyncio.Task[None]") -> None:
        """What waits for others has just been told to give up. What hangs all the same is canceled,
        and so answered; and what nobody reads is thrown away.
        """
        seconds = GIVE_UP * self._lifecycle.shutdown_seconds
        await asyncio.wait({ending}, timeout=seconds)
        for task in list(self.server_state.tasks):
            task.cancel()
        await asyncio.wait({ending}, timeout=seconds)


def _ignore_signals() -> None:
    for sign in STOPS:
        signal.signal(sign, signal.SIG_IGN)


def _accepted(listening: socket.socket) -> list[socket.socket]:
    """The connections that wait to be accepted."""
    found = list[socket.socket]()
    listening.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            one, _ = listening.accept()
            one.setblocking(False)
            found.append(one)
    return found


def listen(settings: Settings) -> socket.socket:
    """A socket on the configured address. Raises StartRefused where it is taken or not ours."""
    family = socket.AF_INET6 if ":" in settings.gateway_host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Every address, also where the system's default is IPv6 alone
    if settings.gateway_host == "::":
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listening.bind((settings.gateway_host, settings.gateway_port))
    except OSError as error:
        listening.close()
        raise StartRefused(
            f"GATEWAY_PORT: {settings.gateway_host}:{settings.gateway_port} can't be listened on: {error.strerror}"
        ) from error
    return listening


def serve(
    settings: Settings, *, delivery: bool = True, listening: socket.socket | None = None
) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartRefused where the start is refused."""
    prepare(settings)
    settings = settings.model_copy(
        update={"gateway_max_connections": process_limits.connections(settings)}
    )
    with listening or listen(settings) as opened:
        config = uvicorn.Config(
            create_app(settings, delivery=delivery),
            http=Protocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="on",
            timeout_keep_alive=75,
        )
        gc.collect()
        gc.freeze()  # what was imported stays; walking it again and again finds nothing
        gc.set_threshold(10_000, 50, 40)  # a pause ends the sooner the less it has to look at
        Server(config, settings).run([opened])


def deliver(settings: Settings) -> None:
    """Deliver what others accept, until SIGTERM or SIGINT; then finish and settle what is in
    flight.

    Raises StartRefused where the start is refused.
    """
    prepare(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_deliver(settings))


async def _deliver(settings: Settings) -> None:
    loop, lifecycle, watchdog = (
        asyncio.get_running_loop(),
        Lifecycle(settings.gateway_shutdown_seconds),
        Watchdog(),
    )
    ended = asyncio.Event()
    lifecycle.on_refuse.append(ended.set)

    def stop(sig: int, frame: FrameType | None) -> None:
        """A second signal gives up what is in flight."""
        share = CUT_OFF_SHARE if lifecycle.refusing else 1.0
        watchdog.arm_for(0.0, share * lifecycle.shutdown_seconds)
        loop.call_soon_threadsafe(lifecycle.cut if lifecycle.refusing else lifecycle.refuse)

    for sign in STOPS:
        signal.signal(sign, stop)
    async with gateway(settings, Metrics(), lifecycle, calls=False) as opened:
        loop.add_signal_handler(signal.SIGHUP, opened.apps.refresh)
        structlog.get_logger("delivery").info("delivery.started")
        await ended.wait()
    _ignore_signals()
    watchdog.all_is_closed()


def check(settings: Settings) -> list[tuple[App, dict[KeyKind, Checked]]]:
    """What Leanplum says of each key of each app. Raises StartRefused where no app is configured,
    or the enrichment file can't be used.
    """
    service.check(settings.gateway_enrichment_file, settings.gateway_maxmind_file)
    apps = Apps(lambda: read(settings))

    async def ask() -> list[tuple[App, dict[KeyKind, Checked]]]:
        async with LeanplumClient(
            timeout=settings.gateway_upstream_timeout_seconds,
            connections=1,
            secrets=apps.secrets,
            route=settings.route,
        ) as client:
            return [(app, await key_checks.check(client, app)) for app in apps.values()]

    return asyncio.run(ask())


def sandbox(overrides: dict[str, Any]) -> None:
    """Serve against the simulator: no Leanplum account, no settings; prints a key and a line to try
    it with.

    Raises StartRefused where a real Leanplum key is configured.
    """
    configured = load(**overrides)
    real = [kind.setting for kind in configured.leanplum_keys]
    if real := real + (["GATEWAY_APPS_FILE"] if configured.gateway_apps_file else []):
        raise StartRefused(
            *(
                f"{name}: is set, and the sandbox must not hold a real key; unset it"
                for name in real
            )
        )
    check_bootstrap_key(configured)
    config = SimulatorConfig(
        production_key="prod_" + secrets.token_hex(12),
        development_key="dev_" + secrets.token_hex(12),
        data_export_key="exp_" + secrets.token_hex(12),
        content_read_only_key="cro_" + secrets.token_hex(12),
        users=SANDBOX_USERS,
    )
    with contextlib.ExitStack() as stack:
        simulator = start_simulator(stack, config, configured)
        settings = load(**overrides | _against(simulator.url, config, configured))
        key = sandbox_key(settings)
        listening = listen(settings)
        host, port = listening.getsockname()[:2]
        print(_welcome(f"http://{host}:{port}", key, simulator.url), flush=True)
        serve(settings, listening=listening)


def start_simulator(
    stack: contextlib.ExitStack, config: SimulatorConfig, configured: Settings
) -> BackgroundServer:
    """Start the simulator on its port, or on a free one where the default is taken. Raises
    StartRefused where a port that was chosen is taken.
    """
    port = configured.gateway_sandbox_port
    try:
        if port and port == configured.gateway_port:
            raise OSError(errno.EADDRINUSE, "it is the gateway's own port")
        return stack.enter_context(BackgroundServer(config, port))
    except OSError as error:
        said, _, _ = str(error.strerror).partition(" (")  # in brackets the address again
        why = f"127.0.0.1:{port} can't be listened on: {said}"
        if "gateway_sandbox_port" in configured.model_fields_set:
            raise StartRefused(f"GATEWAY_SANDBOX_PORT: {why}") from error
    advice = "the simulator takes a free port; GATEWAY_SANDBOX_PORT sets another"
    structlog.get_logger("sandbox").warning("sandbox.port_taken", reason=why, advice=advice)
    return stack.enter_context(BackgroundServer(config))


def _against(url: str, config: SimulatorConfig, configured: Settings) -> dict[str, Any]:
    # Whom somebody erases to try it is taken again at once: the first calls go on working.
    chosen = {"gateway_database_url": SANDBOX_DATABASE, "gateway_erased_seconds": 0}
    return {
        "leanplum_app_id": config.app_id,
        **{f"leanplum_{kind}_key": getattr(config, f"{kind}_key") for kind in SANDBOX_KEYS},
        "leanplum_api_url": f"{url}/api",
        **{
            name: value for name, value in chosen.items() if name not in configured.model_fields_set
        },
    }


def sandbox_key(settings: Settings) -> str:
    """The sandbox's own key: a new one each time, since none can be read again; those of earlier
    ones stop working. Keys that somebody has made in a sandbox go on. Raises StartRefused where the
    database is a real gateway's.
    """
    engine = connect(settings.gateway_database_url)
    try:
        stored, now = every_key(engine), now_ms()
        given = (
            settings.gateway_bootstrap_key.get_secret_value()
            if settings.gateway_bootstrap_key
            else None
        )
        _claim(engine, fresh=not stored)
        store = KeyStore(engine, to_write(engine, settings.audit_seed).marks)
        for one in stored:
            if one.caller.name == SANDBOX and one.usable(now) and not _is(one, given):
                store.revoke(one.caller.key_id, now)
        if given is not None and any(one.usable(now) and _is(one, given) for one in stored):
            return given
        return store.create(SANDBOX, ALL_SCOPES, None, now, key=given)[0]
    finally:
        engine.dispose()


def _claim(engine: Engine, *, fresh: bool) -> None:
    """Write into the database that it is a sandbox's, where it is `fresh`. Raises StartRefused
    where it is neither that nor says so: a name of a key is no sign, anybody may give it.
    """
    with transaction(engine) as cursor:
        cursor.execute("SELECT 1 FROM own_secrets WHERE name = ?", (SANDBOX,))
        if cursor.fetchone() is not None:
            return
        if not fresh:
            raise StartRefused(NO_SANDBOX)
        cursor.execute("INSERT INTO own_secrets (name, value) VALUES (?, ?)", (SANDBOX, b""))


def _is(stored: StoredKey, key: str | None) -> bool:
    return key is not None and any(
        secrets.compare_digest(one.hash, key_format.digest(key)) for one in stored.secrets
    )


def _welcome(host: str, key: str, simulator: str) -> str:
    event = '{"userId":"user-1","event":"Purchase","value":9.99,"currencyCode":"EUR","params":{"sku":"A-1"}}'
    headers = (
        f"-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -H 'Prefer: wait=10'"
    )
    curl = f"curl -sS {host}/v1/events {headers} -d '{event}'"
    return f"""
The gateway's sandbox: everything is real but Leanplum, which is a simulator on this machine.

  API pages   {host}/docs
  Simulator   {simulator}/_simulator/requests   (what Leanplum would have got)
  Your key    {key}   (new at each start)

Post a purchase and see it delivered:

  {curl}
"""
