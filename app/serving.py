"""Running the server: uvicorn, told how this gateway stops (contract §11), and the sandbox."""

import asyncio
import gc
import secrets
import signal
import socket
from types import FrameType
from typing import Any

import structlog
import uvicorn
import uvloop
from sqlalchemy import Engine

from app import confines
from app.apps import Apps, read
from app.audit.keys import to_write
from app.callers import keys
from app.callers.store import ALL_SCOPES, KeyStore, StoredKey, every_key
from app.clock import now_ms
from app.database.engine import connect, transaction
from app.errors import StartRefused
from app.leanplum.client import LeanplumClient
from app.main import create_app
from app.model import App, KeyKind
from app.protocol import Protocol
from app.relay import checks
from app.relay.checks import Checked
from app.settings import Settings, load
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from app.telemetry import Metrics
from app.wiring import gateway, prepare

SANDBOX_KEYS = ("production", "development", "data_export", "content_read_only")
SANDBOX = "sandbox"  # the name of its own keys, and of what says in the database that it is a sandbox's
SANDBOX_DATABASE = "sqlite:///data/sandbox.db"  # never the real one: what waits there must not reach the real Leanplum
NO_SANDBOX = (
    "GATEWAY_DATABASE_URL: this database has keys and doesn't say that it is a sandbox's; a real gateway's queue the "
    f"sandbox would eat. Unset it; where a sandbox of before made it ({SANDBOX_DATABASE}), delete the file"
)


class Server(uvicorn.Server):
    """uvicorn, but a signal first makes `/readyz` fail, after the drain time refuses new work, and ends with 0."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        self._drain_seconds = settings.gateway_drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """From now on SIGHUP reads the apps again, which would happen within a second anyway."""
        await super().startup(sockets)
        state = self.config.app.state  # type: ignore[union-attr]
        if not self.should_exit:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, state.gateway.apps.refresh)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal cuts the drain time short."""
        lifecycle = self.config.app.state.lifecycle  # type: ignore[union-attr]
        if lifecycle.draining:
            self.should_exit = True
        lifecycle.draining = True
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, self._exit)

    def _exit(self) -> None:
        self.should_exit = True


def listen(settings: Settings) -> socket.socket:
    """A socket on the configured address. Raises StartRefused where it is taken or not ours."""
    family = socket.AF_INET6 if ":" in settings.gateway_host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.gateway_host, settings.gateway_port))
    except OSError as error:
        listening.close()
        raise StartRefused(
            f"GATEWAY_PORT: {settings.gateway_host}:{settings.gateway_port} can't be listened on: {error.strerror}"
        ) from error
    return listening


def serve(settings: Settings, *, delivery: bool = True, listening: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartRefused where the start is refused."""
    prepare(settings)
    settings = settings.model_copy(update={"gateway_max_connections": confines.connections(settings)})
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
            timeout_graceful_shutdown=settings.gateway_shutdown_seconds,
        )
        gc.collect()
        gc.freeze()  # what was imported stays; walking it again and again finds nothing
        gc.set_threshold(50_000, 20, 20)
        Server(config, settings).run([opened])


def deliver(settings: Settings) -> None:
    """Deliver what others accept, until SIGTERM or SIGINT; then finish and settle what is in flight.

    Raises StartRefused where the start is refused.
    """
    prepare(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_deliver(settings))


async def _deliver(settings: Settings) -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, ended.set)
    async with gateway(settings, Metrics(), calls=False) as opened:
        loop.add_signal_handler(signal.SIGHUP, opened.apps.refresh)
        structlog.get_logger("delivery").info("delivery.started")
        await ended.wait()


def check(settings: Settings) -> list[tuple[App, dict[KeyKind, Checked]]]:
    """What Leanplum says of each key of each app. Raises StartRefused where no app is configured."""
    apps = Apps(lambda: read(settings))

    async def ask() -> list[tuple[App, dict[KeyKind, Checked]]]:
        async with LeanplumClient(
            timeout=settings.gateway_upstream_timeout_seconds,
            connections=1,
            secrets=apps.secrets,
            route=settings.route,
        ) as client:
            return [(app, await checks.check(client, app)) for app in apps.values()]

    return asyncio.run(ask())


def sandbox(overrides: dict[str, Any]) -> None:
    """Serve against the simulator: no Leanplum account, no settings; prints a key and a line to try it with.

    Raises StartRefused where a real Leanplum key is configured.
    """
    configured = load(**overrides)
    real = [kind.setting for kind in configured.leanplum_keys]
    if real := real + (["GATEWAY_APPS_FILE"] if configured.gateway_apps_file else []):
        raise StartRefused(*(f"{name}: is set, and the sandbox must not hold a real key; unset it" for name in real))
    config = SimulatorConfig(
        production_key="prod_" + secrets.token_hex(12),
        development_key="dev_" + secrets.token_hex(12),
        data_export_key="exp_" + secrets.token_hex(12),
        content_read_only_key="cro_" + secrets.token_hex(12),
    )
    with BackgroundServer(config) as simulator:
        settings = load(**overrides | _against(simulator.url, config, configured))
        key = sandbox_key(settings)
        listening = listen(settings)
        host, port = listening.getsockname()[:2]
        print(_welcome(f"http://{host}:{port}", key, simulator.url), flush=True)
        serve(settings, listening=listening)


def _against(url: str, config: SimulatorConfig, configured: Settings) -> dict[str, Any]:
    database = (
        {} if "gateway_database_url" in configured.model_fields_set else {"gateway_database_url": SANDBOX_DATABASE}
    )
    return {
        "leanplum_app_id": config.app_id,
        **{f"leanplum_{kind}_key": getattr(config, f"{kind}_key") for kind in SANDBOX_KEYS},
        "leanplum_api_url": f"{url}/api",
        **database,
    }


def sandbox_key(settings: Settings) -> str:
    """The sandbox's own key: a new one each time, since none can be read again; those of earlier ones stop working.
    Keys that somebody has made in a sandbox go on. Raises StartRefused where the database is a real gateway's."""
    engine = connect(settings.gateway_database_url)
    try:
        stored, now = every_key(engine), now_ms()
        given = settings.gateway_bootstrap_key.get_secret_value() if settings.gateway_bootstrap_key else None
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
    """Write into the database that it is a sandbox's, where it is `fresh`. Raises StartRefused where it is neither
    that nor says so: a name of a key is no sign, anybody may give it."""
    with transaction(engine) as cursor:
        cursor.execute("SELECT 1 FROM own_secrets WHERE name = ?", (SANDBOX,))
        if cursor.fetchone() is not None:
            return
        if not fresh:
            raise StartRefused(NO_SANDBOX)
        cursor.execute("INSERT INTO own_secrets (name, value) VALUES (?, ?)", (SANDBOX, b""))


def _is(stored: StoredKey, key: str | None) -> bool:
    return key is not None and any(secrets.compare_digest(one.hash, keys.digest(key)) for one in stored.secrets)


def _welcome(host: str, key: str, simulator: str) -> str:
    event = '{"userId":"user-1","event":"Purchase","value":9.99,"currencyCode":"EUR","params":{"sku":"A-1"}}'
    headers = f"-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -H 'Prefer: wait=10'"
    curl = f"curl -sS {host}/v1/events {headers} -d '{event}'"
    return f"""
The gateway's sandbox: everything is real but Leanplum, which is a simulator on this machine.

  API pages   {host}/docs
  Simulator   {simulator}/_simulator/requests   (what Leanplum would have got)
  Your key    {key}   (new at each start)

Post a purchase and see it delivered:

  {curl}
"""
