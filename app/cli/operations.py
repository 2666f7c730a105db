"""The commands about the installation: `check`, `migrate`, `settings` and `openapi`."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.common import AsJson, load_settings
from app.errors import StartRefused
from app.settings import Settings, read, table

if TYPE_CHECKING:
    from app.model import App, KeyKind
    from app.relay.key_checks import KeyCheck

Directory = Annotated[Path, typer.Argument(help="The directory for openapi.json")]
Check = Annotated[
    bool, typer.Option("--check", help="Only check that the file is up to date; exit with 2 if not")
]


def register(cli: typer.Typer) -> None:
    """Add the commands."""
    cli.command()(check)
    cli.command()(migrate)
    cli.command("settings")(show_settings)
    cli.command()(openapi)


def check() -> None:
    """Ask Leanplum whether it accepts each configured key.

    No user is affected. Exits with 1 if a key is not accepted.
    """
    checked = [
        (app.setting(kind), result)
        for app, results in _check_keys(load_settings())
        for kind, result in results.items()
    ]
    for name, result in checked:
        detail = f"  {result.detail}" if result.detail else ""
        typer.echo(f"{name:<34} {_verdict(result)}{detail}")
    if not all(result.accepted for _, result in checked if result.configured):
        raise typer.Exit(1)


def _check_keys(settings: Settings) -> "list[tuple[App, dict[KeyKind, KeyCheck]]]":
    """Return what Leanplum says of each key of each app.

    Raises StartRefused if no app is configured, or the enrichment file is invalid.
    """
    from app.apps import AppRegistry, read_apps
    from app.enrichment import service
    from app.leanplum.client import LeanplumClient
    from app.relay import key_checks

    service.check_files(settings.gateway_enrichment_file, settings.gateway_maxmind_file)
    apps = AppRegistry(lambda: read_apps(settings))

    async def check_all() -> "list[tuple[App, dict[KeyKind, KeyCheck]]]":
        async with LeanplumClient(
            timeout=settings.gateway_upstream_timeout_seconds,
            connections=1,
            secrets=apps.secrets,
            route=settings.route,
        ) as client:
            return [(app, await key_checks.check(client, app)) for app in apps.values()]

    return asyncio.run(check_all())


def _verdict(result: "KeyCheck") -> str:
    if not result.configured:
        return "not set"
    return {True: "accepted", False: "refused", None: "not known"}[result.accepted]


def migrate() -> None:
    """Migrate the database to the newest schema."""
    from app.database.engine import connect

    connect(load_settings().gateway_database_url).dispose()
    typer.echo("The database has the newest schema.")


def show_settings(as_json: AsJson = False) -> None:
    """Show every setting with its value (secrets masked) and its source."""
    rows = list(table(load_settings(), read()))
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        line = f"{row['name']:<{width}}  {row['value']}  ({row['source']}) {row.get('path', '')}"
        typer.echo(line.rstrip())


def openapi(directory: Directory = Path("openapi"), check: Check = False) -> None:
    """Write the OpenAPI document of the gateway."""
    from app.server.application import create_app

    path = directory / "openapi.json"
    document = create_app(Settings()).openapi()
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if check:
        if not path.exists() or path.read_text() != text:
            raise StartRefused(f"{path} is not up to date: run python -m app openapi")
        return
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
