"""The simulator as a program and as a background server, and that it stands alone."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import app.simulator
from app.simulator.server import BackgroundServer

PACKAGE = Path(app.simulator.__file__).parent
PROGRAM = (
    "from app.simulator import SimulatorConfig; from app.simulator.server import serve;"
    "serve(SimulatorConfig(), '127.0.0.1', 0)"
)


def test_serve_says_where_it_listens_and_answers_there_until_interrupted() -> None:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parents[1])}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as program:
        assert program.stdout is not None
        line = program.stdout.readline()
        assert line.startswith("simulator: http://127.0.0.1:")
        assert httpx.get(line.removeprefix("simulator: ").strip()).status_code == 400
        program.send_signal(signal.SIGINT)
        assert program.stdout.read() == ""
    assert program.returncode == 0


def test_two_background_servers_share_nothing() -> None:
    with BackgroundServer() as one, BackgroundServer() as other:
        httpx.get(f"{one.url}/api")
        counts = [
            httpx.get(f"{each.url}/_simulator/stats").json()["calls"] for each in (one, other)
        ]
    assert counts == [1, 0]


def test_a_background_server_no_longer_listens_after_its_block() -> None:
    with BackgroundServer() as server:
        pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/_simulator/stats")


def test_the_simulator_imports_nothing_from_the_rest_of_the_project() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            ours = [name for name in names if name.split(".")[0] == "app"]
            assert all(name.startswith("app.simulator") for name in ours), path
