"""The commands about the installation: `check`, `migrate`, `settings` and `openapi`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.common import engine_to_write, load_settings
from app.cli.output import AsJson, print_json, print_rows, print_text
from app.cli.progress import Advance, progress
from app.errors import CheckFailed, StartRefused

if TYPE_CHECKING:
    from app.apps import AppRegistry
    from app.settings import Settings

Directory = Annotated[Path, typer.Argument(help="The directory for openapi.json")]
Check = Annotated[
    bool, typer.Option("--check", help="Only check that the file is up to date; exit with 1 if not")
]
Docs = Annotated[
    bool, typer.Option("--docs", help="Write docs/settings.md and .env.example instead")
]
DocsCheck = Annotated[
    bool, typer.Option("--check", help="With --docs: only check that the files are up to date")
]
SETTINGS_PAGE, ENV_EXAMPLE = Path("docs/settings.md"), Path(".env.example")


def register(cli: typer.Typer) -> None:
    """Add the commands."""
    cli.command()(check)
    cli.command()(migrate)
    cli.command("settings")(show_settings)
    cli.command()(openapi)


def check(as_json: AsJson = False) -> None:
    """Ask Leanplum whether it accepts the configured keys.

    No user is affected. Exits with 1 if a key is not accepted.
    """
    checks = _check_keys(load_settings())
    header = ("APP", "SETTING", "RESULT", "DETAIL")
    print_rows(checks, header, _check_row, as_json=as_json, empty="No keys are configured.")
    if not all(checked["accepted"] for checked in checks if checked["configured"]):
        raise typer.Exit(1)


def _check_keys(settings: "Settings") -> list[dict[str, Any]]:
    """Return what Leanplum says of each key of each app.

    Raises StartRefused if no app is configured, or the enrichment file is invalid.
    """
    from app.apps import AppRegistry, read_apps
    from app.enrichment import service

    service.check_files(settings.gateway_enrichment_file, settings.gateway_maxmind_file)
    apps = AppRegistry(lambda: read_apps(settings))
    with progress("Asking Leanplum about the keys of each app", total=len(apps)) as advance:
        return asyncio.run(_ask_leanplum(settings, apps, advance))


async def _ask_leanplum(
    settings: "Settings", apps: "AppRegistry", advance: Advance
) -> list[dict[str, Any]]:
    from app.leanplum.client import LeanplumClient
    from app.relay import key_checks

    documents = []
    async with LeanplumClient(
        timeout=settings.gateway_upstream_timeout_seconds,
        connections=1,
        secrets=apps.secrets,
        route=settings.route,
    ) as client:
        for app in apps.values():
            for kind, result in (await key_checks.check(client, app)).items():
                found = {"app": app.name, "kind": kind, "setting": app.setting(kind)}
                documents.append(found | result._asdict())
            advance(1)
    return documents


def _check_row(document: dict[str, Any]) -> tuple[str, ...]:
    if not document["configured"]:
        result = "not set"
    else:
        results = {True: "accepted", False: "refused", None: "not known"}
        result = results[document["accepted"]]
    return document["app"], document["setting"], result, document["detail"] or "-"


def migrate(as_json: AsJson = False) -> None:
    """Create the database, or migrate it to the newest schema."""
    from app.database.engine import schema_version

    settings = load_settings()
    with (
        progress("Migrating the database"),
        engine_to_write(settings, make_database=True) as engine,
    ):
        version = schema_version(engine)
    if as_json:
        print_json({"schema": version})
    else:
        print_text(f"The database has the newest schema ({version}).")


def show_settings(docs: Docs = False, check: DocsCheck = False, as_json: AsJson = False) -> None:
    """Show every setting with its source; secrets are masked."""
    from app.settings import read, table

    if docs:
        _write_settings_docs(check=check, as_json=as_json)
        return
    if check:
        raise StartRefused("--check needs --docs")
    rows = table(load_settings(), read())
    header = ("SETTING", "VALUE", "SOURCE", "FILE")
    print_rows(rows, header, _setting_row, as_json=as_json, empty="No settings.")


def _write_settings_docs(*, check: bool, as_json: bool) -> None:
    from app.settings import documentation

    try:
        page = documentation.page(SETTINGS_PAGE.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unusable(SETTINGS_PAGE, error) from None
    except ValueError as error:
        raise StartRefused(f"{SETTINGS_PAGE}: {error}") from None
    texts = {SETTINGS_PAGE: page, ENV_EXAMPLE: documentation.env_example()}
    _write_generated(texts, "settings --docs", check=check, as_json=as_json)


def _setting_row(row: dict[str, str]) -> tuple[str, ...]:
    return row["name"], row["value"], row["source"], row.get("path", "-")


def openapi(
    directory: Directory = Path("openapi"), check: Check = False, as_json: AsJson = False
) -> None:
    """Write the OpenAPI document of the gateway."""
    from app.server.application import create_app
    from app.server.openapi.text import render
    from app.settings import Settings

    texts = {directory / "openapi.json": render(create_app(Settings()).openapi())}
    _write_generated(texts, "openapi", check=check, as_json=as_json)


def _write_generated(texts: dict[Path, str], command: str, *, check: bool, as_json: bool) -> None:
    """Write the files that are not up to date, or with `check` only report them.

    Raises CheckFailed if `check` finds one, StartRefused if a file cannot be used.
    """
    stale = [path for path, text in texts.items() if not _is_current(path, text)]
    if not check:
        for path in stale:
            _write(path, texts[path])
    if as_json:
        documents = [{"path": str(path), "changed": path in stale} for path in texts]
        print_json(documents if len(documents) > 1 else documents[0])
    else:
        for path in texts:
            _print_result(path, is_stale=path in stale, check=check)
    if check and stale:
        names = " and ".join(map(str, stale))
        verb = "is" if len(stale) == 1 else "are"
        raise CheckFailed(f"{names} {verb} not up to date: run python -m app {command}")


def _print_result(path: Path, *, is_stale: bool, check: bool) -> None:
    if not is_stale:
        print_text(f"{path} is up to date.")
    elif not check:
        print_text(f"{path} is written.")


def _is_current(path: Path, text: str) -> bool:
    try:
        return path.exists() and path.read_text(encoding="utf-8") == text
    except OSError as error:
        raise _unusable(path, error) from None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> StartRefused:
    return StartRefused(f"{path}: can't be used: {error.strerror}")
