"""The commands about the tracking plan and taxonomy: `plan lint|diff`, `taxonomy list|forget`."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.common import ForApp, engine_to_read, engine_to_write, load_settings
from app.cli.output import AsJson, print_json, print_json_list, print_rows, print_text
from app.errors import NotFound, StartRefused

if TYPE_CHECKING:
    from app.tracking.plan.validate import Plans

plan_cli = typer.Typer(help="Check and compare tracking plans.", no_args_is_help=True)
taxonomy_cli = typer.Typer(
    help="List and forget the names that Leanplum limits.", no_args_is_help=True
)

PlanPath = Annotated[Path, typer.Argument(help="A plan file, or a folder of plan files")]


@plan_cli.command("lint")
def lint(
    path: Annotated[
        Path | None, typer.Argument(help="A plan file or a folder; default: GATEWAY_TRACKING_PLAN")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List all errors of a plan with file and line. Exits with 1 if there are any."""
    from app.tracking.plan.load import load_plans
    from app.tracking.plan_files import read_files

    path = path or load_settings().gateway_tracking_plan
    if path is None:
        raise StartRefused("give a path, or set GATEWAY_TRACKING_PLAN")
    loaded = load_plans(read_files(path, "plan lint"))
    plans = [] if loaded.plans is None or loaded.findings else _plan_documents(loaded.plans)
    if as_json:
        findings = [asdict(finding) for finding in loaded.findings]
        print_json({"findings": findings, "plans": plans})
    else:
        for finding in loaded.findings:
            print_text(str(finding))
        for plan in plans:
            counts = ", ".join(f"{kind} {count}" for kind, count in plan["entries"].items())
            print_text(f"version {plan['version']} for {plan['apps']}: {counts}; no errors.")
    if loaded.findings:
        raise typer.Exit(1)


def _plan_documents(plans: "Plans") -> list[dict[str, Any]]:
    documents = []
    for apps, plan in plans.each():
        entries = {kind: len(of_kind) for kind, of_kind in plan.entries.items()}
        documents.append({"apps": apps, "version": plan.version, "entries": entries})
    return documents


@plan_cli.command("diff")
def diff(old: PlanPath, new: PlanPath, as_json: AsJson = False) -> None:
    """Compare two plans. Exits with 1 if the new one may refuse items that the old one accepts."""
    from app.tracking.plan.diff import diff_plans
    from app.tracking.plan_files import load_path

    changes = diff_plans(load_path(old, "OLD"), load_path(new, "NEW"))
    breaking = sum(change.breaking for change in changes)
    if as_json:
        print_json_list(map(asdict, changes))
    else:
        for change in changes:
            print_text(str(change))
        print_text(_diff_summary(len(changes), breaking))
    if breaking:
        raise typer.Exit(1)


def _diff_summary(changes: int, breaking: int) -> str:
    if breaking:
        return f"{breaking} of {changes} changes are breaking: they may refuse accepted items."
    return "No breaking changes." if changes else "No differences."


@taxonomy_cli.command("list")
def list_names(app: ForApp = "default", as_json: AsJson = False) -> None:
    """List the names that the app has used, with the limit of each kind."""
    from app.clock import instant
    from app.tracking.name_store import read_names

    settings = load_settings()
    with engine_to_read(settings) as engine:
        stored_names = read_names(engine, app)
    used = Counter[str](row.name.kind for row in stored_names)
    limits: Mapping[str, int] = settings.taxonomy_limits
    documents = [
        {"kind": row.name.kind, "name": row.name.name, "firstSeen": instant(row.first_seen)}
        for row in sorted(stored_names, key=lambda row: list(limits).index(row.name.kind))
    ]

    def cells(document: dict[str, str]) -> tuple[str, ...]:
        kind = document["kind"]
        return kind, f"{used[kind]} of {limits[kind]}", document["name"], document["firstSeen"]

    header = ("KIND", "USED", "NAME", "FIRST SEEN")
    print_rows(documents, header, cells, as_json=as_json, empty=f"App {app} has used no names.")


@taxonomy_cli.command("forget")
def forget_name(
    kind: Annotated[str, typer.Argument(help="events, states, params or attributes")],
    name: Annotated[str, typer.Argument(help="The name to forget")],
    app: ForApp = "default",
    as_json: AsJson = False,
) -> None:
    """Forget a name that was removed from Leanplum. It counts again when it is used again."""
    from app.audit import signing_keys
    from app.audit.records import administrative_act, insert
    from app.clock import now_ms
    from app.database.engine import transaction
    from app.tracking.name_store import ForgetName
    from app.tracking.names import NAME_KINDS, Name

    if kind not in NAME_KINDS:
        raise StartRefused(f"KIND: takes {', '.join(NAME_KINDS)}")
    text = administrative_act(time=now_ms(), act="taxonomy.forget", subject=kind, app=app)
    settings = load_settings()
    with engine_to_write(settings) as engine:
        macs = signing_keys.load_keys_to_write(engine, settings.audit_root_key).macs
        forget = ForgetName(
            app, Name(kind, name), lambda cursor: insert(cursor, macs, [(now_ms(), text)])
        )
        with transaction(engine) as cursor:
            (forgotten,) = ForgetName.run_all(cursor, [forget])
    if not forgotten:
        raise NotFound(f"App {app} has no name {name} among its {kind}")
    if as_json:
        print_json({"kind": kind, "name": name, "forgotten": True})
    else:
        print_text(f"Forgot {name}.")
