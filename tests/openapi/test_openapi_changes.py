"""No change of the OpenAPI document breaks generated clients, unless it is intended.

The document is compared with that of the last commit, or of GATEWAY_TESTS_OPENAPI_BASE (such as
`origin/main`). An intended change is a line of intended_changes.txt.
"""

import json
import os
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.openapi.tools import COMMITTED, HERE, breaking_changes, needs_node
from tests.support.openapi import DOCUMENT
from tests.support.processes import ROOT

pytestmark = pytest.mark.sdk
BASE = os.environ.get("GATEWAY_TESTS_OPENAPI_BASE", "HEAD")
INTENDED = HERE / "intended_changes.txt"


def written(document: Any, path: Path) -> Path:
    path.write_text(json.dumps(document))
    return path


def base_document(path: Path) -> Path:
    """Write the document of the base; without git, it is the committed file."""
    done = subprocess.run(
        ["git", "show", f"{BASE}:openapi/openapi.json"], cwd=ROOT, capture_output=True, check=False
    )
    path.write_bytes(done.stdout if done.returncode == 0 else COMMITTED.read_bytes())
    return path


@needs_node
def test_no_change_since_the_base_breaks_clients(tmp_path: Path) -> None:
    after = written(DOCUMENT, tmp_path / "after.json")
    changes = breaking_changes(base_document(tmp_path / "before.json"), after)
    lines = [line for line in INTENDED.read_text().splitlines() if not line.startswith("#")]
    intended = {line.partition(" # ")[0] for line in lines}
    assert [change for change in changes if change["path"] not in intended] == []


def broken() -> dict[str, Any]:
    """Return the document with one breaking change of each kind."""
    document = deepcopy(DOCUMENT)
    schemas = document["components"]["schemas"]
    del document["paths"]["/v1/keys"]["get"]
    schemas["Event"]["required"].append("userId")
    schemas["EventName"]["maxLength"] = 10
    del schemas["Receipt"]["properties"]["href"]
    parameter = {"name": "x", "in": "query", "required": True, "schema": {"type": "string"}}
    document["paths"]["/v1/dead-letters"]["get"]["parameters"].append(parameter)
    return document


@needs_node
def test_breaking_changes_are_found(tmp_path: Path) -> None:
    before = written(DOCUMENT, tmp_path / "before.json")
    changes = breaking_changes(before, written(broken(), tmp_path / "after.json"))
    said = " ".join(change["description"] for change in changes)
    for expected in (
        "[Removed] operation GET /v1/keys",
        "[Added] required status to `userId`",
        "[Replaced] maxLength validator of `event`",
        "[Removed] property `href`",
        "[Added] required query parameter `x`",
    ):
        assert expected in said, said


@needs_node
def test_a_new_operation_and_an_optional_field_break_nothing(tmp_path: Path) -> None:
    changed = deepcopy(DOCUMENT)
    changed["paths"]["/v1/new"] = {"get": changed["paths"]["/v1/keys"]["get"]}
    changed["components"]["schemas"]["Event"]["properties"]["note"] = {"type": "string"}
    before = written(DOCUMENT, tmp_path / "before.json")
    assert breaking_changes(before, written(changed, tmp_path / "after.json")) == []
