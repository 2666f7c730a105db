"""What the tests of the console share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console.two_apps import APPS, Site, running_site


@pytest.fixture
def two_apps(tmp_path: Path) -> dict[str, Any]:
    """Settings of a gateway with the apps `one` and `two`."""
    (tmp_path / "apps.toml").write_text(APPS)
    return {
        "gateway_apps_file": tmp_path / "apps.toml",
        "leanplum_app_id": None,
        "leanplum_production_key": None,
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Site]:
    """A running gateway with two apps, which delivers nothing."""
    with running_site(tmp_path_factory.mktemp("site"), migrated) as found:
        yield found
