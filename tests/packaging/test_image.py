"""The image, as far as its Dockerfile tells; CI builds and runs it for real (.ci/container)."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def final_stage() -> dict[str, list[str]]:
    """The last stage's instructions: each keyword's arguments, in order, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
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


def test_the_image_runs_as_a_numeric_user_that_is_not_root() -> None:
    user, group = final_stage()["USER"][-1].split(":")
    assert int(user) > 0
    assert int(group) > 0


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
    assert re.search(r"--require-hashes\s+--requirement requirements\.lock", (ROOT / "Dockerfile").read_text())


def test_the_build_is_given_the_code_and_the_lock_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["*", "!app", "!requirements.lock", "**/__pycache__"]
