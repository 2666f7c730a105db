"""The commands about the tracking plan and taxonomy: `plan lint|diff`, `taxonomy list|forget`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.cli.common import AsJson, ForApp
from app.errors import NotFound, StartRefused
from app.settings import load

plan_cli = typer.Typer(help="Check and compare tracking plans.", no_args_is_help=True)
taxonomy_cli = typer.Typer(
    help="List and forget the names that count against Leanplum's limits.", no_args_is_help=True
)

PlanPath = Annotated[Path, typer.Argument(help="A plan file, or a folder of plan files")]


@plan_cli.command("lint")
def lint(
    path: Annotated[
        Path | None, typer.Argument(help="A plan file or a folder; default: GATEWAY_TRACKING_PLAN")
    ] = None,
) -> None:
    """List all errors of a plan with file and line. Exit status 1 if there are any."""
    from app.tracking.plan.load import load_plans
    from app.tracking.plan_files import read_files

    path = path or load().gateway_tracking_plan
    if path is None:
        raise StartRefused("give a path, or set GATEWAY_TRACKING_PLAN")
    loaded = load_plans(read_files(path, "plan lint"))
    for finding in loaded.findings:
        typer.echo(str(finding))
    if loaded.findings:
        raise typer.Exit(1)
    assert loaded.plans is not None
    for apps, plan in loaded.plans.each():
        counts = ", ".join(f"{kind} {len(entries)}" for kind, entries in plan.entries.items())
        typer.echo(f"version {plan.version} for {apps}: {counts}; no errors.")


@plan_cli.command("diff")
def diff(old: PlanPath, new: PlanPath) -> None:
    """Compare two plans. Exit status 1 if the new one may refuse items that the old one accepts."""
    from app.tracking.plan.diff import diff_plans
    from app.tracking.plan_files import load_path

    changes = diff_plans(load_path(old, "OLD"), load_path(new, "NEW"))
    for change in changes:
        typer.echo(str(change))
    breaking = sum(change.breaking for change in changes)
    if breaking:
        typer.echo(
            f"{breaking} of {len(changes)} changes are breaking: they may refuse accepted items."
        )
        raise typer.Exit(1)
    typer.echo("No breaking changes." if changes else "No differences.")


@taxonomy_cli.command("list")
def list_names(app: ForApp = "default", as_json: AsJson = False) -> None:
    """List the names that the app has used, with the limit of each kind."""
    from app.clock import instant
    from app.database.engine import connect_to_read
    from app.tracking.name_store import read_names

    settings = load()
    stored_names = read_names(connect_to_read(settings.gateway_database_url), app)
    if as_json:
        rows = [
            {"kind": row.name.kind, "name": row.name.name, "firstSeen": instant(row.first_seen)}
            for row in stored_names
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    for kind, limit in settings.taxonomy_limits.items():
        rows_of_kind = [row for row in stored_names if row.name.kind == kind]
        typer.echo(f"{kind}: {len(rows_of_kind)} of {limit}")
        for row in rows_of_kind:
            typer.echo(f"  {row.name.name}  since {instant(row.first_seen)}")


@taxonomy_cli.command("forget")
def forget_name(
    kind: Annotated[str, typer.Argument(help="events, states, params or attributes")],
    name: Annotated[str, typer.Argument(help="The name to forget")],
    app: ForApp = "default",
) -> None:
    """Forget a name that was removed from Leanplum. It counts again when it is used again."""
    from app.audit import signing_keys
    from app.audit.records import administrative_act, insert
    from app.clock import now_ms
    from app.database.engine import connect_existing, transaction
    from app.tracking.name_store import ForgetName
    from app.tracking.names import NAME_KINDS, Name

    if kind not in NAME_KINDS:
        raise StartRefused(f"KIND: takes {', '.join(NAME_KINDS)}")
    text = administrative_act(time=now_ms(), act="taxonomy.forget", subject=kind, app=app)
    settings = load()
    engine = connect_existing(settings.gateway_database_url)
    macs = signing_keys.load_keys_to_write(engine, settings.audit_root_key).macs
    forget = ForgetName(
        app, Name(kind, name), lambda cursor: insert(cursor, macs, [(now_ms(), text)])
    )
    with transaction(engine) as cursor:
        (forgotten,) = ForgetName.run_all(cursor, [forget])
    if not forgotten:
        raise NotFound(f"App {app} has no name {name} among its {kind}")
    typer.echo(f"Forgot {name}.")
