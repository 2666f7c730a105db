"""The sources of settings: the environment, then `.env`, then the files of a secrets directory.

An empty value, or one of white space only, counts as unset, so the next source is used. Values are
checked for common mistakes: quotes, and white space around a secret.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
INVISIBLE = "\ufeff\u200b"  # white space that `str.strip` does not remove
# The variables that Kubernetes sets in each container for a service named gateway… or leanplum…
SERVICE_LINK = re.compile(
    r"(GATEWAY|LEANPLUM)(_\w+)?_"
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
SERVICE_PORT = re.compile(r"(GATEWAY|LEANPLUM)(_\w+)?_PORT")  # a service link if it is such a URL:
SERVICE_URL = re.compile(r"(tcp|udp|sctp)://\S+", re.IGNORECASE)
MOST_SUGGESTIONS = 3
SIMILARITY = 0.75  # from which on one name is suggested for another
QUOTED = (
    "has quotes around it, which docker's --env-file and Kubernetes take as part of the value: "
    "remove them"
)
PADDED = "has white space around it, which would be taken as part of the value: remove it"


class UnreadableSecret(ValueError):
    """A secret file cannot be read; the text names the file and the reason."""


@dataclass(frozen=True, slots=True)
class Given:
    """The text of one setting, and the source that it comes from."""

    value: str
    source: str
    path: Path | None = None

    @property
    def place(self) -> str:
        """The place of the value, for error texts."""
        return "in the environment" if self.path is None else f"in {self.path}"


@dataclass(frozen=True, slots=True)
class UnknownName:
    """A name that looks like a setting's name but is not one."""

    name: str
    source: str
    suggestions: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the warning about the name."""
        hint = f"; did you mean {' or '.join(self.suggestions)}?" if self.suggestions else ""
        return f"{self.name}: no setting has this name ({self.source}){hint}"


@dataclass(frozen=True, slots=True)
class Read:
    """The content of the sources: settings by field name, and unknown names."""

    given: Mapping[str, Given]
    unknown: tuple[UnknownName, ...] = ()
    service_links: tuple[str, ...] = ()

    def notices(self, referenced: Collection[str]) -> Iterator[str]:
        """Yield a line for each ignored name, except names that the apps file references."""
        if self.service_links:
            yield (
                "ignored, since they are Kubernetes' service links "
                f"(enableServiceLinks: false omits them): {', '.join(self.service_links)}"
            )
        for unknown in self.unknown:
            if unknown.name not in referenced:
                yield unknown.line()


@dataclass(frozen=True, slots=True)
class _Sources:
    """All sources, by field name: variables, values of the `.env` file, and secret files."""

    variables: Mapping[str, str]
    env_file: Mapping[str, str]
    secret_files: Mapping[str, Path] = field(default_factory=dict)

    def find(self, name: str) -> Given | None:
        """Return the value in the first source that has one. Raises UnreadableSecret."""
        if not is_empty(self.variables.get(name, "")):
            return Given(self.variables[name], ENVIRONMENT)
        if not is_empty(self.env_file.get(name, "")):
            return Given(self.env_file[name], IN_ENV_FILE, Path(ENV_FILE).absolute())
        path = self.secret_files.get(name)
        if path is None:
            return None
        text = read_secret(path)
        return None if is_empty(text) else Given(text, IN_SECRETS_DIR, path)

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield each name that has a value, with its source."""
        for source, values in ((ENVIRONMENT, self.variables), (IN_ENV_FILE, self.env_file)):
            for name in sorted(values):
                if not is_empty(values[name]):
                    yield name, source
        for name in sorted(self.secret_files):
            yield name, IN_SECRETS_DIR


def read(names: Collection[str], secret: Collection[str], environ: Mapping[str, str]) -> Read:
    """Read the settings of these names, some of which are `secret`.

    Raises StartRefused with a line for each setting that cannot be read.
    """
    env_file = _read_env_file()
    links = [name for name, value in environ.items() if is_service_link(name, value)]
    variables = {name: value for name, value in environ.items() if name not in links}
    directory = secrets_dir(environ, env_file)
    sources = _Sources(_by_field(variables), _by_field(env_file), _secret_files(directory))
    given, faults = dict[str, Given](), list[str]()
    for name in names:
        try:
            found = sources.find(name)
        except UnreadableSecret as error:
            faults.append(f"{name.upper()}: {error}")
            continue
        if found is None:
            continue
        fault = fault_of(found.value, secret=name in secret)
        if fault is not None:
            faults.append(f"{name.upper()}: its value {found.place} {fault}")
        if name not in secret:
            found = Given(_strip(found.value), found.source, found.path)
        given[name] = found
    if faults:
        raise StartRefused(*faults)
    known = {*names, SECRETS_DIR.lower()}
    unknown = [
        _unknown_name(name, source, names)
        for name, source in sources.names()
        if name.startswith(PREFIXES) and name not in known
    ]
    return Read(given, tuple(unknown), tuple(sorted(links)))


def is_service_link(name: str, value: str) -> bool:
    """Tell whether Kubernetes set a variable for a service of that name."""
    if SERVICE_LINK.fullmatch(name) is not None:
        return True
    return SERVICE_PORT.fullmatch(name) is not None and SERVICE_URL.fullmatch(value) is not None


def is_empty(value: str) -> bool:
    """Tell whether a value counts as unset."""
    return not _strip(value)


def fault_of(value: str, *, secret: bool) -> str | None:
    """Return the fault of a value that surrounds it or is in its encoding, None without one."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return "is not UTF-8 text"
    inner = _strip(value)
    begins, ends = inner[:1] in tuple(QUOTES), inner[-1:] in tuple(QUOTES)
    if len(inner) > 1 and begins and ends:
        return QUOTED
    # In a URL, a quote may be the last character of a parameter
    if secret and "://" not in inner and (begins or ends):
        return QUOTED
    if secret and inner != value:
        return PADDED
    return None


def secrets_dir(environ: Mapping[str, str], env_file: Mapping[str, str | None]) -> Path | None:
    """Return the directory whose files are settings, None without one.

    The name of a file is the variable, its content the value. Raises StartRefused if
    GATEWAY_SECRETS_DIR is not a directory.
    """
    named = _strip(environ.get(SECRETS_DIR, "")) or _strip(env_file.get(SECRETS_DIR) or "")
    if named and not Path(named).is_dir():
        raise StartRefused(f"{SECRETS_DIR}: {named} is not a directory")
    if not named and not Path(DEFAULT_SECRETS_DIR).is_dir():
        return None
    return Path(named or DEFAULT_SECRETS_DIR)


def read_secret(path: Path) -> str:
    """Return the text of a secret file without the newline at its end. Raises UnreadableSecret."""
    try:
        return path.read_text(encoding="utf-8-sig").rstrip("\r\n")
    except OSError as error:
        raise UnreadableSecret(f"the file {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UnreadableSecret(f"the file {path} is not UTF-8 text; save it as UTF-8") from None


def _read_env_file() -> dict[str, str | None]:
    path = Path(ENV_FILE)
    try:
        return dotenv_values(path, encoding="utf-8-sig") if path.is_file() else {}
    except OSError as error:
        raise StartRefused(f"{ENV_FILE}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StartRefused(f"{ENV_FILE}: is not UTF-8 text; save it as UTF-8") from None


def _secret_files(directory: Path | None) -> dict[str, Path]:
    if directory is None:
        return {}
    try:
        return {path.name.lower(): path for path in sorted(directory.iterdir(), reverse=True)}
    except OSError as error:
        raise StartRefused(f"{SECRETS_DIR}: {directory} can't be read: {error.strerror}") from None


def _by_field(variables: Mapping[str, str | None]) -> dict[str, str]:
    """Return the values by field name; of two spellings, the one in capitals wins."""
    return {name.lower(): variables[name] or "" for name in sorted(variables, reverse=True)}


def _unknown_name(name: str, source: str, names: Collection[str]) -> UnknownName:
    similar = _similar(name, [*names, SECRETS_DIR.lower()])[:MOST_SUGGESTIONS]
    return UnknownName(name.upper(), source, tuple(other.upper() for other in similar))


def _similar(name: str, names: Sequence[str]) -> list[str]:
    """Return the names that were probably meant.

    These are the names that continue this one, or else those that contain all of its words, or
    else the one with the most similar spelling.
    """
    words = {word for word in name.split("_") if word}
    if len(words) > 1:
        longer = [other for other in names if other.startswith(f"{name}_")]
        longer = longer or [other for other in names if words <= set(other.split("_"))]
        if longer:
            return longer
    return difflib.get_close_matches(name, names, 1, SIMILARITY)


def _strip(value: str) -> str:
    while value != (shorter := value.strip().strip(INVISIBLE)):
        value = shorter
    return value
