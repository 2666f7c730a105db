"""Examples end delivered: those of the README, of the documentation pages and of the sandbox's own
greeting, run against a sandbox. None of them, an erasure neither, keeps the first calls from
working.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.openapi import DOCUMENT, parameters_of
from tests.support.processes import ROOT, Process, serving
from tests.support.sandbox import NO_LEANPLUM
from tests.support.wait import until

COMMAND = re.compile(r"^curl (?:.*\\\n)*.*$", re.MULTILINE)
WRITES = [
    (method, path)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
    if "202" in operation["responses"]
]
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")


def commands(page: str) -> list[str]:
    found = COMMAND.findall((ROOT / page).read_text())
    assert found, f"{page} has no example"
    return [command.replace("\\\n", " ") for command in found]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("sandbox"), "", "--sandbox", **NO_LEANPLUM) as gateway:
        yield gateway


def answer(sandbox: Process, command: str) -> dict[str, Any]:
    words = command.replace("http://127.0.0.1:8000", sandbox.url).replace("$KEY", sandbox.key)
    shown = subprocess.run(
        ["bash", "-c", words + " -sS"], capture_output=True, text=True, timeout=60, check=True
    )
    found: dict[str, Any] = orjson.loads(shown.stdout)
    return found


def ends(sandbox: Process, accepted: dict[str, Any]) -> list[str]:
    """The final status of each item of an answer."""
    items = accepted.get("results", [accepted])
    ids = [one.get("id") for one in items]
    assert all(ids), accepted
    until(lambda: all(sandbox.status(one) not in {"accepted", "retrying"} for one in ids))
    return [sandbox.status(one) for one in ids]


def quick_start(sandbox: Process) -> None:
    """The README's first calls, each of which ends delivered."""
    for command in commands("README.md"):
        accepted = answer(sandbox, command)
        assert set(ends(sandbox, accepted)) == {"delivered"}, (command, accepted)


def proposed(method: str, path: str) -> tuple[str, Any]:
    """The path and the body that the documentation pages fill in."""
    operation = DOCUMENT["paths"][path][method]
    for parameter in parameters_of(operation):
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", parameter["example"])
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]]
    return path, schema["examples"][0]


def test_the_readmes_examples_end_delivered(sandbox: Process) -> None:
    quick_start(sandbox)


def test_the_sandboxs_own_example_ends_delivered(sandbox: Process) -> None:
    command = next(
        line
        for line in sandbox.output.read_text().splitlines()
        if line.lstrip().startswith("curl ")
    )
    accepted = answer(sandbox, command.strip())
    assert accepted["status"] == "delivered"


@pytest.mark.parametrize(
    ("method", "path"), WRITES, ids=[f"{method} {path}" for method, path in WRITES]
)
def test_what_the_documentation_page_proposes_ends_delivered(
    sandbox: Process, method: str, path: str
) -> None:
    url, body = proposed(method, path)
    accepted = sandbox.call(method.upper(), url, json=body)
    assert accepted.status_code == 202, accepted.text
    assert set(ends(sandbox, accepted.json())) == {"delivered"}


def test_after_the_proposed_erasure_and_block_the_quick_start_works_with_any_time_of_refusal(
    tmp_path: Path,
) -> None:
    day = {"GATEWAY_ERASED_SECONDS": "86400"}
    with serving(tmp_path, "", "--sandbox", **NO_LEANPLUM, **day) as sandbox:
        for method, path in (("delete", "/v1/users/{userId}"), ("put", "/v1/users/{userId}/block")):
            url, body = proposed(method, path)
            assert ends(sandbox, sandbox.call(method, url, json=body).json()) == ["delivered"]
        assert (
            sandbox.call(
                "POST", "/v1/events", json={"userId": "user-to-erase", "event": "E"}
            ).status_code
            == 403
        )
        quick_start(sandbox)


def test_the_sandbox_takes_an_erased_user_again(sandbox: Process) -> None:
    for command in commands("docs/erasure.md"):
        assert answer(sandbox, command)["action"] == "deleteUser"
    erased = sandbox.call("DELETE", "/v1/users/user-1", params={"fullErasure": "true"})
    assert ends(sandbox, erased.json()) == ["delivered"]
    quick_start(sandbox)
