"""The support engineer: from a user id alone to Leanplum's words about their last purchase."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator

from tests.console.site import ConsoleSite, console_site
from tests.support.browser import (
    Visit,
    accessibility_findings,
    assert_fits,
    screenshot,
)

WORDS = "Event value must not be negative for Purchase."
MOST_CLICKS = 4


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[ConsoleSite]:
    """A gateway with a user who opened the app and bought twice; Leanplum refused the last one."""
    with console_site(tmp_path_factory.mktemp("console"), migrated) as found:
        found.until_status(found.track("ann-4711", "AppOpen"), "delivered")
        found.until_status(found.track("ann-4711", value=9.99), "delivered")
        found.track("bob", value=1)
        found.leanplum.fault(mode="success-false", userId="ann-4711", message=WORDS, times=1)
        found.until_status(found.track("ann-4711", value=19.99), "rejected")
        yield found


class Clicks:
    """Counts the clicks of a person."""

    def __init__(self) -> None:
        self.count = 0

    def on(self, target: Locator) -> None:
        self.count += 1
        target.click()


@pytest.mark.parametrize("javascript", [True, False])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_from_a_user_id_to_leanplum_s_words_in_four_clicks(
    site: ConsoleSite, visit: Visit, width: int, dark: bool, javascript: bool
) -> None:
    clicks = Clicks()
    name = f"support-{width}-{'dark' if dark else 'light'}-{'js' if javascript else 'plain'}"
    page = visit(f"{site.url}/console", width=width, dark=dark, javascript=javascript)
    page.get_by_label("Caller key").fill(site.key)
    clicks.on(page.get_by_role("button", name="Sign in"))
    screenshot(page, f"{name}-1-overview")
    clicks.on(page.get_by_role("navigation").get_by_role("link", name="Find"))
    page.get_by_label("User id").fill("ann-4711")
    screenshot(page, f"{name}-2-find")
    clicks.on(page.get_by_role("button", name="Search"))
    screenshot(page, f"{name}-3-found")
    if javascript:
        assert_fits(page)
        assert not accessibility_findings(page)
    clicks.on(page.get_by_role("link", name="Purchase").first)
    assert page.locator("#words").inner_text() == WORDS
    screenshot(page, f"{name}-4-words")
    if javascript:
        assert_fits(page)
        assert not accessibility_findings(page)
    assert clicks.count <= MOST_CLICKS
    assert "9.99" not in page.content()


def test_with_the_keyboard_alone(site: ConsoleSite, visit: Visit) -> None:
    page = site.signed_in(visit, "/find")
    page.keyboard.type("ann-4711")  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/find?**")
    link = page.get_by_role("link", name="Purchase").first
    link.focus()
    page.keyboard.press("Enter")
    assert page.locator("#words").inner_text() == WORDS
