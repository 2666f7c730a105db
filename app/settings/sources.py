"""Where settings stand: the environment, then `.env`, then the files of a secrets directory.

An empty value, or white space alone, means unset, so the next source is asked. Values are checked
for what is easily added by mistake: quotes, and white space around a secret.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from app.errors import StartRefused

DEFAULT_SECRETS_DIR = "/run/secrets"
SECRETS_DIR = "GATEWAY_SECRETS_DIR"
ENV_FILE = ".env"
ENVIRONMENT, IN_ENV_FILE, IN_SECRETS_DIR, DEFAULT = (
    "environment",
    ".env file",
    "secrets directory",
    "default",
)
PREFIXES = ("gateway_", "leanplum_")
QUOTES = "\"'`\u201c\u201d\u2018\u2019"
UNSEEN = "\ufeff\u200b"  # white space that `str.strip` leaves
# What Kubernetes puts into the environment of each container for a service named gateway…,
# leanplum…
SERVICE_LINK = re.compile(
    r"(GATEWAY|LEANPLUM)(_\w+)?_"
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
SERVICE_PORT = re.compile(r"(GATEWAY|LEANPLUM)(_\w+)?_PORT")  # where its value is such a URL
SERVICE_URL = re.compile(r"(tcp|udp|sctp)://\S+", re.IGNORECASE)
MOST_SUGGESTIONS = 3
CLOSE = 0.75  # how alike two names are before one is suggested for the other


class Unreadable(ValueError):
    """A file can't be read; its text names the file and says why."""


@dataclass(frozen=True, slots=True)
class Given:
    """One setting's text, and where it stands."""

    value: str
    source: str
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name that looks like a setting's and is none."""

    name: str
    source: str
    suggestions: tuple[str, ...] = ()

    def line(self) -> str:
        """Say so in a line."""
        hint = f"; did you mean {' or '.join(self.suggestions)}?" if self.suggestions else ""
        return f"{self.name}: no setting has this name ({self.source}){hint}"


@dataclass(frozen=True, slots=True)
class Read:
    """The content of the sources: settings by field name, and names that are none."""

    given: Mapping[str, Given]
    unknown: tuple[Unknown, ...] = ()
    service_links: tuple[str, ...] = ()

    def notices(self, referenced: Collection[str]) -> Iterator[str]:
        """Return a line for each name that was ignored; `referenced` are named by the apps file."""
        if self.service_links:
            names = ", ".join(self.service_links)
            yield f"ignored, since they are Kubernetes' service links (enableServiceLinks: false omits them): {names}"
        for one in self.unknown:
            if one.name not in referenced:
                yield one.line()


def read(names: Collection[str], secret: Collection[str], environ: Mapping[str, str]) -> Read:
    """Read the settings of these names, of which some are `secret`.

    Raises StartRefused with a line for each that can't be read as it stands.
    """
    env_file = _env_file()
    links = [name for name, value in environ.items() if is_service_link(name, value)]
    variables = _by_field({name: value for name, value in environ.items() if name not in links})
    directory = secrets_dir(environ, env_file)
    files = _files(directory)
    given, faults = dict[str, Given](), list[str]()
    for name in names:
        try:
            found = _given(name, variables, _by_field(env_file), files)
        except Unreadable as error:
            faults.append(f"{name.upper()}: {error}")
            continue
        if found is not None:
            fault = fault_of(found.value, secret=name in secret)
            if fault is not None:
                faults.append(f"{name.upper()}: its value {_where(found)} {fault}")
            given[name] = (
                found if name in secret else Given(_stripped(found.value), found.source, found.path)
            )
    if faults:
        raise StartRefused(*faults)
    unknown = (
        _unknown(name, source, names)
        for source, found_names in (
            (ENVIRONMENT, _set(variables)),
            (IN_ENV_FILE, _set(_by_field(env_file))),
            (IN_SECRETS_DIR, sorted(files)),
        )
        for name in found_names
        if name.startswith(PREFIXES) and name not in names and name != SECRETS_DIR.lower()
    )
    return Read(given, tuple(unknown), tuple(sorted(links)))


def is_service_link(name: str, value: str) -> bool:
    """Tell whether Kubernetes put a variable into the environment, for a service of that name."""
    if SERVICE_LINK.fullmatch(name) is not None:
        return True
    return SERVICE_PORT.fullmatch(name) is not None and SERVICE_URL.fullmatch(value) is not None


def is_empty(value: str) -> bool:
    """Tell whether a value counts as unset."""
    return not _stripped(value)


def fault_of(value: str, *, secret: bool) -> str | None:
    """Return what is wrong around a value, None where nothing is."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return "is not UTF-8 text"
    inner = _stripped(value)
    both = len(inner) > 1 and inner[0] in QUOTES and inner[-1] in QUOTES
    # In a URL a quote may be the last character of a parameter.
    either = "://" not in inner and any(mark in QUOTES for mark in (inner[:1], inner[-1:]) if mark)
    if both or (secret and either):
        return "has quotes around it, which docker's --env-file and Kubernetes take as part of it: remove them"
    if secret and inner != value:
        return "has white space around it, which would be taken as part of it: remove it"
    return None


def secrets_dir(environ: Mapping[str, str], env_file: Mapping[str, str | None]) -> Path | None:
    """Return the directory whose files are settings: a file's name is the variable, its content the
    value.
    """
    named = _stripped(environ.get(SECRETS_DIR, "")) or _stripped(env_file.get(SECRETS_DIR) or "")
    if named and not Path(named).is_dir():
        raise StartRefused(f"{SECRETS_DIR}: {named} is not a directory")
    if not named and not Path(DEFAULT_SECRETS_DIR).is_dir():
        return None
    return Path(named or DEFAULT_SECRETS_DIR)


def read_secret(path: Path) -> str:
    """Return a secret file's text without the newline at its end. Raises Unreadable."""
    try:
        return path.read_text(encoding="utf-8-sig").rstrip("\r\n")
    except OSError as error:
        raise Unreadable(f"the file {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unreadable(f"the file {path} is not UTF-8 text; save it as UTF-8") from None


def _env_file() -> dict[str, str | None]:
    path = Path(ENV_FILE)
    try:
        return dotenv_values(path, encoding="utf-8-sig") if path.is_file() else {}
    except OSError as error:
        raise StartRefused(f"{ENV_FILE}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StartRefused(f"{ENV_FILE}: is not UTF-8 text; save it as UTF-8") from None


def _files(directory: Path | None) -> dict[str, Path]:
    if directory is None:
        return {}
    try:
        return {path.name.lower(): path for path in sorted(directory.iterdir(), reverse=True)}
    except OSError as error:
        raise StartRefused(f"{SECRETS_DIR}: {directory} can't be read: {error.strerror}") from None


def _by_field(variables: Mapping[str, str | None]) -> dict[str, str]:
    """Return the values by field name; of two spellings the one in capitals wins."""
    return {name.lower(): variables[name] or "" for name in sorted(variables, reverse=True)}


def _set(variables: Mapping[str, str]) -> list[str]:
    return sorted(name for name, value in variables.items() if not is_empty(value))


def _given(
    name: str, variables: Mapping[str, str], env_file: Mapping[str, str], files: Mapping[str, Path]
) -> Given | None:
    """Return what stands in the first source that has it. Raises Unreadable."""
    if not is_empty(variables.get(name, "")):
        return Given(variables[name], ENVIRONMENT)
    if not is_empty(env_file.get(name, "")):
        return Given(env_file[name], IN_ENV_FILE, Path(ENV_FILE).absolute())
    path = files.get(name)
    text = "" if path is None else read_secret(path)
    return None if is_empty(text) else Given(text, IN_SECRETS_DIR, path)


def _where(given: Given) -> str:
    return "in the environment" if given.path is None else f"in {given.path}"


def _unknown(name: str, source: str, names: Collection[str]) -> Unknown:
    meant = _meant(name, [*names, SECRETS_DIR.lower()])
    return Unknown(name.upper(), source, tuple(one.upper() for one in meant[:MOST_SUGGESTIONS]))


def _meant(name: str, names: Sequence[str]) -> list[str]:
    """Return the names that were probably meant: those that go on where this one ends, else those
    that have all of its words, else the one that is spelt most alike."""
    words = {word for word in name.split("_") if word}
    if len(words) > 1:
        longer = [one for one in names if one.startswith(f"{name}_")]
        if longer := longer or [one for one in names if words <= set(one.split("_"))]:
            return longer
    return difflib.get_close_matches(name, names, 1, CLOSE)


def _stripped(value: str) -> str:
    while value != (shorter := value.strip().strip(UNSEEN)):
        value = shorter
    return value
