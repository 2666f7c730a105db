"""The pages as a person sees them: rendered by a real Chromium from a real server, which may ask no
other host.
"""

from pathlib import Path

import pytest

from tests.support import chromium
from tests.support.chromium import needs_chromium
from tests.support.processes import serving


@needs_chromium
@pytest.mark.parametrize("page", ["docs", "redoc"])
def test_a_page_shows_the_operations_and_asks_no_other_host(page: str, tmp_path: Path) -> None:
    with serving(tmp_path, "http://127.0.0.1:9") as gateway:
        shown = chromium.dump(f"http://127.0.0.1:{gateway.port}/{page}", tmp_path)
    assert "Track an event" in shown.stdout
    assert "/v1/receipts/" in shown.stdout
    assert "Uncaught" not in shown.stderr
    foreign = [line for line in shown.stderr.splitlines() if "ERR_NAME_NOT_RESOLVED" in line]
    assert not foreign, foreign
