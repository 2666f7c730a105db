"""The commands that run the gateway: `serve` and `deliver`."""

from typing import Annotated

import typer

from app.cli.common import given, load_settings

Host = Annotated[str | None, typer.Option(help="The address to listen on (GATEWAY_HOST)")]
Port = Annotated[
    int | None,
    typer.Option(help="The port to listen on; 0 takes a free one (GATEWAY_PORT)", min=0, max=65535),
]
Sandbox = Annotated[
    bool, typer.Option("--sandbox", help="Use the simulator: no account and no settings needed")
]
Delivery = Annotated[
    bool, typer.Option("--delivery/--no-delivery", help="Deliver items, or only accept them")
]


def register(cli: typer.Typer) -> None:
    """Add the commands."""
    cli.command()(serve)
    cli.command()(deliver)


def serve(
    host: Host = None, port: Port = None, sandbox: Sandbox = False, delivery: Delivery = True
) -> None:
    """Run the gateway: accept items over HTTP and deliver them."""
    from app.server import run
    from app.server.sandbox import sandbox as run_sandbox

    overrides = given(gateway_host=host, gateway_port=port)
    settings = load_settings(logged=True, **overrides)
    if sandbox:
        run_sandbox(overrides)
    else:
        run.serve(settings, delivery=delivery)


def deliver() -> None:
    """Deliver items only.

    Runs beside `serve --no-delivery` on the same database; several of them share the work.
    """
    from app.server import run

    run.deliver(load_settings(logged=True))
