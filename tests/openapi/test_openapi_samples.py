"""Code samples of the OpenAPI document run in the sandbox."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.model import Scope
from app.server.openapi.samples import APP_TAGS, LANGUAGES
from tests.openapi.sandbox import (
    EXAMPLE_KEY_ID,
    operations_in_order,
    sandbox_with_a_sealed_record,
)
from tests.openapi.tools import NEEDED
from tests.support.openapi import OPERATIONS
from tests.support.processes import Process
from tests.support.wait import until

Sources = dict[str, str]  # by operation id
OF_BACKENDS, OF_APPS = ["curl", "Python", "Node.js"], ["Swift", "Kotlin"]


def test_operations_have_a_sample_in_each_language_of_their_callers() -> None:
    assert [language.label for language in LANGUAGES] == [*OF_BACKENDS, *OF_APPS]
    for operation in OPERATIONS:
        is_for_apps = not APP_TAGS.isdisjoint(operation.raw["tags"])
        labels = [*OF_BACKENDS, *OF_APPS] if is_for_apps else OF_BACKENDS
        assert [sample["label"] for sample in operation.raw["x-codeSamples"]] == labels
        assert all(sample["source"] for sample in operation.raw["x-codeSamples"])


def curl_script(sources: Sources) -> str:
    """Return a script that prints the id and the status of each operation."""
    lines = [
        f"printf '{name} '; {source} -sS -o /dev/null -w '%{{http_code}}\\n'"
        for name, source in sources.items()
    ]
    return "\n".join(lines)


def python_script(sources: Sources) -> str:
    lines = ["import httpx, os", 'gateway, key = os.environ["GATEWAY"], os.environ["KEY"]']
    for name, source in sources.items():
        lines += [source, f"print({name!r}, response.status_code)"]
    return "\n".join(lines)


def node_script(sources: Sources) -> str:
    lines = ["const { GATEWAY: gateway, KEY: key } = process.env;"]
    for name, source in sources.items():
        lines.append(f"{{ {source}\nconsole.log({json.dumps(name)}, response.status); }}")
    return "\n".join(lines)


EXAMPLE_STATEMENT = "/v1/erasures/1"
RUNNERS: dict[str, tuple[Callable[[Sources], str], Sequence[str]]] = {
    "curl": (curl_script, ("bash", "-c")),
    "Python": (python_script, (sys.executable, "-c")),
    "Node.js": (node_script, ("node", "--input-type=module", "--eval")),
}


def sources_of(document: dict[str, Any], label: str, key_id: str, statement: str) -> Sources:
    """Return the samples in one language, with the id of a key and the path of a statement."""
    sources = {}
    for operation in operations_in_order(document):
        (sample,) = (one for one in operation.raw["x-codeSamples"] if one["label"] == label)
        source = sample["source"].replace(EXAMPLE_KEY_ID, key_id)
        source = source.replace(EXAMPLE_STATEMENT, statement)
        sources[operation.raw["operationId"]] = source
    return sources


def statuses(sandbox: Process, label: str, folder: Path) -> dict[str, str]:
    """Run all samples in one language; return the status of each operation."""
    (folder / "hello.png").write_bytes(b"(bytes)")
    key_id, _ = sandbox.create_key(Scope.SDK)
    statement = sandbox.call("DELETE", "/v1/users/erased-before").json()["statementHref"]
    until(lambda: sandbox.call("GET", statement).status_code == 200)
    document = sandbox.http.get("/openapi.json").json()
    script, command = RUNNERS[label]
    done = subprocess.run(
        [*command, script(sources_of(document, label, key_id, statement))],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "GATEWAY": sandbox.url, "KEY": sandbox.key},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.parametrize("label", RUNNERS)
def test_samples_succeed_in_the_sandbox(label: str, tmp_path: Path) -> None:
    program = {"curl": "curl", "Node.js": "node"}.get(label)
    if program is not None and shutil.which(program) is None and not NEEDED:
        pytest.skip(f"there is no {program} here")
    with sandbox_with_a_sealed_record(tmp_path) as sandbox:
        answered = statuses(sandbox, label, tmp_path)
    assert answered.keys() == {operation.raw["operationId"] for operation in OPERATIONS}
    assert {name: status for name, status in answered.items() if status[0] != "2"} == {}
