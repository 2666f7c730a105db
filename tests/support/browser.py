"""Pages in a real Chromium, which Playwright drives: what a person sees and does there.

The fixtures `browser` and `visit` are in tests/conftest.py:

    def test_the_page_greets(visit: Visit, gateway: …) -> None:
        page = visit(url, dark=True, width=390)
        assert "Hello" in page.inner_text("body")
        assert_fits(page)                            # no horizontal scrolling
        assert not accessibility_findings(page)      # axe-core: none that is serious or critical
        screenshot(page, "greeting-dark-390")        # build/screenshots/greeting-dark-390.png

A test fails at its end if a page logged an error, threw one, or asked another host for anything;
`visit.allow("404 (Not Found)")` names what the test provokes itself.

Playwright keeps an event loop running in the thread that uses it, so nothing else in a module with
browser tests can call `asyncio.run`.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

from tests.support.chromium import CHROMIUM, NEEDED
from tests.support.fork_server import ROOT

SCREENSHOTS = ROOT / "build" / "screenshots"
AXE = ROOT / "tests" / "browser" / "node_modules" / "axe-core" / "axe.min.js"
HEIGHTS = {390: 844}  # of a phone; others are desktops
DESKTOP_HEIGHT = 900
SERIOUS = ("serious", "critical")
# Names of other hosts lead nowhere, so a page that asks one fails at once.
ARGUMENTS = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]


@contextmanager
def launched() -> Iterator[Browser]:
    """A headless Chromium; closed at the end."""
    if CHROMIUM is None:
        pytest.fail("GATEWAY_TESTS_NEED_CHROMIUM is set, and there is no Chromium")
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """Opens pages, each in a session of its own, and collects what goes wrong in them."""

    def __init__(self, browser: Browser, stack: ExitStack) -> None:
        self._browser, self._stack = browser, stack
        self._hosts = set[str]()
        self._troubles: list[str] = []
        self._allowed: list[str] = []

    def __call__(
        self,
        url: str,
        *,
        dark: bool = False,
        width: int = 1280,
        javascript: bool = True,
        session: BrowserContext | None = None,
    ) -> Page:
        """Open a page; in the session of another page (`page.context`), if one is given."""
        context = session or self._session(dark=dark, width=width, javascript=javascript)
        page = context.new_page()
        self._hosts.add(urlsplit(url).netloc)
        page.goto(url)
        return page

    def _session(self, *, dark: bool, width: int, javascript: bool) -> BrowserContext:
        context = self._browser.new_context(
            viewport={"width": width, "height": HEIGHTS.get(width, DESKTOP_HEIGHT)},
            color_scheme="dark" if dark else "light",
            java_script_enabled=javascript,
        )
        self._stack.callback(context.close)
        context.set_default_timeout(30_000)
        # To load a page with its scripts takes long on a busy machine.
        context.set_default_navigation_timeout(60_000)
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self._troubles.append(f"thrown: {error.error}"))
        context.on("request", lambda request: self._on_request(request.url))
        return context

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._troubles.append(f"logged: {message.text} ({message.location['url']})")

    def _on_request(self, url: str) -> None:
        address = urlsplit(url)
        if address.scheme not in {"data", "blob"} and address.netloc not in self._hosts:
            self._troubles.append(f"asked another host: {url}")

    def allow(self, text: str) -> None:
        """Allow console errors that contain a text, since the test provokes them."""
        self._allowed.append(text)

    def check(self) -> None:
        """Fail if anything went wrong in a page so far."""
        troubles = [
            trouble
            for trouble in self._troubles
            if not any(allowed in trouble for allowed in self._allowed)
        ]
        assert not troubles, "\n".join(troubles)


@contextmanager
def visiting(browser: Browser) -> Iterator[Visit]:
    """Opens pages; at the end they are closed, and checked."""
    with ExitStack() as stack:
        visit = Visit(browser, stack)
        yield visit
        visit.check()


def screenshot(page: Page, name: str, *, whole: bool = True) -> Path:
    """Keep a picture of a page under build/screenshots, of all of it or of what is in view."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=path, full_page=whole)
    return path


def assert_fits(page: Page) -> None:
    """Fail if a page scrolls sideways, with the elements that stick out."""
    wide: list[str] = page.evaluate(STICKING_OUT)
    assert not wide, wide


STICKING_OUT = """() => {
    const width = document.documentElement.clientWidth;
    if (document.scrollingElement.scrollWidth <= width) return [];
    return [`${document.scrollingElement.scrollWidth} of ${width} px`,
        ...[...document.querySelectorAll("body *")]
            .filter((one) => one.getBoundingClientRect().right > width + 1)
            .slice(0, 10).map((one) => one.outerHTML.slice(0, 120))];
}"""


def accessibility_findings(page: Page) -> list[str]:
    """Return the serious and critical findings of axe-core in a page."""
    if not AXE.exists():
        give_up = pytest.fail if NEEDED else pytest.skip
        give_up("axe-core is not installed here: npm ci --prefix tests/browser")
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE.read_text())
    result: dict[str, Any] = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{finding['impact']}: {finding['id']}: {finding['help']}: {node['html'][:200]}"
        for finding in result["violations"]
        if finding["impact"] in SERIOUS
        for node in finding["nodes"]
    ]
