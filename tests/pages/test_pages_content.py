"""The files of pages, and the OpenAPI document: compressed, and kept by browsers."""

import re

import orjson
import pytest

from app.pages import asset_path
from app.pages.assets import KEPT, NOT_KEPT
from tests.support.gateway import Talk

PLAIN = {"Accept-Encoding": "identity"}
GZIP = {"Accept-Encoding": "gzip"}
PATHS = {"script": asset_path("scalar.js"), "document": "/openapi.json"}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_content_is_compressed_for_those_who_accept_it(gateway: Talk, path: str) -> None:
    plain, small = gateway.get(path, headers=PLAIN), gateway.get(path, headers=GZIP)
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert small.content == plain.content  # the client decompressed it
    assert int(small.headers["content-length"]) < len(plain.content) / 3
    assert int(plain.headers["content-length"]) == len(plain.content)
    for answer in (plain, small):
        assert "Accept-Encoding" in answer.headers["vary"]
    assert plain.headers["etag"] != small.headers["etag"]


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True), ("br, GZIP;q=0.1", True), ("*", True), ("deflate, gzip;q=1.0", True), ("gzip;q=0", False),
        ("identity", False), ("*;q=0", False), ("*, gzip;q=0", False), ("gzip;q=x", False), ("", False),
    ],
)  # fmt: skip
def test_what_a_client_accepts_is_read_as_the_rfc_says(
    gateway: Talk, accepted: str, compressed: bool
) -> None:
    answer = gateway.get(asset_path("pages.css"), headers={"Accept-Encoding": accepted})
    assert ("content-encoding" in answer.headers) is compressed


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_known_content_is_not_sent_again(gateway: Talk, path: str) -> None:
    for headers in (PLAIN, GZIP):
        etag = gateway.get(path, headers=headers).headers["etag"]
        for known in (etag, f'"other", W/{etag}', "*"):
            again = gateway.get(path, headers=headers | {"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        other = gateway.get(path, headers=headers | {"If-None-Match": '"other"'})
        assert other.status_code == 200


def test_a_file_is_kept_for_good_under_the_hash_of_its_content_and_under_no_other(
    gateway: Talk,
) -> None:
    path = asset_path("pages.css")
    assert re.fullmatch(r"/assets/[0-9a-f]{16}/pages\.css", path)
    assert gateway.get(path).headers["cache-control"] == KEPT
    old = gateway.get("/assets/0123456789abcdef/pages.css")
    assert (old.status_code, old.headers["cache-control"]) == (200, NOT_KEPT)
    assert old.content == gateway.get(path).content


@pytest.mark.parametrize("name", ["nothing.js", "..", "%2e%2e", "..%2f..%2fapp.py", "SCALAR.js"])
def test_only_files_of_pages_are_served(gateway: Talk, name: str) -> None:
    assert gateway.get(f"/assets/0123456789abcdef/{name}").status_code == 404


def test_the_document_is_asked_for_anew_and_depends_on_the_prefix(gateway: Talk) -> None:
    answer = gateway.get("/openapi.json", headers=GZIP)
    assert answer.headers["cache-control"] == NOT_KEPT
    assert answer.headers["vary"] == "X-Forwarded-Prefix, Accept-Encoding"
    assert orjson.loads(answer.content)["servers"] == [{"url": "/"}]


def test_every_page_has_the_favicon(gateway: Talk) -> None:
    icon = asset_path("favicon.svg")
    for path in ("/", "/docs", "/problems", "/problems/validation", "/console"):
        page = gateway.get(path, key=None, headers={"Accept": "text/html"}, follow_redirects=True)
        assert f'<link rel="icon" type="image/svg+xml" href="{icon}">' in page.text, path


def test_the_pages_are_listed_for_programs_as_well(gateway: Talk) -> None:
    listed = gateway.get("/", key=None, headers={"Accept": "application/json"})
    assert listed.headers["content-type"] == "application/json"
    for path in listed.json()["links"].values():
        assert gateway.get(path, key=None, follow_redirects=True).status_code == 200, path


def test_the_whole_reference_takes_less_than_a_megabyte_and_a_half(gateway: Talk) -> None:
    page = gateway.get("/docs", key=None)
    paths = re.findall(r'(?:href|src|data-document)="(/[^"]+\.(?:css|js|json|svg))"', page.text)
    assert len(paths) >= 5
    sizes = [len(page.content)]
    for path in set(paths):
        answer = gateway.get(path, headers=GZIP)
        sizes.append(int(answer.headers["content-length"]))
    assert sum(sizes) < 1_500_000, sizes
