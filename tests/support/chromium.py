"""A real Chromium, where the machine has one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
NEEDED = bool(os.environ.get("GATEWAY_TESTS_NEED_CHROMIUM"))
NO_CHROMIUM = "there is no Chromium here (on Debian: apt-get install chromium)"
needs_chromium = pytest.mark.skipif(CHROMIUM is None and not NEEDED, reason=NO_CHROMIUM)
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)


def command(folder: Path, *words: str) -> list[str]:
    """Return the command that runs it with a new profile in `folder`."""
    assert CHROMIUM is not None, "GATEWAY_TESTS_NEED_CHROMIUM is set, and there is none"
    return [CHROMIUM, *QUIET, f"--user-data-dir={folder}/profile", *words]


def dump(url: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Load a page and run its scripts; stdout is the document then, stderr what Chromium logged."""
    words = ("--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom", url)
    return subprocess.run(
        command(folder, *words), capture_output=True, text=True, timeout=90, check=True
    )
