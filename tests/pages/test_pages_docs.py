"""The API reference at /docs, as a backend engineer uses it: reads, authorizes, tries, searches."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import Visit, accessibility_findings, assert_fits, screenshot
from tests.support.processes import Process

SCREENS = [(False, 1280), (True, 1280), (False, 390), (True, 390)]
SLOW = 60_000  # the first time, the browser reads megabytes of script on a busy machine
EVENTS = "#tag/events-users/POST/v1/events"
# With `Prefer: wait`, it is answered when it is delivered.
ACCEPTED = re.compile("202 Accepted|200 OK")
OPERATIONS = {
    EVENTS: ("post /v1/events", ACCEPTED),
    "#tag/api-keys/GET/v1/apps": ("get /v1/apps", re.compile("200 OK")),
    "#tag/dead-letters/GET/v1/dead-letters": ("get /v1/dead-letters", re.compile("200 OK")),
}

IS_KEPT = "() => Object.values(localStorage).some((value) => value.includes('lpgw_'))"


def open_reference(visit: Visit, site: Process, *, dark: bool = False, width: int = 1280) -> Page:
    page = visit(f"{site.url}/docs", dark=dark, width=width)
    expect(page.get_by_role("heading", name="Leanplum gateway")).to_be_attached(timeout=SLOW)
    return page


def send_example(page: Page, name: str) -> Locator:
    """Send an operation's example as it is; return the dialog that shows the response."""
    button = page.get_by_role("button", name=f"Test Request ({name})")
    button.click(timeout=SLOW)
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name=re.compile("request to http")).click()
    return dialog


@pytest.mark.parametrize(("dark", "width"), SCREENS)
def test_the_reference_shows_the_operations(
    visit: Visit, site: Process, dark: bool, width: int
) -> None:
    page = open_reference(visit, site, dark=dark, width=width)
    expect(page.get_by_text("Track an event").first).to_be_attached(timeout=SLOW)
    screenshot(page, f"docs-{'dark' if dark else 'light'}-{width}", whole=False)
    assert_fits(page)
    assert not accessibility_findings(page)


@pytest.mark.parametrize("width", [1280, 390])
def test_an_engineer_authorizes_once_and_tries_three_operations(
    visit: Visit, site: Process, width: int
) -> None:
    page = open_reference(visit, site, width=width)
    page.get_by_placeholder("Token").first.fill(site.key)
    page.wait_for_function(IS_KEPT)
    for fragment, (name, status) in OPERATIONS.items():
        page.goto("about:blank")
        page.goto(f"{site.url}/docs{fragment}")
        dialog = send_example(page, name)
        expect(dialog).to_contain_text(status, timeout=30_000)
        screenshot(page, f"docs-try-{name.split()[0]}-{width}", whole=False)
        assert_fits(page)
    assert site.call("GET", "/v1/receipts?userId=user-1").json()["receipts"]


def test_the_search_finds_operations_by_what_they_do(visit: Visit, site: Process) -> None:
    page = open_reference(visit, site)
    page.get_by_role("button", name=re.compile("^Open Search")).click()
    page.keyboard.type("dead letters")
    expect(page.get_by_role("listbox")).to_contain_text("Replay dead letters")


def test_the_code_samples_of_the_document_are_shown(visit: Visit, site: Process) -> None:
    page = open_reference(visit, site)
    page.goto(f"{site.url}/docs{EVENTS}")
    expect(page.get_by_text('"$GATEWAY/v1/events"').first).to_be_visible(timeout=SLOW)


def test_without_scripts_the_reference_leads_to_the_document(visit: Visit, site: Process) -> None:
    page = visit(f"{site.url}/docs", javascript=False)
    page.get_by_role("link", name="openapi.json").click()
    assert '"openapi":"3.1.0"' in page.inner_text("body")
