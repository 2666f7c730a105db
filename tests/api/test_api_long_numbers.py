"""Whole numbers of more than 64 bits are refused with a pointer at every endpoint; up to that they
are kept exactly.
"""

from typing import Any

import orjson
import pytest

from tests.support.gateway import NDJSON, Talk, pointers, problem
from tests.support.segment import basic

LONG = (
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "-18446744073709551616",
    "340282366920938463463374607431768211456",
    "9" * 5_000,
    "-" + "9" * 5_000,
)
GOOD = ("9223372036854775807", "-9223372036854775808", "0", "-0", "9007199254740993")
FRACTIONS = (
    "1e19",
    "1.8446744073709552e19",
    "-1E+20",
    "18446744073709551616.0",
    "0.12345678901234567890123",
)
EVENT = '{"userId":"u","event":"E","value":%s}'
ONES = {  # one place in one body: the pointer to it
    ("POST", "/v1/events", EVENT): "/value",
    ("POST", "/v1/events", '{"userId":"u","event":"E","params":{"a":%s}}'): "/params/a",
    ("POST", "/v1/events", '{"userId":"u","event":"E","params":{"a":{"b":%s}}}'): "/params/a/b",
    ("POST", "/v1/events", '{"userId":%s,"event":"E"}'): "/userId",
    ("POST", "/v1/events", '{"userId":"u","event":"E","time":%s}'): "/time",
    ("POST", "/v1/events", '{"userId":"u","event":"E","messageId":%s}'): "/messageId",
    ("PATCH", "/v1/users/u", '{"userAttributes":{"a":%s}}'): "/userAttributes/a",
    ("PATCH", "/v1/users/u", '{"userAttributes":{"a":[1,%s]}}'): "/userAttributes/a/1",
    (
        "PATCH",
        "/v1/users/u",
        '{"userAttributeValuesToIncrement":{"a":%s}}',
    ): "/userAttributeValuesToIncrement/a",
    ("PATCH", "/v1/users/u", '{"newUserId":%s}'): "/newUserId",
    ("PATCH", "/v1/users/u", '{"events":{"E":{"count":%s}}}'): "/events/E/count",
    ("POST", "/v1/messages/7/send", '{"userId":"u","values":{"a":{"b":[%s]}}}'): "/values/a/b/0",
    (
        "POST",
        "/v1/messages/7/send",
        '{"userId":"u","values":{"a/b":{"c~d":%s}}}',
    ): "/values/a~1b/c~0d",
    ("POST", "/v1/users/u/sessions", '{"userAttributes":{"a":%s}}'): "/userAttributes/a",
    ("POST", "/v1/keys", '{"name":"n","scopes":["sdk"],"ratePerSecond":%s}'): "/ratePerSecond",
}


@pytest.mark.parametrize("number", LONG, ids=lambda number: number[:24])
@pytest.mark.parametrize(("call", "pointer"), ONES.items(), ids=lambda given: str(given)[:60])
def test_a_long_number_is_refused_where_it_stands(
    gateway: Talk, call: tuple[str, str, str], pointer: str, number: str
) -> None:
    method, url, body = call
    found = problem(gateway.post(url, (body % number).encode(), method=method), 422, "validation")
    assert list(pointers(found)) == [pointer]
    assert number[:30] not in str(found)


@pytest.mark.parametrize("number", ["1e400", "-1e999"])
def test_a_number_beyond_all_bounds_is_refused_too(gateway: Talk, number: str) -> None:
    assert pointers(problem(gateway.event((EVENT % number).encode()), 422, "validation")) == {
        "/value": "range"
    }
    body = f'{{"userId":"u","values":{{"a":{number}}}}}'.encode()
    found = problem(gateway.post("/v1/messages/7/send", body), 422, "validation")
    assert pointers(found) == {"/values/a": "range"}


@pytest.mark.parametrize("number", GOOD)
def test_every_number_of_64_bits_is_kept_exactly(gateway: Talk, number: str) -> None:
    for talk_id, body in {
        gateway.event((EVENT % number).encode()).json()["id"]: "value",
        gateway.post("/v1/preview", b"[]").headers["x-request-id"]: None,
    }.items():
        if body is not None:
            assert stored(gateway, talk_id)[body] == int(number)
    key = gateway.key
    call = {
        "appId": "app_tests",
        "clientKey": key,
        "action": "track",
        "userId": f"exact{number}",
        "event": "E",
    }
    sent = orjson.dumps(call)[:-1] + f',"value":{number}}}'.encode()
    assert gateway.post("/api", sent, key=None).json() == {"response": [{"success": True}]}
    assert stored_of(gateway, f"exact{number}")["value"] == int(number)
    message = f'{{"userId":"s{number}","event":"E","properties":{{"a":{number}}}}}'.encode()
    assert (
        gateway.post("/segment/v1/track", message, key=None, headers=basic(key)).status_code == 200
    )
    assert stored_of(gateway, f"s{number}")["params"] == {"a": int(number)}


@pytest.mark.parametrize("number", FRACTIONS)
def test_a_fraction_or_an_exponent_is_no_whole_number(gateway: Talk, number: str) -> None:
    answer = gateway.event((EVENT % number).encode())
    assert answer.status_code == 202, answer.text
    assert stored(gateway, answer.json()["id"])["value"] == float(number)


def stored(talk: Talk, item_id: str) -> dict[str, Any]:
    seq = int(item_id[-12:], 16)
    found: dict[str, Any] = orjson.loads(
        talk.rows("SELECT body FROM items WHERE seq = ?", seq)[0][0]
    )
    return found


def stored_of(talk: Talk, user: str) -> dict[str, Any]:
    rows = talk.rows("SELECT body FROM items WHERE subject = ? ORDER BY seq DESC", f"u{user}")
    found: dict[str, Any] = orjson.loads(rows[0][0])
    return found


GOOD_ITEM = '{"action":"track","userId":"g","event":"E"}'


@pytest.mark.parametrize("number", LONG, ids=lambda number: number[:24])
def test_only_its_item_of_a_batch_is_refused(gateway: Talk, number: str) -> None:
    bad = f'{{"action":"track","userId":"u","event":"E","params":{{"n":{number}}}}}'
    whole = gateway.batch(f'{{"items":[{GOOD_ITEM},{bad},{GOOD_ITEM}]}}'.encode())
    lines = gateway.batch(
        f"{GOOD_ITEM}\n{bad}\n{GOOD_ITEM}".encode(), headers={"Content-Type": NDJSON}
    )
    for answer, pointer in ((whole, "/items/1/params/n"), (lines, "/params/n")):
        assert answer.status_code == 202
        results = answer.json()["results"]
        assert [one["status"] for one in results] == ["accepted", "rejected", "accepted"]
        assert pointers(results[1]["problem"]) == {pointer: "range"}


OF_SDKS = {
    '{"action":"track","userId":"u","event":"E","value":%s}': "/value",
    '{"action":"track","userId":"u","event":"E","value":"%s"}': "/value",
    '{"action":"track","userId":"u","event":"E","params":{"a":%s}}': "/params/a",
    '{"action":"track","userId":"u","event":"E","params":{"a":{"b/c":[%s]}}}': "/params/a/b~1c/0",
    '{"action":"track","userId":"u","event":"E","params":"{\\"a\\":%s}"}': "/params/a",
    '{"action":"setUserAttributes","userId":"u","userAttributes":"{\\"a\\":[%s]}"}': "/userAttributes/a/0",
    '{"action":"setUserAttributes","userId":"u","userAttributes":{"a":%s}}': "/userAttributes/a",
    '{"action":"track","userId":%s,"event":"E"}': "/userId",
    '{"action":"track","userId":"u","event":"E","time":%s}': "/time",
    '{"action":"start","userId":"u","unknown":%s}': "/unknown",
}


@pytest.mark.parametrize("number", LONG, ids=lambda number: number[:24])
@pytest.mark.parametrize(("entry", "pointer"), OF_SDKS.items(), ids=lambda given: given[:60])
def test_only_its_entry_of_an_sdk_is_refused(
    gateway: Talk, entry: str, pointer: str, number: str
) -> None:
    bad = entry % number
    call = f'{{"appId":"app_tests","clientKey":"{gateway.key}","action":"multi","data":[{GOOD_ITEM},{bad}]}}'
    answer = gateway.post("/api", call.encode(), key=None)
    assert answer.status_code == 200
    good, refused = answer.json()["response"]
    assert good == {"success": True}
    assert refused["error"]["message"].startswith(
        f"Refused: {pointer} must be an integer from -2^63 "
    ), refused
    alone = f'{{"appId":"app_tests","clientKey":"{gateway.key}",{bad[1:]}'
    answer = gateway.post("/api", alone.encode(), key=None)
    assert answer.status_code == 400
    assert f"Refused: {pointer} must be an integer from -2^63 " in answer.text


def test_an_argument_of_a_form_or_a_query_is_refused_too(gateway: Talk) -> None:
    common = {
        "appId": "app_tests",
        "clientKey": gateway.key,
        "action": "track",
        "userId": "u",
        "event": "E",
    }
    for name, text in (("value", LONG[2]), ("params", f'{{"a":{LONG[2]}}}')):
        for answer in (
            gateway.get("/api", params={**common, name: text}, key=None),
            gateway.call("POST", "/api", data={**common, name: text}, key=None),
        ):
            assert answer.status_code == 400, answer.text
            assert "must be an integer from -2^63 to 2^63-1" in answer.text
    entries = f'[{{"action":"track","userId":"u","event":"E","value":{LONG[2]}}},{GOOD_ITEM}]'
    batch = {"appId": "app_tests", "clientKey": gateway.key, "action": "multi", "data": entries}
    refused, good = gateway.call("POST", "/api", data=batch, key=None).json()["response"]
    assert (refused["success"], good["success"]) == (False, True)


def test_a_long_number_in_a_text_is_text(gateway: Talk) -> None:
    texts = {
        "userId": LONG[2],
        "event": "E",
        "params": {"a": LONG[2], "b": f"[{LONG[2]}"},
        "info": f"[{LONG[2]}]",
    }
    assert gateway.event(texts).status_code == 202
    call = {"appId": "app_tests", "clientKey": gateway.key, "action": "track", **texts}
    assert gateway.post("/api", call, key=None).json() == {"response": [{"success": True}]}
    found = stored_of(gateway, LONG[2])
    assert {name: found[name] for name in texts} == texts
    message = {"userId": LONG[2], "event": "E", "properties": {"revenue": LONG[2], "a": LONG[2]}}
    assert (
        gateway.post("/segment/v1/track", message, key=None, headers=basic(gateway.key)).status_code
        == 200
    )
    assert stored_of(gateway, LONG[2])["params"] == {"revenue": LONG[2], "a": LONG[2]}


OF_SEGMENT = {
    '{"type":"track","userId":"u","event":"E","properties":{"a":%s}}': "/properties/a",
    '{"type":"track","userId":"u","event":"E","properties":{"revenue":%s}}': "/properties/revenue",
    '{"type":"track","userId":"u","event":"E","properties":{"a":{"b":[{"c":%s}]}}}': "/properties/a/b/0/c",
    '{"type":"track","userId":%s,"event":"E"}': "/userId",
    '{"type":"identify","userId":"u","traits":{"a":%s}}': "/traits/a",
    '{"type":"track","userId":"u","event":"E","context":{"traits":{"a":%s}}}': "/context/traits/a",
    '{"type":"track","userId":"u","event":"E","timestamp":%s}': "/timestamp",
}


@pytest.mark.parametrize("number", [*LONG, "1e400"], ids=lambda number: number[:24])
@pytest.mark.parametrize(("message", "pointer"), OF_SEGMENT.items(), ids=lambda given: given[:60])
def test_only_its_message_of_segment_is_refused(
    gateway: Talk, message: str, pointer: str, number: str
) -> None:
    bad = message % number
    batch = f'{{"batch":[{{"type":"track","userId":"g","event":"E"}},{bad}]}}'
    answer = gateway.post("/segment/v1/batch", batch.encode(), key=None, headers=basic(gateway.key))
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    (refused,) = answer.json()["rejected"]
    assert [(one["pointer"], one["code"]) for one in refused["errors"]] == [
        (f"/batch/1{pointer}", "range")
    ]
    alone = gateway.post(
        f"/segment/v1/{orjson.loads(message % 1)['type']}",
        bad.encode(),
        key=None,
        headers=basic(gateway.key),
    )
    assert (alone.status_code, [one["pointer"] for one in alone.json()["errors"]]) == (
        400,
        [pointer],
    )
