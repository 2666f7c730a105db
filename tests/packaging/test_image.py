"""The image, as far as its Dockerfile tells; CI builds and runs it for real (.ci/container)."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from app import __version__

ROOT = Path(__file__).parents[2]


def final_stage() -> dict[str, list[str]]:
    """The last stage's instructions: each keyword's arguments, in order, with continued lines
    joined.
    """
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace(
        "\\\n", " "
    )
    stage = text[text.rindex("FROM ") :]
    found: dict[str, list[str]] = {}
    for line in filter(None, map(str.strip, stage.splitlines())):
        keyword, arguments = line.split(maxsplit=1)
        found.setdefault(keyword, []).append(arguments.strip())
    return found


def test_the_gateway_is_the_process_that_gets_the_signals() -> None:
    stage = final_stage()
    assert json.loads(stage["ENTRYPOINT"][-1]) == ["python", "-m", "app"]
    assert json.loads(stage["CMD"][-1]) == ["serve"]


def test_the_image_runs_as_a_numeric_user_that_is_not_root_and_of_group_0() -> None:
    user, group = final_stage()["USER"][-1].split(":")
    assert int(user) > 0
    assert group == "0", "platforms that choose the user themselves keep this group"


def test_any_user_of_group_0_may_write_to_the_volume_and_to_nothing_else() -> None:
    stage = final_stage()
    made = [command for command in stage["RUN"] if "install --directory" in command]
    assert len(made) == 1
    assert re.search(r"--group 0 --mode 2770 /data\b", made[0])
    assert not any(
        "chmod" in command or "chown" in command for command in stage["RUN"] + stage["COPY"]
    )
    assert "HOME=/data" in " ".join(stage["ENV"]), (
        "a user without an entry in /etc/passwd has / otherwise"
    )


def labels() -> dict[str, str]:
    """The image's labels, without the prefix that all of them have."""
    (text,) = final_stage()["LABEL"]
    return dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', text))


def test_the_labels_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2].split()[0]
    assert labels() == {
        "title": project["name"],
        "description": project["description"],
        "version": __version__,
        "revision": "$REVISION",
        "base.name": f"docker.io/library/{base}",
    }


def removed_modules() -> list[str]:
    """The modules that the build takes out of the environment, by their names at import."""
    text = (ROOT / "Dockerfile").read_text()
    command = text[text.index("&& rm -r ") : text.index("&& find babel")]
    words = command.replace("\\\n", " ").split()[3:]
    names = {re.sub(r"(\.py|\.?\*)$", "", word).replace("/", ".") for word in words}
    return sorted(name for name in names if not name.endswith("-"))


USED = """
import sys

class Removed:
    def find_spec(self, name, path=None, target=None):
        if name in {names!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Removed())
import app.server.run, app.server.application, app.database.postgresql, app.enrichment.normalizers, zstandard
import app.cli.output, app.cli.progress
app.cli.output._table(["A"], [["1"]]), app.cli.progress._bar(1)
from app.cli.main import cli
"""


def test_what_is_taken_out_of_the_image_is_not_loaded() -> None:
    names = removed_modules()
    assert {"pygments", "phonenumbers.geodata", "sqlalchemy.testing"} <= set(names)
    for words in (["--help"], ["openapi", "--check"]):
        code = USED.format(names=set(names)) + f"sys.argv = ['app', *{words!r}]\ncli()\n"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"TYPER_USE_RICH": "0"}, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "TYPER_USE_RICH=0" in " ".join(final_stage()["ENV"])


def test_babel_is_asked_for_english_alone() -> None:
    """The image has no other language's data."""
    texts = [path.read_text() for path in (ROOT / "app").rglob("*.py")]
    assert {call for text in texts for call in re.findall(r"\bLocale\(.*?\)", text)} == {
        'Locale("en")'
    }
    assert not any(
        re.search(r"\bLocale\.(parse|default|negotiate)|babel\.(dates|units|lists)", text)
        for text in texts
    )


def test_the_health_check_needs_no_shell_and_asks_livez() -> None:
    command = json.loads(final_stage()["HEALTHCHECK"][-1].partition("CMD ")[2])
    assert command[0] == "python"
    assert "/livez" in command[-1]


def test_what_the_gateway_keeps_is_on_the_volume() -> None:
    stage = final_stage()
    assert stage["VOLUME"] == ["/data"]
    assert any("ln -s /data /srv/data" in command for command in stage["RUN"])
    assert stage["WORKDIR"] == ["/srv"]


def test_packages_are_installed_by_hash_from_the_lock() -> None:
    assert re.search(
        r"--require-hashes\s+--requirement requirements\.lock", (ROOT / "Dockerfile").read_text()
    )


def test_the_build_is_given_the_code_and_the_lock_and_nothing_else() -> None:
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert lines == ["*", "!app", "!requirements.lock", "**/__pycache__"]
