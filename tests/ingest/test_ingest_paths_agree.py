"""The two readings of a body, the fast and the careful one, never differ; and nothing but Invalid
ever comes out.
"""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.errors import Invalid, Malformed, Refusal
from app.http import parse_json
from app.ingest import validate
from app.model import NewItem
from tests.ingest.judge import LIKE, refusal

NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 0, -0.0, 1e22])
)
ODD = st.sampled_from(
    ["", "\0", "a\ud800", "a/", ".a", "12", "é", "00000000-0000-0000-0000-000000000000"]
)
WORDS = st.sampled_from(
    [
        "2026-01-31T12:00:00Z",
        "EUR",
        "active",
        "CreateNever",
        "Email",
        "track",
        "advance",
        "GPS",
        "userId",
        "x",
    ]
)
SCALARS = st.none() | st.booleans() | NUMBERS | ODD | WORDS | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | ODD, inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted(
    {
        name
        for action in validate.ITEM_ACTIONS.values()
        for name in action.alone.json_schema()["properties"]
    }
)
ACTION = st.sampled_from(sorted(validate.ITEM_ACTIONS))
ANY_JSON = VALUES | st.dictionaries(st.sampled_from(FIELDS) | ODD, VALUES, max_size=6)


@st.composite
def nearly_good(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A good item with at most a few fields changed: most of the rules are met only there."""
    action = draw(ACTION)
    changed = draw(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3))
    return action, LIKE[action] | changed


def outcome(action: str, body: bytes) -> NewItem | None:
    """What the careful reading makes of a body."""
    raw = parse_json(body)
    if error := refusal(action, raw):
        assert error.faults
        # It can be answered
        orjson.dumps([(fault.pointer, fault.detail, fault.code) for fault in error.faults])
        return None
    return validate.single(action, raw)


def in_batch(raw: Any) -> NewItem | None:
    try:
        return validate.of_any_action(raw)
    except Invalid:
        return None


@given(ACTION, ANY_JSON)
def test_any_json_is_an_item_or_invalid_and_nothing_else(action: str, raw: Any) -> None:
    outcome(action, json.dumps(raw).encode())
    in_batch(raw)


@pytest.mark.slow
@settings(max_examples=400)
@given(nearly_good())
def test_both_readings_make_the_same_item_of_a_single_body(
    made: tuple[str, dict[str, Any]],
) -> None:
    action, raw = made
    body = json.dumps(raw).encode()
    assert validate.fast_single(action, body) == outcome(action, body)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.lists(nearly_good(), min_size=1, max_size=3))
def test_both_readings_make_the_same_items_of_a_batch(
    made: list[tuple[str, dict[str, Any]]],
) -> None:
    raws = [raw | {"action": action} for action, raw in made]
    careful = [in_batch(raw) for raw in raws]
    fast = validate.fast_batch(json.dumps({"items": raws}).encode())
    assert fast == (None if None in careful else careful)


@given(nearly_good())
def test_alone_and_in_a_batch_an_item_is_the_same(made: tuple[str, dict[str, Any]]) -> None:
    action, raw = made
    assert outcome(action, json.dumps(raw).encode()) == in_batch(raw | {"action": action})


@given(nearly_good())
def test_what_leanplum_gets_is_json_again_and_has_neither_id_nor_action(
    made: tuple[str, dict[str, Any]],
) -> None:
    action, raw = made
    item = outcome(action, json.dumps(raw).encode())
    if item is not None:
        assert not orjson.loads(item.body).keys() & {"id", "action"}


USER_NUMBERS = ["0", "-0", "1", "1.0", "-0.0", "0.1", "1e5", "1E400", "1e22", "1e-7", "NaN", "Infinity", "-Infinity",
                "9223372036854775807", "9223372036854775808", "123456789012345678901234567890"]  # fmt: skip


@pytest.mark.parametrize("number", USER_NUMBERS)
def test_both_readings_know_the_same_user_by_a_number(number: str) -> None:
    """Else a bad neighbour in the batch would change whose event it is."""
    body = b'{"userId":%s,"event":"e"}' % number.encode()
    assert validate.fast_single("track", body) == outcome("track", body)


DUPLICATE_KEYS = [
    '{"userId":"a","userId":"b","event":"e"}',
    '{"userId":"a","event":"e","event":"f"}',
    '{"userId":"a","event":5,"event":"f"}',
    '{"userId":"a","event":"f","event":5}',
    '{"userId":"a","event":"e","params":{"p":1,"p":2}}',
    '{"userId":"a","event":"e","params":{"p":[],"p":2}}',
    '{"userId":"a","event":"e","params":{"p":1},"params":{"q":2}}',
]


@pytest.mark.parametrize("body", DUPLICATE_KEYS)
def test_both_readings_take_the_last_of_duplicate_keys(body: str) -> None:
    careful = outcome("track", body.encode())
    fast = validate.fast_single("track", body.encode())
    assert fast in (None, careful)


@pytest.mark.parametrize("first", ["track", "advance"])
def test_the_last_of_two_actions_counts_in_both_readings(first: str) -> None:
    text = f'{{"action":"{first}","userId":"u","event":"e","action":"track"}}'
    fast = validate.fast_batch(f'{{"items":[{text}]}}'.encode())
    careful = validate.of_any_action(parse_json(text.encode()))
    assert fast in (None, [careful])


@given(
    st.binary(max_size=60)
    | st.text(st.sampled_from('{}[]":,0123456789.eE+-truefalsn\\u '), max_size=30).map(str.encode)
)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for action in validate.ITEM_ACTIONS:
        validate.fast_single(action, body)
    validate.fast_batch(body)
    try:
        raw = parse_json(body)
    except Malformed:
        return
    try:
        validate.of_any_action(raw)
    except Refusal:
        return


def test_the_fast_path_gives_a_batch_up_at_its_first_fault() -> None:
    with pytest.raises(ValidationError) as refused:
        validate.BATCH.validate_json(b'{"items":[{},{},{}]}')
    assert refused.value.error_count() == 1
