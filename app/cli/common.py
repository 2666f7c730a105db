"""Parts that the commands share: settings, options, and the forms of output.

Results go to standard output: a table, or one JSON document with `--json`. Everything else goes to
standard error. Commands import what they need when they run, so that `--help` stays fast.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from app.errors import StartRefused
from app.settings import Settings, build, read

if TYPE_CHECKING:
    from sqlalchemy import Connection

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table")]
ForApp = Annotated[str, typer.Option("--app", help="The app")]
PAGE_ROWS = 1_000  # rows of a table that are aligned with each other


def load_settings(*, logged: bool = False, **overrides: Any) -> Settings:
    """Load the settings and configure the log; `overrides` that are not None win.

    Warnings about unknown names go to standard error or, with `logged`, to the log of a process
    that keeps running.
    """
    import structlog

    from app.apps import referenced_names
    from app.telemetry import configure_logging

    found = read()
    settings = build(found, **given(**overrides))
    configure_logging(settings.gateway_log_level, settings.gateway_log_format)
    for line in found.notices(referenced_names(settings.gateway_apps_file)):
        if logged:
            structlog.get_logger("settings").warning("settings.ignored", reason=line)
        else:
            typer.echo(f"leanplum-gateway: {line}", err=True)
    return settings


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def read_only(settings: Settings) -> "Iterator[Connection]":
    """Open the database for reading. Raises StartRefused if it has no newest schema."""
    from app.database.engine import connect_to_read, reading

    engine = connect_to_read(settings.gateway_database_url)
    try:
        with reading(engine) as connection:
            yield connection
    finally:
        engine.dispose()


def milliseconds(option: str, text: str | None) -> int | None:
    """Return the time of an option in milliseconds. Raises StartRefused if it is not a time."""
    from app.leanplum.values import query_time

    try:
        return None if text is None else int(query_time(text) * 1000)
    except ValueError as error:
        raise StartRefused(f"{option}: {error}") from None


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Turn each dataclass parameter of a command into one option for each of its fields.

    Commands that share options declare them once, in a dataclass whose fields are annotated as
    Typer's options are.
    """
    signature = inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = parameter.annotation
        hints = get_type_hints(parameter.annotation, include_extras=True)
        for field in fields(parameter.annotation):
            is_required = field.default is MISSING
            option = inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if is_required else field.default,
                annotation=hints[field.name],
            )
            parameters.append(option)

    @wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    # Typer reads the signature, which mypy does not know.
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    """Print rows below a header: aligned on a terminal, else separated by tabs for scripts.

    If there are no rows, `empty` is printed to standard error instead.
    """
    remaining = iter(rows)
    page = list(islice(remaining, PAGE_ROWS))
    if not page:
        typer.echo(empty, err=True)
        return
    page.insert(0, header)
    while page:
        for line in _aligned(page) if sys.stdout.isatty() else map("\t".join, page):
            typer.echo(line)
        page = list(islice(remaining, PAGE_ROWS))


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def print_json_list(rows: Iterable[Any]) -> None:
    """Print one JSON list row by row: there may be more rows than fit into memory.

    Nothing is printed before the first row is known, or it is known that there is none.
    """
    separator = "["
    for row in rows:
        typer.echo(f"{separator}\n{json.dumps(row)}", nl=False)
        separator = ","
    typer.echo("[]" if separator == "[" else "\n]")
