"""Of any JSON: enrichment is idempotent and deterministic, raises nothing, and leaves no value
under a rule.
"""

import copy
import json
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.enrichment.config import ENRICHED
from app.errors import Invalid
from app.http import parse_json
from app.ingest import validate
from app.leanplum.actions import ACTIONS
from app.model import NO_NOTES, NewItem, Notes

from .enriched import enricher

pytestmark = pytest.mark.slow

CONFIG = """
[currency]
default = "SEK"
[contact]
emails = ["email", "mail"]
region = "DE"
[renames."*"]
"amount" = "value"
"params.colour" = "params.color"
"userAttributes.e-mail" = "userAttributes.email"
"name" = "event"
[values."*"."params.color"]
red = "R"
1 = "one"
true = 2
[values.start."timezone"]
Berlin = "Europe/Berlin"
[values.track."currencyCode"]
"US$" = "USD"
[defaults."*"]
"params.source" = "backend"
"userAttributes.tags" = ["a", "b"]
"timezone" = "Europe/Paris"
[[privacy]]
do = "hash"
keys = ["*mail", "params.card_no", "userAttributes.nested"]
[[privacy]]
do = "mask"
paths = ['\\.phone$']
values = "^[0-9+ ]+$"
[[privacy]]
do = "drop"
keys = ["params.secret*", "city"]
"""
CONFIGS = {"default": "", "everything": CONFIG}
NAMES = "a|a.b|b|c|colour|color|card_no|secret|email|e-mail|mail|phone|tags|nested||."
KEYS = st.sampled_from(NAMES.split("|"))
WORDS = st.sampled_from(
    ["red", "1", "true", "R", "***", "h_", "eur", "US$", "USD", "en-us", "Berlin", "europe/berlin", "(detect)",
     " A@B.C ", "0171 1234567", "+491711234567", "203.0.113.7", "198.51.100.3", "192.0.2.1", "2026-01-31T12:00:00Z",
     "Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0", "é\ud800", "\0", ""]
)  # fmt: skip
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([1_800_000_000, 1.8e9, 1e11, -1, 2**63, 10**30, 1, 2])
)
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
FIELDS = sorted(
    {name for action in ENRICHED for name in ACTIONS[action].shape.__annotations__}
    | {"amount", "name"}
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)
ITEMS = st.builds(
    lambda objects, others: {**others, **objects},
    st.dictionaries(st.sampled_from(["params", "userAttributes"]), OBJECTS, max_size=2),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4),
)
ACTION = st.sampled_from(ENRICHED)
ADDRESS = st.sampled_from([None, "203.0.113.7", "198.51.100.3"])
slowly = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def refine(
    action: str, item: dict[str, Any], config: str, address: str | None
) -> tuple[dict[str, Any], Notes]:
    made = copy.deepcopy(item)
    return made, REFINERS[config, address].enrich(action, made)


REFINERS = {
    (config, address): enricher(CONFIGS[config], address=address)
    for config in CONFIGS
    for address in (None, "203.0.113.7", "198.51.100.3")
}


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: NaN is NaN, and 1 is not true."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@pytest.mark.parametrize("config", CONFIGS)
@slowly
@given(action=ACTION, item=ITEMS, address=ADDRESS)
def test_enriching_twice_is_as_enriching_once_and_each_time_the_same(
    config: str, action: str, item: dict[str, Any], address: str | None
) -> None:
    once, notes = refine(action, item, config, address)
    assert same(refine(action, once, config, address)[0], once)
    again, noted = refine(action, item, config, address)
    assert same(again, once)
    assert (noted.steps, noted.warnings) == (notes.steps, notes.warnings)
    if notes is NO_NOTES:
        assert same({**item, **dict.fromkeys(EXTRA)}, {**once, **dict.fromkeys(EXTRA)})


EXTRA = ("sentAt", "ip", "userAgent")


@pytest.mark.parametrize("config", CONFIGS)
@slowly
@given(action=ACTION, item=ITEMS)
def test_what_is_for_enrichment_alone_is_gone_from_every_item_that_is_taken(
    config: str, action: str, item: dict[str, Any]
) -> None:
    made = judged(action, item, config)
    if made is not None:
        assert not orjson.loads(made.body).keys() & set(EXTRA)


@pytest.mark.parametrize("config", CONFIGS)
@slowly
@given(action=st.sampled_from(sorted(validate.ITEM_ACTIONS)), item=ITEMS)
def test_a_good_body_makes_the_same_item_on_both_ways(
    config: str, action: str, item: dict[str, Any]
) -> None:
    body = json.dumps({"userId": "u", **item}).encode()
    by_way = REFINERS[config, None]
    fast = validate.fast_single(action, body, by_way)
    if fast is not None:
        careful = validate.single(action, parse_json(body), item_steps=by_way)
        assert fast == careful


@slowly
@given(action=ACTION, item=ITEMS)
def test_the_default_steps_make_good_fields_of_good_fields(
    action: str, item: dict[str, Any]
) -> None:
    """What makes it right that the fast way checks first and enriches then."""
    if action not in validate.ITEM_ACTIONS:
        return
    try:
        fields = validate.ITEM_ACTIONS[action].alone.validate_python(item)
    except ValueError:
        return
    notes = REFINERS["default", "203.0.113.7"].enrich(action, fields)
    assert not notes.reshaped
    assert validate.ITEM_ACTIONS[action].alone.validate_python(fields) == fields


def judged(action: str, item: dict[str, Any], config: str) -> NewItem | None:
    if action not in validate.ITEM_ACTIONS:
        return None
    try:
        return validate.single(
            action, {"userId": "u", **copy.deepcopy(item)}, item_steps=REFINERS[config, None]
        )
    except Invalid:
        return None


CANARY = "cAnArY-5b1e"


@slowly
@given(
    ACTION, ITEMS, st.lists(KEYS, min_size=1, max_size=3), st.sampled_from(["drop", "mask", "hash"])
)
def test_no_value_under_a_rule_is_left_however_it_is_nested(
    action: str, item: dict[str, Any], path: list[str], verb: str
) -> None:
    nested: Any = CANARY
    for key in reversed(path):
        nested = {key: nested, "more": [{"x": nested}]}
    item = {**item, "params": {"card": nested, "z": 1}}
    made = enricher(f'[[privacy]]\ndo = "{verb}"\nkeys = ["params.card"]')
    made.enrich(action, item)
    assert CANARY not in json.dumps(item)
    entry = {"params": json.dumps({"card": nested, "z": 1})}
    made.enrich_sdk_entry("track", entry)
    assert CANARY not in json.dumps(entry)


@slowly
@given(entry=ITEMS, action=st.sampled_from(sorted(ACTIONS)) | st.text(max_size=3))
def test_the_guard_of_leanplums_own_protocol_is_idempotent_and_raises_nothing(
    entry: dict[str, Any], action: str
) -> None:
    for config in CONFIGS:
        once = copy.deepcopy(entry)
        REFINERS[config, "203.0.113.7"].enrich_sdk_entry(action, once)
        again = copy.deepcopy(once)
        REFINERS[config, "203.0.113.7"].enrich_sdk_entry(action, again)
        assert same(once, again)
