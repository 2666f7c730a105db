"""The events of the log have a sentence each, and `docs/logs.md` lists them all."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from app.telemetry.log_events import MESSAGES
from app.telemetry.log_lines import NAMES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/logs.md"
LEVELS = frozenset({"debug", "info", "warning", "error", "log", "log_always", "LogLine"})
EVENT = re.compile(r"[a-z_]+\.[a-z_]+")
LISTED = re.compile(r"^\| `([a-z_]+\.[a-z_]+)` \| [a-z, ]+ \| (.+) \|$", re.MULTILINE)


def calls() -> Iterator[ast.Call]:
    """Yield every call that logs."""
    for path in sorted((ROOT / "app").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and called(node) in LEVELS:
                yield node


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def events_of(node: ast.Call) -> Iterator[str]:
    for argument in node.args:
        if isinstance(argument, ast.Constant) and EVENT.fullmatch(str(argument.value)):
            yield str(argument.value)


def test_every_event_that_is_logged_has_a_sentence() -> None:
    logged = {event for node in calls() for event in events_of(node)}
    assert len(logged) > 70
    assert sorted(logged - MESSAGES.keys()) == []


def test_every_sentence_is_for_an_event_of_the_code() -> None:
    sources = "\n".join(
        path.read_text() for path in (ROOT / "app").rglob("*.py") if path.name != "log_events.py"
    )
    assert [event for event in MESSAGES if f'"{event}"' not in sources] == []


def test_the_page_lists_every_event_with_its_sentence() -> None:
    section = PAGE.read_text().partition("## Events")[2]
    assert LISTED.findall(section) == sorted(MESSAGES.items())


def test_the_page_explains_every_field_of_ecs() -> None:
    text = PAGE.read_text()
    names = {name for name in NAMES.values() if not name.startswith("gateway.")}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
