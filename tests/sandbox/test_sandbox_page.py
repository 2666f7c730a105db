"""The page about the sandbox: it lists every fault, and each of its commands does what it says."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.simulator.fault_catalog import fault_catalog
from tests.support.processes import ROOT, bearer, environment
from tests.support.sandbox import Sandbox, sandbox
from tests.support.wait import until

PAGE = (ROOT / "docs" / "sandbox.md").read_text()
SIMULATOR = "http://127.0.0.1:8001"
CATALOG = fault_catalog(SIMULATOR)
ROW = re.compile(r"^\| `([^`]+)` \| (.+?) \| (.+?) \| `(curl .+)` \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE)
PARAMETER = re.compile(r"^\| `(\w+)` \| ([^|]+) \|$", re.MULTILINE)
STATUS = re.compile(r"`([a-z]+)`")
REMOVE = f"curl -sS -X DELETE {SIMULATOR}/_simulator/faults"
# What an item that waits may become while the fault is active
WAITING = {"accepted", "retrying", "held"}
COMMAND = re.compile(r"^curl .*$", re.MULTILINE)
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox(tmp_path_factory.mktemp("sandbox")) as started:
        yield started


class Item:
    """One event that was posted to the sandbox."""

    def __init__(self, at: Sandbox, user: str) -> None:
        self._url, self._headers = at.gateway.url, bearer(at.key)
        body = {"userId": user, "event": "Purchase"}
        accepted = httpx.post(f"{self._url}/v1/events", json=body, headers=self._headers)
        assert accepted.status_code == 202, accepted.text
        self.id: str = accepted.json()["id"]

    @property
    def receipt(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(
            f"{self._url}/v1/receipts/{self.id}", headers=self._headers
        ).json()
        return found

    def becomes(self, status: str) -> dict[str, Any]:
        """Return the receipt once it has this status."""
        until(lambda: self.receipt["status"] == status)
        return self.receipt

    def replay(self) -> None:
        httpx.post(
            f"{self._url}/v1/dead-letters/replay", json={"ids": [self.id]}, headers=self._headers
        ).raise_for_status()


def test_commands_find_the_sandbox_as_the_page_says(running: Sandbox) -> None:
    (commands,) = re.findall(
        r"^export GATEWAY_DATABASE_URL=.*\npython -m app .*$", PAGE, re.MULTILINE
    )
    Item(running, "commands").becomes("delivered")
    folder = running.gateway.folder
    env = environment(folder)
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", commands], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"Deliverers\s+1", done.stdout)


def test_the_page_lists_every_mode_as_the_simulator_does() -> None:
    listed = [(mode["mode"], mode["description"], mode["curl"]) for mode in CATALOG["modes"]]
    assert [(mode, description, curl) for mode, description, _, curl in ROWS] == listed


def test_the_page_lists_every_parameter_as_the_simulator_does() -> None:
    described = dict(PARAMETER.findall(PAGE))
    assert described.items() >= CATALOG["parameters"].items()


@pytest.mark.parametrize(
    ("mode", "effect", "command"),
    [(row[0], *row[2:]) for row in ROWS],
    ids=[row[0] for row in ROWS],
)
def test_a_mode_has_the_effect_that_the_page_says_and_is_over_once_removed(
    running: Sandbox, mode: str, effect: str, command: str
) -> None:
    status, *later = STATUS.findall(effect)
    running.run(command)
    item = Item(running, f"rehearsal-{mode}")
    receipt = item.becomes(status)
    if status not in WAITING:
        assert ("warning" in receipt["leanplum"]) == ("with a warning" in effect)
    running.run(REMOVE)
    if status == "rejected":
        item.replay()
    if status not in {"skipped", "delivered"}:
        item.becomes("delivered")
    assert later in ([], ["delivered"])


def test_every_command_of_the_page_answers_in_json(running: Sandbox) -> None:
    for command in COMMAND.findall(PAGE):
        running.run(command)
    running.run(REMOVE)


def test_the_rehearsal_of_the_page_retries_and_then_delivers(running: Sandbox) -> None:
    (block,) = [block for block in PAGE.split("```") if "rehearsal-1" in block]
    plan, post, look, remove = COMMAND.findall(block)
    for command in (plan, post):
        running.run(command)
    until(lambda: running.run(look)["status"] == "retrying")
    running.run(remove)
    until(lambda: running.run(look)["status"] == "delivered")
