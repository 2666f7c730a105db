"""What the tests of the console share."""

from pathlib import Path
from typing import Any

import pytest

TWO_APPS = "".join(
    f'[apps.{name}]\napp_id = "{name}"\nproduction_key = "p"\napi_url = "http://127.0.0.1:9/api"\n'
    for name in ("one", "two")
)


@pytest.fixture
def two_apps(tmp_path: Path) -> dict[str, Any]:
    """Settings of a gateway with the apps `one` and `two`."""
    (tmp_path / "apps.toml").write_text(TWO_APPS)
    return {
        "gateway_apps_file": tmp_path / "apps.toml",
        "leanplum_app_id": None,
        "leanplum_production_key": None,
    }
