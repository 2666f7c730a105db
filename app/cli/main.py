"""The commands: `python -m app …`, or `leanplum-gateway …` where it is installed."""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.plan import plan_cli, taxonomy_cli
from app.errors import GatewayError, StartRefused
from app.server import process_limits
from app.settings import Settings, made, read, table

cli = typer.Typer(
    help="A durable gateway from your backends to Leanplum.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys_cli = typer.Typer(help="Caller keys.", no_args_is_help=True)
cli.add_typer(keys_cli, name="keys")
dead_letters_cli = typer.Typer(
    help="What was refused, given up, or perhaps done.", no_args_is_help=True
)
cli.add_typer(dead_letters_cli, name="dead-letters")
audit_cli = typer.Typer(
    help="Who did what, and whether that is still what was recorded.", no_args_is_help=True
)
cli.add_typer(audit_cli, name="audit")
cli.add_typer(plan_cli, name="plan")
cli.add_typer(taxonomy_cli, name="taxonomy")

Host = Annotated[str | None, typer.Option(help="GATEWAY_HOST")]
Port = Annotated[
    int | None, typer.Option(help="GATEWAY_PORT; 0 takes a free one", min=0, max=65535)
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table")]


def _settings(*, logged: bool = False, **overrides: Any) -> Settings:
    """Load the settings. Names that look like settings and are none are told: in the log of a
    process that stays, else on standard error.
    """
    import structlog

    from app.apps import referenced
    from app.telemetry import configure_logging

    found = read()
    settings = made(found, **overrides)
    configure_logging(settings.gateway_log_level, settings.gateway_log_format)
    for line in found.notices(referenced(settings.gateway_apps_file)):
        if logged:
            structlog.get_logger("settings").warning("settings.ignored", reason=line)
        else:
            typer.echo(f"leanplum-gateway: {line}", err=True)
    return settings


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@cli.command()
def serve(
    host: Host = None,
    port: Port = None,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Against the simulator: no account, no settings")
    ] = False,
    delivery: Annotated[
        bool, typer.Option("--delivery/--no-delivery", help="Whether to deliver, or to accept only")
    ] = True,
) -> None:
    """The API and the delivery."""
    from app.server import run as serving

    overrides = _given(gateway_host=host, gateway_port=port)
    settings = _settings(logged=True, **overrides)
    if sandbox:
        serving.sandbox(overrides)
    else:
        serving.serve(settings, delivery=delivery)


@cli.command()
def deliver() -> None:
    """The delivery alone, beside `serve --no-delivery` on the same database; several share the
    work.
    """
    from app.server import run as serving

    serving.deliver(_settings(logged=True))


@cli.command()
def simulate(
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one")] = 8001,
    app_id: str = "app_sandbox",
    production_key: str = "prod_sandbox",
    latency: Annotated[float, typer.Option(help="Seconds that each call takes")] = 0.0,
) -> None:
    """The Leanplum simulator alone."""
    from app.simulator import SimulatorConfig
    from app.simulator.server import serve as run

    config = SimulatorConfig(app_id=app_id, production_key=production_key, latency_seconds=latency)
    try:
        run(config, host, port)
    except OSError as error:
        raise StartRefused(
            f"--port: {host}:{port} can't be listened on: {error.strerror}"
        ) from error


@cli.command()
def check() -> None:
    """Ask Leanplum whether it takes each key that is configured. No user is touched. Ends with 1
    where it doesn't.
    """
    from app.server import run as serving

    found = [
        (app.setting(kind), one)
        for app, keys in serving.check(_settings())
        for kind, one in keys.items()
    ]
    for name, one in found:
        said = (
            {True: "accepted", False: "refused", None: "not known"}[one.accepted]
            if one.configured
            else "not set"
        )
        typer.echo(f"{name:<34} {said}{f'  {one.detail}' if one.detail else ''}")
    if not all(one.accepted for _, one in found if one.configured):
        raise typer.Exit(1)


@cli.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    from app.database.engine import connect

    connect(_settings().gateway_database_url).dispose()
    typer.echo("The database has the newest schema.")


@cli.command()
def settings(as_json: AsJson = False) -> None:
    """Every setting: its value (secrets masked) and where it came from."""
    rows = list(table(_settings(), read()))
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        line = f"{row['name']:<{width}}  {row['value']}  ({row['source']}) {row.get('path', '')}"
        typer.echo(line.rstrip())


@cli.command()
def openapi(
    directory: Annotated[Path, typer.Argument(help="Where to write openapi.json")] = Path(
        "openapi"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Only tell whether the file is what the app makes")
    ] = False,
) -> None:
    """Write the OpenAPI document that the app makes."""
    from app.server.application import create_app

    path = directory / "openapi.json"
    made = json.dumps(create_app(Settings()).openapi(), indent=2, ensure_ascii=False) + "\n"
    if check:
        if not path.exists() or path.read_text() != made:
            raise StartRefused(f"{path} is not what the app makes: run python -m app openapi")
        return
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(made)


@keys_cli.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Whose key it is")],
    scope: Annotated[
        list[str] | None, typer.Option(help="What it may do; several times; default: every scope")
    ] = None,
    app: Annotated[
        list[str] | None, typer.Option(help="For this app; several times; default: every app")
    ] = None,
    expires_in_days: Annotated[int | None, typer.Option(min=1, max=36_500)] = None,
    rate_per_second: Annotated[
        int | None, typer.Option(min=1, help="Its own limit, in items")
    ] = None,
    rate_burst: Annotated[
        int | None, typer.Option(min=1, help="Its own limit, in items at once")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown this once."""
    from app.callers.store import ALL_SCOPES
    from app.clock import now_ms

    now = now_ms()
    expires_at = now + expires_in_days * 86_400_000 if expires_in_days else None
    scopes = _scopes(scope) if scope else ALL_SCOPES
    _check_key(name=name, apps=app, ratePerSecond=rate_per_second, rateBurst=rate_burst)
    key, stored = _store().create(
        name,
        scopes,
        app,
        now,
        expires_at=expires_at,
        rate_per_second=rate_per_second,
        rate_burst=rate_burst,
    )
    _show_key(key, stored, as_json=as_json)


OPTIONS = {
    "name": "--name",
    "apps": "--app",
    "ratePerSecond": "--rate-per-second",
    "rateBurst": "--rate-burst",
}


def _check_key(**told: Any) -> None:
    """Hold options against what the API takes. Raises StartRefused."""
    from app.api.keys import CHANGE
    from app.errors import Invalid
    from app.ingest import validate

    try:
        validate.checked(CHANGE, _given(**told))
    except Invalid as refusal:
        said = [
            f"{OPTIONS[fault.pointer.split('/')[1]]}: {fault.detail}" for fault in refusal.faults
        ]
        raise StartRefused("; ".join(said)) from None


def _scopes(named: list[str]) -> Any:
    from app.model import Scope

    if unknown := sorted(set(named) - {known.value for known in Scope}):
        raise StartRefused(f"--scope: takes {', '.join(Scope)}; not {', '.join(unknown)}")
    return frozenset(Scope(one) for one in named)


def _show_key(key: str | None, stored: Any, *, as_json: bool) -> None:
    from app.api.keys import key_document

    if as_json:
        typer.echo(json.dumps(key_document(stored, key)))
    elif key is not None:
        typer.echo(f"{key}\n\nid {stored.caller.key_id}; the key is not shown again.")
    else:
        typer.echo(f"{stored.caller.key_id} is changed.")


@keys_cli.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """Every key: never the key itself."""
    from app.api.keys import key_document
    from app.callers.store import every_key
    from app.database.engine import connect_to_read

    rows = [
        key_document(stored)
        for stored in every_key(connect_to_read(_settings().gateway_database_url))
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        state = f"revoked {row['revokedAt']}" if row["revokedAt"] else f"since {row['createdAt']}"
        typer.echo(
            f"{row['id']}  …{row['lastFour']}  {row['name']}  {state}  {' '.join(row['scopes'] or ())}"
        )


@keys_cli.command("patch")
def change_key(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it")],
    name: Annotated[str | None, typer.Option(help="Whose key it is")] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="What it may do from now on; several times")
    ] = None,
    app: Annotated[
        list[str] | None, typer.Option(help="For this app from now on; several times")
    ] = None,
    every_app: Annotated[bool, typer.Option("--every-app", help="For every app")] = False,
    expires_in_days: Annotated[int | None, typer.Option(min=0, max=36_500, help="0: never")] = None,
    rate_per_second: Annotated[
        int | None, typer.Option(min=0, help="Its own limit; 0: the gateway's")
    ] = None,
    rate_burst: Annotated[
        int | None, typer.Option(min=0, help="Its own limit; 0: as its rate is")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change a key. What is not named stays as it is."""
    from app.callers.store import KEEP, by_operator
    from app.clock import now_ms

    now = now_ms()
    changes = _given(
        name=name, scopes=_scopes(scope) if scope else None, apps=frozenset(app) if app else None
    )
    changes |= {"apps": None} if every_app else {}
    limits = _given(rate_per_second=rate_per_second, rate_burst=rate_burst)
    _check_key(
        name=name, apps=app, ratePerSecond=rate_per_second or None, rateBurst=rate_burst or None
    )
    changes |= {limit: value or None for limit, value in limits.items()}
    until = (
        KEEP
        if expires_in_days is None
        else (now + expires_in_days * 86_400_000 if expires_in_days else None)
    )
    stored = _existing_store().change(key_id, now, changes, by_operator("key.change"), until)
    _show_key(None, stored, as_json=as_json)


@keys_cli.command("rotate")
def rotate_key(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it")],
    overlap_seconds: Annotated[
        int, typer.Option(min=0, max=2_592_000, help="How long the old one goes on")
    ] = 86_400,
    as_json: AsJson = False,
) -> None:
    """Give a caller a new key, under the same id. It is shown this once; the old one goes on for a
    while.
    """
    from app.clock import now_ms

    key, stored = _existing_store().rotate(key_id, now_ms(), overlap_seconds * 1000)
    _show_key(key, stored, as_json=as_json)


@keys_cli.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it")],
) -> None:
    """Make a key unusable, in every process, within a second."""
    from app.clock import now_ms

    _existing_store().revoke(key_id, now_ms())
    typer.echo(f"{key_id} is revoked.")


ItemIds = Annotated[
    list[str] | None, typer.Argument(help="Their ids; none: all that the options choose")
]
Action = Annotated[str | None, typer.Option(help="Only of this action, as track")]
OfStatus = Annotated[str | None, typer.Option("--status", help="Only rejected, expired or unknown")]
Since = Annotated[str | None, typer.Option(help="Only those of this time (RFC 3339) or later")]
Until = Annotated[str | None, typer.Option(help="Only those from before this time")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell how many there are")]
OfApp = Annotated[str | None, typer.Option("--app", help="Only of this app")]
All = Annotated[
    bool, typer.Option("--all", help="Every one that the options choose, though no ids are given")
]


@dead_letters_cli.command("list")
def list_dead_letters(
    action: Action = None,
    status: OfStatus = None,
    since: Since = None,
    until: Until = None,
    app: OfApp = None,
    as_json: AsJson = False,
) -> None:
    """Those that there are, oldest first; never what is in them."""
    from app.cli import dead_letters

    found = dead_letters.listed(
        _settings(), app, dead_letters.chosen(None, action, status, since, until)
    )
    if as_json:
        _echo_list(found)
        return
    for receipt in found:
        told = [receipt[name] for name in ("app", "id", "status", "action", "settledAt")]
        said = receipt.get("leanplum", "what Leanplum said can't be decrypted: its key is missing")
        typer.echo("  ".join([*told, str(said)]))


def _echo_list(rows: Iterable[Any]) -> None:
    """Print one JSON document, a list, row by row: there may be more rows than fit into memory.

    Nothing is printed before the first row is there, or it is known that there is none.
    """
    before = "["
    for row in rows:
        typer.echo(f"{before}\n{json.dumps(row)}", nl=False)
        before = ","
    typer.echo("[]" if before == "[" else "\n]")


@dead_letters_cli.command("replay")
def replay_dead_letters(
    item_ids: ItemIds = None,
    action: Action = None,
    status: OfStatus = None,
    since: Since = None,
    until: Until = None,
    app: OfApp = None,
    every: All = False,
    dry_run: DryRun = False,
) -> None:
    """Send them again, before what their users have waiting."""
    from app.cli import dead_letters

    which = dead_letters.chosen(item_ids, action, status, since, until, every=every)
    if dry_run:
        _tell_count(dead_letters.counted(_settings(), app, which), "would be sent again")
    else:
        _tell_count(dead_letters.act(_settings(), "replay", app, which), "are sent again")


@dead_letters_cli.command("discard")
def discard_dead_letters(
    item_ids: ItemIds = None,
    action: Action = None,
    status: OfStatus = None,
    since: Since = None,
    until: Until = None,
    app: OfApp = None,
    every: All = False,
    dry_run: DryRun = False,
) -> None:
    """Give them up for good. Their receipts stay as long as other receipts do."""
    from app.cli import dead_letters

    which = dead_letters.chosen(item_ids, action, status, since, until, every=every)
    if dry_run:
        _tell_count(dead_letters.counted(_settings(), app, which), "would be discarded")
    else:
        _tell_count(dead_letters.act(_settings(), "discard", app, which), "are discarded")


def _tell_count(count: int, done: str) -> None:
    """Say how many; end with 1 where there were none."""
    typer.echo(f"{count} {done}.")
    if not count:
        raise typer.Exit(1)


Key = Annotated[
    str | None, typer.Option("--public-key", help="The key, as `audit public-key` shows it")
]
Kept = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoint", help="A checkpoint kept outside: the note, or a file; several times"
    ),
]
Known = Annotated[
    list[str] | None,
    typer.Option(
        help="A record, or two as in 12-30, known to be gone since before it was sealed; several times"
    ),
]


@audit_cli.command("verify")
def verify_audit(
    export: Annotated[
        Path | None, typer.Option(help="Of this export, not of the database; needs no settings")
    ] = None,
    public_key: Key = None,
    checkpoint: Kept = None,
    acknowledge: Known = None,
    as_json: AsJson = False,
) -> None:
    """Find what was changed, removed, inserted, reordered or cut off, and name it. Ends with 1
    where something was.
    """
    from app.cli import audit

    kept, known = checkpoint or [], audit.ranges(acknowledge or [])
    if export is not None:
        report = audit.verify_export(export, public_key, kept)
    else:
        report = audit.verify_database(_settings(), public_key, kept)
    report.acknowledge(known)
    if as_json:
        told = {"findings": [one._asdict() for one in report.findings], **report.counts}
        known_of = {
            "acknowledged": [one._asdict() for one in report.acknowledged],
            "unchecked": report.unchecked,
        }
        typer.echo(
            json.dumps(told | known_of | {"part": report.part, "marksLookedAt": report.marked})
        )
    else:
        for line in audit.told(report):
            typer.echo(line)
    if report.findings:
        raise typer.Exit(1)


@audit_cli.command("export")
def export_audit(
    file: Annotated[
        Path | None, typer.Argument(help="Where to write it; default: the standard output")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only records of this time (RFC 3339) or later")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only records from before this time")] = None,
) -> None:
    """Write the records as JSON Lines, with what `audit verify --export` needs to verify them
    elsewhere.
    """
    from app.cli import audit

    audit.export(_settings(), since, until, file)
    if file is not None:
        typer.echo(f"{file} is written.")


@audit_cli.command("adopt")
def adopt_records(
    rows: Annotated[
        bool, typer.Option("--rows", help="Caller keys and erasures as they are now, instead")
    ] = False,
) -> None:
    """Once, after an update from before there were marks, where `audit.not_sealed` asks for it:
    mark what lies there unsealed and unmarked. You vouch for it. With `--rows`: take caller keys
    and erasures as they are now.
    """
    from app.audit import adopting

    if rows:
        count = adopting.adopt_rows(_settings(), typer.echo)
        typer.echo(
            "You vouch for the rows as they are." if count else "Nothing is wrong with the rows."
        )
        return
    count = adopting.adopt(_settings(), typer.echo)
    typer.echo(
        f"{count} are marked, and the gateway seals them now." if count else "None lacks a mark."
    )


@audit_cli.command("key")
def move_audit_key(
    move: Annotated[
        bool,
        typer.Option("--move", help="Out of the database, into GATEWAY_AUDIT_KEY; run it twice"),
    ],
) -> None:
    """Move the key that the database keeps into the setting: first it is shown; once the setting
    has it, it is removed from the database.
    """
    from app.audit.checkpoints import encoded
    from app.cli import audit

    seed, left = audit.move_key(_settings())
    if left:
        typer.echo(
            f"GATEWAY_AUDIT_KEY has the key, but it may still lie in the database's files: {left}.",
            err=True,
        )
        raise typer.Exit(1)
    if seed is None:
        typer.echo(
            "GATEWAY_AUDIT_KEY has the key, and the database keeps it no more. Backups made before still do."
        )
        return
    typer.echo(encoded(seed))
    typer.echo(
        "Set GATEWAY_AUDIT_KEY to this, secret as it is, for every process; then run this again with it set, "
        "which removes it from the database.",
        err=True,
    )


@audit_cli.command("public-key")
def show_public_key() -> None:
    """Show what checkpoints are verified with. Keep it where whoever can change the database
    can't.
    """
    from app.cli import audit

    typer.echo(audit.public_key(_settings()).text)


def _store() -> Any:
    from app.database.engine import connect

    return _store_on(connect)


def _existing_store() -> Any:
    """For what changes a key that there is: it makes no database."""
    from app.database.engine import connect_existing

    return _store_on(connect_existing)


def _store_on(connect: Callable[[str], Any]) -> Any:
    from app.audit import signing_keys as keys
    from app.callers.store import KeyStore

    settings = _settings()
    engine = connect(settings.gateway_database_url)
    return KeyStore(engine, keys.to_write(engine, settings.audit_seed).marks)


def main() -> None:
    """Run a command. What refuses the start is told in a line for each reason, never by a
    traceback.
    """
    process_limits.without_dumps()
    try:
        cli(standalone_mode=True)
    except StartRefused as refused:
        sys.stderr.writelines(f"leanplum-gateway: {line}\n" for line in refused.lines)
        sys.exit(2)
    except GatewayError as error:
        sys.stderr.write(f"leanplum-gateway: {error.detail}\n")
        sys.exit(1)
