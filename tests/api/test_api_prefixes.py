"""The path prefix under which a proxy offers the gateway: GATEWAY_ROOT_PATH and X-Forwarded-Prefix,
by plain requests to the real server, through nginx, and in a browser.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.compat.leanplum_sdk.endpoint import PATHS as SDK_PATHS
from app.compat.segment.request import PATHS as SEGMENT_PATHS
from app.errors import StartRefused
from app.http.proxies import OWN, forwarded_prefix
from app.server.application import ROUTERS, create_app
from app.settings import Settings, load
from app.urls import parse_path_prefix
from tests.support.browser import Visit
from tests.support.gateway import WIDE, make_settings
from tests.support.http_server import Wire, served
from tests.support.nginx import needs_nginx, nginx

P = "/leanplum"
HEADER = b"x-forwarded-prefix"
NONCE = re.compile(r'(?<=csp-nonce" content=")[^"]+')  # of the page /docs, new each time
PLAIN = {
    "/leanplum": "/leanplum",
    "/leanplum/": "/leanplum",
    "/a/b": "/a/b",
    "/a_b-c.d~E9": "/a_b-c.d~E9",
    "/": "",
    "/v1": "/v1",
}
BAD = [
    "//evil.example", "///evil.example", "/a//b", "/a//", "/../a", "/a/./b", "/a/..", "/...", "https://evil.example",
    "http:/evil.example", "javascript:alert(1)", "/\\evil.example", "/a b", "/a\tb", "/<script>", '/"x', "/'x", "/a?b",
    "/a#b", "/a%2Fb", "/%2F%2Fevil.example", "/a;b", "/a&b", "/a`b", "/a{b}", "/größe", "/\x00", "/a@b", "/a:b",
    "/" + "a" * 256, "/a" * 129,
]  # fmt: skip


# --- what a prefix is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "prefix"), PLAIN.items())
def test_a_plain_path_is_a_prefix(text: str, prefix: str) -> None:
    assert parse_path_prefix(text) == prefix
    assert forwarded_prefix([(HEADER, text.encode())]) == prefix
    assert load({"GATEWAY_ROOT_PATH": text}).gateway_root_path == prefix
    assert load({"GATEWAY_ROOT_PATH": text.strip("/") or "/"}).gateway_root_path == prefix


@pytest.mark.parametrize("text", BAD)
def test_anything_else_is_ignored_in_the_header_and_refused_in_one_line_as_a_setting(
    text: str,
) -> None:
    assert forwarded_prefix([(HEADER, text.encode("utf-8"))]) == ""
    if "\0" not in text:
        with pytest.raises(StartRefused) as refused:
            load({"GATEWAY_ROOT_PATH": text})
        (line,) = refused.value.args
        assert line.startswith("GATEWAY_ROOT_PATH: takes a path such as /leanplum")


def test_a_prefix_behind_which_two_paths_are_the_same_is_refused() -> None:
    with pytest.raises(StartRefused, match="GATEWAY_ROOT_PATH: can't be /segment"):
        load({"GATEWAY_ROOT_PATH": "/segment/"})
    assert forwarded_prefix([(HEADER, b"/segment")]) == forwarded_prefix([(HEADER, b"/")]) == ""


def test_the_parts_of_several_proxies_are_joined_the_outer_one_first() -> None:
    assert (
        forwarded_prefix([(HEADER, b"/a, /b/"), (b"x-other", b"/no"), (HEADER, b"/c")]) == "/a/b/c"
    )
    assert forwarded_prefix([(HEADER, b"/a, //b")]) == ""
    assert forwarded_prefix([(HEADER, b"/a, b")]) == ""
    assert forwarded_prefix([(HEADER, b"leanplum")]) == ""
    assert forwarded_prefix([(HEADER, b"/" + b"a" * 200), (HEADER, b"/" + b"a" * 200)]) == ""
    assert forwarded_prefix([(HEADER, b"")]) == ""


def test_the_names_that_a_prefix_may_clash_with_are_those_of_the_routes() -> None:
    app = create_app(Settings(_env_file=None))
    paths = {
        *app.openapi()["paths"],
        *SDK_PATHS,
        *SEGMENT_PATHS,
        *(getattr(route, "path", "/") for route in app.routes),
        *(getattr(route, "path", "/") for router in ROUTERS for route in router.routes),
    }
    assert {path.split("/")[1] for path in paths} - {""} == OWN


# --- plain requests ---------------------------------------------------------------------------------------------------


class Running:
    """A server and a caller of it; `settings` are those of the server."""

    def __init__(self, port: int, settings: Settings) -> None:
        assert settings.gateway_bootstrap_key is not None
        self.port, self.key = port, settings.gateway_bootstrap_key.get_secret_value()
        self.client = httpx.Client(trust_env=False, timeout=30)

    def call(self, method: str, path: str, *, port: int = 0, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        url = f"http://127.0.0.1:{port or self.port}{path}"
        return self.client.request(method, url, headers=headers, **options)


Given = dict[str, Any]
ROOTED: Given = {"gateway_root_path": P}
TRUSTING: Given = {"gateway_trusted_proxies": "127.0.0.0/8"}
FORWARDED = {"X-Forwarded-Prefix": P}


@contextmanager
def running(directory: Path, migrated: Path, given: Given) -> Iterator[Running]:
    settings = make_settings(directory, migrated, WIDE | given)
    with served(settings) as port:
        server = Running(port, settings)
        yield server
        server.client.close()


@pytest.fixture(scope="module")
def rooted(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("rooted"), migrated, ROOTED) as server:
        yield server


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("trusting"), migrated, TRUSTING) as server:
        yield server


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("plain"), migrated, {}) as server:
        yield server


class Site:
    """The gateway as a caller sees it through a proxy: a prefix before every path."""

    def __init__(
        self,
        server: Running,
        outside: str,
        *,
        port: int = 0,
        inside: str = "",
        named: str | None = None,
    ) -> None:
        """`outside` is the prefix of links; `inside` is what the proxy leaves of it in the path,
        `named` its header.
        """
        self.server, self.outside, self.inside, self.port = server, outside, inside, port
        self.headers = {} if named is None else {"X-Forwarded-Prefix": named}

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = self.headers | options.pop("headers", {})
        return self.server.call(
            method, self.inside + path, port=self.port, headers=headers, **options
        )

    def follow(self, link: str) -> httpx.Response:
        """Follow a link that the gateway gave, as a browser would."""
        assert link.startswith(f"{self.outside}/"), link
        return self.call("GET", link.removeprefix(self.outside))


def check_everything(site: Site, *, slashes: bool = True) -> None:
    """Check each place with a link in it, and follow the links. `slashes`: also an id that has
    one.
    """
    prefix = site.outside
    accepted = site.call("POST", "/v1/events", json={"userId": "u1", "event": "E"})
    assert accepted.status_code == 202, accepted.text
    assert (
        accepted.headers["location"]
        == accepted.json()["href"]
        == f"{prefix}/v1/receipts/{accepted.json()['id']}"
    )
    assert site.follow(accepted.headers["location"]).json()["href"] == accepted.json()["href"]
    waited = site.call(
        "POST", "/v1/users/u1/states", json={"state": "S"}, headers={"Prefer": "wait=0"}
    )
    assert (
        waited.headers["location"]
        == waited.json()["href"]
        == f"{prefix}/v1/receipts/{waited.json()['id']}"
    )
    if slashes:
        slashed = site.call("PATCH", "/v1/users/a%2Fb", json={"userAttributes": {"a": 1}})
        assert (slashed.status_code, slashed.json()["userId"]) == (202, "a/b")

    batch = site.call(
        "POST", "/v1/batch", json={"items": [{"action": "track", "userId": "u1", "event": "E"}, {}]}
    )
    assert batch.json()["results"][1]["problem"]["type"] == f"{prefix}/problems/validation"
    preview = site.call("POST", "/v1/preview", json={"items": [{}]})
    assert preview.json()["results"][0]["problem"]["type"] == f"{prefix}/problems/validation"

    made = site.call("POST", "/v1/keys", json={"name": "n", "scopes": ["events:write"]})
    assert made.headers["location"] == f"{prefix}/v1/keys/{made.json()['id']}"
    assert site.follow(made.headers["location"]).json()["id"] == made.json()["id"]

    for slug, answer in {
        "validation": site.call("POST", "/v1/events", json={}),
        "malformed": site.call(
            "POST", "/v1/events", content=b"{", headers={"Content-Type": "application/json"}
        ),
        "unauthorized": site.call("GET", "/v1/keys", headers={"Authorization": "Bearer x"}),
        "not-found": site.call("GET", "/v1/receipts/none"),
        "method-not-allowed": site.call("POST", "/readyz"),
        "unsupported-media-type": site.call(
            "POST", "/v1/batch", content=b"x", headers={"Content-Type": "text/x"}
        ),
    }.items():
        assert answer.json()["type"] == f"{prefix}/problems/{slug}"
        assert site.follow(answer.json()["type"]).status_code == 200
    assert site.call("GET", "/nowhere").json()["type"] == f"{prefix}/problems/not-found"

    # Where a prefix could be one of the gateway's own paths, it is left in before an empty path.
    index = [] if site.inside and site.inside.split("/")[1] in OWN else ["/"]
    for page in (*index, "/docs", "/problems", "/problems/validation"):
        shown = site.call("GET", page, headers={"Accept": "text/html"})
        assert "X-Forwarded-Prefix" in shown.headers["vary"]
        links = re.findall(r"""(?:href|src|data-document)=["']([^"'#]+)["']""", shown.text)
        assert links
        for link in set(links) - ({f"{prefix}/"} if not index else set()):
            # The console leads to its sign-in.
            assert site.follow(link).status_code in {200, 303}, (page, link)
    redirect = site.call("GET", "/redoc")
    assert (redirect.status_code, redirect.headers["location"]) == (308, f"{prefix}/docs")
    for page in index:
        assert site.call("GET", page).json()["links"]["docs"] == f"{prefix}/docs"
    document = site.call("GET", "/openapi.json").json()
    assert document["servers"] == [{"url": prefix or "/"}]

    for path in ("/livez", "/readyz", "/metrics"):
        assert site.call("GET", path).status_code == 200
        assert site.call("HEAD", path).status_code == 200
    sdk = {
        "appId": "app_tests",
        "clientKey": site.server.key,
        "apiVersion": "1.0.6",
        "action": "track",
    }
    for path in ("/api", "/api/"):
        answer = site.call(
            "POST", path, json=sdk | {"event": "E", "userId": "u1"}, headers={"Authorization": ""}
        )
        assert (answer.status_code, answer.json()["response"][0]["success"]) == (200, True)
    track = {"userId": "u1", "event": "E", "messageId": f"m{os.urandom(4).hex()}"}
    assert (
        site.call("POST", "/segment/v1/track", json=track, auth=(site.server.key, "")).status_code
        == 200
    )


def test_without_a_prefix_links_begin_at_the_root(plain: Running) -> None:
    check_everything(Site(plain, ""))


@pytest.mark.parametrize("inside", ["", P])
def test_the_configured_prefix_is_before_every_link(rooted: Running, inside: str) -> None:
    check_everything(Site(rooted, P, inside=inside))


@pytest.mark.parametrize("inside", ["", P])
def test_the_prefix_that_a_trusted_proxy_names_is_before_every_link(
    trusting: Running, inside: str
) -> None:
    check_everything(Site(trusting, P, inside=inside, named=P))


def test_each_request_has_its_own_prefix(trusting: Running) -> None:
    for prefix in ("/one", "/two/three", ""):
        site = Site(trusting, prefix, named=prefix)
        assert site.call("GET", "/nowhere").json()["type"] == f"{prefix}/problems/not-found"
        document = site.call("GET", "/openapi.json").json()
        assert document["servers"] == [{"url": prefix or "/"}]


def test_the_prefix_that_a_proxy_names_goes_before_the_configured_one(
    tmp_path: Path, migrated: Path
) -> None:
    with running(tmp_path, migrated, ROOTED | TRUSTING) as server:
        check_everything(Site(server, "/other", named="/other"))
        check_everything(Site(server, "/other", inside="/other", named="/other"))
        for bad in ("//evil.example", "https://evil.example", ""):
            answer = server.call("GET", f"{P}/nowhere", headers={"X-Forwarded-Prefix": bad})
            assert answer.json()["type"] == f"{P}/problems/not-found"


def test_a_proxy_that_is_not_trusted_names_no_prefix(
    plain: Running, rooted: Running, tmp_path: Path, migrated: Path
) -> None:
    check_everything(Site(plain, "", named=P))
    assert plain.call("GET", f"{P}/livez", headers=FORWARDED).status_code == 404
    check_everything(Site(rooted, P, named="/other"))
    with running(tmp_path, migrated, {"gateway_trusted_proxies": "10.0.0.0/8"}) as server:
        answer = server.call("GET", "/nowhere", headers=FORWARDED)
        assert answer.json()["type"] == "/problems/not-found"


@pytest.mark.parametrize("bad", [one for one in BAD if one.isascii() and "\0" not in one])
def test_no_prefix_leads_elsewhere_or_runs_in_a_page(trusting: Running, bad: str) -> None:
    named = {"X-Forwarded-Prefix": bad}
    for path in ("/", "/docs", "/problems", "/problems/validation", "/openapi.json"):
        clean, shown = trusting.call("GET", path), trusting.call("GET", path, headers=named)
        assert NONCE.sub("", shown.text) == NONCE.sub("", clean.text)
    accepted = trusting.call(
        "POST", "/v1/events", json={"userId": "u1", "event": "E"}, headers=named
    )
    assert accepted.headers["location"].startswith("/v1/receipts/")


@pytest.mark.parametrize(
    "path", ["/leanplumx/livez", "/leanplu/livez", "/leanplum/leanplum/livez", "/leanplum%2Flivez"]
)
def test_only_the_whole_prefix_is_taken_off_and_once(rooted: Running, path: str) -> None:
    assert rooted.call("GET", path).status_code == 404


def test_an_escaped_letter_of_the_prefix_is_that_letter(rooted: Running) -> None:
    wire = Wire(rooted.port)
    wire.say(
        b"GET /lean%70lum/v1/receipts/a%2Fb?nonsense=1 HTTP/1.1\r\nHost: g\r\nX-API-Key: x\r\n\r\n"
    )
    assert wire.answer()[0] == 401
    wire.say(b"GET /lean%70lum/livez HTTP/1.1\r\nHost: g\r\n\r\n")
    assert wire.answer()[0] == 200
    wire.close()


def test_a_head_that_cannot_be_read_is_refused_with_the_configured_prefix(rooted: Running) -> None:
    wire = Wire(rooted.port)
    wire.say(b"no HTTP\r\n\r\n")
    status, _, body = wire.answer()
    assert (status, f'"type":"{P}/problems/malformed"'.encode() in body) == (400, True)
    wire.close()


@pytest.mark.parametrize(
    "prefix", ["/v1", "/api", "/docs", "/problems", "/api/v1", "/segment/v1", "/assets/v1"]
)
@pytest.mark.parametrize("strips", [True, False])
def test_a_prefix_that_is_called_as_one_of_the_gateways_own_paths(
    trusting: Running, prefix: str, strips: bool
) -> None:
    check_everything(Site(trusting, prefix, inside="" if strips else prefix, named=prefix))


# --- through nginx ----------------------------------------------------------------------------------------------------

NAMES_IT = "proxy_set_header X-Forwarded-Prefix /leanplum;"
SET_UPS = {
    "configured, taken off": (ROOTED, "/", ""),
    "configured, left in": (ROOTED, "", ""),
    "named, taken off": (TRUSTING, "/", NAMES_IT),
    "named, left in": (TRUSTING, "", NAMES_IT),
    "both, taken off": (ROOTED | TRUSTING, "/", NAMES_IT),
}


def under_leanplum(upstream: int, slash: str, more: str) -> str:
    """The directives of an nginx that offers the gateway under /leanplum, and nothing else."""
    return (
        "location / { return 418; } location /leanplum/ { "
        f"proxy_pass http://127.0.0.1:{upstream}{slash}; {more} }}"
    )


@needs_nginx
@pytest.mark.parametrize("set_up", SET_UPS)
def test_through_nginx_every_link_leads_to_the_gateway(
    set_up: str, tmp_path: Path, migrated: Path
) -> None:
    given, slash, more = SET_UPS[set_up]
    with (
        running(tmp_path, migrated, given) as server,
        nginx(under_leanplum(server.port, slash, more)) as port,
    ):
        # With a path after the host, proxy_pass makes a slash of %2F.
        check_everything(Site(server, P, inside=P, port=port), slashes=not slash)
        assert server.call("GET", "/readyz").status_code == 200  # a probe that goes past the proxy


@needs_nginx
@pytest.mark.parametrize("set_up", ["configured, left in", "named, taken off"])
def test_a_browser_shows_the_reference_under_the_prefix(
    set_up: str, tmp_path: Path, migrated: Path, visit: Visit
) -> None:
    given, slash, more = SET_UPS[set_up]
    with (
        running(tmp_path, migrated, given) as server,
        nginx(under_leanplum(server.port, slash, more)) as port,
    ):
        page = visit(f"http://127.0.0.1:{port}{P}/docs")
        page.get_by_role("heading", name="Leanplum gateway").wait_for(timeout=60_000)
        page.get_by_text(f"http://127.0.0.1:{port}{P}").first.wait_for()
        visit.check()
