"""The commands about the audit log: `audit verify|export|key|public-key`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.cli.common import AsJson, load_settings

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


@audit_cli.command("verify")
def verify_audit(
    export: ExportFile = None,
    public_key: PublicKeyText = None,
    checkpoint: KeptCheckpoints = None,
    acknowledge: AcknowledgedRecords = None,
    as_json: AsJson = False,
) -> None:
    """Find records that were changed, removed, inserted, reordered or truncated.

    Exits with 1 if there are any.
    """
    from app.cli import audit_log

    checkpoints, acknowledged = checkpoint or [], audit_log.parse_ranges(acknowledge or [])
    if export is not None:
        report = audit_log.verify_export(export, public_key, checkpoints)
    else:
        report = audit_log.verify_database(load_settings(), public_key, checkpoints)
    report.acknowledge(acknowledged)
    if as_json:
        typer.echo(json.dumps(audit_log.report_document(report)))
    else:
        for line in audit_log.report_lines(report):
            typer.echo(line)
    if report.findings:
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
) -> None:
    """Export records as JSON Lines, with what `audit verify --export` needs to verify them."""
    from app.cli import audit_log

    audit_log.export(load_settings(), since, until, file)
    if file is not None:
        typer.echo(f"{file} is written.")


@audit_cli.command("key")
def move_audit_key(
    move: Annotated[
        bool,
        typer.Option("--move", help="Move it to GATEWAY_AUDIT_KEY; run this twice"),
    ],
) -> None:
    """Move the key of the audit log from the database into a setting.

    The first run shows the key. Once GATEWAY_AUDIT_KEY is set to it, the second run removes it from
    the database.
    """
    from app.audit.tree import to_base64
    from app.cli import audit_log

    key, problem = audit_log.move_key(load_settings())
    if problem:
        typer.echo(
            "GATEWAY_AUDIT_KEY has the key, but the files of the database may still contain it: "
            f"{problem}.",
            err=True,
        )
        raise typer.Exit(1)
    if key is None:
        typer.echo(
            "GATEWAY_AUDIT_KEY has the key, and the database no longer contains it. "
            "Earlier backups still do."
        )
        return
    typer.echo(to_base64(key))
    typer.echo(
        "Set GATEWAY_AUDIT_KEY to this secret for every process. Then run this command again "
        "with it set, to remove the key from the database.",
        err=True,
    )


@audit_cli.command("public-key")
def show_public_key() -> None:
    """Show the public key that verifies checkpoints.

    Keep it where nobody who can change the database can change it.
    """
    from app.cli import audit_log

    typer.echo(audit_log.public_key(load_settings()).text)
