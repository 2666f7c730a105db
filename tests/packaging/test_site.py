"""The site of the documentation (`make docs`): it builds strictly, and asks no other host."""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from os import environ
from pathlib import Path

import pytest

from tests.support.browser import Visit, screenshot
from tests.support.processes import ROOT

TOOLS = ROOT / ".venv/docs"
# What a page loads by itself: scripts, styles, pictures, fonts. Links may lead anywhere.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?![^>]*\brel=["']?(?:canonical|next|prev))[^>]*?\bhref=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|url\(["']?((?:https?:)?//[^"')]+)|@import\s+["']((?:https?:)?//[^"']+)"""
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not TOOLS.exists() and "GATEWAY_TESTS_NEED_SITE" not in environ,
        reason="`make docs` has not been run here",
    ),
]


def build(pages: Path, site: Path) -> "subprocess.CompletedProcess[str]":
    """Build the site of these pages, as the Makefile does."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    env = environ | {"PYTHONPATH": str(TOOLS), "PAGES": str(pages)}
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; its pages are in a folder beside it, with `.pages` behind its name."""
    folder = tmp_path_factory.mktemp("documentation") / "site"
    done = subprocess.run(
        ["make", "docs", f"SITE={folder}"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = [path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")]
    pages += [
        Path(name) for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
    ]
    for page in pages:
        name = "index.html" if page.name == "README.md" else f"{page.stem}.html"
        assert (site / page.parent / name).is_file(), page


BROKEN = {
    "[x](none.md)": "contains a link 'none.md', but the target 'docs/none.md' is not found",
    "[x](keys.md#none)": "does not contain an anchor '#none'",
    "[x](#none)": "there is no such anchor on this page",
    "[x](/docs/keys.md)": "contains an absolute link",
}


def test_a_broken_link_or_anchor_or_a_page_without_a_place_fails_the_build(
    site: Path, tmp_path: Path
) -> None:
    pages = shutil.copytree(f"{site}.pages", tmp_path / "pages")
    with (pages / "docs/limits.md").open("a") as page:
        page.write("\n" + "\n\n".join(BROKEN) + "\n")
    (pages / "docs/new.md").write_text("# New\n")
    done = build(pages, tmp_path / "site")
    printed = done.stdout + done.stderr
    assert done.returncode == 1
    for warning in [*BROKEN.values(), "docs/new.md"]:
        assert warning in printed
    assert f"Aborted with {len(BROKEN) + 1} warnings" in printed


def test_no_page_and_no_style_loads_anything_from_another_host(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in {".html", ".css"}]
    assert len(files) > 60
    loaded = {
        f"{path.relative_to(site)}: {''.join(found)}"
        for path in files
        for found in LOADED.findall(path.read_text())
    }
    assert loaded == set()


def test_lists_and_tables_are_rendered_as_such(site: Path) -> None:
    """Where a blank line is missing, the generator makes one paragraph of them, unlike GitHub."""
    for page in site.rglob("*.html"):
        article = page.read_text().partition("<article")[2].partition("</article>")[0]
        prose = re.sub(r"<pre.*?</pre>|<code>.*?</code>", "", article, flags=re.DOTALL)
        assert not re.findall(r"<p>[^<]*\n(?:[-*]|\d+\.) .*", prose), page
        assert not re.findall(r"\|-{3,}\||<p>\|", prose), page


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Print nothing about requests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_site_can_be_read_and_searched_in_a_browser(site: Path, visit: Visit) -> None:
    with served(site) as url:
        page = visit(f"{url}/docs/operations.html")
        assert page.inner_text("h1").startswith("Operations")
        screenshot(page, "site-operations", whole=False)
        page.locator(".md-tabs a", has_text="Operate").wait_for()
        page.keyboard.press("/")
        page.keyboard.type("service links")
        result = page.locator(".md-search-result__link").first
        result.wait_for()
        screenshot(page, "site-search", whole=False)
        result.click()
        page.wait_for_url("**/docs/*.html*")
        screenshot(visit(f"{url}/index.html", dark=True), "site-start-dark", whole=False)
        screenshot(visit(f"{url}/docs/settings.html", width=390), "site-settings-390", whole=False)
