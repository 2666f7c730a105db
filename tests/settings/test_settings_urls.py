"""URLs with passwords: none is ever shown, whatever the form."""

import pytest

from app.errors import StartRefused
from app.settings import load, read, table
from app.urls import PostgresUrl, SqliteUrl, mask_url, parse_database_url

CANARY = "pa55-word"


@pytest.mark.parametrize(
    ("url", "parameters"),
    [
        ("postgres://u:p@h/db", {"user": "u", "password": "p", "host": "h", "dbname": "db"}),
        ("postgresql+psycopg://h/db", {"host": "h", "dbname": "db"}),
        ("postgres+asyncpg://h/db", {"host": "h", "dbname": "db"}),
        (
            "postgresql://h1:5432,h2:5433/db?target_session_attrs=read-write",
            {
                "host": "h1,h2",
                "port": "5432,5433",
                "dbname": "db",
                "target_session_attrs": "read-write",
            },
        ),
        ("postgresql://h1,h2/db", {"host": "h1,h2", "port": ",", "dbname": "db"}),
        (
            "postgresql:///db?host=/var/run/postgresql",
            {"host": "/var/run/postgresql", "dbname": "db"},
        ),
        ("postgresql://%2Fvar%2Frun:5433/db", {"host": "/var/run", "port": "5433", "dbname": "db"}),
        (
            "postgresql://u@[::1]:5433/db",
            {"user": "u", "host": "::1", "port": "5433", "dbname": "db"},
        ),
        (
            "postgresql://us%40er:p%2F%3A%40%25%23%3Fw@h/d%20b",
            {"user": "us@er", "password": "p/:@%#?w", "host": "h", "dbname": "d b"},
        ),
        (
            "postgresql://u:p?a=b#c@h/db",
            {"user": "u", "password": "p?a=b#c", "host": "h", "dbname": "db"},
        ),
        ("postgresql://h/d b", {"host": "h", "dbname": "d b"}),
        (
            "postgresql://h/db?options=-c%20search_path%3Dx",
            {"host": "h", "dbname": "db", "options": "-c search_path=x"},
        ),
        (
            "postgresql://h/db?options=-c search_path=x",
            {"host": "h", "dbname": "db", "options": "-c search_path=x"},
        ),
        (
            "postgresql://h/db?options=-c+search_path%3Dx+-c+work_mem=1MB",
            {"host": "h", "dbname": "db", "options": "-c search_path=x -c work_mem=1MB"},
        ),
        (
            "postgresql://h/db?sslmode=verify-full&sslrootcert=/ca.pem&connect_timeout=3&application_name=a@b",
            {
                "host": "h",
                "dbname": "db",
                "sslmode": "verify-full",
                "sslrootcert": "/ca.pem",
                "connect_timeout": "3",
                "application_name": "a@b",
            },
        ),
        ("postgresql://h/db?ssl=true", {"host": "h", "dbname": "db", "sslmode": "require"}),
        ("postgresql://h?dbname=db", {"host": "h", "dbname": "db"}),
        ("postgresql:///?service=main", {"service": "main"}),
    ],
)
def test_a_database_url_is_read_as_libpq_reads_it(url: str, parameters: dict[str, str]) -> None:
    found = parse_database_url(url)
    assert isinstance(found, PostgresUrl)
    assert {name: value for name, value in found.parameters.items() if value} == parameters


@pytest.mark.parametrize(
    ("url", "path", "timeout"),
    [
        ("sqlite:///data/g.db", "data/g.db", None),
        ("sqlite:////data/g.db", "/data/g.db", None),
        ("sqlite+pysqlite:////my data/g.db", "/my data/g.db", None),
        ("sqlite:////my%20data/100%.db", "/my data/100%.db", None),
        ("sqlite:///g.db?timeout=2.5", "g.db", 2.5),
        ("sqlite:///g.db?", "g.db", None),
    ],
)
def test_a_sqlite_url_is_a_path(url: str, path: str, timeout: float | None) -> None:
    assert parse_database_url(url) == SqliteUrl(path, timeout)


BAD = [
    f"postgresql://u:{CANARY}@h:port/db",
    f"postgresql://u:{CANARY}@h/",
    f"postgresql://u:{CANARY}@[::1/db",
    f"postgresql://u:{CANARY}%zz@h/db",
    f"postgresql://u:{CANARY}@x@h/db",
    f"postgresql://u:{CANARY}/x@h/db",
    f"postgresql://u:1/{CANARY}@h/db",
    f"postgresql://u:x@{CANARY}@h/db",
    f"postgresql://u:x?{CANARY}=1/y@h/db",
    f"postgresql://h/db?{CANARY}",
    f"postgresql://h/db?{CANARY}=x",
    f"postgresql://h/db?passwort={CANARY}",
    f"postgresql://h/db?connect_timeout={CANARY}",
    f"host=h dbname=db password={CANARY}",
    f"host=h dbname=db password='x {CANARY}'",
    f"mysql://u:{CANARY}@h/db",
    f"u:{CANARY}@h/db",
    f"sqlite:///g.db?key={CANARY}",
    "sqlite://",
    "sqlite:///",
    "sqlite:///:memory:",
    "sqlite:///file::memory:?cache=shared",
    "sqlite:///g.db?mode=memory",
    "postgresql://",
]


@pytest.mark.parametrize("url", BAD)
def test_a_bad_database_url_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(StartRefused) as refused:
        load({"GATEWAY_DATABASE_URL": url})
    (line,) = refused.value.lines
    assert line.startswith("GATEWAY_DATABASE_URL: ")
    assert "\n" not in line
    assert CANARY not in line
    assert CANARY not in mask_url(url) or "@" not in url


@pytest.mark.parametrize("name", ["GATEWAY_SHARED_LIMITS_URL", "LEANPLUM_API_URL"])
@pytest.mark.parametrize("scheme", ["http", "redis", "valkeys", ""])
@pytest.mark.parametrize(
    "rest",
    [
        "u:{}@h:port/0",
        "u:{}/x@h/0",
        "u:x/{}@h/0",
        "u:{}\u2100@h/0",
        "u:{}@[::1/0",
        "h/0?password={}/",
    ],
)
def test_a_bad_url_of_another_setting_is_one_line_without_the_password(
    name: str, scheme: str, rest: str
) -> None:
    with pytest.raises(StartRefused) as refused:
        load({name: f"{scheme}://{rest.format(CANARY)}"})
    (line,) = refused.value.lines
    assert line.startswith(f"{name}: ")
    assert CANARY not in line


def test_a_parameter_that_is_mistyped_is_told_with_the_one_that_was_meant() -> None:
    with pytest.raises(ValueError, match="did you mean sslmode"):
        parse_database_url("postgresql://h/db?ssl_mode=require")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql://u:p@h1:1,h2:2/db?application_name=b@c",
            "postgresql://u:***@h1:1,h2:2/db?application_name=b@c",
        ),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("postgresql://u:p?a/b@h/db", "postgresql://u:***@h/db"),
        (
            "postgresql://h/db?user=u&password=p&sslmode=require",
            "postgresql://h/db?user=u&password=***&sslmode=require",
        ),
        ("postgresql://h/db?passw%6Frd=p", "postgresql://h/db?passw%6Frd=***"),
        (
            "postgresql://h/db?sslpassword=p&sslkey=/k&passfile=/f",
            "postgresql://h/db?sslpassword=***&sslkey=/k&passfile=/f",
        ),
        ("postgres://u:@h/db", "postgres://u:***@h/db"),
        ("host=h password = 'p \\' q' user=u", "host=h password = *** user=u"),
        ("redis://:p%40q@h:1/2", "redis://:***@h:1/2"),
        ("rediss://u:p@[::1]/2", "rediss://u:***@[::1]/2"),
        ("https://token@h/api", "https://***@h/api"),
        ("valkey://token@h:1/2", "valkey://***@h:1/2"),
        ("valkeys://token@[::1]", "valkeys://***@[::1]"),
        ("redis://token@h", "redis://***@h"),
        ("socks5://token@h:1", "socks5://***@h:1"),
        ("https://u:p/q?r@h/api", "https://u:***@h/api"),
        ("https://h/api?access_token=p#x", "https://h/api?access_token=***"),
        ("https://h/api?email=a@b", "https://h/api?email=a@b"),
        ("sqlite:////data/a:b@c/g.db", "sqlite:////data/a:b@c/g.db"),
    ],
)
def test_a_url_is_shown_without_its_passwords(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@pytest.mark.parametrize(
    ("name", "url", "shown"),
    [
        ("GATEWAY_SHARED_LIMITS_URL", "valkey://{}@127.0.0.1:1", "valkey://***@127.0.0.1:1"),
        ("GATEWAY_SHARED_LIMITS_URL", "rediss://{}@h/0", "rediss://***@h/0"),
        ("GATEWAY_UPSTREAM_PROXY", "http://{}@h:3128", "http://***@h:3128"),
        ("LEANPLUM_API_URL", "https://{}@h/api", "https://***@h/api"),
    ],
)
def test_settings_shows_no_token_that_stands_for_a_user(name: str, url: str, shown: str) -> None:
    environ = {name: url.format(CANARY)}
    rows = {row["name"]: row["value"] for row in table(load(environ), read(environ))}
    assert rows[name] == shown
