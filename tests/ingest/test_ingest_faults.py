"""What is said of a bad item: every fault at once, each with its place, its code and its sentence,
and no value.
"""

import json
import time
from typing import Any

import pytest

from app.errors import Invalid
from app.ingest import validate
from app.ingest.faults import MAX_FAULTS
from tests.ingest.judge import EVENT, STATE, UPDATE, faults, refusal
from tests.support.gateway import CANARY


def test_every_fault_of_an_event_is_told_at_once() -> None:
    raw = {
        "userId": "",
        "deviceId": "a,b",
        "id": "a b",
        "event": "140",
        "time": "yesterday",
        "value": "9.99",
        "currencyCode": "eur",
        "disposition": "lazy",
        "createDisposition": "Never",
        "messageId": 1.5,
        "allowOffline": "yes",
        "info": 5,
        "params": {"good": 1, "bad/": 1, "list": [], "nul": "\0"},
        "evnt": "typo",
    }
    assert faults("track", raw) == {
        "/userId": "length",
        "/deviceId": "characters",
        "/id": "characters",
        "/event": "characters",
        "/time": "time",
        "/value": "type",
        "/currencyCode": "characters",
        "/disposition": "choice",
        "/createDisposition": "choice",
        "/messageId": "type",
        "/allowOffline": "type",
        "/info": "type",
        "/params/bad~1": "characters",
        "/params/list": "type",
        "/params/nul": "characters",
        "/evnt": "unknown-field",
    }


def test_every_fault_of_a_user_update_is_told_at_once() -> None:
    raw = {
        "newUserId": "00000000-0000-0000-0000-000000000000",
        "userAttributes": {".hidden": 1, "nested": {"a": 1}, "list": [1, None, "ok", []]},
        "userAttributeValuesToIncrement": {"n": 1.5},
        "events": {"e": {"count": -1, "total": 5}},
        "devices": [{"deviceId": "d"}, {}, {"deviceId": ""}, {"deviceID": "d"}],
        "unsubscribeChannelsToAdd": ["Email", "Pigeon"],
    }
    assert faults("setUserAttributes", raw) == {
        "": "missing-subject",
        "/newUserId": "zero-id",
        "/userAttributes/.hidden": "characters",
        "/userAttributes/nested": "type",
        "/userAttributes/list/1": "type",
        "/userAttributes/list/3": "type",
        "/userAttributeValuesToIncrement/n": "type",
        "/events/e/count": "range",
        "/events/e/total": "unknown-field",
        "/devices/3/deviceID": "unknown-field",
        "/devices/2/deviceId": "length",
        "/unsubscribeChannelsToAdd/1": "choice",
    }


@pytest.mark.parametrize(
    ("action", "raw", "expected"),
    [
        ("track", {}, {"/event": "required", "": "missing-subject"}),
        ("advance", {}, {"/state": "required", "": "missing-subject"}),
        ("track", {"event": ""}, {"/event": "empty-event", "": "missing-subject"}),
        (
            "track",
            {"event": "", "userId": "u", "value": "x"},
            {"/event": "empty-event", "/value": "type"},
        ),
        ("setUserAttributes", {}, {"": "missing-subject"}),
        ("track", [], {"": "type"}),
        ("track", None, {"": "type"}),
        ("track", "text", {"": "type"}),
        ("track", 5, {"": "type"}),
        ("track", True, {"": "type"}),
    ],
)
def test_faults_that_no_single_field_has_are_told_beside_the_others(
    action: str, raw: Any, expected: dict[str, str]
) -> None:
    assert faults(action, raw) == expected


def sentence(action: str, raw: Any, pointer: str) -> str:
    with pytest.raises(Invalid) as caught:
        validate.single(action, raw)
    return next(fault.detail for fault in caught.value.faults if fault.pointer == pointer)


def test_a_value_that_may_have_a_fraction_is_not_asked_to_be_whole() -> None:
    """`takes a whole number` would send the caller of 9.99-as-text to a wrong mending."""
    assert "whole" not in sentence("track", EVENT | {"value": "9.99"}, "/value")


def test_a_number_that_is_too_large_is_told_so_and_not_that_it_is_no_number() -> None:
    assert faults("track", EVENT | {"value": float("inf"), "params": {"p": float("nan")}}) == {
        "/value": "range",
        "/params/p": "range",
    }


@pytest.mark.parametrize(
    ("key", "pointer"),
    [
        ("a/", "/params/a~1"),
        ("~,", "/params/~0,"),
        ("~1,", "/params/~01,"),
        ("/~/", "/params/~1~0~1"),
        ("", "/params/"),
        ("0", "/params/0"),
        (" ,", "/params/ ,"),
        ("é|", "/params/é|"),
        ('"', '/params/"'),
        ("a\nb", "/params/a\nb"),
    ],
)
def test_pointers_are_escaped_as_rfc_6901_says(key: str, pointer: str) -> None:
    assert faults("track", EVENT | {"params": {key: 1}}) == {
        pointer: "characters" if key else "length"
    }


def test_a_pointer_of_a_batch_starts_with_its_place_there() -> None:
    with pytest.raises(Invalid) as caught:
        validate.of_any_action(
            {"action": "track", "userId": "u", "event": "e", "x/y": 1}, "/items/7"
        )
    assert [fault.pointer for fault in caught.value.faults] == ["/items/7/x~1y"]


@pytest.mark.parametrize("raw", [{}, {"userId": "u", "event": "E"}])
def test_a_missing_action_is_required_and_the_known_ones_are_listed(raw: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        validate.of_any_action(raw, "/items/0")
    (fault,) = caught.value.faults
    assert (fault.pointer, fault.code) == ("/items/0/action", "required")
    assert fault.detail.startswith("is required")
    assert all(action in fault.detail for action in validate.ITEM_ACTIONS)


@pytest.mark.parametrize(
    "raw", [{"action": "start"}, {"action": 5}, {"action": None}, {"action": ["track"]}]
)
def test_an_unknown_action_is_told_with_those_that_are_known(raw: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        validate.of_any_action(raw, "/items/0")
    (fault,) = caught.value.faults
    assert (fault.pointer, fault.code) == ("/items/0/action", "unknown-action")
    assert all(action in fault.detail for action in validate.ITEM_ACTIONS)


def test_a_thousand_faults_are_cut_at_a_hundred() -> None:
    with pytest.raises(Invalid) as caught:
        validate.single("track", EVENT | {f"unknown{number}": 1 for number in range(1_000)})
    assert len(caught.value.faults) == 100


def spoilt(value: Any, at: Any = None) -> Any:
    """Every way to put one bad value into good items."""
    for field in ("userId", "deviceId", "id", "event", "time", "value", "currencyCode", "info", "params", "messageId",
                  "disposition", "allowOffline", "createDisposition", "iOSSandbox"):  # fmt: skip
        yield "track", EVENT | {field: value}
    yield "track", EVENT | {"params": {"p": value}}
    yield "advance", STATE | {"state": value}
    yield "track", value
    for field in validate.ITEM_ACTIONS["setUserAttributes"].alone.json_schema()["properties"]:
        yield "setUserAttributes", UPDATE | {field: value}
        yield "setUserAttributes", UPDATE | {field: [value]}
        yield "setUserAttributes", UPDATE | {field: {"k": value}}
        yield "setUserAttributes", UPDATE | {field: {"k": {"count": value, "firstTime": value}}}
        yield "setUserAttributes", UPDATE | {field: [{"deviceId": value, "appVersion": value}]}


CANARIES = [
    f'"{CANARY}\0\n',
    [CANARY],
    {"count": CANARY},
    f"{CANARY} 2026",
    CANARY * 50,
    [{"deviceId": f"{CANARY},"}],
]


@pytest.mark.parametrize("value", CANARIES, ids=range(len(CANARIES)))
def test_no_fault_repeats_a_value_of_the_caller(value: Any) -> None:
    told = 0
    for action, raw in spoilt(value):
        if error := refusal(action, raw):
            told += 1
            assert CANARY not in json.dumps(
                [error.detail, *((f.pointer, f.detail, f.code) for f in error.faults)]
            )
    assert told > 30


def test_every_code_and_sentence_is_ours() -> None:
    """pydantic's own words ("Input should be …") would show a type's inside and may change with its
    version.
    """
    for value in [
        None,
        5,
        1.5,
        True,
        "",
        "\0",
        [],
        [None],
        {},
        {"k": None},
        float("nan"),
        10**30,
        "\ud800",
    ]:
        for action, raw in spoilt(value):
            error = refusal(action, raw)
            for fault in error.faults if error else ():
                assert fault.code
                assert "nput should" not in fault.detail, (raw, fault)
                assert not fault.detail[0].isupper(), (raw, fault)


@pytest.mark.slow
def test_a_hundred_thousand_unknown_fields_are_judged_in_a_moment_and_the_first_ones_told() -> None:
    raw = {"userId": "u", "event": "E", **{f"x{number}": 1 for number in range(100_000)}}
    started = time.perf_counter()
    with pytest.raises(Invalid) as refused:
        validate.single("track", raw)
    assert len(refused.value.faults) == MAX_FAULTS
    assert time.perf_counter() - started < 10
