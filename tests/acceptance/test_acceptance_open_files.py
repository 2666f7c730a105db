"""Callers' connections never use up the files that the database and Leanplum need."""

import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.http_server import Wire
from tests.support.processes import Process, environment

ASKED = """
import resource, sys
from app.server import process_limits
from app.settings import Settings
wanted, soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
allowed = process_limits.allowed_connections(Settings(_env_file=None, gateway_max_connections=wanted))
print(allowed, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("wanted", "soft", "hard", "allowed", "files"),
    [
        (500, 300, 1_000, 500, 756),
        (500, 300, 600, 344, 600),
        (10, 300, 600, 10, 300),
        (500, 100, 100, 1, 100),
    ],
    ids=["the limit is raised", "as far as may be", "it is enough", "there are hardly any"],
)
def test_as_many_connections_are_open_as_leave_files_for_the_rest(
    tmp_path: Path, wanted: int, soft: int, hard: int, allowed: int, files: int
) -> None:
    command = [sys.executable, "-c", ASKED, *map(str, (wanted, soft, hard))]
    found = subprocess.run(
        command, env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert found.stdout.split()[-2:] == [str(allowed), str(files)]
    assert ("connections.limited" in found.stdout) == (allowed < wanted)


class Confined(Process):
    """A gateway that may open few files."""

    def command(self, *words: str) -> list[str]:
        return ["bash", "-c", 'ulimit -n 300 && exec "$0" "$@"', *super().command(*words)]


def test_a_gateway_whose_connections_are_all_taken_still_commits(tmp_path: Path) -> None:
    gateway = Confined(tmp_path, "http://127.0.0.1:9")
    with ExitStack() as stack:
        stack.callback(gateway.close)
        gateway.start()
        for _ in range(290):
            stack.enter_context(closing(Wire(gateway.port)))
        assert gateway.event("ann", 1).status_code == 202
        assert gateway.http.get("/readyz").status_code == 200
    assert b"connections.limited" in gateway.output.read_bytes()
