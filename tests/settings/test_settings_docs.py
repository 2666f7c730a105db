"""The documents that are generated from the settings: the tables of docs/settings.md, and
.env.example.
"""

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from app.settings import Settings, documentation, load
from tests.support.processes import ROOT, ended

PAGE = ROOT / "docs/settings.md"
ENV_EXAMPLE = ROOT / ".env.example"
NAMES = [name.upper() for name in Settings.model_fields]


def uncommented(text: str) -> str:
    """Return a .env file with every assignment that was a comment."""
    return re.sub(r"^#(?=[A-Z_]+=)", "", text, flags=re.MULTILINE)


def test_both_documents_are_up_to_date() -> None:
    assert documentation.page(PAGE.read_text()) == PAGE.read_text()
    assert documentation.env_example() == ENV_EXAMPLE.read_text()


@pytest.mark.parametrize("pattern", [r"^\| `([A-Z_]+)` \| ", r"^#([A-Z_]+)="])
def test_a_document_has_every_setting_once(pattern: str) -> None:
    page = PAGE if "|" in pattern else ENV_EXAMPLE
    assert sorted(re.findall(pattern, page.read_text(), re.MULTILINE)) == sorted(NAMES)


def test_every_setting_has_a_section_of_its_own() -> None:
    titles = [title for title, _ in documentation.sections()]
    assert documentation.OTHERS not in titles, "add the setting to SECTIONS"
    listed = " ".join(documentation.SECTIONS.values()).split()
    assert sorted(listed) == sorted(NAMES)


def test_a_copy_of_the_example_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(ENV_EXAMPLE.read_text())
    assert dotenv_values(tmp_path / ".env") == {}


def test_every_default_in_the_example_is_the_default() -> None:
    (values, named) = ({}, NAMES)
    for line in uncommented(ENV_EXAMPLE.read_text()).splitlines():
        name, is_assignment, value = line.partition("=")
        if is_assignment and name in named:
            values[name] = value
    assert len(values) == len(NAMES)
    assert load({"GATEWAY_SECRETS_DIR": ""} | values) == Settings()


@pytest.mark.parametrize(
    ("name", "default", "accepted"),
    [
        ("gateway_dedup_seconds", "1d", "duration"),
        ("gateway_shared_limits_timeout_seconds", "50ms", "duration"),
        ("gateway_drain_seconds", "5s", "duration, 0 to 1d"),
        ("gateway_console_idle_seconds", "1h", "duration, up to 30d"),
        ("gateway_max_body_bytes", "5MiB", "size"),
        ("gateway_max_upload_bytes", "50MB", "size"),
        ("gateway_port", "8000", "number, 0 to 65535"),
        ("gateway_workers", "1", "number, at least 1"),
        ("gateway_upstream_trust_env", "false", "`true`, `false`"),
        ("gateway_log_level", "info", "`debug`, `info`, `warning`, `error`"),
        ("gateway_data_key", "", "secret"),
        ("gateway_apps_file", "", "path"),
        ("gateway_shared_limits_url", "", "URL"),
        ("gateway_unknown_policy", "resend", "text"),
    ],
)
def test_the_default_and_the_accepted_values_have_units_and_bounds(
    name: str, default: str, accepted: str
) -> None:
    assert (documentation.default(name), documentation.accepted(name)) == (default, accepted)


def test_the_command_writes_both_and_check_only_compares(tmp_path: Path) -> None:
    page = tmp_path / "docs/settings.md"
    page.parent.mkdir()
    page.write_text(f"# Mine\n\n{documentation.BEGIN}\nold\n{documentation.END}\nrest\n")
    stale = ended(tmp_path, "settings", "--docs", "--check")
    assert stale.returncode == 1
    assert (
        "docs/settings.md and .env.example are not up to date: run python -m app settings --docs"
        in stale.stderr
    )
    assert not (tmp_path / ".env.example").exists()
    assert ended(tmp_path, "settings", "--docs").returncode == 0
    assert ended(tmp_path, "settings", "--docs", "--check").returncode == 0
    assert (tmp_path / ".env.example").read_text() == ENV_EXAMPLE.read_text()
    assert page.read_text().startswith("# Mine\n")
    assert page.read_text().endswith("\nrest\n")
    assert "| `GATEWAY_PORT` | `8000` |" in page.read_text()


def test_what_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    missing = ended(tmp_path, "settings", "--docs")
    (tmp_path / "docs/settings.md").write_text("# Nothing generated here\n")
    unmarked = ended(tmp_path, "settings", "--docs")
    alone = ended(tmp_path, "settings", "--check")
    assert [done.returncode for done in (missing, unmarked, alone)] == [2, 2, 2]
    assert (
        missing.stderr
        == "leanplum-gateway: docs/settings.md: can't be used: No such file or directory\n"
    )
    assert "docs/settings.md: has no generated part" in unmarked.stderr
    assert alone.stderr == "leanplum-gateway: --check needs --docs\n"
