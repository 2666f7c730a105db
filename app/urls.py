"""URLs that may contain a password, how they are read and shown; and the gateway's path prefix.

No message from here repeats a part of a URL that could be a piece of a password, since a password
that is not percent-encoded ends up anywhere.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

MASK = "***"
TAKES = (
    "takes sqlite:///PATH (sqlite:////absolute/path) or postgresql://USER:PASSWORD@HOST/DATABASE, "
    "in all of libpq's forms"
)
ENCODE = (
    "can't be read: the port is a number, and reserved characters in the user name, the password "
    "and "
    "the database are percent-encoded (@ is %40, : is %3A, / is %2F, ? is %3F, # is %23, % is %25)"
)
SQLITE = re.compile(r"sqlite(?:\+pysqlite)?:///(?P<path>[^?]*)(?:\?(?P<query>.*))?", re.DOTALL)
POSTGRESQL = re.compile(r"postgres(?:ql)?(?:\+\w+)?://(?P<rest>.*)", re.DOTALL)
IN_MEMORY = {"", ":memory:", "file::memory:"}
# Parameters whose values are passwords, by words in their names; these two are paths.
SECRET_WORDS = ("pass", "pwd", "secret", "token", "auth")
PATHS = {"passfile", "require_auth"}
# Characters that mean nothing in HTML, in a script or in a header, and are never percent-encoded.
SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")
MOST_PREFIX = 256
# Behind it /segment/v1/batch may be Segment's, or /v1/batch: nobody can tell.
AMBIGUOUS = "/segment"
PREFIX_TAKES = (
    "takes a path such as /leanplum, with A-Z a-z 0-9 . _ ~ - and / alone, of at most "
    f"{MOST_PREFIX} characters"
)


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    """A SQLite file."""

    path: str
    timeout: float | None = None  # seconds to wait for a lock, where the URL says it


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A PostgreSQL database, as libpq's connection parameters."""

    parameters: Mapping[str, str] = field(repr=False)


def database_url(text: str) -> SqliteUrl | PostgresUrl:
    """Read the URL of a database. Raises ValueError, whose text repeats nothing of the URL."""
    if found := SQLITE.fullmatch(text):
        return _sqlite(found["path"], found["query"])
    if found := POSTGRESQL.fullmatch(text):
        return _postgres(found["rest"])
    raise ValueError(TAKES)


def _sqlite(path: str, query: str | None) -> SqliteUrl:
    timeout = None
    for pair in (query or "").split("&"):
        name, _, value = pair.partition("=")
        if name == "timeout" and re.fullmatch(r"\d{1,4}(\.\d+)?", value):
            timeout = float(value)
        elif pair:
            raise ValueError("takes only timeout=SECONDS after the ? of sqlite:///PATH")
    if unquote(path) in IN_MEMORY:
        raise ValueError(f"names no file; {TAKES}")
    return SqliteUrl(unquote(path), timeout)


def _postgres(rest: str) -> PostgresUrl:
    import psycopg  # the driver is loaded where it is used
    from psycopg.conninfo import conninfo_to_dict

    address, query = _strict(rest)
    try:
        made = conninfo_to_dict(f"postgresql://{address}{query}")
    except psycopg.ProgrammingError as error:
        raise ValueError(_complaint(str(error), query)) from None
    parameters = {name: str(value) for name, value in made.items()}
    ports = parameters.get("port", "").split(",")
    # An @ or / in a password ends it early, and puts the rest of it into the host or the path.
    misread = "/" in address.rpartition("@")[0] or "@" in parameters.get("host", "")
    if misread or not all(port.isdecimal() or not port for port in ports):
        raise ValueError(ENCODE)
    if not re.fullmatch(r"-?\d+", parameters.get("connect_timeout", "0")):
        raise ValueError("has a connect_timeout that is no number of seconds")
    if not {"dbname", "service"} & parameters.keys():
        raise ValueError(f"names no database; {TAKES}")
    return PostgresUrl(parameters)


def _strict(rest: str) -> tuple[str, str]:
    """Return the part before the query, and the query, in the form that libpq takes.

    It wants spaces percent-encoded, and each `=` but the first, as in `options=-c search_path=x`.
    """
    query_at = _query_at(rest)
    query = "&".join(_strict_pair(*pair.partition("=")) for pair in rest[query_at:].split("&"))
    return rest[:query_at].replace(" ", "%20"), query.replace(" ", "%20")


def _strict_pair(name: str, mark: str, value: str) -> str:
    if name.lstrip("?") == "options":  # a form's + for a space, as SQLAlchemy writes it
        value = re.sub(r"(?<=-c)\+|\+(?=-)", "%20", value)
    return name + mark + value.replace("=", "%3D")


def _query_at(rest: str) -> int:
    """Return where the query of a PostgreSQL URL begins: a ? in the password is none."""
    user_end = rest.partition("/")[0].find("@")
    found = rest.find("?", user_end + 1)
    return found if found >= 0 else len(rest)


def _complaint(said: str, query: str) -> str:
    """Return libpq's complaint without what it quotes."""
    if not said.startswith("invalid URI query parameter"):
        return ENCODE
    from psycopg import pq

    known = [option.keyword.decode() for option in pq.Conninfo.get_defaults()]
    names = [unquote(pair.partition("=")[0]) for pair in query.lstrip("?").split("&")]
    unknown = [name for name in names if name not in known]
    close = [found for name in unknown for found in difflib.get_close_matches(name, known, 1, 0.7)]
    hint = f": did you mean {close[0]}?" if close else "; it takes those of libpq"
    return f"has a parameter after ? that libpq doesn't know{hint}"


def masked(url: str) -> str:
    """Return the URL, or libpq's `name=value` text, with its passwords masked."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return _masked_words(re.sub(r":.*@", f":{MASK}@", url, flags=re.DOTALL))
    if SQLITE.fullmatch(url):
        return url
    user_end = _user_end(url, rest)
    if user_end >= 0:
        user, colon, _ = rest[:user_end].partition(":")
        # A user name without a password may be a token, where it is not a database's.
        shown = user if POSTGRESQL.fullmatch(url) else MASK
        rest = f"{user}:{MASK}{rest[user_end:]}" if colon else f"{shown}{rest[user_end:]}"
    return f"{scheme}://{_masked_query(rest)}"


def _user_end(url: str, rest: str) -> int:
    """Return the index at which user name and password end, -1 where there are none.

    In a URL that can't be read the last @ ends them: a password that is not encoded may contain any
    character.
    """
    if POSTGRESQL.fullmatch(url):
        try:
            database_url(url)
        except ValueError:
            return rest.rfind("@")
        return rest.partition("/")[0].find("@")
    strict = re.match(r"[^/?#]*@", rest)
    if strict:
        return strict.end() - 1
    return rest.rfind("@") if ":" in rest.partition("@")[0] else -1


def _masked_query(rest: str) -> str:
    pieces = re.split(r"([?&;])", rest)
    for place, piece in enumerate(pieces):
        name, mark, _ = piece.partition("=")
        if mark and place and is_secret(unquote(name)):
            pieces[place] = f"{name}={MASK}"
    return "".join(pieces)


def _masked_words(text: str) -> str:
    def replace(found: re.Match[str]) -> str:
        return f"{found[1]}{found[2]}{MASK}" if is_secret(found[1]) else found[0]

    return re.sub(r"(\w+)(\s*=\s*)('(?:\\.|[^'\\])*'?|(?:\\.|[^\s\\])+)", replace, text)


def is_secret(name: str) -> bool:
    """Tell whether a parameter of this name is a password or alike."""
    lower = name.lower()
    return lower not in PATHS and any(word in lower for word in SECRET_WORDS)


def split(url: str) -> tuple[str, str | None, int | None, str]:
    """Return scheme, host, port and path.

    Raises ValueError, whose text repeats nothing of the URL.
    """
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port, parts.path
    except ValueError:
        raise ValueError(ENCODE) from None


def path_prefix(text: str) -> str:
    """Return a path prefix as `/one` or `/one/two`, "" for `/`.

    Raises ValueError for anything that is no plain path.
    """
    plain = text.strip().removesuffix("/")
    path = f"/{plain.removeprefix('/')}" if plain else ""
    segments = path.split("/")[1:]
    if len(path) > MOST_PREFIX or not all(
        SEGMENT.fullmatch(one) and one.strip(".") for one in segments
    ):
        raise ValueError(PREFIX_TAKES)
    if path == AMBIGUOUS:
        raise ValueError(f"can't be {AMBIGUOUS}: the gateway's own paths begin with it")
    return path
