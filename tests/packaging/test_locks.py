"""The locks: what is installed is exactly what was resolved, wherever it comes from."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = [
    "requirements.lock",
    "requirements-dev.lock",
    "requirements-docs.lock",
    "requirements-sbom.lock",
]
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def entries(lock: str) -> list[str]:
    """Each package's entry: its pin, its hashes, and comments on why it is there."""
    return re.split(r"^(?=[a-z0-9])", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]


def pins(lock: str) -> dict[str, str]:
    return dict(PIN.findall((ROOT / lock).read_text()))


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {re.split(r"[^a-z0-9-]", requirement)[0] for requirement in project["dependencies"]}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_and_hashed(lock: str) -> None:
    loose = [
        entry for entry in entries(lock) if not PIN.match(entry) or "--hash=sha256:" not in entry
    ]
    assert entries(lock)
    assert loose == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_address_and_no_path(lock: str) -> None:
    named = re.findall(r".*(?:://|file:|--index|--find-links|\s/).*", (ROOT / lock).read_text())
    assert named == []


def test_development_runs_what_production_runs() -> None:
    development = pins("requirements-dev.lock")
    different = {
        name: version
        for name, version in pins("requirements.lock").items()
        if development.get(name) != version
    }
    assert different == {}


def test_what_is_declared_is_locked() -> None:
    assert declared() - pins("requirements.lock").keys() == set()


def test_what_the_code_imports_is_declared() -> None:
    imported = {name for path in (ROOT / "app").rglob("*.py") for name in top_level_imports(path)}
    outside = imported - sys.stdlib_module_names - {"app"}
    providers = packages_distributions()
    missing = {
        name for name in outside if not {known(one) for one in providers.get(name, [])} & declared()
    }
    assert outside
    assert missing == set()


def top_level_imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def known(distribution: str) -> str:
    """A distribution's name as pyproject.toml writes it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
