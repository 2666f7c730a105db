"""The README's own commands do what it says. `make run` and `make test` are called by `.ci/run`,
the image's by `.ci/container`.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.settings import Settings
from tests.support.processes import ended, serving

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
CURLS = [
    command.replace("\\\n", " ")
    for command in re.findall(r"^curl (?:.*\\\n)*.*$", README, re.MULTILINE)
]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_the_first_calls_are_all_accepted(tmp_path: Path) -> None:
    assert len(CURLS) == 4
    with serving(tmp_path, "http://127.0.0.1:9", "--no-delivery") as gateway:
        for command in CURLS:
            words = command.replace("http://127.0.0.1:8000", gateway.url).replace(
                "$KEY", gateway.key
            )
            shown = subprocess.run(
                ["bash", "-c", words + " -sS -f"], capture_output=True, text=True, check=False
            )
            assert shown.returncode == 0, (command, shown.stderr)
            assert '"accepted"' in shown.stdout


@pytest.mark.parametrize(
    "words", re.findall(r"`python -m app ([a-z -]+?)(?: --name NAME.*?)?`", README)
)
def test_a_command_that_is_named_runs(tmp_path: Path, words: str) -> None:
    given = ["--name", "readme"] if words.strip() == "keys create" else []
    assert ended(tmp_path, "migrate").returncode == 0  # what only reads makes no database
    done = ended(tmp_path, *words.split(), *given)
    lists = words.split()[-1] == "list"  # 1 means that there is nothing to list
    assert done.returncode in ({0, 1} if lists else {0}), done.stderr


def test_every_command_in_a_block_is_run_by_a_test_or_by_ci() -> None:
    blocks = re.findall(r"^```\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    words = {word for block in blocks for word in re.findall(r"^(\w+) ", block, re.MULTILINE)}
    assert words <= {"make", "curl", "docker", "your"}  # "your backend" begins the diagram
    scripts = "".join((ROOT / ".ci" / name).read_text() for name in ("run", "container"))
    for target in re.findall(r"^make (\w+)$", README, re.MULTILINE):
        assert f"make {target}" in scripts
    assert "container-check" in scripts, "which builds the Dockerfile"


def test_the_table_is_short() -> None:
    assert len(re.findall(r"^\| `(?:GATEWAY|LEANPLUM)_", README, re.MULTILINE)) <= 6


def test_every_page_of_the_documentation_that_is_named_is_a_link() -> None:
    assert re.findall(r"(?<!\[)`docs/[\w/-]+\.md`", README) == []


def test_every_setting_in_the_table_is_one() -> None:
    named = set(re.findall(r"`((?:GATEWAY|LEANPLUM)_[A-Z_]+)`", README)) - {"GATEWAY_SECRETS_DIR"}
    assert named
    assert named <= {name.upper() for name in Settings.model_fields}
