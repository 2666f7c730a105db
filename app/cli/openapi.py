"""The command `openapi`, which writes the OpenAPI document."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.errors import StartRefused

Directory = Annotated[Path, typer.Argument(help="The directory for openapi.json")]
Check = Annotated[
    bool, typer.Option("--check", help="Only check that the file is up to date; exit with 2 if not")
]


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command()(openapi)


def openapi(directory: Directory = Path("openapi"), check: Check = False) -> None:
    """Write the OpenAPI document of the gateway."""
    from app.server.application import create_app
    from app.settings import Settings

    path = directory / "openapi.json"
    document = create_app(Settings()).openapi()
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if check:
        if not path.exists() or path.read_text() != text:
            raise StartRefused(f"{path} is not up to date: run python -m app openapi")
        return
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
