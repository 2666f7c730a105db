"""The sandbox (`serve --sandbox`): the gateway against the simulator, without an account."""

import contextlib
import errno
import secrets
from typing import Any

import structlog
from sqlalchemy import Engine

from app.audit.signing_keys import load_keys_to_write
from app.callers import key_format
from app.callers.store import ALL_SCOPES, KeyStore, StoredKey, every_key
from app.clock import now_ms
from app.database.engine import connect, transaction
from app.errors import StartRefused
from app.server.preparation import check_bootstrap_key
from app.server.run import listen, serve
from app.settings import Settings, load
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer

KEY_KINDS = ("production", "development", "data_export", "content_read_only")
# The name of the sandbox's own keys, and of the row that marks a database as a sandbox's
SANDBOX = "sandbox"
# The users of the examples: they exist from the start, so that each example works
USERS = ("user-1", "user-to-erase")
# Never the database of a real gateway: what waits there must not be delivered to the simulator
DATABASE_URL = "sqlite:///data/sandbox.db"
NOT_A_SANDBOX = (
    "GATEWAY_DATABASE_URL: this database has keys and is not marked as a sandbox's; the sandbox "
    "would deliver a real gateway's queue to the simulator. Unset it; if an earlier sandbox "
    f"created the database ({DATABASE_URL}), delete the file"
)


def sandbox(overrides: dict[str, Any]) -> None:
    """Run the gateway against the simulator; print a caller key and a curl command to try.

    Raises StartRefused if a real Leanplum key is configured.
    """
    configured = load(**overrides)
    _refuse_real_keys(configured)
    check_bootstrap_key(configured)
    config = SimulatorConfig(
        production_key="prod_" + secrets.token_hex(12),
        development_key="dev_" + secrets.token_hex(12),
        data_export_key="exp_" + secrets.token_hex(12),
        content_read_only_key="cro_" + secrets.token_hex(12),
        users=USERS,
    )
    with contextlib.ExitStack() as stack:
        simulator = start_simulator(stack, config, configured)
        settings = load(**overrides | _simulator_settings(simulator.url, config, configured))
        key = sandbox_key(settings)
        listener = listen(settings)
        host, port = listener.getsockname()[:2]
        print(_welcome(f"http://{host}:{port}", key, simulator.url), flush=True)
        serve(settings, listener=listener)


def _refuse_real_keys(configured: Settings) -> None:
    names = [kind.setting for kind in configured.leanplum_keys]
    if configured.gateway_apps_file:
        names.append("GATEWAY_APPS_FILE")
    if names:
        raise StartRefused(
            *(
                f"{name}: is set, but the sandbox must not use a real key; unset it"
                for name in names
            )
        )


def start_simulator(
    stack: contextlib.ExitStack, config: SimulatorConfig, configured: Settings
) -> BackgroundServer:
    """Start the simulator on its port, or on a free one if the default port is taken.

    Raises StartRefused if a port that was set explicitly is taken.
    """
    port = configured.gateway_sandbox_port
    try:
        if port and port == configured.gateway_port:
            raise OSError(errno.EADDRINUSE, "it is the gateway's own port")
        return stack.enter_context(BackgroundServer(config, port))
    except OSError as error:
        # In parentheses behind the reason, the operating system repeats the address
        reason, _, _ = str(error.strerror).partition(" (")
        reason = f"cannot listen on 127.0.0.1:{port}: {reason}"
        if "gateway_sandbox_port" in configured.model_fields_set:
            raise StartRefused(f"GATEWAY_SANDBOX_PORT: {reason}") from error
    advice = "the simulator takes a free port; GATEWAY_SANDBOX_PORT sets another"
    structlog.get_logger("sandbox").warning("sandbox.port_taken", reason=reason, advice=advice)
    return stack.enter_context(BackgroundServer(config))


def _simulator_settings(url: str, config: SimulatorConfig, configured: Settings) -> dict[str, Any]:
    """Return the settings that point the gateway at the simulator."""
    # An erased user is accepted again at once, so that the examples keep working
    defaults = {"gateway_database_url": DATABASE_URL, "gateway_erased_seconds": 0}
    unset = {
        name: value for name, value in defaults.items() if name not in configured.model_fields_set
    }
    keys = {f"leanplum_{kind}_key": getattr(config, f"{kind}_key") for kind in KEY_KINDS}
    return {"leanplum_app_id": config.app_id, "leanplum_api_url": f"{url}/api", **keys, **unset}


def sandbox_key(settings: Settings) -> str:
    """Return the sandbox's own caller key: a new one at each start, since none can be read again.

    Keys of earlier sandboxes are revoked; keys that somebody created in a sandbox keep working.
    Raises StartRefused if the database is a real gateway's.
    """
    engine = connect(settings.gateway_database_url)
    try:
        stored, now = every_key(engine), now_ms()
        bootstrap_key = settings.gateway_bootstrap_key
        key = bootstrap_key.get_secret_value() if bootstrap_key else None
        _claim(engine, fresh=not stored)
        store = KeyStore(engine, load_keys_to_write(engine, settings.audit_root_key).macs)
        usable = [row for row in stored if row.usable(now)]
        for row in usable:
            if row.caller.name == SANDBOX and not _has_key(row, key):
                store.revoke(row.caller.key_id, now)
        if key is not None and any(_has_key(row, key) for row in usable):
            return key
        return store.create(SANDBOX, ALL_SCOPES, None, now, key=key)[0]
    finally:
        engine.dispose()


def _claim(engine: Engine, *, fresh: bool) -> None:
    """Mark a fresh database as a sandbox's. Raises StartRefused if it is neither fresh nor marked.

    The name of a key would be no mark: anybody may give a key that name.
    """
    with transaction(engine) as cursor:
        cursor.execute("SELECT 1 FROM own_secrets WHERE name = ?", (SANDBOX,))
        if cursor.fetchone() is not None:
            return
        if not fresh:
            raise StartRefused(NOT_A_SANDBOX)
        cursor.execute("INSERT INTO own_secrets (name, value) VALUES (?, ?)", (SANDBOX, b""))


def _has_key(stored: StoredKey, key: str | None) -> bool:
    if key is None:
        return False
    digest = key_format.digest(key)
    return any(secrets.compare_digest(secret.hash, digest) for secret in stored.secrets)


def _welcome(url: str, key: str, simulator: str) -> str:
    event = (
        '{"userId":"user-1","event":"Purchase","value":9.99,"currencyCode":"EUR",'
        '"params":{"sku":"A-1"}}'
    )
    headers = (
        f"-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -H 'Prefer: wait=10'"
    )
    curl = f"curl -sS {url}/v1/events {headers} -d '{event}'"
    return f"""
The gateway's sandbox: everything is real except Leanplum, which is a simulator on this machine.

  API pages   {url}/docs
  Simulator   {simulator}/_simulator/requests   (what Leanplum would have received)
  Your key    {key}   (new at each start)

Post a purchase and see it delivered:

  {curl}
"""
