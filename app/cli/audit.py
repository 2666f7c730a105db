"""The commands about the audit log: `audit verify|export|key|public-key`."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.common import load_settings
from app.cli.output import AsJson, print_json, print_notice, print_text
from app.errors import CheckFailed, StartRefused

audit_cli = typer.Typer(help="Verify and export the audit log.", no_args_is_help=True)

PublicKeyText = Annotated[
    str | None, typer.Option("--public-key", help="The key, as `audit public-key` shows it")
]
KeptCheckpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoint",
        help="A checkpoint kept elsewhere: its text, or a file that contains it; may be repeated",
    ),
]
AcknowledgedRecords = Annotated[
    list[str] | None,
    typer.Option(
        "--acknowledge",
        help="A record, or a range such as 12-30, known to be missing; may be repeated",
    ),
]
ExportFile = Annotated[
    Path | None,
    typer.Option(help="Verify this export instead of the database; needs no settings"),
]
StatementFile = Annotated[
    Path | None,
    typer.Option(
        help="Verify this statement of an erasure instead; with --public-key, needs no settings"
    ),
]

SET_KEY = (
    "Set GATEWAY_AUDIT_KEY to this secret for every process. Then run this command again "
    "with it set, to remove the key from the database."
)
REMOVED = (
    "GATEWAY_AUDIT_KEY has the key, and the database no longer contains it. "
    "Earlier backups still do."
)


@audit_cli.command("verify")
def verify_audit(
    export: ExportFile = None,
    public_key: PublicKeyText = None,
    checkpoint: KeptCheckpoints = None,
    acknowledge: AcknowledgedRecords = None,
    statement: StatementFile = None,
    as_json: AsJson = False,
) -> None:
    """Find records that were changed, removed, inserted, reordered or truncated.

    Exits with 1 if there are any. With --statement, print what a signed statement of an erasure
    says; exits with 1 if it is not valid.
    """
    if statement is not None:
        if export is not None or checkpoint or acknowledge:
            raise StartRefused("--statement: can't be combined with other options of a log")
        _verify_statement(statement, public_key, as_json=as_json)
        return
    from app.cli import audit_log, audit_report

    checkpoints, acknowledged = checkpoint or [], audit_log.parse_ranges(acknowledge or [])
    if export is not None:
        report = audit_log.verify_export(export, public_key, checkpoints)
    else:
        report = audit_log.verify_database(load_settings(), public_key, checkpoints)
    report.acknowledge(acknowledged)
    if as_json:
        print_json(audit_report.report_document(report))
    else:
        for line in audit_report.report_lines(report):
            print_text(line)
    if report.findings:
        raise typer.Exit(1)


def _verify_statement(file: Path, public_key: str | None, *, as_json: bool) -> None:
    from app.cli import audit_statement

    if not audit_statement.verify_file(file, public_key, load_settings, as_json=as_json):
        raise typer.Exit(1)


@audit_cli.command("export")
def export_audit(
    file: Annotated[
        Path | None, typer.Argument(help="The file to write; default: standard output")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only records of this time (RFC 3339) or later")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only records from before this time")] = None,
    as_json: AsJson = False,
) -> None:
    """Export records as JSON Lines, with what `audit verify --export` needs to verify them."""
    from app.cli import audit_log

    if as_json and file is None:
        raise StartRefused("--json: needs a FILE, since the export itself is not one document")
    lines = audit_log.export(load_settings(), since, until, file)
    if as_json:
        print_json({"path": str(file), "lines": lines})
    elif file is not None:
        print_text(f"{file} is written.")


@audit_cli.command("key")
def move_audit_key(
    move: Annotated[
        bool,
        typer.Option("--move", help="Move it to GATEWAY_AUDIT_KEY; run this twice"),
    ],
    as_json: AsJson = False,
) -> None:
    """Move the key of the audit log from the database into a setting.

    The first run shows the key. Once GATEWAY_AUDIT_KEY is set to it, the second run removes it from
    the database.
    """
    from app.audit.tree import to_base64
    from app.cli import audit_log

    key, problem = audit_log.move_key(load_settings())
    if problem:
        raise CheckFailed(
            "GATEWAY_AUDIT_KEY has the key, but the files of the database may still contain it: "
            f"{problem}."
        )
    shown = None if key is None else to_base64(key)
    if as_json:
        print_json({"key": shown, "removed": key is None})
    else:
        print_text(shown or REMOVED)
    if shown is not None:
        print_notice(SET_KEY)


@audit_cli.command("public-key")
def show_public_key(as_json: AsJson = False) -> None:
    """Show the public key that verifies checkpoints.

    Keep it where nobody who can change the database can change it.
    """
    from app.cli import audit_log

    text = audit_log.public_key(load_settings()).text
    if as_json:
        print_json({"publicKey": text})
    else:
        print_text(text)
