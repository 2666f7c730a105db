"""Unknown names are answered with the known one that was probably meant, and never repeated."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from app import suggestions
from app.errors import Invalid
from app.ingest import faults, validate
from app.leanplum.actions import ACTIONS
from tests.ingest.judge import LIKE, refusal
from tests.support.gateway import CANARY

FIELDS = [
    (action, name)
    for action in validate.ITEM_ACTIONS
    for name in ACTIONS[action].shape.__annotations__
    if len(name) >= 6
]


def misspellings(name: str) -> Iterator[str]:
    """The usual ways to misspell a name: case, underscores, a letter less, twice or elsewhere."""
    yield "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    yield name.upper()
    yield name.replace("Id", "ID") + "s"
    middle = len(name) // 2
    yield name[:middle] + name[middle + 1 :]
    yield name[:middle] + name[middle] + name[middle:]
    yield name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :]


def detail(action: str, raw: Any, pointer: str) -> str:
    """The sentence about one place of a refused item."""
    error = refusal(action, raw)
    assert error is not None
    return next(fault.detail for fault in error.faults if fault.pointer == pointer)


@pytest.mark.parametrize(("action", "name"), FIELDS)
def test_a_misspelled_field_is_answered_with_the_field(action: str, name: str) -> None:
    known = ACTIONS[action].shape.__annotations__
    for typo in misspellings(name):
        if typo not in known:
            told = detail(action, LIKE[action] | {typo: CANARY}, f"/{typo}")
            assert told == f"unknown field; did you mean {name}?"


@pytest.mark.parametrize(
    ("action", "fields", "pointer", "meant"),
    [
        ("setUserAttributes", {"devices": [{}, {"deviceID": "d"}]}, "/devices/1/deviceID", "deviceId"),
        ("setUserAttributes", {"events": {"e": {"cuont": 1}}}, "/events/e/cuont", "count"),
        ("setUserAttributes", {"states": {"s": {"first_time": 1}}}, "/states/s/first_time", "firstTime"),
        ("setTrafficSourceInfo", {"trafficSource": {"publisher": "p"}}, "/trafficSource/publisher", "publisherId"),
    ],
)  # fmt: skip
def test_a_misspelled_field_inside_a_field_is_answered_with_the_field(
    action: str, fields: dict[str, Any], pointer: str, meant: str
) -> None:
    told = detail(action, LIKE[action] | fields, pointer)
    assert told == f"unknown field; did you mean {meant}?"


@pytest.mark.parametrize("name", ["xyzzy", "", "ab", "x" * 10_000, "\0", "é", CANARY])
def test_a_field_like_none_is_unknown_and_not_repeated(name: str) -> None:
    told = detail("track", LIKE["track"] | {name: CANARY}, faults.pointer((name,)))
    assert told == "unknown field; remove it or check its spelling"


@pytest.mark.parametrize("action", validate.ITEM_ACTIONS)
def test_a_misspelled_action_is_answered_with_the_action(action: str) -> None:
    for typo in misspellings(action):
        if typo in validate.ITEM_ACTIONS or len(action) < 6:
            continue
        with pytest.raises(Invalid) as caught:
            validate.of_any_action(LIKE[action] | {"action": typo})
        (fault,) = caught.value.faults
        assert fault.detail == f"unknown action; did you mean {action}?"
        assert (fault.pointer, fault.code) == ("/action", "unknown-action")


@pytest.mark.parametrize("action", [None, 5, [], CANARY, "xyzzy", "x" * 10_000])
def test_an_action_like_none_is_answered_with_all(action: Any) -> None:
    with pytest.raises(Invalid) as caught:
        validate.of_any_action({"action": action})
    (fault,) = caught.value.faults
    assert fault.detail == f"must be one of {', '.join(validate.ITEM_ACTIONS)}"


def test_many_unknown_fields_cost_no_more_than_a_few() -> None:
    raw = LIKE["track"] | {f"uzerIdn{index}ameeventvalue{'x' * 30}": 1 for index in range(100)}
    began = time.perf_counter()
    for _ in range(50):
        suggestions.closest.cache_clear()
        assert refusal("track", raw)
    assert (time.perf_counter() - began) / 50 < 0.05
