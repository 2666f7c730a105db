"""The sandbox (`serve --sandbox`): the gateway against the simulator, without an account."""

import contextlib
import errno
import hmac
import secrets
import socket
from typing import Any

import structlog

from app.errors import StartRefused
from app.server.listening import listen
from app.server.preparation import check_bootstrap_key
from app.server.sandbox_database import empty_database, free_database_url, sandbox_key
from app.server.supervisor import serve
from app.settings import Settings, load
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from app.urls import mask_url

KEY_KINDS = ("production", "development", "data_export", "content_read_only")
# The users of the examples: they exist from the start, so that each example works
USERS = ("user-1", "user-to-erase")
# An erased user is accepted again at once, and what a fault has delayed is soon tried again, so
# that the examples keep working
DEFAULTS = {"gateway_erased_seconds": 0, "gateway_retry_max_seconds": 3}
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - an address to show, not to bind


def sandbox(overrides: dict[str, Any], *, reset: bool = False) -> int:
    """Run the gateway against the simulator; print a caller key and a curl command to try.

    Return the exit code.

    With `reset`, empty the sandbox's database first. Raises StartRefused if a real Leanplum key is
    configured, or if the database is not a sandbox's.
    """
    configured = load(**overrides)
    _refuse_real_keys(configured)
    config = SimulatorConfig(
        production_key="prod_" + secrets.token_hex(12),
        development_key="dev_" + secrets.token_hex(12),
        data_export_key="exp_" + secrets.token_hex(12),
        content_read_only_key="cro_" + secrets.token_hex(12),
        users=USERS,
    )
    with contextlib.ExitStack() as stack:
        # First, so that a start by mistake changes nothing of the sandbox that has the port
        listener = stack.enter_context(listen(configured))
        simulator = start_simulator(stack, config, configured)
        settings = load(**overrides | _sandbox_settings(simulator.url, config, configured))
        check_bootstrap_key(settings)
        if reset:
            empty_database(settings.gateway_database_url)
        key = sandbox_key(settings)
        url = _show_url(listener, settings.gateway_root_path)
        welcome = _welcome(url, key, simulator.url, settings)
        return serve(settings, listener=listener, on_listening=lambda: print(welcome, flush=True))


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


def _sandbox_settings(url: str, config: SimulatorConfig, configured: Settings) -> dict[str, Any]:
    """Return the settings that point the gateway at the simulator."""
    given = configured.model_fields_set
    keys = {f"leanplum_{kind}_key": getattr(config, f"{kind}_key") for kind in KEY_KINDS}
    settings = {
        "leanplum_app_id": config.app_id,
        "leanplum_api_url": f"{url}/api",
        # The simulator is on this machine, where no proxy is in between
        "gateway_upstream_proxy": None,
        "gateway_upstream_trust_env": False,
    }
    if "gateway_database_url" not in given:
        settings["gateway_database_url"] = free_database_url()
    return {
        **keys,
        **{name: value for name, value in DEFAULTS.items() if name not in given},
    } | settings


def _show_url(listener: socket.socket, path: str) -> str:
    """Return the gateway's URL as a browser on this machine may use it."""
    host, port = listener.getsockname()[:2]
    host = LOOPBACK.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"


def _welcome(url: str, key: str, simulator: str, settings: Settings) -> str:
    given = settings.gateway_bootstrap_key
    is_given = given is not None and hmac.compare_digest(key, given.get_secret_value())
    database = mask_url(settings.gateway_database_url)
    key_origin = "GATEWAY_BOOTSTRAP_KEY" if is_given else "new at each start"
    # A user whom nobody has used: no earlier erasure, block or waiting item is in the way
    event = (
        f'{{"userId":"user-{secrets.token_hex(3)}","event":"Purchase","value":9.99,'
        '"currencyCode":"EUR","params":{"sku":"A-1"}}'
    )
    headers = (
        f"-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -H 'Prefer: wait=10'"
    )
    curl = f"curl -sS {url}/v1/events {headers} -d '{event}'"
    return f"""
The gateway's sandbox: everything is real except Leanplum, which is a simulator on this machine.

  Console     {url}/console   (sign in with the key)
  API pages   {url}/docs
  Simulator   {simulator}/_simulator/requests   (what Leanplum would have received)
  Faults      {simulator}/_simulator/faults   (what can go wrong, with a command for each)
  Database    {database}   (--reset empties it; for commands, set GATEWAY_DATABASE_URL to it)
  Your key    {key}   ({key_origin})

Post a purchase and see it delivered:

  {curl}
"""
