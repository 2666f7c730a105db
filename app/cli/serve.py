"""The commands that run a server: `serve`, `deliver` and `simulate`."""

from typing import Annotated

import typer

from app.cli.common import given, load_settings
from app.errors import StartRefused

Host = Annotated[str | None, typer.Option(help="The address to listen on (GATEWAY_HOST)")]
Port = Annotated[
    int | None,
    typer.Option(help="The port to listen on; 0 takes a free one (GATEWAY_PORT)", min=0, max=65535),
]
Sandbox = Annotated[
    bool, typer.Option("--sandbox", help="Use the simulator: no account and no settings needed")
]
Reset = Annotated[
    bool, typer.Option("--reset", help="With --sandbox: empty the sandbox's database first")
]
Workers = Annotated[
    int | None,
    typer.Option(help="Accepting processes; with 2 or more, another delivers (GATEWAY_WORKERS)"),
]
Delivery = Annotated[
    bool, typer.Option("--delivery/--no-delivery", help="Deliver items, or only accept them")
]


def register(cli: typer.Typer) -> None:
    """Add the commands."""
    cli.command()(serve)
    cli.command()(deliver)
    cli.command()(simulate)


def serve(
    host: Host = None,
    port: Port = None,
    sandbox: Sandbox = False,
    reset: Reset = False,
    delivery: Delivery = True,
    workers: Workers = None,
) -> None:
    """Run the gateway: accept items over HTTP and deliver them."""
    overrides = given(gateway_host=host, gateway_port=port, gateway_workers=workers)
    settings = load_settings(logged=True, **overrides)
    if reset and not sandbox:
        raise StartRefused("--reset: empties a sandbox's database, so it needs --sandbox")
    if sandbox:
        from app.server.sandbox import sandbox as run_sandbox

        exit_code = run_sandbox(overrides, reset=reset)
    else:
        from app.server import supervisor

        exit_code = supervisor.serve(settings, delivery=delivery)
    raise typer.Exit(exit_code)


def deliver() -> None:
    """Deliver items only.

    Runs beside `serve --no-delivery` on the same database; several of them share the work.
    """
    from app.server import run

    run.deliver(load_settings(logged=True))


def simulate(
    host: Annotated[str, typer.Option(help="The address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one")] = 8001,
    app_id: Annotated[str, typer.Option(help="The id of the simulated app")] = "app_sandbox",
    production_key: Annotated[str, typer.Option(help="Its production key")] = "prod_sandbox",
    latency: Annotated[float, typer.Option(help="Seconds before each response")] = 0.0,
) -> None:
    """Run the Leanplum simulator only."""
    from app.simulator import SimulatorConfig
    from app.simulator.server import serve as serve_simulator

    config = SimulatorConfig(app_id=app_id, production_key=production_key, latency_seconds=latency)
    try:
        serve_simulator(config, host, port)
    except OSError as error:
        raise StartRefused(f"--port: cannot listen on {host}:{port}: {error.strerror}") from error
