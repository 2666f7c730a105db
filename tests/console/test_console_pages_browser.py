"""The console's pages in a browser: every width, light and dark, for everybody."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console.site import ConsoleSite, console_site
from tests.support.browser import Visit, accessibility_findings, assert_fits, screenshot
from tests.support.tracking_plans import PURCHASE, SKU, text

WORDS = "Invalid app/user combination for 1700000000"
LONG = "A-name-without-any-space-" * 5
SEARCH = {"mode": "warn", "params": {"properties": {"n": {"type": "integer"}}}}
# Width, dark, and whether axe-core looks for findings, which takes a second for each page
VIEWS = [(390, True, True), (768, False, False), (1280, False, True), (1920, True, False)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[ConsoleSite]:
    """A gateway with some of everything."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "plan.yaml").write_text(
        text(
            definitions=SKU,
            events={"Purchase": PURCHASE, "Search": SEARCH},
            unknown={"events": "warn"},
        )
    )
    with console_site(folder, migrated, gateway_tracking_plan=folder / "plan.yaml") as found:
        fill(found)
        yield found


def fill(site: ConsoleSite) -> None:
    for user in ("ann", "bob", "cem"):
        site.leanplum.fault(mode="success-false", userId=user, message=WORDS, times=1)
        site.until_status(site.track(user, "Search", params={"n": "many"}), "rejected")
    site.until_status(site.track("ann", LONG), "delivered")
    site.track("dora-" + LONG, "Search", id=f"own:{LONG[:100]}")
    for name in ("shop backend", LONG):
        body: dict[str, Any] = {"name": name, "scopes": ["events:write", "users:write"]}
        site.http.post("/v1/keys", json=body).raise_for_status()


def path_of(site: ConsoleSite, name: str) -> str:
    """The path of a page that needs something that is there."""
    if name == "receipt":
        found = site.http.get("/v1/receipts?userId=ann&status=rejected").json()["receipts"]
        return f"/find/receipt?app=default&id={found[0]['id']}"
    if name == "key":
        keys = site.http.get("/v1/keys").json()["keys"]
        return f"/keys/{keys[-1]['id']}"
    return {
        "overview": "",
        "live": "/live",
        "preview": "/preview",
        "find": "/find?app=default",
        "find-empty": "/find",
        "find-nothing": "/find?user=nobody",
        "dead-letters": "/dead-letters",
        "selection": "/dead-letters/selection?app=default&status=rejected",
        "keys": "/keys",
        "key-new": "/keys/new",
        "audit": "/audit",
        "record": "/audit/2",
        "tracking-plan": "/tracking-plan",
    }[name]


NAMES = (
    *(
        "overview",
        "live",
        "preview",
        "find",
        "find-empty",
        "find-nothing",
        "receipt",
        "dead-letters",
        "selection",
    ),
    *("keys", "key", "key-new", "audit", "record", "tracking-plan"),
)


@pytest.mark.parametrize(("width", "dark", "findings"), VIEWS)
def test_pages_fit_and_have_no_serious_finding(
    site: ConsoleSite, visit: Visit, width: int, dark: bool, findings: bool
) -> None:
    page = site.opened(visit, "/find", width=width, dark=dark)
    for name in NAMES:
        page.goto(f"{site.url}/console{path_of(site, name)}")
        screenshot(page, f"console-{name}-{width}-{'dark' if dark else 'light'}")
        assert_fits(page)
        assert not (findings and accessibility_findings(page)), name


def test_a_group_is_replayed_and_the_page_follows_its_progress(
    site: ConsoleSite, visit: Visit
) -> None:
    page = site.signed_in(visit, "/dead-letters")
    page.get_by_role("link", name="Invalid app/user combination for …").first.click()
    page.get_by_role("button", name="Dry run").click()
    page.get_by_text("Dry run of a replay").first.wait_for()
    page.locator(".badge.good", has_text="done").wait_for()
    screenshot(page, "console-run-1280-light")
    assert_fits(page)
    assert not accessibility_findings(page)
    page.get_by_role("link", name="What still matches").click()
    page.get_by_role("button", name="Replay", exact=True).click()
    page.locator(".badge.good", has_text="done").wait_for()
    assert "Replayed" in page.inner_text("#run")


def test_a_key_is_created_shown_rotated_and_revoked(site: ConsoleSite, visit: Visit) -> None:
    page = site.signed_in(visit, "/keys")
    page.get_by_role("link", name="Create a key").click()
    page.get_by_role("button", name="Create the key").click()  # the browser asks for the name
    page.get_by_label("Name of its owner").fill("by hand")
    page.get_by_role("button", name="Create the key").click()
    visit.allow("422")
    page.get_by_text("choose at least one").wait_for()
    screenshot(page, "console-key-fault-1280-light")
    assert not accessibility_findings(page)
    page.get_by_label("events:write").check()
    page.get_by_role("button", name="Create the key").click()
    key = page.locator("#key").inner_text()
    assert key.startswith("lpgw_")
    screenshot(page, "console-key-made-1280-light")
    assert not accessibility_findings(page)
    page.get_by_role("link", name="To the page of the key").click()
    assert key not in page.content()
    page.get_by_role("button", name="Rotate the key").click()
    assert page.locator("#key").inner_text() != key
    page.get_by_role("link", name="To the page of the key").click()
    page.get_by_text("Revoke this key").click()
    page.get_by_role("button", name="Revoke by hand").click()
    page.locator(".badge", has_text="revoked").wait_for()


def test_a_record_s_proof_is_shown_from_the_list(site: ConsoleSite, visit: Visit) -> None:
    page = site.signed_in(visit, "/audit?outcome=success")
    page.locator("tbody th a").last.click()
    page.get_by_text("has just verified the proof").wait_for()
