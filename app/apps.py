"""The Leanplum apps: one is configured by variables, more by a file.

The file is read again every second, so a change needs no restart.
"""

import asyncio
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import structlog
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from app.errors import StartRefused
from app.leanplum.actions import RELAYABLE, validate_extra_action
from app.model import APP_NAME, App, KeyKind
from app.settings import Settings
from app.settings.sources import UnreadableSecret, fault_of, is_empty, read_secret
from app.settings.validators import RELAYED_TAKES, UpstreamUrl
from app.telemetry import describe

REFRESH_SECONDS = 1.0
DEFAULT = "default"  # the name of the app that the variables configure
FILE = "GATEWAY_APPS_FILE"
Name = Annotated[str, Field(pattern=APP_NAME)]
Key = Annotated[SecretStr, Field(min_length=1)]
Rate = Annotated[int, Field(gt=0)]


def _relayable(name: str) -> str:
    if name not in RELAYABLE:
        raise ValueError(f"{name} can't be relayed; {RELAYED_TAKES}")
    return name


Relayable = Annotated[str, AfterValidator(_relayable)]
Extra = Annotated[str, AfterValidator(validate_extra_action)]

log = structlog.get_logger("apps")


class _Entry(BaseModel):
    """One `[apps.NAME]` table, with its references followed."""

    model_config = ConfigDict(extra="forbid")
    app_id: Annotated[str, Field(min_length=1)]
    production_key: Key
    development_key: Key | None = None
    data_export_key: Key | None = None
    content_read_only_key: Key | None = None
    api_url: UpstreamUrl | None = None
    rate_per_second: Rate | None = None
    rate_burst: Rate | None = None
    sdk_relayed_actions: list[Relayable] | None = None
    sdk_extra_actions: list[Extra] | None = None

    @model_validator(mode="after")
    def _burst_of_a_rate(self) -> "_Entry":
        if self.rate_burst is not None and self.rate_per_second is None:
            raise ValueError("rate_burst needs rate_per_second beside it")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    apps: Annotated[dict[Name, _Entry], Field(min_length=1)]


def read_apps(settings: Settings, environ: Mapping[str, str] = os.environ) -> dict[str, App]:
    """Return every configured app, by its name.

    Raises StartRefused, with a line for each thing that is wrong.
    """
    found: dict[str, App] = {}
    if (
        settings.gateway_apps_file is None
        or settings.leanplum_app_id is not None
        or settings.leanplum_keys
    ):
        found[DEFAULT] = _by_variables(settings)
    for app in _in_file(settings, environ):
        if app.name in found:
            raise StartRefused(
                f"{FILE}: apps.{app.name} is configured by LEANPLUM_APP_ID already; unset one of "
                "them"
            )
        found[app.name] = app
    return found


def _by_variables(settings: Settings) -> App:
    missing = [
        f"{name}: is not set; it takes {Settings.model_fields[name.lower()].description}"
        for name in ("LEANPLUM_APP_ID", "LEANPLUM_PRODUCTION_KEY")
        if getattr(settings, name.lower()) is None
    ]
    if missing or settings.leanplum_app_id is None:
        hint = (
            ["To try the gateway without a Leanplum account: serve --sandbox"]
            if len(missing) > 1
            else []
        )
        raise StartRefused(*missing, *hint)
    return App(
        DEFAULT,
        settings.leanplum_app_id,
        settings.leanplum_keys,
        settings.leanplum_api_url,
        sdk_relayed=settings.sdk_relayed,
        sdk_extra=settings.sdk_extra,
    )


def _in_file(settings: Settings, environ: Mapping[str, str]) -> Iterator[App]:
    path = settings.gateway_apps_file
    if path is None:
        return
    faults: list[str] = []
    try:
        raw = _followed(tomllib.loads(path.read_text(encoding="utf-8-sig")), environ, (), faults)
    except OSError as error:
        raise StartRefused(f"{FILE}: {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StartRefused(f"{FILE}: {path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise StartRefused(f"{FILE}: {path} is not TOML: {error}") from None
    raw = _without_empty(raw, (), faults)
    if faults:
        raise StartRefused(*(f"{FILE}: {fault}" for fault in faults))
    try:
        entries = _File.model_validate(raw).apps
    except ValidationError as error:
        lines = []
        for fault in error.errors(include_input=False, include_url=False):
            place = ".".join(map(str, fault["loc"]))
            lines.append(f"{FILE}: {place}: {fault['msg'].removeprefix('Value error, ')}")
        raise StartRefused(*lines) from None
    for name, entry in entries.items():
        keys = {
            kind: key
            for kind in KeyKind
            if (key := getattr(entry, f"{kind.name.lower()}_key")) is not None
        }
        url = entry.api_url or settings.leanplum_api_url
        relayed = settings.sdk_relayed
        if entry.sdk_relayed_actions is not None:
            relayed = frozenset(entry.sdk_relayed_actions)
        extra = settings.sdk_extra
        if entry.sdk_extra_actions is not None:
            extra = frozenset(entry.sdk_extra_actions)
        rates = entry.rate_per_second, entry.rate_burst
        yield App(name, entry.app_id, keys, url, *rates, True, relayed, extra)


def _followed(raw: Any, environ: Mapping[str, str], at: tuple[str, ...], faults: list[str]) -> Any:
    """Return the tables with the values that `{ env = "NAME" }` and `{ file = "/path" }` refer to.

    `faults` gets the references that cannot be resolved.
    """
    if not isinstance(raw, dict):
        return raw
    if at and raw.keys() == {"env"}:
        value = environ.get(str(raw["env"]), "")
        if is_empty(value):
            faults.append(f"{'.'.join(at)}: the variable {raw['env']} is not set")
        return value
    if at and raw.keys() == {"file"}:
        try:
            text = read_secret(Path(str(raw["file"])))
        except ValueError as error:  # its own, or of what is no path
            why = error if isinstance(error, UnreadableSecret) else f"{raw['file']!r} is no path"
            faults.append(f"{'.'.join(at)}: {why}")
            return None
        if is_empty(text):
            faults.append(f"{'.'.join(at)}: the file {raw['file']} is empty")
        return text
    return {name: _followed(value, environ, (*at, name), faults) for name, value in raw.items()}


def _without_empty(raw: Any, at: tuple[str, ...], faults: list[str]) -> Any:
    """Return the tables without their empty values, which mean unset.

    `faults` gets the values that have quotes or white space around them.
    """
    if isinstance(raw, str):
        fault = fault_of(raw, secret=at[-1].endswith("_key"))
        if fault is not None:
            faults.append(f"{'.'.join(at)}: its value {fault}")
        return raw if at[-1].endswith("_key") else raw.strip()
    if not isinstance(raw, dict):
        return raw
    kept = {
        name: value
        for name, value in raw.items()
        if not isinstance(value, str) or not is_empty(value)
    }
    return {name: _without_empty(value, (*at, name), faults) for name, value in kept.items()}


def referenced_names(path: Path | None) -> set[str]:
    """Return the names of the variables and of the files that the apps file refers to.

    The set is empty where the file cannot be read, which `read_apps` reports.
    """
    found = set[str]()
    try:
        _gather("" if path is None else tomllib.loads(path.read_text(encoding="utf-8-sig")), found)
    except (OSError, ValueError):
        return set()
    return found


def _gather(raw: Any, found: set[str]) -> None:
    if not isinstance(raw, dict):
        return
    if raw.keys() in ({"env"}, {"file"}):
        found.update(Path(str(value)).name.upper() for value in raw.values())
    for value in raw.values():
        _gather(value, found)


def _changes(before: Mapping[str, App], after: Mapping[str, App]) -> Iterator[tuple[str, str]]:
    """Yield the name of each app that differs, and how it does."""
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield name, "added"
        elif name not in after:
            yield name, "removed"
        elif before[name] != after[name]:
            yield name, "changed"


def _warn_of_twins(apps: Iterable[App]) -> None:
    """Warn of two names for one Leanplum app.

    Calls for one user are serialized per app name. Under two names of one app they would reach
    Leanplum at the same time, and it locks the user.
    """
    of: dict[tuple[str, str], str] = {}
    for app in apps:
        other = of.setdefault((app.api_url, app.app_id), app.name)
        if other != app.name:
            log.warning(
                "apps.same",
                apps=[other, app.name],
                advice="they have one app_id: give one app one name",
            )


class AppRegistry(Mapping[str, App]):
    """The apps as they are configured now, by name.

    Faults in a changed file are logged, and the apps stay as they were.
    """

    def __init__(self, read: Callable[[], dict[str, App]]) -> None:
        self._read = read
        self.on_change: Callable[[str, str], None] = lambda app, how: None  # for the audit
        self._apps = read()
        self._secrets = {
            key.get_secret_value(): key for app in self._apps.values() for key in app.keys.values()
        }
        self._refused: tuple[str, ...] = ()
        _warn_of_twins(self._apps.values())

    def __getitem__(self, name: str) -> App:
        return self._apps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._apps)

    def __len__(self) -> int:
        return len(self._apps)

    def implied(self, names: frozenset[str] | None) -> App | None:
        """Return the only app of a key for these names (None: for every app), if there is one."""
        if names is None:
            return next(iter(self._apps.values())) if len(self._apps) == 1 else None
        return self._apps.get(next(iter(names))) if len(names) == 1 else None

    @property
    def refused(self) -> bool:
        """True when the last version of the apps file was refused."""
        return bool(self._refused)

    def secrets(self) -> Iterable[SecretStr]:
        """Return every key in use since the start: a response may still echo an old one."""
        return self._secrets.values()

    def refresh(self) -> None:
        """Read the apps again."""
        try:
            found = self._read()
        except StartRefused as refused:
            if refused.lines != self._refused:
                log.error("apps.refused", lines=refused.lines, kept=sorted(self._apps))
            self._refused = refused.lines
            return
        self._refused = ()
        if found != self._apps:
            before, self._apps = self._apps, found
            self._secrets |= {
                key.get_secret_value(): key for app in found.values() for key in app.keys.values()
            }
            log.info("apps.changed", apps=sorted(found))
            _warn_of_twins(found.values())
            for name, how in _changes(before, found):
                self.on_change(name, how)

    async def run(self) -> None:
        """Read the apps again every second, until cancelled.

        Contents are compared, not time stamps: a mounted secret is replaced by means of a link, and
        a file that is referred to has a time stamp of its own.
        """
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                self.refresh()
            except Exception as error:
                # the outermost place: a reader that ended would keep an old key for good
                log.error("apps.unreadable", **describe(error))
