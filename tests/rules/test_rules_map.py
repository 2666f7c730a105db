"""The map in app/__init__.py is true: it names what there is, and nothing else."""

import ast
import re
from pathlib import Path

import pytest

import app

ROOT = Path(app.__file__).parent
MAP = app.__doc__ or ""
PACKAGES = sorted(ROOT.rglob("__init__.py"))
LISTED = re.compile(r"^- ((?:`\w+`(?:, )?)+):", re.MULTILINE)
NOT_ON_THE_WAY = {"__init__", "__main__"}


def parts() -> set[str]:
    """The top-level modules and packages of app."""
    modules = {path.stem for path in ROOT.glob("*.py")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    return (modules | packages) - NOT_ON_THE_WAY


def test_every_top_level_part_is_on_the_map() -> None:
    assert sorted(part for part in parts() if not re.search(rf"\b{part}\b", MAP)) == []


def test_everything_dotted_on_the_map_exists() -> None:
    named = re.findall(r"\b([a-z_]+)\.([a-z_]+)\b", MAP)
    assert named
    missing = [f"{part}.{module}" for part, module in named if not _exists(ROOT / part / module)]
    assert missing == []


@pytest.mark.parametrize("page", PACKAGES, ids=lambda page: str(page.parent.relative_to(ROOT)))
def test_a_package_that_lists_its_modules_lists_all_that_exist(page: Path) -> None:
    docstring = ast.get_docstring(ast.parse(page.read_text())) or ""
    listed = {name for names in LISTED.findall(docstring) for name in re.findall(r"\w+", names)}
    modules = {module.stem for module in page.parent.glob("*.py")} - {"__init__"}
    packages = {package.parent.name for package in page.parent.glob("*/__init__.py")}
    assert not listed or listed == modules | packages


def _exists(place: Path) -> bool:
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()
