"""What the tests of this folder share."""

import pytest

from app.outbox import retention


@pytest.fixture
def frequent_housekeeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let housekeepers that start from now on look every 50 ms, not every 15 s."""
    monkeypatch.setattr(retention, "COUNT_SECONDS", 0.05)
