"""The tracking plan and the taxonomy by command: `python -m app plan …`, `python -m app taxonomy
…`.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.errors import NotFound, StartRefused
from app.settings import load

plan_cli = typer.Typer(help="The tracking plan.", no_args_is_help=True)
taxonomy_cli = typer.Typer(
    help="The names that an app has, of those that Leanplum keeps.", no_args_is_help=True
)

PlanPath = Annotated[Path, typer.Argument(help="A file, or a folder of them")]
OfApp = Annotated[str, typer.Option("--app", help="Of this app")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table")]


@plan_cli.command("lint")
def lint(
    path: Annotated[
        Path | None, typer.Argument(help="A file, or a folder; default: GATEWAY_TRACKING_PLAN")
    ] = None,
) -> None:
    """Tell everything that is wrong with a plan, each in a line with its place. Ends with 1 where
    something is.
    """
    from app.tracking.plan.load import load_plans
    from app.tracking.plan_files import read_files

    path = path or load().gateway_tracking_plan
    if path is None:
        raise StartRefused("give a path, or set GATEWAY_TRACKING_PLAN")
    found = load_plans(read_files(path, "plan lint"))
    for one in found.findings:
        typer.echo(str(one))
    if found.findings:
        raise typer.Exit(1)
    assert found.plans is not None
    for apps, plan in found.plans.each():
        counts = ", ".join(f"{kind} {len(entries)}" for kind, entries in plan.entries.items())
        typer.echo(f"version {plan.version} for {apps}: {counts}; nothing is wrong.")


@plan_cli.command("diff")
def diff(old: PlanPath, new: PlanPath) -> None:
    """Tell what differs. Ends with 1 where the new plan may refuse what the old one let through."""
    from app.tracking.plan.diff import diff_plans
    from app.tracking.plan_files import load_path

    changes = diff_plans(load_path(old, "OLD"), load_path(new, "NEW"))
    for change in changes:
        typer.echo(str(change))
    breaking = sum(change.breaking for change in changes)
    if breaking:
        typer.echo(
            f"Breaking: {breaking} of {len(changes)} changes may refuse what was let through."
        )
        raise typer.Exit(1)
    typer.echo("Nothing that was let through is refused." if changes else "Nothing differs.")


@taxonomy_cli.command("list")
def list_names(app: OfApp = "default", as_json: AsJson = False) -> None:
    """Every name that was accepted for the app, and how many of each kind Leanplum keeps."""
    from app.clock import instant
    from app.database.engine import connect_to_read
    from app.tracking.name_store import read_names

    settings = load()
    names = read_names(connect_to_read(settings.gateway_database_url), app)
    if as_json:
        rows = [
            {"kind": one.name.kind, "name": one.name.name, "firstSeen": instant(one.first_seen)}
            for one in names
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    for kind, limit in settings.taxonomy_limits.items():
        of_kind = [one for one in names if one.name.kind == kind]
        typer.echo(f"{kind}: {len(of_kind)} of {limit}")
        for one in of_kind:
            typer.echo(f"  {one.name.name}  since {instant(one.first_seen)}")


@taxonomy_cli.command("forget")
def forget_name(
    kind: Annotated[str, typer.Argument(help="events, states, params or attributes")],
    name: Annotated[str, typer.Argument(help="The name")],
    app: OfApp = "default",
) -> None:
    """Forget a name that Leanplum has dropped too. It counts again when it comes again."""
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
    write = ForgetName(
        app, Name(kind, name), lambda cursor: insert(cursor, macs, [(now_ms(), text)])
    )
    with transaction(engine) as cursor:
        (found,) = ForgetName.run_all(cursor, [write])
    if not found:
        raise NotFound(f"{app} has no name {name} of {kind}")
    typer.echo(f"{name} is forgotten.")
