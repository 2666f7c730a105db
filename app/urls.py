"""Parsing of database URLs and path prefixes, and masking of passwords in URLs.

No error message repeats a part of a URL: if a password is not percent-encoded, any part of the URL
may be a piece of it.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

MASK = "***"
DATABASE_URL_FORMS = (
    "takes sqlite:///PATH (sqlite:////absolute/path) or postgresql://USER:PASSWORD@HOST/DATABASE, "
    "in all of libpq's forms"
)
UNREADABLE = (
    "can't be parsed: the port must be a number, and reserved characters in user name, password "
    "and database must be percent-encoded "
    "(@ is %40, : is %3A, / is %2F, ? is %3F, # is %23, % is %25)"
)
SQLITE = re.compile(r"sqlite(?:\+pysqlite)?:///(?P<path>[^?]*)(?:\?(?P<query>.*))?", re.DOTALL)
POSTGRESQL = re.compile(r"postgres(?:ql)?(?:\+\w+)?://(?P<rest>.*)", re.DOTALL)
IN_MEMORY = {"", ":memory:", "file::memory:"}
# Parameters with one of these words in their names have secret values, except PATHS.
SECRET_WORDS = ("pass", "pwd", "secret", "token", "auth")
PATHS = {"passfile", "require_auth"}
# Characters without a meaning in HTML, scripts and headers, which are never percent-encoded.
SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")
MAX_PREFIX = 256
# With this prefix, /segment/v1/batch would be ambiguous: Segment's path, or that of /v1/batch.
AMBIGUOUS_PREFIX = "/segment"
PREFIX_FORM = (
    "takes a path such as /leanplum, with only A-Z a-z 0-9 . _ ~ - and /, of at most "
    f"{MAX_PREFIX} characters"
)


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    """A SQLite file."""

    path: str
    timeout: float | None = None
    """Seconds to wait for a lock; None for the default."""


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A PostgreSQL database, as libpq's connection parameters."""

    parameters: Mapping[str, str] = field(repr=False)


def parse_database_url(text: str) -> SqliteUrl | PostgresUrl:
    """Parse the URL of a database. Raises ValueError, whose text repeats nothing of the URL."""
    if match := SQLITE.fullmatch(text):
        return _parse_sqlite(match["path"], match["query"])
    if match := POSTGRESQL.fullmatch(text):
        return _parse_postgres(match["rest"])
    raise ValueError(DATABASE_URL_FORMS)


def _parse_sqlite(path: str, query: str | None) -> SqliteUrl:
    timeout = None
    for pair in (query or "").split("&"):
        name, _, value = pair.partition("=")
        if name == "timeout" and re.fullmatch(r"\d{1,4}(\.\d+)?", value):
            timeout = float(value)
        elif pair:
            raise ValueError("takes only timeout=SECONDS after the ? of sqlite:///PATH")
    if unquote(path) in IN_MEMORY:
        raise ValueError(f"names no file; {DATABASE_URL_FORMS}")
    return SqliteUrl(unquote(path), timeout)


def _parse_postgres(rest: str) -> PostgresUrl:
    # Imported here, so that a gateway on SQLite does not load the driver.
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    address, query = _to_libpq_form(rest)
    try:
        conninfo = conninfo_to_dict(f"postgresql://{address}{query}")
    except psycopg.ProgrammingError as error:
        raise ValueError(_describe_error(str(error), query)) from None
    parameters = {name: str(value) for name, value in conninfo.items()}
    ports = parameters.get("port", "").split(",")
    ports_valid = all(port.isdecimal() or not port for port in ports)
    # An unencoded @ or / in a password ends it early, and the rest becomes host or path.
    misread = "/" in address.rpartition("@")[0] or "@" in parameters.get("host", "")
    if misread or not ports_valid:
        raise ValueError(UNREADABLE)
    if not re.fullmatch(r"-?\d+", parameters.get("connect_timeout", "0")):
        raise ValueError("has a connect_timeout that is not a number of seconds")
    if "dbname" not in parameters and "service" not in parameters:
        raise ValueError(f"names no database; {DATABASE_URL_FORMS}")
    return PostgresUrl(parameters)


def _to_libpq_form(rest: str) -> tuple[str, str]:
    """Return the address and the query of a PostgreSQL URL, encoded as libpq requires.

    Spaces must be percent-encoded, and each `=` of a parameter but the first, as in
    `options=-c search_path=x`.
    """
    query_start = _query_start(rest)
    pairs = rest[query_start:].split("&")
    query = "&".join(_encode_pair(*pair.partition("=")) for pair in pairs)
    return rest[:query_start].replace(" ", "%20"), query.replace(" ", "%20")


def _encode_pair(name: str, mark: str, value: str) -> str:
    # SQLAlchemy writes the spaces of options as +.
    if name.lstrip("?") == "options":
        value = re.sub(r"(?<=-c)\+|\+(?=-)", "%20", value)
    return name + mark + value.replace("=", "%3D")


def _query_start(rest: str) -> int:
    """Return the index of the ? that starts the query, not of one in the password."""
    user_end = rest.partition("/")[0].find("@")
    index = rest.find("?", user_end + 1)
    return index if index >= 0 else len(rest)


def _describe_error(message: str, query: str) -> str:
    """Describe an error of libpq, whose own message quotes parts of the URL."""
    if not message.startswith("invalid URI query parameter"):
        return UNREADABLE
    from psycopg import pq

    known = [option.keyword.decode() for option in pq.Conninfo.get_defaults()]
    names = [unquote(pair.partition("=")[0]) for pair in query.lstrip("?").split("&")]
    unknown = [name for name in names if name not in known]
    for name in unknown:
        for match in difflib.get_close_matches(name, known, n=1, cutoff=0.7):
            return f"has an unknown parameter after ?; did you mean {match}?"
    return "has an unknown parameter after ?; those of libpq are allowed"


def mask_url(url: str) -> str:
    """Mask the passwords in a URL, or in `name=value` text as libpq takes it."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return _mask_words(re.sub(r":.*@", f":{MASK}@", url, flags=re.DOTALL))
    if SQLITE.fullmatch(url):
        return url
    user_end = _user_end(url, rest)
    if user_end >= 0:
        user, colon, _ = rest[:user_end].partition(":")
        if colon:
            user = f"{user}:{MASK}"
        elif not POSTGRESQL.fullmatch(url):
            # Except for a database, a user name without a password may be a token.
            user = MASK
        rest = f"{user}{rest[user_end:]}"
    return f"{scheme}://{_mask_query(rest)}"


def _user_end(url: str, rest: str) -> int:
    """Return the index of the @ after user name and password, -1 if there is none.

    In a URL that cannot be parsed it is the last @: an unencoded password may have any character.
    """
    if POSTGRESQL.fullmatch(url):
        try:
            parse_database_url(url)
        except ValueError:
            return rest.rfind("@")
        return rest.partition("/")[0].find("@")
    strict = re.match(r"[^/?#]*@", rest)
    if strict:
        return strict.end() - 1
    return rest.rfind("@") if ":" in rest.partition("@")[0] else -1


def _mask_query(rest: str) -> str:
    pieces = re.split(r"([?&;])", rest)
    for index, piece in enumerate(pieces):
        name, mark, _ = piece.partition("=")
        if mark and index and is_secret(unquote(name)):
            pieces[index] = f"{name}={MASK}"
    return "".join(pieces)


def _mask_words(text: str) -> str:
    def mask(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}{MASK}" if is_secret(match[1]) else match[0]

    return re.sub(r"(\w+)(\s*=\s*)('(?:\\.|[^'\\])*'?|(?:\\.|[^\s\\])+)", mask, text)


def is_secret(name: str) -> bool:
    """Return True if the value of a parameter of this name is a secret, such as a password."""
    lower = name.lower()
    return lower not in PATHS and any(word in lower for word in SECRET_WORDS)


def split_url(url: str) -> tuple[str, str | None, int | None, str]:
    """Return scheme, host, port and path. Raises ValueError, whose text repeats no part of it."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port, parts.path
    except ValueError:
        raise ValueError(UNREADABLE) from None


def parse_path_prefix(text: str) -> str:
    """Return a path prefix as `/one` or `/one/two`, "" for `/`. Raises ValueError if invalid."""
    plain = text.strip().removesuffix("/")
    path = f"/{plain.removeprefix('/')}" if plain else ""
    segments = path.split("/")[1:]
    # A segment of dots alone would be removed when the path is resolved.
    plain_segments = all(SEGMENT.fullmatch(segment) and segment.strip(".") for segment in segments)
    if len(path) > MAX_PREFIX or not plain_segments:
        raise ValueError(PREFIX_FORM)
    if path == AMBIGUOUS_PREFIX:
        raise ValueError(f"can't be {AMBIGUOUS_PREFIX}: the gateway's own paths begin with it")
    return path
