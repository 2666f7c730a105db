"""Who has no key that is known, or one whose bucket is empty, is refused before a large body is
read or parsed.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.callers import key_format
from app.http.authentication import Authenticator
from app.http.rate_limiting import RateLimiter
from app.limits.buckets import Buckets, LocalLimiter, RatePolicies
from app.server.application import create_app
from tests.support.clock import Clock
from tests.support.gateway import WIDE, Talk, make_settings
from tests.support.http_server import Wire, served

Start = Callable[..., Talk]
LARGE = b"x" * 200_000
APP = "app_tests"


def body(key: str, *, last: bool = False) -> bytes:
    start = b'{"appId":"%s","action":"track","userId":"u","event":"e","params":{"a":"%s"}' % (
        APP.encode(),
        LARGE,
    )
    named = b'"clientKey":"%s"' % key.encode()
    return start + b"," + named + b"}" if last else b"{" + named + b"," + start[1:] + b"}"


def post(talk: Talk, content: bytes, url: str = "/api", **headers: str) -> Any:
    return talk.call(
        "POST",
        url,
        key=None,
        content=content,
        headers={"Content-Type": "application/json"} | headers,
    )


def stopped(start: Start, burst: int) -> Talk:
    """A gateway whose buckets regain nothing."""
    talk = start(gateway_rate_burst=burst, gateway_rate_per_second=1)
    opened = talk.app.services
    policies = RatePolicies(1, burst)
    limiter = RateLimiter(
        LocalLimiter(Buckets(Clock())), policies, opened.apps, failures_per_minute=50
    )
    authenticator = Authenticator(opened.directory, opened.apps, limiter)
    talk.app.serve(opened._replace(limiter=limiter, authenticator=authenticator))
    return talk


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[tuple[int, str]]:
    settings = make_settings(
        tmp_path_factory.mktemp("locked"), migrated, {"gateway_failed_auth_per_minute": 3}
    )
    assert settings.gateway_bootstrap_key is not None
    with served(settings) as found:
        yield found, settings.gateway_bootstrap_key.get_secret_value()


def test_an_address_that_failed_too_often_is_refused_before_a_large_body_is_whole(
    port: tuple[int, str],
) -> None:
    def asked(key: str, sent: bytes, length: int) -> tuple[int, bytes]:
        with closing(Wire(port[0])) as wire:
            lines = ["POST /api HTTP/1.1", "Host: gateway", f"Content-Length: {length}", "", ""]
            wire.say("\r\n".join(lines).encode() + sent.replace(b"KEY", key.encode()))
            status, headers, answer = wire.answer()
            assert ("retry-after" in headers) == (status == 429)
            return status, answer

    for _ in range(3):
        whole = body(key_format.make())
        assert asked("", whole, len(whole))[0] == 403
    status, answer = asked("", LARGE, 20_000_000)  # which never comes
    assert status == 429
    assert "Too many failed" in orjson.loads(answer)["response"][0]["error"]["message"]
    early = body(port[1])
    assert asked("", early, len(early))[0] == 200, "a good key passes all the same"


@pytest.mark.parametrize("last", [False, True])
def test_the_refusals_count_for_the_lock_out(start: Start, last: bool) -> None:
    talk = start(gateway_failed_auth_per_minute=2)
    found = [post(talk, body(key_format.make(), last=last)).status_code for _ in range(3)]
    assert found == [403, 403, 429]


@pytest.mark.parametrize("last", [False, True])
def test_a_key_with_an_empty_bucket_is_refused_before_the_body_is_parsed(
    start: Start, last: bool
) -> None:
    talk = stopped(start, 1)
    key = talk.key
    assert post(talk, body(key, last=last)).status_code == 200
    broken = body(key, last=last)[:-1] + b"!"
    refused = post(talk, broken)
    assert (
        refused.status_code,
        "retry-after" in refused.headers,
        "ratelimit" in refused.headers,
    ) == (429, True, True)


@pytest.mark.parametrize("url", ["/v1/batch", "/v1/preview", "/segment/v1/batch"])
def test_so_it_is_on_the_other_endpoints(start: Start, url: str) -> None:
    talk = stopped(start, 1)
    kind = {"Content-Type": "application/json"}
    for expected in ({400, 413}, {429}):
        found = talk.call("POST", url, content=b"[" + b"0," * 100_000, headers=kind)
        assert found.status_code in expected


def test_a_body_that_cannot_be_read_costs_its_key_one_item(start: Start) -> None:
    talk = stopped(start, 2)
    for length in (100, len(body(talk.key)) - 1):
        found = post(talk, body(talk.key)[:length])
        assert (found.status_code, "ratelimit" in found.headers) == (400, True)
    assert post(talk, body(talk.key)).status_code == 429


def test_a_key_in_the_query_or_a_header_needs_no_search(start: Start) -> None:
    talk = start(**WIDE)
    content = body("").replace(b'"clientKey":"",', b"")
    assert post(talk, content, f"/api?clientKey={talk.key}").status_code == 200
    assert post(talk, content, Authorization=f"Bearer {talk.key}").status_code == 200
    assert post(talk, content, f"/api?clientKey={key_format.make()}").status_code == 403
    assert post(talk, body(key_format.make()), f"/api?clientKey={talk.key}").status_code == 403, (
        "the body's counts"
    )


def test_a_small_batch_without_a_known_key_is_answered_entry_by_entry(start: Start) -> None:
    talk = start(**WIDE)
    found = post(
        talk, orjson.dumps({"action": "multi", "data": [{}] * 3, "clientKey": key_format.make()})
    )
    assert (found.status_code, len(found.json()["response"])) == (403, 3)


def test_where_there_is_no_room_who_has_no_key_learns_that_and_who_has_one_is_asked_again(
    tmp_path: Path, migrated: Path
) -> None:
    settings = make_settings(tmp_path, migrated, WIDE | {"gateway_max_held_bytes": 400_000})
    assert settings.gateway_bootstrap_key is not None
    known = settings.gateway_bootstrap_key.get_secret_value()

    def asked(at_port: int, content: bytes) -> tuple[int, dict[str, str]]:
        with closing(Wire(at_port)) as wire:
            wire.say(
                b"POST /api HTTP/1.1\r\nHost: gateway\r\nContent-Length: %d\r\n\r\n" % len(content)
            )
            # The key must not come in one piece with all before it
            for at in range(0, len(content), 50_000):
                wire.say(content[at : at + 50_000])
                time.sleep(0.02)
            status, headers, _ = wire.answer()
            return status, headers

    app = create_app(settings, delivery=False)
    with served(settings, app) as opened:
        assert asked(opened, body(key_format.make(), last=True))[0] == 403
        status, headers = asked(opened, body(known, last=True))
        assert (status, "retry-after" in headers) == (503, True)
        assert asked(opened, body(known))[0] == 200
        assert app.handlers.credentials.held.count == 0


def test_segment_s_key_in_a_large_body_is_found(start: Start) -> None:
    talk = start(**WIDE)
    message = {"userId": "u", "event": "e", "properties": {"a": LARGE.decode()}}
    for key, status in ((talk.key, 200), (key_format.make(), 401)):
        assert (
            post(talk, orjson.dumps(message | {"writeKey": key}), "/segment/v1/track").status_code
            == status
        )
