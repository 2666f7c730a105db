"""Whatever bytes come, the answer is one of ours."""

import gzip
import json
import time
from collections.abc import Callable

import httpx
import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.gateway import EVENT, JSON, NDJSON, PROBLEM, Talk

# 200 and 409: the good body has an id, and comes again and again
ALLOWED = {200, 202, 400, 409, 413, 415, 422}
WHOLE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)
GOOD = orjson.dumps(EVENT | {"id": "fuzz", "params": {"a": 1, "b": "x"}})
JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good body with some bytes changed, left out or put in."""
    body = bytearray(GOOD)
    for at in draw(st.lists(st.integers(0, len(GOOD) - 1), min_size=1, max_size=3)):
        body[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(body)


BODIES = st.binary(max_size=80) | damaged() | JSONISH.map(lambda raw: json.dumps(raw).encode())
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def call(gateway: Talk, method: str, url: str, body: bytes, headers: object) -> httpx.Response:
    """Send a call; while the machine's disk stands still (503), send it again like a client."""
    for _ in range(5):
        answer = gateway.call(method, url, content=body, headers=headers)
        if answer.status_code != 503:
            break
        assert answer.json()["type"] == "/problems/storage-unavailable"
        time.sleep(float(answer.headers["retry-after"]))
    assert answer.status_code in ALLOWED, answer.text
    return answer


def held(gateway: Talk, url: str, method: str, body: bytes, headers: dict[str, str]) -> None:
    answer = call(gateway, method, url, body, headers)
    document = answer.json()
    assert answer.headers["x-request-id"]
    if answer.headers["content-type"] == PROBLEM:
        assert document["status"] == answer.status_code


@WHOLE
@given(BODIES)
@pytest.mark.parametrize(
    "route", ["POST /v1/events", "POST /v1/batch", "PATCH /v1/users/u", "POST /v1/users/u/states"]
)
def test_any_bytes_as_json_are_answered(gateway: Talk, route: str, body: bytes) -> None:
    method, url = route.split()
    held(gateway, url, method, body, {"Content-Type": JSON})


@WHOLE
@given(st.lists(BODIES, max_size=4))
def test_any_lines_are_answered(gateway: Talk, bodies: list[bytes]) -> None:
    held(gateway, "/v1/batch", "POST", b"\n".join(bodies), {"Content-Type": NDJSON})


@WHOLE
@given(st.lists(JSONISH | st.just({"action": "track", **EVENT}), max_size=4))
def test_any_items_are_answered_one_by_one(gateway: Talk, items: list[object]) -> None:
    held(
        gateway, "/v1/batch", "POST", json.dumps({"items": items}).encode(), {"Content-Type": JSON}
    )


@WHOLE
@given(BODIES, st.sampled_from(sorted(PACKERS)), st.sampled_from(sorted(PACKERS)))
def test_any_bytes_under_any_encoding_are_answered(
    gateway: Talk, body: bytes, packed: str, said: str
) -> None:
    held(
        gateway,
        "/v1/events",
        "POST",
        PACKERS[packed](body),
        {"Content-Type": JSON, "Content-Encoding": said},
    )


HEADER_VALUE = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=40
)
HEADERS = st.sampled_from(
    [
        "Idempotency-Key",
        "Prefer",
        "X-Request-ID",
        "traceparent",
        "Content-Type",
        "Content-Encoding",
        "Accept",
        "Expect",
    ]
)


@WHOLE
@given(
    st.dictionaries(
        HEADERS, HEADER_VALUE.map(lambda text: text.strip().encode("latin-1")), max_size=4
    )
)
def test_any_headers_are_answered(gateway: Talk, headers: dict[str, bytes]) -> None:
    sent = {name.encode(): value for name, value in headers.items()}
    call(gateway, "POST", "/v1/events", GOOD, {b"Content-Type": JSON.encode(), **sent})
