"""Bad input of every kind gets its 4xx as a problem, never a 500, and harms no neighbour."""

import gzip
import json

import pytest

from tests.support.gateway import Talk

GOOD = {"action": "track", "userId": "u1", "event": "Bought"}
BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{nope",
    "a list": b"[]",
    "a number": b"7",
    "NaN": b'{"userId":"u","event":"E","value":NaN}',
    "infinite": b'{"userId":"u","event":"E","value":1e999}',
    "5,000 digits": b'{"userId":"u","event":"E","value":' + b"9" * 5000 + b"}",
    "raw NUL": b'{"userId":"u","event":"E\x00"}',
    "escaped NUL": b'{"userId":"u","event":"E","info":"a\\u0000b"}',
    "lone surrogate": b'{"userId":"u","event":"E","info":"\\ud800"}',
    "lone surrogate in a key": b'{"userId":"u","event":"E","\\ud800":1}',
    "deep": b"[" * 100_000,
    "not UTF-8": b'{"userId":"\xff","event":"E"}',
    "numeric name": b'{"userId":"u","event":"12"}',
    "nobody": b'{"event":"E"}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_bad_event_is_refused_as_a_problem(gateway: Talk, body: bytes) -> None:
    answer = gateway.call(
        "POST", "/v1/events", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in {400, 422}, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "body", [b"\x1f\x8bnope", gzip.compress(b"{}")[:-9]], ids=["not gzip", "cut off"]
)
def test_what_is_not_gzip_is_malformed(gateway: Talk, body: bytes) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert gateway.call("POST", "/v1/events", content=body, headers=headers).status_code == 400


def test_a_bomb_and_a_large_body_are_too_large(gateway: Talk) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    bomb = gzip.compress(b" " * 200_000_000)
    assert gateway.call("POST", "/v1/batch", content=bomb, headers=headers).status_code == 413
    large = b" " * 6_000_000
    answer = gateway.call(
        "POST", "/v1/batch", content=large, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413


def test_another_media_type_is_not_taken(gateway: Talk) -> None:
    assert (
        gateway.call(
            "POST", "/v1/events", content=b"{}", headers={"Content-Type": "text/xml"}
        ).status_code
        == 415
    )


def test_a_bad_item_harms_no_neighbour(gateway: Talk) -> None:
    lines = [
        json.dumps(GOOD).encode(),
        b"{nope",
        b'{"action":"track","userId":"u","event":"\\ud800"}',
        json.dumps(GOOD).encode(),
    ]
    answer = gateway.call(
        "POST",
        "/v1/batch",
        content=b"\n".join(lines),
        headers={"Content-Type": "application/x-ndjson"},
    ).json()
    assert [result["status"] for result in answer["results"]] == [
        "accepted",
        "rejected",
        "rejected",
        "accepted",
    ]
