"""docs/security.md names only what there is: modules, settings, tests."""

import re
from pathlib import Path

import pytest

from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text()
TESTS = sorted(set(re.findall(r"`(tests/[\w/.]+(?:::\w+)?)`", TEXT)))
ROWS = [
    line
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith(("| They", "| Variable"))
]


@pytest.mark.parametrize("named", TESTS)
def test_each_test_that_is_named_exists(named: str) -> None:
    path, _, name = named.partition("::")
    assert (ROOT / path).exists()
    assert not name or re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_each_module_that_is_named_exists() -> None:
    named = set(re.findall(r"`(app/[\w/.]+)`", TEXT))
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_each_setting_that_is_named_exists() -> None:
    named = set(re.findall(r"`(GATEWAY_\w+)`", TEXT)) - {"GATEWAY_SECRETS_DIR"}
    assert [name for name in sorted(named) if name.lower() not in Settings.model_fields] == []


def test_each_row_names_what_shows_it() -> None:
    threats = [row.split("|") for row in ROWS if row.count("|") == 5]
    assert len(threats) > 25
    bare = [cells[1] for cells in threats if "`" not in cells[4]]
    assert bare == [" what comes from callers "], "TLS alone is not the gateway's to show"
