"""What breaks a plan, told with its place and code, and never with the value."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.ingest import validate
from app.tracking.plan.file_format import UnknownPolicy
from tests.support.gateway import CANARY
from tests.support.tracking_plans import GOOD, PURCHASE, SKU, faults, plan


def judged(action: str, fields: dict[str, Any], **content: Any) -> dict[str, str]:
    made = plan(**{"definitions": SKU, "events": {"Purchase": PURCHASE}, **content})
    return faults(made.validate(action, fields))


def event(**fields: Any) -> dict[str, str]:
    return judged("track", GOOD | fields)


def test_a_good_event_breaks_nothing() -> None:
    assert event() == {}


def test_everything_that_is_wrong_with_an_event_is_told_at_once() -> None:
    assert event(
        value=-1.0, currencyCode="GBP", params={"sku": "x", "gift": "no", "si~/ze": 1}
    ) == {
        "/value": "plan-exclusive-minimum",
        "/currencyCode": "plan-enum",
        "/params/sku": "plan-pattern",
        "/params/gift": "plan-type",
        "/params/si~0~1ze": "plan-unknown-param",
    }


def test_what_is_required_is_told_where_it_is_missing() -> None:
    assert judged("track", {"event": "Purchase"}) == {
        "/value": "plan-required",
        "/params": "plan-required",
    }
    assert event(params={}) == {"/params/sku": "plan-required"}


def test_parameters_that_may_all_be_left_out_may_be_left_out_together() -> None:
    events = {"A": {"params": {"properties": {"a": {"type": "string"}}}}}
    assert judged("track", {"event": "A"}, events=events) == {}


def test_an_event_whose_mode_is_off_is_not_judged() -> None:
    assert (
        judged("track", {"event": "A", "value": 1}, events={"A": {"mode": "off", "value": False}})
        == {}
    )


@pytest.mark.parametrize(("mode", "enforced"), [("warn", False), ("enforce", True)])
def test_the_mode_says_whether_it_is_enforced(mode: str, enforced: bool) -> None:
    made = plan(mode=mode, states={"S": {"info": False}})
    (one,) = made.validate("advance", {"state": "S", "info": "x"})
    assert (one.kind, one.name, one.planned, one.enforced) == ("states", "S", True, enforced)


@pytest.mark.parametrize("policy", ["allow", "warn", "enforce"])
def test_names_that_the_plan_lacks_are_under_its_policy(policy: UnknownPolicy) -> None:
    made = plan(unknown=dict.fromkeys(("events", "states", "attributes"), policy))
    update = {
        "userAttributes": {"a": 1, "b": None},
        "userAttributeValuesToAdd": {"c": 1},
        "userAttributeValuesToRemove": {"d": 1},
        "userAttributeValuesToIncrement": {"e": 1},
        "events": {"E": {"count": 1}},
        "states": {"S": {"count": 1}},
    }
    found = [
        *made.validate("track", {"event": "E"}),
        *made.validate("advance", {"state": "S"}),
        *made.validate("setUserAttributes", update),
    ]
    expected = {
        "/event": "plan-unknown-event",
        "/state": "plan-unknown-state",
        "/events/E": "plan-unknown-event",
        "/states/S": "plan-unknown-state",
        "/userAttributes/a": "plan-unknown-attribute",
        "/userAttributes/b": "plan-unknown-attribute",
        "/userAttributeValuesToAdd/c": "plan-unknown-attribute",
        "/userAttributeValuesToRemove/d": "plan-unknown-attribute",
        "/userAttributeValuesToIncrement/e": "plan-unknown-attribute",
    }
    assert faults(found) == ({} if policy == "allow" else expected)
    assert {one.enforced for one in found} == (
        set() if policy == "allow" else {policy == "enforce"}
    )


def test_the_events_of_leanplum_s_own_messages_are_left_alone() -> None:
    unknown = {"unknown": {"events": "enforce", "states": "enforce"}}
    assert judged("track", {"event": "", "messageId": 5}, **unknown) == {}
    assert judged("track", {"event": "Open", "messageId": 5}, **unknown) == {}
    assert judged("advance", {"state": ""}, **unknown) == {}


def test_other_actions_are_not_judged() -> None:
    assert judged("heartbeat", {"userId": "u"}, unknown={"events": "enforce"}) == {}


ATTRIBUTES = {
    "plan": {"schema": {"enum": ["free", "pro"]}},
    "tags": {"schema": {"$ref": "#/definitions/tags"}},
    "age": {"mode": "off", "schema": {"type": "integer"}},
}
TAGS = {"tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2}}


def update(**fields: Any) -> dict[str, str]:
    return judged("setUserAttributes", fields, attributes=ATTRIBUTES, definitions=TAGS, events={})


def test_attributes_are_held_against_their_schemas() -> None:
    assert update(userAttributes={"plan": "pro", "tags": ["a"], "age": "old", "other": 1}) == {}
    assert update(userAttributes={"plan": "max", "tags": ["a", 2]}) == {
        "/userAttributes/plan": "plan-enum",
        "/userAttributes/tags/1": "plan-type",
    }


def test_null_clears_an_attribute_whatever_its_schema_is() -> None:
    assert update(userAttributes={"plan": None, "tags": None}) == {}


def test_what_is_added_to_a_set_is_held_against_the_schema_of_its_entries() -> None:
    assert update(userAttributeValuesToAdd={"tags": "a", "plan": "pro"}) == {}
    assert update(userAttributeValuesToAdd={"tags": ["a", "b", "c"]}) == {}
    assert update(userAttributeValuesToAdd={"tags": 1, "plan": ["pro", "max"]}) == {
        "/userAttributeValuesToAdd/tags": "plan-type",
        "/userAttributeValuesToAdd/plan/1": "plan-enum",
    }


KEYWORDS: dict[str, tuple[Any, Any]] = {
    "type": ({"type": ["integer", "boolean"]}, CANARY),
    "enum": ({"enum": [f"e{number}" for number in range(40)]}, CANARY),
    "const": ({"const": 3}, CANARY),
    "minimum": ({"minimum": 10}, 7.31),
    "maximum": ({"maximum": 1}, 7.31),
    "exclusive-minimum": ({"exclusiveMinimum": 10}, 7.31),
    "exclusive-maximum": ({"exclusiveMaximum": 1}, 7.31),
    "multiple-of": ({"multipleOf": 2}, 7.31),
    "min-length": ({"minLength": 100}, CANARY),
    "max-length": ({"maxLength": 1}, CANARY),
    "pattern": ({"pattern": "^a$"}, CANARY),
    "format": ({"format": "email"}, CANARY),
    "min-items": ({"minItems": 3}, [CANARY]),
    "max-items": ({"maxItems": 0}, [CANARY]),
    "unique-items": ({"uniqueItems": True}, [CANARY, CANARY]),
    "contains": ({"contains": {"const": 1}}, [CANARY]),
    "any-of": ({"anyOf": [{"type": "integer"}, {"maxLength": 1}]}, CANARY),
    "one-of": ({"oneOf": [{"type": "string"}, {"minLength": 1}]}, CANARY),
    "not": ({"not": {"type": "string"}}, CANARY),
    "false-schema": ({"allOf": [False]}, CANARY),
}


@pytest.mark.parametrize("code", KEYWORDS)
def test_each_keyword_has_its_code_and_a_sentence_without_the_value(code: str) -> None:
    schema, value = KEYWORDS[code]
    made = plan(attributes={"a": {"schema": schema}})
    (one,) = made.validate("setUserAttributes", {"userAttributes": {"a": value}})
    assert one.fault.code == f"plan-{code}"
    assert one.fault.detail != "does not conform to the tracking plan"
    assert CANARY not in str(one)
    assert "7.31" not in str(one)


def test_a_long_list_of_choices_is_told_in_part() -> None:
    made = plan(attributes={"a": {"schema": KEYWORDS["enum"][0]}})
    (one,) = made.validate("setUserAttributes", {"userAttributes": {"a": CANARY}})
    assert one.fault.detail.endswith("and 20 more")


WHOLE = plan(definitions=SKU, events={"Purchase": PURCHASE}, unknown={"events": "enforce"})
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from(["value", "currencyCode", "info", "params", "time", "disposition"]), JSON
    )
)
def test_whatever_passes_the_rules_is_judged_without_an_error(fields: dict[str, Any]) -> None:
    try:
        item = validate.single("track", {"userId": "u", "event": "Purchase", **fields})
    except Invalid:
        return
    for one in WHOLE.validate("track", json.loads(item.body)):
        assert one.fault.pointer.startswith("/")
