"""The command `simulate`: the Leanplum simulator as a program of its own."""

from typing import Annotated

import typer

from app.errors import StartRefused


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command()(simulate)


def simulate(
    host: Annotated[str, typer.Option(help="The address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one")] = 8001,
    app_id: Annotated[str, typer.Option(help="The id of the simulated app")] = "app_sandbox",
    production_key: Annotated[str, typer.Option(help="Its production key")] = "prod_sandbox",
    latency: Annotated[float, typer.Option(help="Seconds before each response")] = 0.0,
) -> None:
    """Run the Leanplum simulator only."""
    from app.simulator import SimulatorConfig
    from app.simulator.server import serve

    config = SimulatorConfig(app_id=app_id, production_key=production_key, latency_seconds=latency)
    try:
        serve(config, host, port)
    except OSError as error:
        raise StartRefused(f"--port: cannot listen on {host}:{port}: {error.strerror}") from error
