"""docs/cli.md: it names every command, and its examples do what it says."""

import json
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from app.cli.main import cli
from tests.cli.conftest import Served
from tests.support.fork_server import fork_server
from tests.support.processes import ROOT, ended, environment
from tests.support.wait import until

PAGE = (ROOT / "docs/cli.md").read_text()
EXAMPLES = re.findall(r"^python -m app (.*)$", PAGE, re.MULTILINE)
ATTENTION = {"status"}  # exits with 1, since there are dead letters


def names(group: Any, before: str = "") -> Iterator[str]:
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from names(found, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def test_every_command_is_described() -> None:
    described = PAGE.replace("`replay` and `discard`", "dead-letters replay dead-letters discard")
    missing = [name for name in names(typer.main.get_command(cli)) if name not in described]
    assert missing == []


def test_the_examples_do_what_the_page_says(served: Served, tmp_path: Path) -> None:
    env = served.gateway.settings | {
        "LPGW_KEY": served.gateway.key,
        "GATEWAY_PORT": str(served.gateway.port),
        "ITEM_ID": _dead_letter(served, "user-1"),
        "KEY_ID": served.gateway.create_key("sdk")[0],
    }
    _dead_letter(served, "user-2")
    (tmp_path / "plan.yaml").write_text("version: 1\nevents: {Purchase: {}}\n")
    (tmp_path / "new-plan.yaml").write_text("version: 2\nevents: {Purchase: {}, Refund: {}}\n")
    for example in EXAMPLES:
        words = [_filled(word, env) for word in shlex.split(example)]
        if words[0] == "tail":
            _follow(tmp_path, words, env)
            continue
        done = ended(tmp_path, *words, **env)
        assert done.returncode == (1 if words[0] in ATTENTION else 0), (example, done.stderr)
        assert done.stdout, example
        if "--json" in words:
            json.loads(done.stdout)


def _dead_letter(served: Served, user: str) -> str:
    """Return the id of an item of the user that the simulator has refused."""
    served.leanplum.fault(mode="success-false", userId=user, message="no such thing")
    item_id = f"{user}-refused"
    body = {"userId": user, "event": "Purchase", "id": item_id}
    assert served.gateway.call("POST", "/v1/events", json=body).status_code == 202
    until(lambda: served.gateway.status(item_id) == "rejected")
    return item_id


def _filled(word: str, env: dict[str, str]) -> str:
    return env[word[1:]] if word.startswith("$") else word


def _follow(folder: Path, words: list[str], env: dict[str, str]) -> None:
    """Run `tail` until it has printed something, and end it as Ctrl-C does."""
    output, errors = folder / "followed", folder / "errors"
    output.unlink(missing_ok=True)
    process = fork_server().fork(words, folder, environment(folder, **env), output, errors)
    try:
        until(lambda: "Purchase" in output.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    assert errors.read_text() == ""
