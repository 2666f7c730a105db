"""Batches: each item by itself, whatever its neighbours are; as JSON or one a line."""

import time
from typing import Any

import orjson
import pytest

from tests.support.gateway import JSON, NDJSON, Talk, pointers, problem

LINES = {"Content-Type": NDJSON}


def track(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {"action": "track", "userId": f"u{number}", "event": "e", **fields}


def statuses(document: dict[str, Any]) -> list[str]:
    return [result["status"] for result in document["results"]]


def lines(*items: Any) -> bytes:
    return b"\n".join(one if isinstance(one, bytes) else orjson.dumps(one) for one in items)


BAD: dict[str, Any] = {
    "a wrong value": track(1, value="x"),
    "no subject": {"action": "track", "event": "e"},
    "no action": {"userId": "u", "event": "e"},
    "an action that is none": track(1) | {"action": "fly"},
    "a list": [],
    "a text": "text",
    "null": None,
    "an unknown field": track(1, evnt=1),
    "an update of nothing": {"action": "setUserAttributes", "userId": "u"},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("kind", ["JSON", "NDJSON"])
def test_a_bad_item_harms_no_neighbour(gateway: Talk, kind: str, bad: Any) -> None:
    items = [track(0), bad, track(2), {"action": "advance", "userId": "u3", "state": "s"}]
    before = gateway.items()
    answer = gateway.batch(items) if kind == "JSON" else gateway.batch(lines(*items), headers=LINES)
    document = answer.json()
    assert answer.status_code == 202
    assert (document["accepted"], document["duplicates"], document["rejected"]) == (3, 0, 1)
    assert statuses(document) == ["accepted", "rejected", "accepted", "accepted"]
    assert [result["index"] for result in document["results"]] == [0, 1, 2, 3]
    assert document["results"][1]["problem"]["type"] == "/problems/validation"
    assert gateway.items() == before + 3
    assert gateway.rows("SELECT subject FROM items ORDER BY seq DESC LIMIT 3") == [
        ("uu3",),
        ("uu2",),
        ("uu0",),
    ]


BAD_LINES = [b"{", b"nonsense", b'{"a":"\xff"}', b"\0", b"[" * 50_000, b"9" * 5_000 + b"x"]


@pytest.mark.parametrize("bad", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_line_that_is_not_json_harms_no_other_line(gateway: Talk, bad: bytes) -> None:
    document = gateway.batch(lines(track(0), bad, track(2)), headers=LINES).json()
    assert statuses(document) == ["accepted", "rejected", "accepted"]
    assert document["results"][1]["problem"]["type"] == "/problems/malformed"


ODD_FIELDS = {
    "a lone surrogate as the user": r'"userId":"\ud800","event":"e"',
    "a lone surrogate in a key": r'"userId":"u","event":"e","\udfff":1',
    "NaN": '"userId":"u","event":"e","value":NaN',
    "1e400": '"userId":"u","event":"e","value":1e400',
    "30 brackets": '"userId":"u","event":"e","params":{"a":' + "[" * 30 + "]" * 30 + "}",
}


@pytest.mark.parametrize("text", ODD_FIELDS.values(), ids=ODD_FIELDS.keys())
def test_json_that_a_strict_reader_refuses_harms_no_neighbour(gateway: Talk, text: str) -> None:
    """The whole batch is one JSON text: what can be pointed at must not spoil the rest."""
    good = orjson.dumps(track())
    document = gateway.batch(
        b'{"items":[%s,{"action":"track",%s},%s]}' % (good, text.encode(), good)
    ).json()
    assert statuses(document) == ["accepted", "rejected", "accepted"]


@pytest.mark.parametrize("number", ["7", "1.0", "1e3", "12345678901234567890123"])
def test_a_bad_neighbour_does_not_change_what_a_good_item_means(gateway: Talk, number: str) -> None:
    """With it and without it the same user is meant, and the same content; or both times the item
    is refused.
    """
    item = (
        b'{"action":"track","userId":%s,"event":"e","time":5,"params":{"b":1,"a":1.0}}'
        % number.encode()
    )
    found = []
    for body in (b'{"items":[%s]}' % item, b'{"items":[%s,{}]}' % item):
        accepted = gateway.batch(body).json()["accepted"]
        found.append(
            gateway.rows("SELECT subject, body FROM items ORDER BY seq DESC LIMIT 1")
            if accepted
            else None
        )
    assert found[0] == found[1]


def test_pointers_lead_to_the_item_in_the_body(gateway: Talk) -> None:
    document = gateway.batch([track(), track(x=1, params={"a/b/": 1})]).json()
    found = pointers(document["results"][1]["problem"])
    assert found == {"/items/1/x": "unknown-field", "/items/1/params/a~1b~1": "characters"}
    document = gateway.batch(lines(track(), track(x=1)), headers=LINES).json()
    assert pointers(document["results"][1]["problem"]) == {"/x": "unknown-field"}


@pytest.mark.parametrize("kind", ["JSON", "NDJSON"])
def test_a_batch_of_invalid_items_only_is_invalid_with_the_same_body(
    gateway: Talk, kind: str
) -> None:
    before = gateway.items()
    items: list[Any] = [{}, 5, track(value="x")]
    answer = gateway.batch(items) if kind == "JSON" else gateway.batch(lines(*items), headers=LINES)
    document = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/json")
    assert document.keys() == {"accepted", "duplicates", "rejected", "results"}
    assert (document["accepted"], document["duplicates"], document["rejected"]) == (0, 0, 3)
    assert statuses(document) == ["rejected"] * 3
    assert gateway.items() == before


@pytest.mark.parametrize(
    ("body", "headers"),
    [({"items": []}, {}), (b"", LINES), (b"\n\n \r\n", LINES)],
    ids=["JSON", "no line", "blank lines"],
)
def test_an_empty_batch_is_invalid(gateway: Talk, body: Any, headers: dict[str, str]) -> None:
    assert set(
        pointers(problem(gateway.batch(body, headers=headers), 422, "validation")).values()
    ) == {"count"}


@pytest.mark.parametrize("good", [True, False], ids=["good items", "bad items"])
@pytest.mark.parametrize("kind", ["JSON", "NDJSON"])
def test_a_thousand_items_are_taken_and_one_more_is_too_large(
    gateway: Talk, kind: str, good: bool
) -> None:
    def send(count: int) -> Any:
        items = [track(number) if good else {} for number in range(count)]
        return (
            gateway.batch(items) if kind == "JSON" else gateway.batch(lines(*items), headers=LINES)
        )

    answer = send(1_000)
    assert (answer.status_code, len(answer.json()["results"])) == (202 if good else 422, 1_000)
    before = gateway.items()
    problem(send(1_001), 413, "too-large")
    assert gateway.items() == before


def test_lines_may_end_as_they_like(gateway: Talk) -> None:
    """CR LF, blank lines between, with and without an end of the last line."""
    one = orjson.dumps(track())
    for body in (
        one + b"\r\n" + one + b"\r\n",
        b"\n\n" + one + b"\n  \n" + one,
        one + b"\n" + one + b"\n",
    ):
        document = gateway.batch(body, headers=LINES).json()
        assert document["accepted"] == len(document["results"]) == 2


def test_items_of_all_actions_go_mixed_and_in_order(gateway: Talk) -> None:
    document = gateway.batch(
        [
            {"action": "setUserAttributes", "userId": "ann", "userAttributes": {"a": 1}},
            {"action": "track", "userId": "ann", "event": "e"},
            {"action": "advance", "deviceId": "dev", "state": "s"},
        ]
    ).json()
    assert document["accepted"] == 3
    rows = gateway.rows("SELECT action, subject FROM items ORDER BY seq DESC LIMIT 3")
    assert rows == [("advance", "ddev"), ("track", "uann"), ("setUserAttributes", "uann")]


def test_each_result_has_an_id_whose_receipt_can_be_read(gateway: Talk) -> None:
    document = gateway.batch([track(1), track(2, id="batch-own-id"), track(3)]).json()
    for number, result in enumerate(document["results"], 1):
        receipt = gateway.get(f"/v1/receipts/{result['id']}").json()
        assert (receipt["userId"], receipt["status"]) == (f"u{number}", "accepted")
    assert document["results"][1]["id"] == "batch-own-id"


def test_a_batch_on_disk_holds_what_was_sent_and_nothing_more(gateway: Talk) -> None:
    gateway.batch(
        [track(7, id="on-disk", value=1.5, time="2026-01-31T00:00:00Z", params={"p": "é"})]
    )
    (body,) = gateway.rows("SELECT body FROM items ORDER BY seq DESC LIMIT 1")[0]
    assert orjson.loads(body) == {
        "userId": "u7", "event": "e", "value": 1.5, "time": 1769817600.0, "params": {"p": "é"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b'{"items":[' + b"{}," * 1_000_000 + b"{}]}", JSON), (b"{}\n" * 1_000_000, NDJSON)],
    ids=["JSON", "NDJSON"],
)
def test_a_million_empty_items_are_counted_and_not_judged(
    gateway: Talk, body: bytes, kind: str
) -> None:
    started = time.perf_counter()
    answer = gateway.post("/v1/batch", body, headers={"Content-Type": kind})
    problem(answer, 413, "too-large")
    assert time.perf_counter() - started < 5


def test_of_very_many_unknown_fields_beside_the_items_the_first_hundred_are_told(
    gateway: Talk,
) -> None:
    answer = gateway.post(
        "/v1/batch", {"items": []} | {f"x{number}": 1 for number in range(10_000)}
    )
    assert len(problem(answer, 422, "validation")["errors"]) == 100
