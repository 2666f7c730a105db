"""The watch over pages in the tests' browser, which must notice what goes wrong in them."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.browser import Visit, accessibility_findings, assert_fits

HEAD = '<!doctype html><html lang="en"><title>A page</title><link rel="icon" href="data:,">'
PAGES = {
    "/good": "<main><h1>Good</h1></main>",
    "/logs": "<main><h1>Logs</h1></main><script>console.error('broken')</script>",
    "/throws": "<main><h1>Throws</h1></main><script>missing()</script>",
    "/asks": "<main><h1>Asks</h1></main><img alt='' src='http://other.example/x.png'>",
    "/wide": "<main><h1>Wide</h1><div style='width:2000px'>…</div><input></main>",
}


class Handler(BaseHTTPRequestHandler):
    """Serves the pages above."""

    def do_GET(self) -> None:
        body = (HEAD + PAGES[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_good_page_passes(visit: Visit, site: str) -> None:
    page = visit(f"{site}/good", width=390)
    assert_fits(page)
    assert not accessibility_findings(page)


@pytest.mark.parametrize(
    ("path", "trouble"),
    [("/logs", "broken"), ("/throws", "missing"), ("/asks", "http://other.example/x.png")],
)
def test_a_page_that_logs_throws_or_asks_elsewhere_fails_its_test(
    visit: Visit, site: str, path: str, trouble: str
) -> None:
    visit(f"{site}{path}").wait_for_load_state("networkidle")
    with pytest.raises(AssertionError, match=trouble):
        visit.check()
    visit.allow("")  # everything, so that this test does not fail


def test_a_page_that_sticks_out_or_has_a_field_without_a_label_is_found(
    visit: Visit, site: str
) -> None:
    page = visit(f"{site}/wide")
    with pytest.raises(AssertionError, match="of 1280 px"):
        assert_fits(page)
    assert "critical: label" in accessibility_findings(page)[0]
