"""Bad bodies of every kind get their 4xx as a problem, nothing of them is taken, and no value of
theirs comes back.
"""

import gzip
import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import zstandard

from tests.support.gateway import CANARY, EVENT, JSON, NDJSON, Talk, pointers, problem

GOOD = orjson.dumps(EVENT)
ITEM = b'{"action":"track","userId":"u","event":"e"}'


@pytest.fixture(autouse=True)
def _nothing_taken(gateway: Talk) -> Iterator[None]:
    """Whatever these tests send, no item may reach the disk."""
    before = gateway.items()
    yield
    assert gateway.items() == before


def event(inside: str) -> bytes:
    return b'{"userId":"u","event":"e",%s}' % inside.encode()


MALFORMED = {
    "empty": b"",
    "spaces": b" \n\t ",
    "words": b"hello",
    "cut off": b'{"userId":"u"',
    "two values": GOOD + GOOD,
    "trailing comma": b'{"userId":"u","event":"e",}',
    "single quotes": b"{'userId':'u'}",
    "comment": b"{} // x",
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-32": GOOD.decode().encode("utf-32-le"),
    "bytes that are no UTF-8": b'{"userId":"\xff","event":"e"}',
    "a surrogate in UTF-8": b'{"userId":"\xed\xa0\x80","event":"e"}',
    "overlong UTF-8": b'{"userId":"\xc0\xaf","event":"e"}',
    "a raw NUL in a text": b'{"userId":"a\0b","event":"e"}',
    "a raw NUL behind": GOOD + b"\0",
    "a raw newline in a text": b'{"userId":"a\nb","event":"e"}',
    "100,000 open brackets": b"[" * 100_000,
    "100,000 brackets": b"[" * 100_000 + b"]" * 100_000,
    "100,000 open objects": b'{"a":' * 100_000,
    "gzip that nobody announced": gzip.compress(GOOD),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("url", ["/v1/events", "/v1/batch"])
def test_what_is_not_json_is_malformed(gateway: Talk, url: str, body: bytes) -> None:
    problem(gateway.post(url, body), 400, "malformed")


INVALID = {
    "a list": (b"[]", {"": "type"}),
    "a text": (b'"text"', {"": "type"}),
    "a number": (b"5", {"": "type"}),
    "null": (b"null", {"": "type"}),
    "true": (b"true", {"": "type"}),
    "NaN alone": (b"NaN", {"": "type"}),
    "NaN": (event('"time":NaN'), {"/time": "range"}),
    "Infinity": (event('"time":-Infinity'), {"/time": "range"}),
    "1e400": (event('"time":1e400'), {"/time": "range"}),
    "4,000 digits": (event('"messageId":' + "9" * 4_000), {"/messageId": "range"}),
    "5,000 digits": (event('"value":' + "9" * 5_000), {"/value": "range"}),
    "an escaped NUL in a value": (event(r'"info":"\u0000"'), {"/info": "characters"}),
    "an escaped NUL in an id": (event(r'"deviceId":"a\u0000"'), {"/deviceId": "characters"}),
    "an escaped NUL in a key": (event(r'"params":{"\u0000":1}'), {"/params/\0": "characters"}),
    "an escaped NUL in a field's name": (event(r'"\u0000":1'), {"/\0": "unknown-field"}),
    "a lone surrogate in a value": (event(r'"params":{"p":"\ud800"}'), {"/params/p": "characters"}),
    "a lone low surrogate in an id": (event(r'"deviceId":"\udc00"'), {"/deviceId": "characters"}),
    "50 brackets in a value": (
        event('"params":{"p":' + "[" * 50 + "]" * 50 + "}"),
        {"/params/p": "type"},
    ),
    "60 objects in a value": (
        event('"params":' + '{"a":' * 60 + "1" + "}" * 60),
        {"/params/a": "type"},
    ),
    "duplicate keys, the last bad": (event('"event":5'), {"/event": "type"}),
}


@pytest.mark.parametrize(("body", "expected"), INVALID.values(), ids=INVALID.keys())
def test_json_that_breaks_rules_is_invalid_and_says_where(
    gateway: Talk, body: bytes, expected: dict[str, str]
) -> None:
    assert pointers(problem(gateway.event(body), 422, "validation")) == expected


@pytest.mark.parametrize(
    ("inside", "place"), [(r'"params":{"\ud800":1}', "/params"), (r'"\ud800x":1', "")]
)
def test_a_lone_surrogate_in_a_key_is_invalid_at_the_key_or_what_holds_it(
    gateway: Talk, inside: str, place: str
) -> None:
    """No pointer can name it, since it is no text; the nearest that one can name will do."""
    (found,) = problem(gateway.event(event(inside)), 422, "validation")["errors"]
    assert found["pointer"].rpartition("/")[0] == place or found["pointer"] == place


@pytest.mark.parametrize(
    "body", [b"[]", b'"x"', b"5", b"null", b"true", b"{}", b'{"items":{}}', b'{"items":null}']
)
def test_a_batch_that_is_no_object_with_items_is_invalid(gateway: Talk, body: bytes) -> None:
    problem(gateway.batch(body), 422, "validation")


def test_a_batch_takes_no_other_field(gateway: Talk) -> None:
    found = problem(
        gateway.batch({"items": [orjson.Fragment(ITEM)], "a/b": 1, "ite~ms": 2}), 422, "validation"
    )
    assert pointers(found) == {"/a~1b": "unknown-field", "/ite~0ms": "unknown-field"}


def test_every_fault_of_a_body_is_told_in_one_answer(gateway: Talk) -> None:
    body = {"event": 5, "valeu": 1, "time": "soon", "params": {"a/": 1, "~,": None, "l": []}}
    assert pointers(problem(gateway.event(body), 422, "validation")) == {
        "": "missing-subject",
        "/event": "type",
        "/valeu": "unknown-field",
        "/time": "time",
        "/params/a~1": "characters",
        "/params/~0,": "characters",
        "/params/l": "type",
    }


SIX_MB = b'{"userId":"u","event":"e","info":"%s"}' % (b"x" * 6_000_000)


async def _in_pieces(body: bytes) -> Any:
    for start in range(0, len(body), 60_000):
        yield body[start : start + 60_000]


@pytest.mark.parametrize("url", ["/v1/events", "/v1/batch"])
def test_six_megabytes_are_too_large_told_or_not(gateway: Talk, url: str) -> None:
    problem(gateway.post(url, SIX_MB), 413, "too-large")
    answer = gateway.call("POST", url, content=_in_pieces(SIX_MB), headers={"Content-Type": JSON})
    problem(answer, 413, "too-large")


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_a_limit_holds_for_a_body_of_untold_length_in_any_number_of_pieces(
    start: Callable[..., Talk], pieces: int
) -> None:
    talk = start(gateway_max_body_bytes=100)
    body = event(f'"info":"{"x" * 200}"')
    size = -(-len(body) // pieces)
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    messages = [
        {"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts
    ]
    assert talk.raw([(b"content-type", b"application/json")], *messages) == 413
    assert talk.items() == 0


def test_the_limit_itself_is_taken_and_a_byte_more_is_not(start: Callable[..., Talk]) -> None:
    talk = start(gateway_max_body_bytes=len(GOOD))
    assert talk.event(GOOD).status_code == 202
    problem(talk.event(GOOD + b" "), 413, "too-large")


BOMBS = {
    "gzip": gzip.compress(SIX_MB),
    "zstd": zstandard.ZstdCompressor().compress(SIX_MB),
    "x-gzip": gzip.compress(bytes(50_000_000)),
}
UNPACKABLE = {
    "gzip cut off": ("gzip", gzip.compress(GOOD)[:-9]),
    "gzip without its checksum": ("gzip", gzip.compress(GOOD)[:-4]),
    "zstd cut off": ("zstd", zstandard.ZstdCompressor().compress(GOOD)[:-3]),
    "zstd called gzip": ("gzip", zstandard.ZstdCompressor().compress(GOOD)),
    "gzip called zstd": ("zstd", gzip.compress(GOOD)),
    "JSON called gzip": ("gzip", GOOD),
    "JSON called zstd": ("zstd", GOOD),
    "gzip and rubbish": ("gzip", gzip.compress(GOOD) + b"rubbish"),
    "gzip twice, said once": ("gzip", gzip.compress(gzip.compress(GOOD))),
    "nothing, said to be gzip": ("gzip", b""),
    "nothing, said to be zstd": ("zstd", b""),
}


@pytest.mark.parametrize(("encoding", "body"), BOMBS.items(), ids=BOMBS.keys())
def test_a_body_that_is_too_large_unpacked_is_too_large(
    gateway: Talk, encoding: str, body: bytes
) -> None:
    problem(gateway.event(body, headers={"Content-Encoding": encoding}), 413, "too-large")


@pytest.mark.parametrize(("encoding", "body"), UNPACKABLE.values(), ids=UNPACKABLE.keys())
def test_a_body_that_does_not_unpack_is_malformed(
    gateway: Talk, encoding: str, body: bytes
) -> None:
    problem(gateway.event(body, headers={"Content-Encoding": encoding}), 400, "malformed")


def test_a_zstd_batch_that_was_cut_off_is_not_taken_in_part(gateway: Talk) -> None:
    """Else its sender, told 202, would believe all of it accepted."""
    chance = random.Random(7)
    line = b'{"action":"track","userId":"u","event":"e","info":"%s"}'
    lines = [line % chance.randbytes(300).hex().encode() for _ in range(900)]
    packed = zstandard.ZstdCompressor().compress(b"\n".join(lines))
    headers = {"Content-Type": NDJSON, "Content-Encoding": "zstd"}
    answer = gateway.batch(packed[: len(packed) * 2 // 3], headers=headers)
    problem(answer, 400, "malformed")


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "none", "gzip;q=1"])
def test_another_encoding_is_not_supported(gateway: Talk, encoding: str) -> None:
    problem(
        gateway.event(GOOD, headers={"Content-Encoding": encoding}), 415, "unsupported-media-type"
    )


TYPES = ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", "json", "*/*",
         "application/json-seq", "text/json"]  # fmt: skip


@pytest.mark.parametrize("found", TYPES)
@pytest.mark.parametrize("url", ["/v1/events", "/v1/batch"])
def test_another_media_type_is_not_supported(gateway: Talk, url: str, found: str) -> None:
    problem(gateway.post(url, GOOD, headers={"Content-Type": found}), 415, "unsupported-media-type")


def test_a_missing_media_type_is_not_supported(gateway: Talk) -> None:
    problem(gateway.call("POST", "/v1/events", content=GOOD), 415, "unsupported-media-type")


def test_lines_are_for_batches_only(gateway: Talk) -> None:
    problem(gateway.event(GOOD, headers={"Content-Type": NDJSON}), 415, "unsupported-media-type")


def spoilt_events() -> Iterator[dict[str, Any]]:
    for value in (CANARY + "\0", [CANARY], {"k": {"k": [CANARY]}}):
        for field in (
            "userId",
            "deviceId",
            "event",
            "info",
            "value",
            "time",
            "currencyCode",
            "params",
            "disposition",
        ):
            yield EVENT | {field: value}
        yield EVENT | {"params": {"p": value}}
    for field in (
        "id",
        "time",
        "value",
        "currencyCode",
        "createDisposition",
        "messageId",
        "allowOffline",
    ):
        yield EVENT | {field: f"{CANARY} {CANARY}"}
    yield {"event": CANARY, "value": "x"}
    yield EVENT | {"params": {"p": CANARY, "q": None}}


def test_no_answer_repeats_a_value_of_the_caller(gateway: Talk) -> None:
    lines = {"Content-Type": NDJSON}
    for body in spoilt_events():
        for answer in (
            gateway.event(body),
            gateway.batch([body | {"action": "track"}, {"action": CANARY}, CANARY, [CANARY]]),
            gateway.post("/v1/users/u/states", {"state": CANARY + "/", **body}),
            gateway.post(
                "/v1/users/u", {"userAttributes": {"k": {"k": [[CANARY]]}}, **body}, method="PATCH"
            ),
            gateway.batch(b"\n".join([json.dumps(body).encode(), CANARY.encode()]), headers=lines),
        ):
            assert answer.status_code == 422, (body, answer.text)
            assert CANARY not in f"{answer.headers} {answer.text}", body
    for raw in (CANARY.encode(), b'{"info":"%s' % CANARY.encode(), b'{"a":%s}' % CANARY.encode()):
        answer = gateway.event(raw)
        assert (answer.status_code, CANARY in f"{answer.headers} {answer.text}") == (400, False)
    for name in ("Content-Type", "Content-Encoding"):
        answer = gateway.event(GOOD, headers={name: CANARY})
        assert (answer.status_code, CANARY in f"{answer.headers} {answer.text}") == (415, False)


def wide(inside: str) -> bytes:
    """A good item, less the end, with very many of something."""
    return b'{"action":"track","userId":"u","event":"e",%s}' % inside.encode()


CROWDED = {
    "unknown fields": wide(",".join(f'"k{n}":1' for n in range(200_000))),
    "parameters of a wrong kind": wide(
        '"params":{' + ",".join(f'"k{n}":[]' for n in range(200_000)) + "}"
    ),
    "a list where a text belongs": wide('"params":{"a":[' + ",".join(["1"] * 300_000) + "]}"),
    "no JSON": b"[" + b"1," * 300_000,
}


@pytest.mark.parametrize("body", CROWDED.values(), ids=CROWDED.keys())
def test_a_body_of_more_fields_than_anything_has_is_refused_at_once(
    gateway: Talk, body: bytes
) -> None:
    batch = b'{"items":[%s]}' % body
    calls = [("/v1/events", body, JSON), ("/v1/preview", body, JSON), ("/v1/keys", body, JSON)]
    for url, sent, kind in [*calls, ("/v1/batch", batch, JSON), ("/v1/batch", body, NDJSON)]:
        # The whole process's time is measured, in which other tests' servers may be at work: one
        # quiet call is proof.
        assert any(seconds_to_refuse(gateway, url, sent, kind) < 1.5 for _ in range(3)), url


def seconds_to_refuse(gateway: Talk, url: str, sent: bytes, kind: str) -> float:
    """Return the processor time that a refusal takes."""
    began = time.process_time()
    problem(gateway.post(url, sent, headers={"Content-Type": kind}), 413, "too-large")
    return time.process_time() - began


def test_one_item_of_a_batch_with_too_many_fields_harms_no_other(gateway: Talk) -> None:
    items = [
        wide(",".join(f'"k{n}":1' for n in range(2_001))),
        wide(",".join(f'"k{n}":1' for n in range(1_990))),
        b"{}",
    ]
    answer = gateway.post("/v1/batch", b'{"items":[%s]}' % b",".join(items))
    details = [one["problem"]["errors"][0]["detail"] for one in answer.json()["results"]]
    assert "2000 fields" in details[0]
    assert "spelling" in details[1]


def test_commas_in_a_text_are_no_fields(gateway: Talk) -> None:
    body = {"userId": "u", "event": "e", "params": {"a": "," * 5_000}, "value": "no number"}
    found = problem(gateway.post("/v1/events", body), 422, "validation")
    assert "/value" in pointers(found)
