"""Parts that the commands share: settings, the database, and options.

Commands import what they need when they run, so that `--help` stays fast.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from app.cli.output import print_notice
from app.errors import StartRefused

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from app.settings import Settings

ForApp = Annotated[str, typer.Option("--app", help="The app")]


def load_settings(*, logged: bool = False, **overrides: Any) -> "Settings":
    """Load the settings and configure the log; `overrides` that are not None win.

    Warnings about unknown names go to standard error or, with `logged`, to the log of a process
    that keeps running. That log goes to standard output; those of other commands do not, since
    their results do.
    """
    import structlog

    from app.apps import referenced_names
    from app.settings import build, read
    from app.telemetry import configure_logging

    found = read()
    settings = build(found, **given(**overrides))
    file = sys.stdout if logged else sys.stderr
    configure_logging(settings.gateway_log_level, settings.gateway_log_format, file)
    for line in found.notices(referenced_names(settings.gateway_apps_file)):
        if logged:
            structlog.get_logger("settings").warning("settings.ignored", reason=line)
        else:
            print_notice(line)
    return settings


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def read_only(settings: "Settings") -> "Iterator[Connection]":
    """Open the database for reading. Raises StartRefused if it has no newest schema."""
    from app.database.engine import reading

    with engine_to_read(settings) as engine, reading(engine) as connection:
        yield connection


@contextmanager
def engine_to_read(settings: "Settings") -> "Iterator[Engine]":
    """Open an engine for reading; afterwards no file of its own is left."""
    from app.database.engine import connect_to_read

    engine = connect_to_read(settings.gateway_database_url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def engine_to_write(settings: "Settings", *, make_database: bool = False) -> "Iterator[Engine]":
    """Open an engine for changes. Without `make_database`, the database must exist already."""
    from app.database.engine import connect, connect_existing

    open_engine = connect if make_database else connect_existing
    engine = open_engine(settings.gateway_database_url)
    try:
        yield engine
    finally:
        engine.dispose()


def configured_apps(settings: "Settings") -> list[str]:
    """Return the apps of the settings; none where the command is run without their keys."""
    from app.apps import read_apps

    if settings.leanplum_app_id is None and settings.gateway_apps_file is None:
        return []
    return list(read_apps(settings))


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
