"""Runs the linters and generators of OpenAPI clients, which npm and pip have installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
PYTHON_GENERATOR = Path(sys.prefix) / "clients" / "openapi-python-client"
COMMITTED = ROOT / "openapi" / "openapi.json"
NEEDED = bool(os.environ.get("GATEWAY_TESTS_NEED_SDKS"))
HAS_NODE = shutil.which("node") is not None and MODULES.exists()
needs_node = pytest.mark.skipif(
    not HAS_NODE and not NEEDED,
    reason="there is no Node.js here, or `make test` has not installed tests/openapi/package.json",
)
needs_python_generator = pytest.mark.skipif(
    not PYTHON_GENERATOR.exists() and not NEEDED,
    reason="`make test` has not installed tests/openapi/openapi-python-client.txt",
)
OFFLINE = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}


def run(*words: str | Path, folder: Path = HERE, **environment: str) -> str:
    """Run a command that must succeed; return what it says."""
    done = subprocess.run(
        [*map(str, words)],
        cwd=folder,
        env=os.environ | OFFLINE | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return done.stdout


def node_tool(name: str, *words: str | Path, folder: Path = HERE) -> str:
    """Run a command of an npm package."""
    return run(MODULES / ".bin" / name, *words, folder=folder)


def breaking_changes(before: Path, after: Path) -> list[dict[str, str]]:
    """Return the breaking changes between two documents."""
    changes: Any = json.loads(run("node", HERE / "breaking_changes.mjs", before, after))
    found: list[dict[str, str]] = changes
    return found


# Only what was generated is checked. It needs attrs, which .venv lacks.
MYPY_CONFIG = """
[mypy]
strict = True
mypy_path = libraries
follow_imports = silent

[mypy-attr.*]
ignore_errors = True
"""


def python_client(folder: Path) -> None:
    """Generate the Python client into a folder, as the package `client`, and configure mypy."""
    # By default it formats with the ruff that it finds, which moves comments for mypy
    (folder / "generator.yml").write_text("post_hooks: []\n")
    config = ("--config", folder / "generator.yml", "--meta", "none")
    words = ("--path", COMMITTED, "--output-path", folder / "client", *config)
    run(
        sys.executable, "-m", "openapi_python_client", "generate", *words,
        folder=folder, PYTHONPATH=str(PYTHON_GENERATOR),
    )  # fmt: skip
    (folder / "libraries").mkdir()
    for package in ("attr", "attrs"):
        (folder / "libraries" / package).symlink_to(PYTHON_GENERATOR / package)
    (folder / "mypy.ini").write_text(MYPY_CONFIG)
