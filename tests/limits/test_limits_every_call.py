"""Every call with a key takes an item, whatever it asks for, and repeated refusals are folded in
the audit.
"""

import gzip
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.callers import key_format
from tests.support.http_server import Wire
from tests.support.postgres import Server
from tests.support.processes import APP_ID, Process, bearer, ended, serving
from tests.support.segment import basic
from tests.support.wait import until

Call = Callable[[Process, str], httpx.Response]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("every-call")
    more = {"GATEWAY_LOG_LEVEL": "error", "GATEWAY_FAILED_AUTH_PER_MINUTE": "1000000"}
    with serving(folder, "http://127.0.0.1:9", "--no-delivery", **more) as running:
        yield running


def asking(method: str, path: str, headers: Callable[[str], dict[str, str]] = bearer) -> Call:
    return lambda gateway, key: gateway.http.request(method, path, headers=headers(key))


CALLS: dict[str, tuple[int, Call]] = {
    "nothing under /v1": (404, asking("GET", "/v1/nothing")),
    "nothing": (404, asking("POST", "/nothing")),
    "X-API-Key": (404, asking("GET", "/v1/nothing", lambda key: {"X-API-Key": key})),
    "no page": (404, asking("GET", "/assets/none.js")),
    "no problem": (404, asking("GET", "/problems/none")),
    "nothing of Segment's": (404, asking("POST", "/segment/v1/nothing")),
    "nothing of Segment's, by Basic": (404, asking("POST", "/segment/v1/zz", basic)),
    "another case of Segment's, by Basic": (404, asking("POST", "/segment/v1/TRACK", basic)),
    "nothing, by Basic": (404, asking("GET", "/nope", basic)),
    "nothing under /v1, by Basic": (404, asking("GET", "/v1/nothing", basic)),
    "another method, by Basic": (405, asking("PUT", "/v1/events", basic)),
    "another method of the SDK's, by Basic": (405, asking("PUT", "/api", basic)),
    "a path that is not UTF-8, by Basic": (400, asking("GET", "/nope/%FF", basic)),
    "another key in the query, by Basic": (400, asking("GET", f"/nope?k={'x' * 9}&token=y", basic)),
    "by Basic, beside a proxy's own": (404, asking("GET", "/nope", lambda key: basic(key) | {"X-API-Key": "p"})),
    "beside a proxy's own Basic": (404, asking("GET", "/nope", lambda key: basic("p") | {"X-API-Key": key})),
    "another method": (405, asking("DELETE", "/v1/events")),
    "another method of a page": (405, asking("POST", "/livez")),
    "OPTIONS": (405, asking("OPTIONS", "/v1/batch")),
    "HEAD": (404, asking("HEAD", "/v1/nothing")),
    "another method of Segment's": (405, asking("GET", "/segment/v1/track", basic)),
    "another method of the SDK's, key in a header": (405, asking("PUT", "/api")),
    "another method of the SDK's, key in the query": (
        405, lambda gateway, key: gateway.http.delete(f"/api?clientKey={key}&appId={APP_ID}"),
    ),
    "a key in the query": (400, lambda gateway, key: gateway.http.get(f"/v1/messages?q={key}")),
    "a key in the path": (400, lambda gateway, key: gateway.http.get(f"/v1/receipts/{key}")),
    "a key in the query of a page": (400, lambda gateway, key: gateway.http.get(f"/docs?{key}")),
    "a key in the query of Segment's": (400, lambda gateway, key: gateway.http.post(f"/segment/v1/track?k={key}")),
    "another's key in the query": (
        400, lambda gateway, key: gateway.http.get(f"/v1/messages?token={'x' * 9}", headers=bearer(key)),
    ),
    "an unknown key in the query": (
        400, lambda gateway, key: gateway.http.get(f"/v1/messages?k={key_format.make()}", headers=bearer(key)),
    ),
    "a path that is not UTF-8": (400, asking("GET", "/v1/receipts/%FF")),
    "a parameter with a NUL": (422, asking("GET", "/v1/receipts/%00")),
    "a parameter of a page with a NUL": (404, asking("GET", "/problems/%00")),
}  # fmt: skip


@pytest.mark.parametrize(("status", "call"), CALLS.values(), ids=CALLS)
def test_it_takes_an_item_and_is_refused_where_there_is_none(
    gateway: Process, status: int, call: Call
) -> None:
    _, key = gateway.create_key(ratePerSecond=1, rateBurst=3)
    answers = [call(gateway, key) for _ in range(10)]
    statuses = [answer.status_code for answer in answers]
    assert statuses[:3] == [status] * 3
    assert 429 in statuses
    assert set(statuses) == {status, 429}
    assert answers[0].headers["ratelimit"] == '"caller";r=2;t=1'
    limited = answers[statuses.index(429)]
    assert limited.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "path", ["/v1/events", "/v1/nothing", "/segment/v1/track", f"/api?appId={APP_ID}"]
)
def test_a_call_whose_head_is_faulty_takes_an_item_too(gateway: Process, path: str) -> None:
    _, key = gateway.create_key(ratePerSecond=1, rateBurst=3)
    head = f"POST {path} HTTP/1.1\r\nHost: a b\r\nX-API-Key: {key}\r\nContent-Length: 0\r\n\r\n".encode()
    with closing(Wire(gateway.port)) as wire:
        statuses = []
        for _ in range(10):
            wire.say(head)
            statuses.append(wire.answer()[0])
    assert statuses[:3] == [400] * 3
    assert set(statuses) == {400, 429}


def test_without_a_key_what_is_not_there_is_told_as_ever(gateway: Process) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404), ("DELETE", "/v1/events", 405), ("PUT", "/api", 405), ("GET", "/segment/v1/t", 405),
        ("GET", "/favicon.ico", 404),
    ):  # fmt: skip
        for headers in (
            {},
            {"Authorization": "Basic cHJveHk6cHJveHk="} if "segment" not in path else {},
        ):
            answer = gateway.http.request(method, path, headers=headers)
            assert (answer.status_code, answer.headers.get("ratelimit")) == (status, None)


BAD: dict[str, tuple[int, Call]] = {
    "nothing": (401, asking("GET", "/v1/nothing")),
    "another method": (401, asking("DELETE", "/v1/events")),
    "another method of Segment's": (401, asking("GET", "/segment/v1/track", basic)),
    "nothing of Segment's, by Basic": (401, asking("POST", "/segment/v1/zz", basic)),
    "another method, by Basic": (401, asking("PUT", "/v1/events", basic)),
    "another method of the SDK's": (403, lambda gateway, key: gateway.http.put(f"/api?clientKey={key}")),
    "in the query": (400, lambda gateway, key: gateway.http.get(f"/v1/messages?q={key}")),
    "in the path": (400, lambda gateway, key: gateway.http.get(f"/v1/receipts/{key}")),
    "in Segment's query": (400, lambda gateway, key: gateway.http.post(f"/segment/v1/track?k={key}")),
}  # fmt: skip


def test_a_key_that_opens_nothing_counts_as_a_failed_authentication_wherever_it_is_shown(
    tmp_path: Path,
) -> None:
    more = {"GATEWAY_LOG_LEVEL": "error", "GATEWAY_FAILED_AUTH_PER_MINUTE": str(2 * len(BAD))}
    with serving(tmp_path, "http://127.0.0.1:9", "--no-delivery", **more) as gateway:
        revoked_id, revoked = gateway.create_key()
        assert gateway.call("DELETE", f"/v1/keys/{revoked_id}").status_code == 204
        for key in (key_format.make(), revoked):
            for name, (status, call) in BAD.items():
                assert call(gateway, key).status_code == status, name
        for name, (_, call) in BAD.items():
            assert call(gateway, revoked).status_code == 429, name
        assert gateway.call("GET", "/v1/nothing").status_code == 404, (
            "a good key passes all the same"
        )


def records(gateway: Process, key_id: str, count: int) -> list[dict[str, Any]]:
    """The records of a key's refusals, once they speak of so many."""
    found: list[dict[str, Any]] = []

    def all_there() -> bool:
        nonlocal found
        answer = gateway.call("GET", f"/v1/audit?keyId={key_id}&limit=100&order=oldest").json()
        found = [one["record"] for one in answer["records"]]
        return counted(found) >= count

    until(all_there, 30, pause=0.5)
    return found


def counted(found: list[dict[str, Any]]) -> int:
    return sum(one.get("count", 1) for one in found)


def test_a_thousand_refusals_of_a_key_are_a_few_records_that_say_how_many(gateway: Process) -> None:
    key_id, key = gateway.create_key(ratePerSecond=1, rateBurst=100)
    statuses = [
        gateway.http.get(f"/v1/nothing/{at}", headers=bearer(key)).status_code for at in range(600)
    ]
    statuses += [gateway.http.get(f"/v1/receipts/{key}").status_code for _ in range(400)]
    found = records(gateway, key_id, len(statuses))
    assert counted(found) == 1_000
    assert len(found) < 20
    first = found[0]
    assert "count" not in first
    assert (first["status_code"], first["api"]["operation"]) == ("404", "GET (unknown)")
    folded = next(one for one in found if "count" in one)
    assert folded["start_time"] <= folded["end_time"] <= folded["time"]
    assert {one["status_code"] for one in found} == {str(status) for status in statuses}
    assert counted([one for one in found if one["status_code"] == "429"]) == statuses.count(429)


def test_a_revoked_key_that_comes_from_many_networks_leaves_few_records(tmp_path: Path) -> None:
    more = {"GATEWAY_LOG_LEVEL": "error", "GATEWAY_TRUSTED_PROXIES": "127.0.0.0/8"}
    with serving(tmp_path, "http://127.0.0.1:9", "--no-delivery", **more) as gateway:
        key_id, key = gateway.create_key()
        assert gateway.call("DELETE", f"/v1/keys/{key_id}").status_code == 204
        for at in range(300):
            from_there = {"X-Forwarded-For": f"2001:db8:0:{at:x}::1"}
            answer = gateway.http.get("/v1/messages", headers={**bearer(key), **from_there})
            assert answer.status_code == 401
            answer = gateway.http.post(f"/api?clientKey={key}&action=track", headers=from_there)
            assert answer.status_code == 403
        found = records(gateway, key_id, 600)
        assert counted(found) == 600
        assert len(found) < 80


@pytest.mark.parametrize("path", ["/api", "/api-batch", "/segment/v1/track"])
def test_a_preflight_takes_nothing_whatever_key_is_shown(gateway: Process, path: str) -> None:
    _, key = gateway.create_key(ratePerSecond=1, rateBurst=1)
    answers = [gateway.http.options(path, headers=bearer(key)) for _ in range(3)]
    assert [(answer.status_code, answer.headers.get("ratelimit")) for answer in answers] == [
        (204, None)
    ] * 3


# --- what the gateway holds too much to read --------------------------------------------------------------------------

UNREAD_BYTES = 3_000_000  # of a body, once it is decompressed: more than may be held


def bomb(
    method: str, path: str, headers: Callable[[str], dict[str, str]], before: bytes = b""
) -> Call:
    """A call whose compressed body is too large to be held; its key may stand in its query or in
    its body.
    """

    def sent(gateway: Process, key: str) -> httpx.Response:
        beginning = before.replace(b"KEY", key.encode())
        body = gzip.compress(beginning + b" " * (UNREAD_BYTES - len(beginning)))
        more = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return gateway.http.request(
            method, path.replace("KEY", key), headers={**headers(key), **more}, content=body
        )

    return sent


def nothing(key: str) -> dict[str, str]:
    return {}


UNREAD: dict[str, Call] = {
    "SDK, key in the query": bomb("POST", f"/api?appId={APP_ID}&clientKey=KEY", nothing),
    "SDK, key in a header": bomb("POST", f"/api?appId={APP_ID}", lambda key: {"X-API-Key": key}),
    "SDK, key in the body": bomb("POST", "/api", nothing, b'{"clientKey":"KEY","action":'),
    "Segment, key in a header": bomb("POST", "/segment/v1/batch", basic),
    "Segment, key in the body": bomb(
        "POST", "/segment/v1/batch", nothing, b'{"writeKey":"KEY","batch":'
    ),
    "a batch": bomb("POST", "/v1/batch", bearer),
    "an event": bomb("POST", "/v1/events", bearer),
    "a preview": bomb("POST", "/v1/preview", bearer),
}


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A gateway that may hold little of bodies."""
    folder = tmp_path_factory.mktemp("crowded")
    more = {"GATEWAY_LOG_LEVEL": "error", "GATEWAY_MAX_HELD_BYTES": "2000000"}
    with serving(folder, "http://127.0.0.1:9", "--no-delivery", **more) as running:
        yield running


def test_calls_that_there_is_no_room_to_read_take_an_item_and_are_folded(crowded: Process) -> None:
    sent = dict[str, tuple[str, list[int]]]()
    for name, call in UNREAD.items():
        key_id, key = crowded.create_key("sdk", "events:write", ratePerSecond=1, rateBurst=5)
        answers = [call(crowded, key) for _ in range(12)]
        statuses = [answer.status_code for answer in answers]
        assert statuses[:5] == [503] * 5, name
        assert answers[0].headers.get("ratelimit") == '"caller";r=4;t=1', name
        assert set(statuses) == {503, 429}, name
        sent[name] = key_id, statuses
    for name, (key_id, statuses) in sent.items():
        found = records(crowded, key_id, len(statuses))
        of_503 = [one for one in found if one["status_code"] == "503"]
        assert (len(of_503), counted(of_503)) == (2, statuses.count(503)), name
        assert counted(found) == len(statuses), name


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_was_counted_is_recorded_at_a_stop(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    more = {}
    if kind == "postgresql":
        server: Server = request.getfixturevalue("postgresql_server")
        more["GATEWAY_DATABASE_URL"] = server.empty()
    with serving(tmp_path, "http://127.0.0.1:9", "--no-delivery", **more) as gateway:
        key_id, key = gateway.create_key()
        for _ in range(50):
            assert gateway.http.get("/v1/nothing", headers=bearer(key)).status_code == 404
        assert gateway.terminate() == 0
        told = ended(tmp_path, "audit", "export", "export.jsonl", **gateway.settings)
        assert told.returncode == 0, told.stderr
        lines = (tmp_path / "export.jsonl").read_text().replace("\\", "").splitlines()
        of_key = [text for text in lines if f'"uid":"{key_id}"' in text and "(unknown)" in text]
        assert len(of_key) == 2
        assert any('"count":49' in text for text in of_key)
        assert ended(tmp_path, "audit", "verify", **gateway.settings).returncode == 0
