"""Commands that tests start at the same time."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.processes import ended

COMMANDS = ["keys", "audit", "plan", "taxonomy", "dead-letters", "serve", "migrate", "unknown"] * 5


@pytest.mark.slow
def test_each_of_several_threads_sees_the_end_of_its_own_command(tmp_path: Path) -> None:
    def run(name: str) -> tuple[int, bool]:
        done = ended(tmp_path, name, "--help")
        return done.returncode, f" {name} [OPTIONS]" in done.stdout

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(run, COMMANDS))
    assert results == [(2, False) if name == "unknown" else (0, True) for name in COMMANDS]
