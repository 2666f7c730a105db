"""The pages as a person sees them: rendered by a real Chromium from a real server, which may ask no
other host.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.processes import serving

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
NEEDED = bool(os.environ.get("GATEWAY_TESTS_NEED_CHROMIUM"))
OPTIONS = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
    *("--virtual-time-budget=20000", "--dump-dom"),
)


@pytest.mark.skipif(CHROMIUM is None and not NEEDED, reason="there is no Chromium here")
@pytest.mark.parametrize("page", ["docs", "redoc"])
def test_a_page_shows_the_operations_and_asks_no_other_host(page: str, tmp_path: Path) -> None:
    assert CHROMIUM is not None, "GATEWAY_TESTS_NEED_CHROMIUM is set, and there is none"
    with serving(tmp_path, "http://127.0.0.1:9") as gateway:
        shown = subprocess.run(
            [
                CHROMIUM,
                *OPTIONS,
                f"--user-data-dir={tmp_path}/profile",
                f"http://127.0.0.1:{gateway.port}/{page}",
            ],
            capture_output=True,
            text=True,
            timeout=90,
            check=True,
        )
    assert "Accept an event" in shown.stdout
    assert "/v1/receipts/" in shown.stdout
    assert "Uncaught" not in shown.stderr
    foreign = [line for line in shown.stderr.splitlines() if "ERR_NAME_NOT_RESOLVED" in line]
    assert not foreign, foreign
