"""Starting: what refuses it says so in a line for each reason, with exit code 2 and without a
traceback.
"""

import socket
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.processes import ROOT, ended, environment

CANARY = "prod_canary_0f9e8d7c"
GOOD = {"LEANPLUM_APP_ID": "app_X", "LEANPLUM_PRODUCTION_KEY": CANARY}


def told(folder: Path, *words: str, **settings: str) -> list[str]:
    """The lines of a refused start."""
    found = ended(folder, *words, **settings)
    said = found.stdout + found.stderr
    assert found.returncode == 2, (found.returncode, said)
    assert "Traceback" not in said
    assert CANARY not in said
    return [line for line in found.stderr.splitlines() if line]


def test_without_settings_each_missing_one_is_named_with_what_it_takes(tmp_path: Path) -> None:
    lines = told(tmp_path, "serve")
    assert any("LEANPLUM_APP_ID: is not set" in line for line in lines)
    assert any("LEANPLUM_PRODUCTION_KEY: is not set" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_PORT", "eighty"),
        ("GATEWAY_PORT", "70000"),
        ("GATEWAY_LOG_LEVEL", "loud"),
        ("GATEWAY_MAX_BATCH_ITEMS", "0"),
        ("GATEWAY_RETRY_WINDOW", "-1"),
        ("GATEWAY_DATABASE_URL", "postgresql://user:secret@host/db"),
        ("GATEWAY_DATABASE_URL", "g.db"),
        ("LEANPLUM_API_URL", "http://api.leanplum.com/api"),
        ("LEANPLUM_API_URL", "ftp://api.leanplum.com"),
        ("LEANPLUM_PRODUCTION_KEY", ""),
        ("GATEWAY_APPS_FILE", "/apps.toml"),
        ("GATEWAY_SHARED_LIMITS_URL", "http://:secret@host"),
        ("GATEWAY_SHARED_LIMITS_URL", "redis://"),
        ("GATEWAY_SHARED_LIMITS_URL", "valkey://:secret@host:port"),
        ("GATEWAY_SHARED_LIMITS_URL", "valkey://:secret@host/name"),
        ("GATEWAY_SHARED_LIMITS_URL", "redis://host?password=secret"),
        ("GATEWAY_SHARED_LIMITS_TIMEOUT_SECONDS", "0"),
        ("GATEWAY_SECRETS_DIR", "/nowhere"),
        ("GATEWAY_DEDUP_SECONDS", "inf"),
        ("GATEWAY_DRAIN_SECONDS", "nan"),
        ("GATEWAY_DATABASE_URL", "sqlite:///:memory:"),
        ("LEANPLUM_API_URL", "https://"),
        ("LEANPLUM_API_URL", "https://api.leanplum.com:port/api"),
        ("GATEWAY_BOOTSTRAP_KEY", "mistyped"),
    ],
)
def test_a_bad_setting_is_named_in_one_line(tmp_path: Path, name: str, value: str) -> None:
    database = {"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/g.db"}
    lines = told(tmp_path, "serve", **(GOOD | database | {"GATEWAY_PORT": "0"} | {name: value}))
    assert len(lines) == 1
    assert name in lines[0]
    assert "secret" not in lines[0]


def test_a_bad_setting_is_named_from_the_env_file_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GATEWAY_SHARED_LIMITS_URL=x\n")
    (line,) = told(tmp_path, "serve", **GOOD)
    assert "GATEWAY_SHARED_LIMITS_URL: must be valkey://" in line


@pytest.mark.parametrize("url", ["valkey://:secret@host:1", "rediss://user:secret@host/2"])
def test_the_settings_show_where_the_shared_limits_are_without_the_password(
    tmp_path: Path, url: str
) -> None:
    done = ended(tmp_path, "settings", **GOOD, GATEWAY_SHARED_LIMITS_URL=url)
    assert url.replace("secret", "***") in done.stdout
    assert "secret" not in done.stdout + done.stderr


def test_an_env_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"GATEWAY_HOST=\xff\n")
    (line,) = told(tmp_path, "serve", **GOOD)
    assert ".env: is not UTF-8" in line


def test_two_bad_settings_are_two_lines(tmp_path: Path) -> None:
    lines = told(tmp_path, "serve", **GOOD, GATEWAY_LOG_LEVEL="loud", GATEWAY_RATE_BURST="0")
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == [
        "GATEWAY_LOG_LEVEL",
        "GATEWAY_RATE_BURST",
    ]


def test_a_database_that_is_none_refuses_the_start(tmp_path: Path) -> None:
    (tmp_path / "g.db").write_bytes(b"notes " * 1000)
    (line,) = told(
        tmp_path, "serve", "--port", "0", **GOOD, GATEWAY_DATABASE_URL=f"sqlite:///{tmp_path}/g.db"
    )
    assert "GATEWAY_DATABASE_URL" in line
    assert "not a database" in line


def test_a_database_that_stays_locked_refuses_the_start(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "g.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("BEGIN IMMEDIATE")
        (line,) = told(
            tmp_path,
            "serve",
            "--port",
            "0",
            **GOOD,
            GATEWAY_DATABASE_URL=f"sqlite:///{tmp_path}/g.db",
        )
    assert "locked" in line


def test_a_directory_that_cannot_be_made_refuses_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (line,) = told(
        tmp_path,
        "serve",
        "--port",
        "0",
        **GOOD,
        GATEWAY_DATABASE_URL=f"sqlite:///{tmp_path}/file/g.db",
    )
    assert "GATEWAY_DATABASE_URL" in line


def test_a_port_that_is_taken_refuses_the_start_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        database = f"sqlite:///{tmp_path}/g.db"
        found = ended(tmp_path, "serve", "--port", port, **GOOD, GATEWAY_DATABASE_URL=database)
    assert found.returncode == 2
    assert "Traceback" not in found.stdout + found.stderr
    (line,) = [line for line in found.stderr.splitlines() if line]
    assert f"GATEWAY_PORT: cannot listen on 127.0.0.1:{port}: " in line


@pytest.mark.parametrize("name", ["PRODUCTION", "DEVELOPMENT", "DATA_EXPORT", "CONTENT_READ_ONLY"])
def test_the_sandbox_refuses_to_start_with_a_real_key(tmp_path: Path, name: str) -> None:
    (line,) = told(
        tmp_path, "serve", "--sandbox", "--port", "0", **{f"LEANPLUM_{name}_KEY": CANARY}
    )
    assert f"LEANPLUM_{name}_KEY" in line


def test_settings_shows_every_value_and_its_source_with_secrets_masked(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GATEWAY_RATE_BURST=77\nLEANPLUM_DEVELOPMENT_KEY=dev_canary_1\n")
    (tmp_path / "leanplum_data_export_key").write_text("export_canary_1")
    found = ended(
        tmp_path, "settings", **GOOD, GATEWAY_BOOTSTRAP_KEY="lpgw_canary_1", GATEWAY_PORT="9001"
    )
    assert found.returncode == 0
    assert "canary" not in found.stdout + found.stderr
    rows = {line.split()[0]: line for line in found.stdout.splitlines()}
    assert "9001" in rows["GATEWAY_PORT"]
    assert "\tenvironment\t" in rows["GATEWAY_PORT"]
    assert "77" in rows["GATEWAY_RATE_BURST"]
    assert "\t.env file\t" in rows["GATEWAY_RATE_BURST"]
    assert "***" in rows["LEANPLUM_DATA_EXPORT_KEY"]
    assert "\tsecrets directory\t" in rows["LEANPLUM_DATA_EXPORT_KEY"]
    assert "\tdefault\t" in rows["GATEWAY_HOST"]


@pytest.mark.parametrize(
    "words", [["serve"], ["settings"], ["migrate"], ["keys"], ["keys", "create"], ["simulate"], []]
)
def test_every_command_has_help(tmp_path: Path, words: list[str]) -> None:
    found = ended(tmp_path, *words, "--help")
    assert found.returncode == 0
    assert "Usage" in found.stdout


def test_no_secret_is_in_what_ps_shows(tmp_path: Path) -> None:
    from tests.support.processes import serving_fresh

    with serving_fresh(tmp_path, "http://127.0.0.1:1") as gateway:
        shown = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(gateway.process.pid)],
            capture_output=True,
            text=True,
        )
    assert "serve" in shown.stdout
    assert gateway.key not in shown.stdout
    assert "prod_sandbox" not in shown.stdout
    assert environment(tmp_path)["PYTHONPATH"] == str(ROOT)
