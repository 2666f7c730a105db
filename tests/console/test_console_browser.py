"""The console as people see it, in Chromium: appearance, keyboard, live parts, and attacks."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import orjson
import pytest
from playwright.sync_api import Page, expect

from tests.console.operations import OPERATIONS
from tests.console.two_apps import Site
from tests.support.browser import Visit, accessibility_findings, assert_fits

CHOICES = {"/dead-letters/selection": "?app=two"}
PAGES = [
    operation.path + CHOICES.get(operation.path, "")
    for operation in OPERATIONS
    if operation.method == "GET" and 200 in operation.done and "{" not in operation.path
]
# What ids and names may have in them, and what only other texts may.
ATTACK = "<img src=x onerror=window.attacked=1><script>window.attacked=1</script>"
QUOTED = f"'\">{ATTACK}"


def signed_in(visit: Visit, site: Site, *, key: str = "", **how: object) -> Page:
    """Sign in by the form, and return the page after it."""
    page = visit(f"{site.url}/console", **how)  # type: ignore[arg-type]  # as the caller has typed
    page.get_by_label("Caller key").fill(key or site.key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/console")
    return page


@pytest.fixture(scope="module", autouse=True)
def items(site: Site) -> None:
    """Items and a key whose texts are attacks; a dead letter with such a reason."""
    site.track(ATTACK, ATTACK)
    site.track("user-1", "Opened")
    site.make_key("receipts:read", name=QUOTED)
    with closing(sqlite3.connect(site.path)) as connection:
        connection.execute(
            "UPDATE items SET status = 'rejected', settled_at = (SELECT max(accepted_at) FROM "
            "acceptances), attempts = 1, event = ?, leanplum = ? WHERE subject = 'uuser-1'",
            (
                QUOTED,
                orjson.dumps({"success": False, "error": QUOTED}).decode(),
            ),
        )
        connection.commit()


def test_pages_of_two_apps_fit_and_are_accessible(visit: Visit, site: Site) -> None:
    page = signed_in(visit, site, dark=True, width=390)
    for path in PAGES:
        page.goto(f"{site.url}/console{path}")
        assert_fits(page)
        assert accessibility_findings(page) == [], path


def test_the_sign_in_page_is_accessible_also_after_a_refusal(visit: Visit, site: Site) -> None:
    visit.allow("401 (Unauthorized)")
    page = visit(f"{site.url}/console", width=390)
    assert accessibility_findings(page) == []
    page.get_by_label("Caller key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("mistyped")
    assert accessibility_findings(page) == []
    assert_fits(page)


def test_no_stored_text_runs_or_becomes_markup(visit: Visit, site: Site) -> None:
    page = signed_in(visit, site)
    for path in PAGES:
        page.goto(f"{site.url}/console{path}")
        assert "<script>window.attacked" not in page.content(), path
        assert page.locator("img[src=x]").count() == 0, path
        assert page.evaluate("window.attacked") is None, path
    page.goto(f"{site.url}/console/live")
    expect(page.get_by_role("cell", name=ATTACK).first).to_be_visible()


def test_the_live_page_shows_new_items_and_pauses(visit: Visit, site: Site) -> None:
    page = signed_in(visit, site)
    page.get_by_role("link", name="Live").click()
    state = page.get_by_role("status")
    expect(state).to_have_text("Live")
    site.track("user-live", "Seen")
    expect(page.get_by_role("cell", name="user-live")).to_be_visible()
    site.track(ATTACK, "Attacked")
    expect(page.get_by_role("cell", name="Attacked", exact=True)).to_be_visible()
    assert page.evaluate("window.attacked") is None
    page.get_by_role("button", name="Pause").click()
    expect(state).to_have_text("Paused")
    site.track("user-paused", "Unseen")
    page.wait_for_function("() => skipped > 0")
    expect(page.get_by_role("cell", name="user-paused")).to_have_count(0)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("cell", name="user-paused")).to_be_visible()


def test_the_overview_follows_what_happens(visit: Visit, site: Site) -> None:
    page = signed_in(visit, site)
    expect(page.get_by_role("status")).to_have_text("Live")
    card = page.get_by_role("listitem", name="two")
    waiting = card.locator("dd").nth(4)
    expect(waiting).to_have_text("0")
    site.track("user-overview", app="two")
    expect(waiting).to_have_text("1")
    assert page.locator(".plot canvas").count() >= 3


def test_without_javascript_pages_show_what_there_is(visit: Visit, site: Site) -> None:
    page = signed_in(visit, site, javascript=False)
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.get_by_role("link", name="Live").click()
    page.get_by_label("User or device").fill("user-1")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("cell", name="user-1").first).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Caller key")).to_be_visible()


def test_the_console_is_used_by_keyboard(visit: Visit, site: Site) -> None:
    page = visit(f"{site.url}/console")
    page.keyboard.type(site.key)  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_url("**/console")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.get_by_role("link", name="Live").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/live")


def test_an_open_page_leads_to_the_sign_in_page_once_its_key_is_revoked(
    visit: Visit, site: Site
) -> None:
    key_id, key = site.make_key("receipts:read")
    page = signed_in(visit, site, key=key)
    expect(page.get_by_role("status")).to_have_text("Live")
    httpx.delete(f"{site.url}/v1/keys/{key_id}", headers=site.headers())
    expect(page.get_by_label("Caller key")).to_be_visible(timeout=3_000)


def test_the_cookie_is_not_for_scripts(visit: Visit, site: Site) -> None:
    page = signed_in(visit, site)
    assert page.evaluate("document.cookie") == ""
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
    assert cookie["path"] == "/console"
    assert cookie["expires"] == -1  # it ends with the browser


FORM = """<!doctype html><html lang="en"><title>Another site</title><link rel="icon" href="data:,">
<form method="post" action="{action}"><input name="form_token" value="{token}"><button>Win</button>
</form><iframe src="{frame}"></iframe>"""


@pytest.fixture
def other_site(site: Site) -> Iterator[str]:
    """A page on another port, whose form signs the visitor out."""
    text = FORM.format(
        action=f"{site.url}/console/sign-out", token="0" * 64, frame=f"{site.url}/console"
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_site_can_neither_operate_nor_frame_the_console(
    visit: Visit, site: Site, other_site: str
) -> None:
    visit.allow("403 (Forbidden)")
    visit.allow("frame")
    page = signed_in(visit, site)
    attacker = visit(other_site, session=page.context)
    attacker.get_by_role("button", name="Win").click()
    expect(attacker.get_by_text("sent from another site")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
