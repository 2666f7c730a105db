"""The command line: `python -m app …`, or `leanplum-gateway …` once it is installed.

Exit codes: 0 done, 1 nothing found or a check failed, 2 bad use or configuration.
"""

import sys
from typing import Annotated

import typer
from typer.main import get_command

from app import __version__
from app.cli import (
    audit,
    dead_letters,
    keys,
    operations,
    plan,
    receipts,
    send,
    serve,
    status,
    tail,
)
from app.cli.output import NAME, flush, print_notice, print_text
from app.errors import GatewayError, StartRefused
from app.server import memory_dumps

FAILED, BAD_USE, INTERRUPTED = 1, 2, 130
# Of Typer; they complete the installed command, however they are called
COMPLETION_OPTIONS = ("--install-completion", "--show-completion")

cli = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
)
for module in (serve, operations, status, send, tail):
    module.register(cli)
cli.add_typer(receipts.receipts_cli, name="receipts")
cli.add_typer(keys.keys_cli, name="keys")
cli.add_typer(dead_letters.dead_letters_cli, name="dead-letters")
cli.add_typer(audit.audit_cli, name="audit")
cli.add_typer(plan.plan_cli, name="plan")
cli.add_typer(plan.taxonomy_cli, name="taxonomy")


def _print_version(value: bool) -> None:
    if value:
        print_text(f"{NAME} {__version__}")
        raise typer.Exit


@cli.callback(help="A durable gateway from your backends to Leanplum.")
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Accept the options that come before a command."""


def main() -> None:
    """Run a command. Errors that have a reason are printed as one line each, never a traceback."""
    memory_dumps.disable()
    try:
        exit_code = _run()
        flush()
    except StartRefused as refused:
        print_notice(refused.detail)
        exit_code = BAD_USE
    except GatewayError as error:
        print_notice(error.detail)
        exit_code = FAILED
    except typer.TyperException as error:
        _print_usage_error(error)
        exit_code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        exit_code = INTERRUPTED
    sys.exit(exit_code)


def _run() -> int:
    # Boxes and colors are for people
    cli.rich_markup_mode = "rich" if sys.stdout.isatty() else None
    completes = any(word.startswith(COMPLETION_OPTIONS) for word in sys.argv[1:])
    name = NAME if completes else None
    return get_command(cli).main(prog_name=name, standalone_mode=False) or 0


def _print_usage_error(error: typer.TyperException) -> None:
    """Print what is wrong with a command's words, and how to get help."""
    # Typer's own classes of these errors are private
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error.message}\n")
        return
    possibilities = getattr(error, "possibilities", None)
    message = error.format_message()
    if possibilities:
        message = f"{error.message}. Did you mean {' or '.join(sorted(possibilities))}?"
    print_notice(message)
    if context is not None:
        print_notice(f"Run {context.command_path} --help for its options.")
