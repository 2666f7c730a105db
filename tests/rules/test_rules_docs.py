"""The documentation names only what exists, uses the glossary's terms, and links to real pages."""

import ast
import re
from pathlib import Path

import pytest

from app.database.tables import metadata
from app.model import Status
from app.telemetry.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    # The fact sheet names files and fields of other projects.
    *sorted({*(ROOT / "docs").rglob("*.md")} - {ROOT / "docs" / "leanplum-api.md"}),
]
GLOSSARY = ROOT / "docs/glossary.md"
# In code spans, and in diagrams and examples
PATH = re.compile(r"(?<![\w/.-])((?:app|tests|bench|docs|openapi)/[\w/-]*(?:\.\w+)*)")
METRIC = re.compile(r"`(leanplum_gateway_\w+[a-z])")
EVENT = re.compile(r"`([a-z]+\.[a-z_]+)`(?!:)")
# Fields of callers, modules and files, which look like log events
NO_EVENT = re.compile(
    r"(?:api|context|enrichment|gateway|http|item|metadata|mkdocs|noun|params|properties|pyproject"
    r"|secrets|traits)\.|app\.(?:added|changed|removed)$|plan\.yaml$"
)
PRIVATE_WORDS = re.compile(
    r"\b(?:doors?|lifeline|(?<!bench.)vault|(?:is|are|was) told|mend(?:s|ed)?|stands? (?:in|for|beside)"
    r"|what stands|has its hands full|leads? nowhere|there is no such|can't)\b",
    re.IGNORECASE,
)
TERM = re.compile(r"^\| ([^|`]+?) \| .+ \|$", re.MULTILINE)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def terms() -> list[str]:
    """Return the glossary's terms, in their order, without the rows of table heads."""
    rows = TERM.findall(GLOSSARY.read_text())
    return [
        term for row in rows for term in row.split(", ") if row not in {"Term", "Status", "---"}
    ]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_path_that_is_named_exists(page: Path) -> None:
    paths = PATH.findall(page.read_text())
    assert [path for path in sorted(set(paths)) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_page(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_anchor_is_a_heading(page: Path) -> None:
    missing = [
        f"{target}#{anchor}"
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text())
        if anchor not in anchors(page.parent / target if target else page)
    ]
    assert missing == []


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_has_no_private_vocabulary(page: Path) -> None:
    assert PRIVATE_WORDS.findall(page.read_text()) == []


def test_docstrings_have_no_private_vocabulary() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in sorted((ROOT / "app").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for word in PRIVATE_WORDS.findall(ast.get_docstring(node) or "")
    ]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_begins_with_its_title(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert not any(line.startswith("# ") and " " in line for line in _prose(lines[1:]))


def _prose(lines: list[str]) -> list[str]:
    """Return the lines outside of code blocks."""
    kept, inside = [], False
    for line in lines:
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            kept.append(line)
    return kept


def test_the_glossary_has_each_term_once_and_every_status() -> None:
    listed = terms()
    assert len(listed) > 80
    assert sorted(listed) == sorted(set(listed))
    for status in Status:
        assert f"| `{status.value}` |" in GLOSSARY.read_text()


def test_the_glossarys_tables_are_in_order() -> None:
    for table in GLOSSARY.read_text().split("\n## ")[1:]:
        rows = [row.lower() for row in TERM.findall(table) if row not in {"Term", "Status", "---"}]
        assert rows == sorted(rows)


def test_the_architecture_lists_every_table() -> None:
    section = (ROOT / "docs/architecture.md").read_text().partition("## Tables")[2]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section.partition("\n## ")[0], re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(metadata.tables)


def test_each_decision_has_its_parts_and_is_in_the_index() -> None:
    folder = ROOT / "docs/decisions"
    index = (folder / "README.md").read_text()
    for page in sorted(folder.glob("0*.md")):
        headings = re.findall(r"^## (.*)$", page.read_text(), re.MULTILINE)
        assert headings == ["Context", "Options", "Decision", "Consequences"], page.name
        assert f"]({page.name})" in index


def test_the_log_events_and_metrics_that_are_named_exist() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    defined = Metrics()
    defined.define_shared_limit_metrics()
    known = {metric.name for metric in defined.registry.collect()}
    for page in PAGES:
        text = page.read_text()
        events = {event for event in EVENT.findall(text) if not NO_EVENT.match(event)}
        assert [event for event in sorted(events) if f'"{event}"' not in sources] == [], page
        metrics = {name.removesuffix("_total") for name in METRIC.findall(text)}
        assert metrics <= known, page


def test_the_page_of_metrics_lists_each_with_its_help_text() -> None:
    defined = Metrics()
    defined.define_shared_limit_metrics()
    rows = re.findall(
        r"^\| `(\w+)` \|[^|]*\| (\w+) \| (.+) \|$",
        (ROOT / "docs/metrics.md").read_text(),
        re.MULTILINE,
    )
    assert sorted(rows) == sorted(
        (
            f"{metric.name}_total" if metric.type == "counter" else metric.name,
            metric.type,
            metric.documentation,
        )
        for metric in defined.registry.collect()
    )


@pytest.mark.parametrize("term", terms())
def test_a_term_of_the_glossary_is_used(term: str) -> None:
    texts = [page.read_text() for page in PAGES if page != GLOSSARY]
    texts += [path.read_text() for path in (ROOT / "app").rglob("*.py")]
    words = re.compile(r"[\s_-]+".join(re.escape(word) for word in term.split()), re.IGNORECASE)
    assert any(words.search(text) for text in texts)
