"""The settings: one immutable value, built once from the environment and files."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import SecretStr, ValidationError

from app import urls
from app.errors import StartRefused
from app.settings import sources
from app.settings.schema import Settings

__all__ = ["Settings", "build", "load", "read", "table"]

# Settings that are URLs, which may contain a password
URL_SETTINGS = {
    "gateway_database_url",
    "gateway_shared_limits_url",
    "gateway_upstream_proxy",
    "leanplum_api_url",
}
SECRET_SETTINGS = URL_SETTINGS | {
    name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)
}


def load(environ: Mapping[str, str] = os.environ, **overrides: Any) -> Settings:
    """Read all sources and build the settings; `overrides` (by field name) win.

    Raises StartRefused with one line for each invalid setting.
    """
    return build(read(environ), **overrides)


def read(environ: Mapping[str, str] = os.environ) -> sources.Read:
    """Read every source of settings. Raises StartRefused with a line for each unreadable one."""
    return sources.read(Settings.model_fields, SECRET_SETTINGS, environ)


def build(found: sources.Read, **overrides: Any) -> Settings:
    """Build the settings from what was read; `overrides` win. Raises StartRefused like `load`."""
    values: dict[str, Any] = {name: given.value for name, given in found.given.items()}
    try:
        return Settings(**values | overrides)
    except ValidationError as error:
        raise StartRefused(*_lines(error)) from None


def _lines(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_input=False, include_url=False):
        name = str(fault["loc"][0]) if fault["loc"] else ""
        field = Settings.model_fields.get(name)
        meaning = f" ({field.description})" if field else ""
        yield f"{name.upper()}: {fault['msg'].removeprefix('Value error, ')}{meaning}"


def table(settings: Settings, found: sources.Read) -> Iterator[dict[str, str]]:
    """Yield the variable, value and source of each setting; secrets are masked."""
    for name in Settings.model_fields:
        given = found.given.get(name)
        row = {
            "name": name.upper(),
            "value": _shown(name, getattr(settings, name)),
            "source": sources.DEFAULT if given is None else given.source,
        }
        if given is not None and given.path is not None:
            row["path"] = str(given.path)
        yield row


def _shown(name: str, value: object) -> str:
    """Return the value as text; of a URL only the password is masked, secrets mask themselves."""
    if value is None:
        return "-"
    if name not in URL_SETTINGS:
        return str(value)
    url = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return urls.mask_url(url)
