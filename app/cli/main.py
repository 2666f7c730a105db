"""The command line: `python -m app …`, or `leanplum-gateway …` once it is installed."""

import sys

import typer

from app.cli import audit, dead_letters, keys, operations, plan, serve
from app.errors import GatewayError, StartRefused
from app.server import process_limits

cli = typer.Typer(
    help="A durable gateway from your backends to Leanplum.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (serve, operations):
    module.register(cli)
cli.add_typer(keys.keys_cli, name="keys")
cli.add_typer(dead_letters.dead_letters_cli, name="dead-letters")
cli.add_typer(audit.audit_cli, name="audit")
cli.add_typer(plan.plan_cli, name="plan")
cli.add_typer(plan.taxonomy_cli, name="taxonomy")


def main() -> None:
    """Run a command. Errors that have a reason are printed as one line each, never a traceback."""
    process_limits.disable_memory_dumps()
    try:
        cli(standalone_mode=True)
    except StartRefused as refused:
        sys.stderr.writelines(f"leanplum-gateway: {line}\n" for line in refused.lines)
        sys.exit(2)
    except GatewayError as error:
        sys.stderr.write(f"leanplum-gateway: {error.detail}\n")
        sys.exit(1)
