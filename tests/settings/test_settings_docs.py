"""`docs/settings.md` lists every setting."""

import re
from pathlib import Path

import pytest

from app.settings import Settings

PAGE = Path(__file__).parents[2] / "docs/settings.md"
ROW = re.compile(r"^\| `([A-Z_]+)` \| (.*?) \| (.*) \|$", re.MULTILINE)


def listed() -> dict[str, tuple[str, str]]:
    """Each setting of the page, its default and its description."""
    table = PAGE.read_text().partition("## Every setting")[2].partition("\n## ")[0]
    return {name: (default, told) for name, default, told in ROW.findall(table)}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_listed_with_its_default_and_description(name: str) -> None:
    field = Settings.model_fields[name]
    default = "" if field.default in (None, "") else f"`{shown(field.default)}`"
    assert listed()[name.upper()] == (default, (field.description or "").replace("|", "\\|"))


def test_nothing_is_listed_that_is_no_setting() -> None:
    assert {name.lower() for name in listed()} == set(Settings.model_fields)


def shown(default: object) -> str:
    """A default as it would be written."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float) and default == int(default):
        return str(int(default))
    return str(default)
