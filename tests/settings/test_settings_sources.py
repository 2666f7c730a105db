"""Where settings come from: the environment, `.env`, a secrets directory and the apps file."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from app.apps import read_apps, referenced_names
from app.audit.records import AuditMacs
from app.callers import key_format
from app.callers.store import KeyStore, every_key
from app.clock import now_ms
from app.database.engine import connect
from app.errors import StartRefused
from app.server.preparation import prepare
from app.settings import Settings, build, load, read, table
from app.settings.sources import is_service_link
from tests.support.processes import Process, ended, serving

CANARY = "pa55-canary"
SECRETS = [
    name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)
]
URLS = ["gateway_database_url", "leanplum_api_url"]
Put = Callable[[str, str], dict[str, str]]


@pytest.fixture(params=["environment", ".env file", "secrets directory"])
def put(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Puts a value into one source; returns the environment."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "secrets"
    folder.mkdir()

    def into(name: str, value: str) -> dict[str, str]:
        environ = {"GATEWAY_SECRETS_DIR": str(folder)}
        if request.param == "environment":
            return environ | {name.upper(): value}
        if request.param == ".env file":
            quoted = value.replace("\\", "\\\\").replace("'", "\\'")
            (tmp_path / ".env").write_text(f"{name.upper()}='{quoted}'\n")
        else:
            (folder / name.lower()).write_text(value)
        return environ

    return into


def lines_of(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(StartRefused) as refused:
        load(environ)
    return refused.value.lines


# --- empty means unset -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_empty_is_unset_for_every_setting(put: Put, empty: str) -> None:
    for name in Settings.model_fields:
        assert load(put(name, empty)) == Settings(), name


def test_an_empty_value_lets_the_next_source_speak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("GATEWAY_PORT=9001\nGATEWAY_HOST=\nGATEWAY_LOG_LEVEL\n")
    (tmp_path / "gateway_host").write_text("::1\n")
    environ = {"GATEWAY_PORT": "", "GATEWAY_SECRETS_DIR": str(tmp_path)}
    settings = load(environ)
    assert (settings.gateway_port, settings.gateway_host, settings.gateway_log_level) == (
        9001,
        "::1",
        "info",
    )


def apps(folder: Path, text: str, **environ: str) -> dict[str, dict[str, str]]:
    (folder / "apps.toml").write_text(text)
    found = read_apps(Settings(gateway_apps_file=folder / "apps.toml"), environ)
    return {
        name: {kind.name: key.get_secret_value() for kind, key in app.keys.items()}
        for name, app in found.items()
    }


def refused_apps(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(StartRefused) as refused:
        apps(folder, text, **environ)
    (line,) = refused.value.lines
    assert CANARY not in line
    return line


APP = '[apps.shop]\napp_id = "a"\nproduction_key = {key}\n'


def test_an_empty_value_of_the_apps_file_is_unset(tmp_path: Path) -> None:
    more = 'development_key = ""\napi_url = ""\nrate_per_second = ""\ndata_export_key = " "\n'
    assert apps(tmp_path, APP.format(key='"p"') + more) == {"shop": {"PRODUCTION": "p"}}
    assert "production_key: Field required" in refused_apps(tmp_path, APP.format(key='""'))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("\"'pa55-canary'\"", "quotes"),
        ('" pa55-canary"', "white space"),
        ('{ env = "QUOTED" }', "quotes"),
        ('{ env = "SPACED" }', "white space"),
        ('{ env = "EMPTY" }', "EMPTY is not set"),
        ('{ env = "BLANK" }', "BLANK is not set"),
        ('{ file = "FOLDER/quoted" }', "quotes"),
        ('{ file = "FOLDER/spaced" }', "white space"),
        ('{ file = "FOLDER/empty" }', "is empty"),
        ('{ file = "FOLDER/latin1" }', "is not UTF-8"),
        ('{ file = "FOLDER" }', "directory"),
        ('{ file = "FOLDER/none" }', "No such file"),
        ('{ file = "a\\u0000b" }', "no path"),
    ],
)
def test_a_reference_to_no_clean_key_is_refused_in_one_line(
    tmp_path: Path, key: str, said: str
) -> None:
    texts = {"quoted": f'"{CANARY}"\n', "spaced": f"{CANARY} \n", "empty": "\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "latin1").write_bytes(b"\xe4")
    environ = {"QUOTED": f"'{CANARY}'", "SPACED": f"{CANARY}\n", "EMPTY": "", "BLANK": " "}
    line = refused_apps(tmp_path, APP.format(key=key.replace("FOLDER", str(tmp_path))), **environ)
    assert line.startswith("GATEWAY_APPS_FILE: apps.shop.production_key: ")
    assert said in line


def test_a_file_with_a_key_and_a_newline_is_fine(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\ufeffp\r\n")
    assert apps(tmp_path, APP.format(key=f'{{ file = "{tmp_path}/key" }}')) == {
        "shop": {"PRODUCTION": "p"}
    }


# --- what is easily added by mistake ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ('"{}"', "quotes"),
        ("'{}'", "quotes"),
        (" '{}' ", "quotes"),
        (" {}", "white space"),
        ("{}\t", "white space"),
    ],
)
def test_quotes_and_white_space_around_a_secret_are_refused_in_one_line(
    put: Put, form: str, said: str
) -> None:
    assert len(SECRETS) > 6
    for name in SECRETS + URLS:
        (line,) = [
            line for line in lines_of(put(name, form.format(CANARY))) if name.upper() in line
        ]
        assert line.startswith(f"{name.upper()}: its value in ")
        assert said in line
        assert CANARY not in line


def test_quotes_around_any_other_value_are_named_as_such(put: Put) -> None:
    (line,) = lines_of(put("gateway_log_level", '"info"'))
    assert "GATEWAY_LOG_LEVEL" in line
    assert "quotes" in line


def test_white_space_around_any_other_value_is_no_part_of_it(put: Put) -> None:
    assert load(put("gateway_host", " ::1 ")).gateway_host == "::1"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n"])
def test_a_newline_at_the_end_of_a_secret_file_is_no_part_of_it(
    tmp_path: Path, newline: str
) -> None:
    (tmp_path / "leanplum_production_key").write_bytes(CANARY.encode() + newline.encode())
    found = load({"GATEWAY_SECRETS_DIR": str(tmp_path)}).leanplum_production_key
    assert found == SecretStr(CANARY)


def test_a_newline_at_the_end_of_a_variable_is_told() -> None:
    """Kubernetes hands on what `echo KEY | base64` has made."""
    (line,) = lines_of({"LEANPLUM_PRODUCTION_KEY": f"{CANARY}\n"})
    assert "white space" in line


@pytest.mark.parametrize("case", ["latin1", "utf16", "directory", "dangling"])
def test_a_secret_file_that_cannot_be_read_is_one_line(tmp_path: Path, case: str) -> None:
    path = tmp_path / "leanplum_production_key"
    if case == "directory":
        path.mkdir()  # docker makes one where the file to be mounted is missing
    elif case == "dangling":
        path.symlink_to("nowhere")
    else:
        path.write_bytes("schlüssel".encode("latin-1" if case == "latin1" else "utf-16"))
    (line,) = lines_of({"GATEWAY_SECRETS_DIR": str(tmp_path)})
    assert line.startswith(f"LEANPLUM_PRODUCTION_KEY: the file {path} ")
    assert ("UTF-8" in line) == (case in {"latin1", "utf16"})
    # It isn't needed then
    load({"GATEWAY_SECRETS_DIR": str(tmp_path), "LEANPLUM_PRODUCTION_KEY": "p"})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_secret_file_of_somebody_else_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "gateway_port").write_text("1")
    (tmp_path / "gateway_port").chmod(0)
    (line,) = lines_of({"GATEWAY_SECRETS_DIR": str(tmp_path)})
    assert "Permission denied" in line


def test_a_variable_that_is_no_text_is_one_line() -> None:
    (line,) = lines_of({"LEANPLUM_PRODUCTION_KEY": os.fsdecode(b"pa55-canary\xff")})
    assert "not UTF-8" in line
    assert CANARY not in line


def test_the_secrets_directory_may_be_named_in_the_env_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"\ufeffGATEWAY_SECRETS_DIR={tmp_path}\n")
    (tmp_path / "gateway_port").write_text("9001")
    assert load({}).gateway_port == 9001


# --- names that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GATEWAY_PROT", "GATEWAY_PORT"),
        ("GATEWAY_DATABASE_URI", "GATEWAY_DATABASE_URL"),
        ("GATEWAY_DB_URL", None),
        ("LEANPLUM_PRODUCTION_KEYS", "LEANPLUM_PRODUCTION_KEY"),
        ("GATEWAY_LEANPLUM_APP_ID", "LEANPLUM_APP_ID"),
        ("GATEWAY_SECRET_DIR", "GATEWAY_SECRETS_DIR"),
        ("GATEWAY_RATE", "GATEWAY_RATE_PER_SECOND or GATEWAY_RATE_BURST"),
        ("GATEWAY_DATABASE", "GATEWAY_DATABASE_URL"),
        (
            "LEANPLUM_KEY",
            "LEANPLUM_PRODUCTION_KEY or LEANPLUM_DEVELOPMENT_KEY or LEANPLUM_DATA_EXPORT_KEY",
        ),
        (
            "GATEWAY_TIMEOUT",
            "GATEWAY_SHARED_LIMITS_TIMEOUT_SECONDS or GATEWAY_UPSTREAM_TIMEOUT_SECONDS or "
            "GATEWAY_RELAY_TIMEOUT_SECONDS",
        ),
        ("GATEWAY_UPSTREAM_SECONDS", "GATEWAY_UPSTREAM_TIMEOUT_SECONDS"),
        ("GATEWAY_", None),
        ("GATEWAY_ZZZ", None),
    ],
)
def test_an_unknown_name_is_told_with_the_one_that_was_meant(
    put: Put, name: str, meant: str | None
) -> None:
    (line,) = read(put(name, CANARY)).notices(())
    assert line.startswith(f"{name}: no setting has this name")
    assert CANARY not in line
    if meant is not None:
        assert line.endswith(f"; did you mean {meant}?")


def test_a_name_that_the_apps_file_refers_to_is_known(tmp_path: Path) -> None:
    file = tmp_path / "apps.toml"
    file.write_text(
        '[apps.a]\nproduction_key = { env = "LEANPLUM_SHOP" }\ndevelopment_key = { file = "/x/leanplum_b" }'
    )
    (tmp_path / "leanplum_b").write_text("x")
    found = read({"LEANPLUM_SHOP": "x", "GATEWAY_SECRETS_DIR": str(tmp_path)})
    assert len(found.unknown) == 2
    assert list(found.notices(referenced_names(file))) == []
    assert referenced_names(tmp_path / "none") == referenced_names(None) == set()


LINKS = {
    "GATEWAY_PORT": "tcp://10.0.0.1:8000",
    "GATEWAY_SERVICE_HOST": "10.0.0.1",
    "GATEWAY_SERVICE_PORT": "8000",
    "GATEWAY_SERVICE_PORT_HTTP": "8000",
    "GATEWAY_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "GATEWAY_PORT_8000_TCP_PROTO": "tcp",
    "GATEWAY_PORT_8000_TCP_PORT": "8000",
    "GATEWAY_PORT_8000_TCP_ADDR": "10.0.0.1",
    "LEANPLUM_GATEWAY_PORT": "tcp://[fd00::1]:8000",
    "LEANPLUM_GATEWAY_SERVICE_HOST": "fd00::1",
    "LEANPLUM_GATEWAY_PORT_53_UDP": "udp://10.0.0.1:53",
}


def test_the_service_links_of_kubernetes_are_ignored_in_one_line() -> None:
    found = read(LINKS)
    assert build(found).gateway_port == 8000
    (line,) = found.notices(())
    assert all(name in line for name in LINKS)
    assert "10.0.0.1" not in line


@pytest.mark.parametrize(
    ("name", "value"), [("GATEWAY_PORT", "8000"), ("GATEWAY_PORTS_X", "1"), ("GATEWAY_HOST", "x")]
)
def test_a_setting_is_no_service_link(name: str, value: str) -> None:
    assert not is_service_link(name, value)


# --- the command, and a real start -----------------------------------------------------------------------------------


def test_the_settings_name_the_source_of_each_value(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "GATEWAY_RATE_BURST=77\nGATEWAY_RATE_PER_SECOND=7\nGATEWAY_PROT=1\n"
    )
    (tmp_path / "gateway_data_key").write_text("\n")
    (tmp_path / "leanplum_data_export_key").write_text(CANARY)
    environ = {
        "GATEWAY_RATE_PER_SECOND": "8",
        "GATEWAY_RATE_BURST": "",
        "GATEWAY_PORT": "tcp://10.0.0.1:1",
    }
    shown = ended(tmp_path, "settings", "--json", **environ)
    rows = {row["name"]: row for row in json.loads(shown.stdout)}
    sources = {name: (row["value"], row["source"], row.get("path")) for name, row in rows.items()}
    assert sources["GATEWAY_RATE_PER_SECOND"] == ("8", "environment", None)
    assert sources["GATEWAY_RATE_BURST"] == ("77", ".env file", str(tmp_path / ".env"))
    key = str(tmp_path / "leanplum_data_export_key")
    assert sources["LEANPLUM_DATA_EXPORT_KEY"] == ("**********", "secrets directory", key)
    assert sources["GATEWAY_DATA_KEY"] == ("-", "default", None)
    assert sources["GATEWAY_PORT"] == ("8000", "default", None)
    ignored, unknown = shown.stderr.splitlines()
    assert "Kubernetes" in ignored
    assert "did you mean GATEWAY_PORT?" in unknown
    assert CANARY not in shown.stdout + shown.stderr


def test_no_url_in_the_settings_shows_a_password(tmp_path: Path) -> None:
    for number, url in enumerate(
        [f"postgresql://u:{CANARY}@h/d", f"postgresql://h/d?user=u&password={CANARY}"]
    ):
        settings = Settings(
            gateway_database_url=url, leanplum_api_url=f"https://u:{CANARY}@h{number}/api"
        )
        shown = str(list(table(settings, read({})))) + repr(settings)
        assert CANARY not in shown.replace("https://u:" + CANARY, "")
        assert "https://u:***@" in shown


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_gateway_starts_among_service_links_and_says_so_once(
    tmp_path: Path, workers: str
) -> None:
    words = ("--no-delivery", "--workers", workers)
    with serving(tmp_path, "http://127.0.0.1:1", *words, **LINKS) as gateway:
        assert gateway.event("u", 1).status_code == 202
        assert gateway.terminate() == 0
    logged = gateway.output.read_text()
    (line,) = [line for line in logged.splitlines() if "settings.ignored" in line]
    assert all(name in line for name in LINKS)
    assert "Traceback" not in logged


def told_of_bootstrap(settings: Settings) -> list[str]:
    """Do what may refuse a start, and return what is said of the bootstrap key."""
    with capture_logs() as logs:
        prepare(settings)
    return [entry["reason"] for entry in logs if entry["event"] == "key.bootstrap_ignored"]


def test_an_empty_bootstrap_key_makes_none_and_a_different_one_is_told_at_every_start(
    tmp_path: Path,
) -> None:
    database = f"sqlite:///{tmp_path}/g.db"
    common = {
        "GATEWAY_DATABASE_URL": database,
        "LEANPLUM_APP_ID": "a",
        "LEANPLUM_PRODUCTION_KEY": "p",
    }
    first, other = key_format.make(), key_format.make()

    def at(key: str) -> Settings:
        return load(common | {"GATEWAY_BOOTSTRAP_KEY": key})

    assert told_of_bootstrap(at("")) == []
    engine = connect(database)
    assert every_key(engine) == []
    assert told_of_bootstrap(at(first)) == []
    for key, said in (
        (other, ["differs"]),
        (other, ["differs"]),
        ("mistyped", ["differs"]),
        (first, []),
        ("", []),
    ):
        assert [
            word for line in told_of_bootstrap(at(key)) for word in said if word in line
        ] == said
    (stored,) = every_key(engine)
    KeyStore(engine, AuditMacs(bytes(32))).revoke(stored.caller.key_id, now_ms())
    (line,) = told_of_bootstrap(at(first))
    assert "revoked" in line
    engine.dispose()


def test_a_start_tells_of_names_and_of_the_bootstrap_key_in_a_line_each(tmp_path: Path) -> None:
    first, other = key_format.make(), key_format.make()
    links = {"GATEWAY_PORT": "tcp://10.0.0.1:1", "GATEWAY_PROT": CANARY}
    gateway = Process(
        tmp_path, "http://127.0.0.1:1", "--no-delivery", GATEWAY_BOOTSTRAP_KEY=other, **links
    )
    prepare(
        Settings(
            leanplum_app_id="a",
            leanplum_production_key="p",
            gateway_bootstrap_key=first,
            gateway_database_url=f"sqlite:///{tmp_path}/g.db",
        )
    )
    try:
        gateway.start()
        assert (
            gateway.http.get("/v1/keys", headers={"Authorization": f"Bearer {first}"}).status_code
            == 200
        )
        assert (
            gateway.http.get("/v1/keys", headers={"Authorization": f"Bearer {other}"}).status_code
            == 401
        )
    finally:
        gateway.close()
    warned = [
        json.loads(line) for line in gateway.output.read_text().splitlines() if '"warning"' in line
    ]
    reasons = {
        line["error.message"]: line["event.action"] for line in warned if "error.message" in line
    }
    assert sorted(reasons.values()) == [
        "key.bootstrap_ignored",
        "settings.ignored",
        "settings.ignored",
    ]
    assert any("did you mean GATEWAY_PORT?" in reason for reason in reasons)
    assert any("Kubernetes" in reason for reason in reasons)
    assert not any(text in gateway.output.read_text() for text in (first, other, CANARY))
