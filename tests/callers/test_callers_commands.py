"""`python -m app keys create|list|revoke`, as real processes on a real database."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.callers import key_format
from tests.support.gateway import Talk
from tests.support.processes import ended

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m app keys …` on the test's own database, with nothing of this machine's
    settings.
    """
    settings = {"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/g.db"}

    def run(*arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
        return ended(tmp_path, "keys", *arguments, **settings | given)

    return run


def test_a_key_is_made_shown_once_listed_and_revoked(
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    made = command(
        "create", "--name", "shop", "--scope", "events:write", "--scope", "users:write", "--json"
    )
    assert (made.returncode, made.stderr) == (0, "")
    document = json.loads(made.stdout)
    assert key_format.well_formed(document["key"])
    assert document["scopes"] == ["events:write", "users:write"]

    listed = command("list", "--json")
    (row,) = json.loads(listed.stdout)
    assert document["key"] not in listed.stdout
    assert row["id"] == document["id"]
    assert (row["name"], row["lastFour"], row["revokedAt"]) == ("shop", document["key"][-4:], None)
    assert row["scopes"] == ["events:write", "users:write"]

    revoked = command("revoke", document["id"])
    assert (revoked.returncode, document["id"] in revoked.stdout) == (0, True)
    (row,) = json.loads(command("list", "--json").stdout)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["revokedAt"])
    again = command("revoke", document["id"])
    assert (again.returncode, again.stdout) == (1, "")
    assert "Traceback" not in again.stderr


def test_without_json_the_key_is_the_first_line_and_the_list_is_for_people(
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    made = command("create", "--name", "shop", "--expires-in-days", "2")
    key = made.stdout.splitlines()[0]
    assert key_format.well_formed(key)
    listed = command("list").stdout
    assert key not in listed
    assert key[-4:] in listed
    assert "shop" in listed
    (row,) = json.loads(command("list", "--json").stdout)
    assert row["expiresAt"] is not None


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["create", "--name", "x", "--scope", "events:fly"], "events:fly"),
        (["create"], "--name"),
        (["revoke", "key_unknown"], "key_unknown"),
        (["revoke"], "KEY_ID"),
    ],
)
def test_what_cannot_be_done_is_told_in_words_and_by_the_exit_code(
    command: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str], word: str
) -> None:
    # Without a database nothing else is looked at
    assert command("create", "--name", "first").returncode == 0
    failed = command(*arguments)
    assert failed.returncode in {1, 2}
    assert word.lower() in failed.stderr.lower()
    assert "Traceback" not in failed.stderr


def test_a_database_that_cannot_be_used_is_told_in_one_line(
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    failed = command("list", GATEWAY_DATABASE_URL="sqlite:////proc/none/g.db")
    assert failed.returncode == 2
    assert failed.stderr.startswith("leanplum-gateway: GATEWAY_DATABASE_URL: ")
    assert len(failed.stderr.splitlines()) == 1


def test_in_a_running_gateway_a_new_key_works_and_a_revoked_one_stops_within_a_second(
    command: Callable[..., subprocess.CompletedProcess[str]], start: Callable[..., Talk]
) -> None:
    talk = start()
    made = json.loads(command("create", "--name", "live", "--json").stdout)
    time.sleep(1.0)
    assert talk.event(key=made["key"]).status_code == 202
    command("revoke", made["id"])
    time.sleep(1.0)
    assert talk.event(key=made["key"]).status_code == 401


def test_an_expiry_beyond_any_calendar_is_refused(
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = command("create", "--name", "x", "--expires-in-days", "999999999")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "--expires-in-days" in done.stderr


def test_a_key_is_changed_and_what_is_not_named_stays(
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    made = json.loads(
        command("create", "--name", "shop", "--scope", "sdk", "--rate-burst", "5", "--json").stdout
    )
    changed = command(
        "patch",
        made["id"],
        "--scope",
        "events:write",
        "--app",
        "a",
        "--expires-in-days",
        "1",
        "--json",
    )
    row = json.loads(changed.stdout)
    assert (row["name"], row["scopes"], row["apps"], row["rateBurst"]) == (
        "shop",
        ["events:write"],
        ["a"],
        5,
    )
    assert row["expiresAt"] is not None
    words = ("--every-app", "--expires-in-days", "0", "--rate-burst", "0")
    assert made["id"] in command("patch", made["id"], *words).stdout
    (row,) = json.loads(command("list", "--json").stdout)
    assert (row["apps"], row["expiresAt"], row["rateBurst"], row["scopes"]) == (
        None,
        None,
        None,
        ["events:write"],
    )
    assert "events:fly" in command("patch", made["id"], "--scope", "events:fly").stderr


def test_a_rotated_key_keeps_its_id_and_shows_when_the_old_one_ends(
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    made = json.loads(command("create", "--name", "shop", "--json").stdout)
    done = command("rotate", made["id"], "--overlap-seconds", "60")
    key = done.stdout.splitlines()[0]
    assert key_format.well_formed(key)
    assert key != made["key"]
    (row,) = json.loads(command("list", "--json").stdout)
    assert row["id"] == made["id"]
    new, old = row["secrets"]
    assert (new["lastFour"], new["expiresAt"], old["lastFour"]) == (
        key[-4:],
        None,
        made["key"][-4:],
    )
    assert old["expiresAt"] is not None


@pytest.mark.parametrize("act", [("create",), ("patch", "key_1")])
def test_options_take_what_the_api_takes_and_each_that_is_wrong_is_named(
    command: Callable[..., subprocess.CompletedProcess[str]], act: tuple[str, ...]
) -> None:
    told = command(
        *act,
        "--name",
        "a\nb",
        "--app",
        "a b",
        "--rate-per-second",
        "1" + "0" * 20,
        "--rate-burst",
        "3000000000",
    )
    assert (told.returncode, told.stdout) == (2, "")
    for option in (
        "--name: must be one line",
        "--app: must",
        "--rate-per-second: must",
        "--rate-burst: must",
    ):
        assert option in told.stderr
