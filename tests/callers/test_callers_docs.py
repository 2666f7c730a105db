"""What docs/keys.md says is so."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from app.apps import read_apps
from app.model import Scope
from app.settings import Settings
from tests.support.processes import ended, serving

PAGE = (Path(__file__).resolve().parents[2] / "docs/keys.md").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_its_commands_make_list_and_rotate_a_key(tmp_path: Path) -> None:
    curls = [
        command.replace("\\\n", " ")
        for command in re.findall(r"^curl (?:.*\\\n)*.*$", PAGE, re.MULTILINE)
    ]
    assert len(curls) == 3
    with serving(tmp_path, "http://127.0.0.1:9", "--no-delivery") as gateway:
        environ = {"URL": gateway.url, "KEY": gateway.key, "ID": ""}
        answers = []
        for curl in curls:
            done = subprocess.run(
                ["bash", "-c", f"{curl} -f"],
                env=environ,
                capture_output=True,
                text=True,
                check=True,
            )
            answers.append(json.loads(done.stdout))
            environ["ID"] = answers[0]["id"]
        made, listed, rotated = answers
        assert made["id"] in {one["id"] for one in listed["keys"]}
        assert rotated["id"] == made["id"]
        assert rotated["key"] != made["key"]


def test_its_command_makes_a_first_key(tmp_path: Path) -> None:
    (command,) = re.findall(r"^python -m app (.*)$", PAGE, re.MULTILINE)
    assert ended(tmp_path, *command.split()).returncode == 0


def test_its_file_of_apps_is_one(tmp_path: Path) -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    for path in re.findall(r'file = "(.*?)"', toml):
        (tmp_path / Path(path).name).write_text("key")
    file = tmp_path / "apps.toml"
    file.write_text(toml.replace("/run/secrets", str(tmp_path)))
    apps = read_apps(
        Settings(_env_file=None, gateway_apps_file=file), {"SHOP_DEVELOPMENT_KEY": "key"}
    )
    assert list(apps) == list(tomllib.loads(toml)["apps"])


def test_its_table_has_every_scope() -> None:
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(.*?)`", row)} == {
        scope.value for scope in Scope
    }
