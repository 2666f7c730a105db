"""The live page and its stream, from a real server."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.console.two_apps import Site, running_site
from tests.support.wait import until


@contextmanager
def streaming(
    site: Site, cookie: str, query: str = "", path: str = "/live/stream"
) -> Iterator[Iterator[str]]:
    """The lines of a stream, as they come."""
    url = f"{site.url}/console{path}?{query}"
    with httpx.stream("GET", url, headers={"Cookie": cookie}, timeout=10) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield answer.iter_lines()


def lines_until(lines: Iterator[str], words: str) -> list[str]:
    """Read lines until one has these words."""
    read = []
    for line in lines:
        read.append(line)
        if words in line:
            return read
    raise AssertionError(read)


def test_the_page_shows_what_was_accepted_without_its_content(site: Site) -> None:
    site.track("user-1", "Opened")
    page = httpx.get(f"{site.url}/console/live", headers={"Cookie": site.sign_in()}).text
    assert "user-1" in page
    assert "Opened" in page
    assert "cAnArY" not in page


def test_new_items_come_in_the_stream(site: Site) -> None:
    with streaming(site, site.sign_in()) as lines:
        lines_until(lines, "retry: ")
        until(lambda: site.app.handlers.live.follows)
        site.track("user-2", "Bought")
        read = lines_until(lines, "user-2")
    assert read[-2] == "event: entries"
    assert read[-1].startswith("data: <tr> <td")
    assert "Bought" in read[-1]
    assert "cAnArY" not in read[-1]


def test_a_key_for_one_app_sees_only_that_app(site: Site) -> None:
    _, key = site.make_key("receipts:read", apps=["two"])
    cookie = site.sign_in(key)
    site.track("of-one", app="one")
    for query in ("", "?app=one"):
        page = httpx.get(f"{site.url}/console/live{query}", headers={"Cookie": cookie}).text
        assert "of-one" not in page
    with streaming(site, cookie) as lines:
        lines_until(lines, "retry: ")
        until(lambda: site.app.handlers.live.follows)
        site.track("more-of-one", app="one")
        site.track("of-two", app="two")
        assert "of-one" not in "".join(lines_until(lines, "of-two"))


def test_the_stream_follows_the_filters_of_the_page(site: Site) -> None:
    with streaming(site, site.sign_in(), "event=Wanted&kind=accepted") as lines:
        lines_until(lines, "retry: ")
        until(lambda: site.app.handlers.live.follows)
        site.track("user-3", "Other")
        site.track("user-4", "Wanted")
        assert "user-3" not in "".join(lines_until(lines, "user-4"))


def test_the_stream_says_where_its_filters_could_not_see_all(site: Site) -> None:
    with streaming(site, site.sign_in(), "event=Wanted") as lines:
        lines_until(lines, "retry: ")
        until(lambda: site.app.handlers.live.follows)
        item = {"action": "track", "userId": "user-5", "event": "Other"}
        body = {"items": [item] * 60}
        headers = {**site.headers(), "X-Leanplum-App": "one"}
        httpx.post(f"{site.url}/v1/batch", json=body, headers=headers).raise_for_status()
        assert "user-5" not in "".join(lines_until(lines, "Others were left out here"))


def test_a_stream_ends_within_a_second_of_its_key_s_revocation(site: Site) -> None:
    key_id, key = site.make_key("receipts:read")
    with streaming(site, site.sign_in(key)) as lines:
        lines_until(lines, "retry: ")
        revoked = time.monotonic()
        site.app.services.keys.revoke(key_id, int(time.time() * 1000))  # as another process does
        lines_until(lines, "event: ended")
        assert time.monotonic() - revoked < 1.2
        assert list(lines) == ["data: ", ""]


def test_a_stream_ends_when_its_key_loses_the_scope(site: Site) -> None:
    key_id, key = site.make_key("receipts:read")
    with streaming(site, site.sign_in(key)) as lines:
        lines_until(lines, "retry: ")
        body = {"scopes": ["console:read"]}
        httpx.patch(f"{site.url}/v1/keys/{key_id}", json=body, headers=site.headers())
        lines_until(lines, "event: ended")


@pytest.mark.parametrize("path", ["/stream", "/live/stream"])
def test_a_stream_ends_when_the_apps_of_its_key_change(site: Site, path: str) -> None:
    key_id, key = site.make_key("receipts:read")
    with streaming(site, site.sign_in(key), path=path) as lines:
        lines_until(lines, "retry: ")
        body = {"apps": ["two"]}
        httpx.patch(f"{site.url}/v1/keys/{key_id}", json=body, headers=site.headers())
        time.sleep(1.0)  # what is promised
        site.track(f"late{path}", app="one")
        assert f"late{path}" not in "".join(lines_until(lines, "event: ended"))


def test_a_stream_ends_when_its_session_is_signed_out(site: Site) -> None:
    cookie = site.sign_in()
    page = httpx.get(f"{site.url}/console", headers={"Cookie": cookie}).text
    token = page.partition('name="form_token" value="')[2].partition('"')[0]
    with streaming(site, cookie) as lines:
        lines_until(lines, "retry: ")
        form = {"form_token": token}
        httpx.post(f"{site.url}/console/sign-out", data=form, headers={"Cookie": cookie})
        lines_until(lines, "event: ended")


def test_a_session_has_a_bounded_number_of_streams(site: Site) -> None:
    cookie = site.sign_in()
    url = f"{site.url}/console/live/stream"
    with httpx.Client(headers={"Cookie": cookie}) as client:
        open_streams = [
            client.send(client.build_request("GET", url), stream=True) for _ in range(10)
        ]
        refused = client.get(url)
        assert refused.status_code == 503
        assert "Too many live pages" in refused.text
        for stream in open_streams:
            stream.close()


def test_streams_that_are_opened_at_once_are_bounded_too(site: Site) -> None:
    url, headers = f"{site.url}/console/live/stream", {"Cookie": site.sign_in()}

    async def statuses() -> Counter[int]:
        async with httpx.AsyncClient(headers=headers, timeout=20) as client:
            requests = [client.build_request("GET", url) for _ in range(30)]
            sent = (client.send(request, stream=True) for request in requests)
            answers = await asyncio.gather(*sent)
            found = Counter(answer.status_code for answer in answers)
            for answer in answers:
                await answer.aclose()
            return found

    assert asyncio.run(statuses()) == {200: 10, 503: 20}


def test_nothing_is_read_while_nobody_looks(site: Site) -> None:
    until(lambda: not site.app.handlers.live.follows)


def test_streams_end_when_the_process_drains(tmp_path: Path, migrated: Path) -> None:
    with running_site(tmp_path, migrated) as site, streaming(site, site.sign_in()) as lines:
        lines_until(lines, "retry: ")
        for hook in site.app.lifecycle.on_drain:
            hook()
        assert "event: ended" not in list(lines)
