"""The commands of a page of the documentation, and how tests run them."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.processes import ROOT, environment

HEADING = re.compile(r"^#{2,3} (.*)$", re.MULTILINE)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shell_blocks(page: str) -> dict[str, list[str]]:
    """Return a page's blocks of shell commands by the heading that they are under."""
    parts = HEADING.split((ROOT / page).read_text())
    blocks = {
        title: SHELL.findall(text) for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    return {title: found for title, found in blocks.items() if found}


def run(
    block: str, folder: Path, *programs: Path, **settings: str
) -> "subprocess.CompletedProcess[str]":
    """Run a block in a folder, as its reader would; `programs` are folders of other commands."""
    env = environment(folder, **settings)
    env["PATH"] = ":".join([*map(str, _searched(programs)), env["PATH"]])
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def succeed(block: str, folder: Path, *programs: Path, **settings: str) -> str:
    """Run a block whose commands all succeed, and return what it prints."""
    done = run(block, folder, *programs, **settings)
    assert done.returncode == 0, (block, done.stdout, done.stderr)
    return done.stdout


def _searched(programs: Sequence[Path]) -> list[Path]:
    return [Path(sys.executable).parent, *programs]
