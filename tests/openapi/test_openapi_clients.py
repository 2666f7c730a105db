"""Generated clients pass strict type checks, and make a round trip with typed errors."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.simulator.server import BackgroundServer
from tests.openapi.tools import (
    COMMITTED,
    HERE,
    MODULES,
    PYTHON_GENERATOR,
    needs_node,
    needs_python_generator,
    node_tool,
    python_client,
    run,
)
from tests.support.processes import Process, serving

pytestmark = pytest.mark.sdk
SAID = {
    "tracked": "delivered",
    "found": "delivered",
    "problem": "/problems/validation",
    "pointer": "/event",
}
STRICT = ("--strict", "--target", "es2022", "--module", "commonjs", "--types", "node")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("clients")
    with BackgroundServer() as leanplum, serving(folder, leanplum.url) as process:
        yield process


@needs_node
def test_a_generated_typescript_client_compiles_strictly_and_makes_a_round_trip(
    gateway: Process, tmp_path: Path
) -> None:
    plugin = ("--client", "@hey-api/client-fetch", "--silent")
    node_tool("openapi-ts", "--input", COMMITTED, "--output", tmp_path / "client", *plugin)
    shutil.copy(HERE / "round_trip.ts", tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES)
    node_tool("tsc", *STRICT, "round_trip.ts", folder=tmp_path)
    said = run("node", "round_trip.js", gateway.url, gateway.key, folder=tmp_path)
    assert json.loads(said) == SAID


@needs_python_generator
def test_a_generated_python_client_passes_mypy_strictly_and_makes_a_round_trip(
    gateway: Process, tmp_path: Path
) -> None:
    python_client(tmp_path)
    shutil.copy(HERE / "round_trip.py", tmp_path)
    run(sys.executable, "-m", "mypy", "client", "round_trip.py", folder=tmp_path)
    words = (sys.executable, "round_trip.py", gateway.url, gateway.key)
    said = run(*words, folder=tmp_path, PYTHONPATH=str(PYTHON_GENERATOR))
    assert json.loads(said) == SAID
