"""What a change of a plan does: a table of schemas, and whole plans."""

from typing import Any

import pytest

from app.tracking.plan.diff import diff_plans
from tests.support.tracking_plans import PURCHASE, SKU, found, shop, text


def changes(old: str, new: str) -> list[str]:
    before, after = found(old).plans, found(new).plans
    assert before is not None and after is not None
    return [" ".join(str(one).split()) for one in diff_plans(before, after)]


def of_schemas(old: Any, new: Any, mode: str = "enforce") -> list[str]:
    def file(version: str, schema: Any) -> str:
        return text(**{"version": version, "mode": mode, "attributes": {"a": {"schema": schema}}})

    return changes(file("1", old), file("2", new))


SCHEMAS: dict[str, tuple[Any, Any, str]] = {
    "a type is gone": (
        {"type": ["string", "null"]},
        {"type": "string"},
        "tightened a: can no longer be null",
    ),
    "a type is added": (
        {"type": "string"},
        {"type": ["string", "boolean"]},
        "loosened a: can now be a boolean",
    ),
    "a first type": ({}, {"type": "string"}, "tightened a: now must be a string"),
    "no type any more": ({"type": "string"}, True, "loosened a: can now be of any type"),
    "whole numbers only": (
        {"type": "number"},
        {"type": "integer"},
        "tightened a: can no longer be a number",
    ),
    "fractions too": ({"type": "integer"}, {"type": "number"}, "loosened a: can now be a number"),
    "a choice is gone": ({"enum": ["a", "b"]}, {"const": "a"}, "tightened a: can no longer be 'b'"),
    "a choice is added": ({"enum": ["a"]}, {"enum": ["a", "b"]}, "loosened a: can now be 'b'"),
    "first choices": ({}, {"enum": ["a"]}, "tightened a: now must be one of 'a'"),
    "a higher minimum": ({"minimum": 1}, {"minimum": 2}, "tightened a: minimum: 1 became 2"),
    "a lower minimum": ({"minimum": 2}, {"minimum": 1}, "loosened a: minimum: 2 became 1"),
    "a higher maximum": ({"maxLength": 2}, {"maxLength": 3}, "loosened a: maxLength: 2 became 3"),
    "a lower maximum": ({"maxLength": 3}, {"maxLength": 2}, "tightened a: maxLength: 3 became 2"),
    "a first bound": ({}, {"maxItems": 3}, "tightened a: maxItems is 3"),
    "no bound any more": ({"maxItems": 3}, {}, "loosened a: maxItems is gone"),
    "a pattern": ({}, {"pattern": "a"}, "tightened a: has pattern"),
    "another pattern": ({"pattern": "a"}, {"pattern": "b"}, "tightened a: has another pattern"),
    "no pattern any more": ({"pattern": "a"}, {}, "loosened a: no longer has pattern"),
    "a required field": ({}, {"required": ["b"]}, "tightened a: requires b"),
    "a field less": ({"required": ["b"]}, {}, "loosened a: no longer requires b"),
    "a field's type": (
        {"properties": {"b": {"type": "string"}}},
        {"properties": {"b": {"type": "integer"}}},
        "tightened a.b: can no longer be a string",
    ),
    "a field in an open object": (
        {},
        {"properties": {"b": {"type": "string"}}},
        "tightened a.b: now must be a string",
    ),
    "a field in a closed object": (
        {"additionalProperties": False},
        {"properties": {"b": {}}, "additionalProperties": False},
        "loosened a.b: is allowed now",
    ),
    "a field out of a closed object": (
        {"properties": {"b": {}}, "additionalProperties": False},
        {"additionalProperties": False},
        "tightened a.b: is no longer allowed",
    ),
    "closed": ({}, {"additionalProperties": False}, "tightened a.*: is no longer allowed"),
    "entries": (
        {"items": {"type": "string"}},
        {"items": {"type": "string", "maxLength": 3}},
        "tightened a[]: maxLength is 3",
    ),
}


@pytest.mark.parametrize("case", SCHEMAS)
def test_a_change_of_a_schema_is_told(case: str) -> None:
    old, new, expected = SCHEMAS[case]
    word, rest = expected.split(" ", 1)
    breaking = " (breaking)" if word == "tightened" else ""
    assert f"{word} attributes.{rest}{breaking}" in of_schemas(old, new)
    assert not any("(breaking)" in line for line in of_schemas(old, new, mode="warn"))


@pytest.mark.parametrize("note", ["title", "description", "examples", "$comment", "x-own"])
def test_what_checks_nothing_changes_nothing(note: str) -> None:
    assert (
        of_schemas(
            {"type": "string"}, {"type": "string", note: ["x"] if note == "examples" else "x"}
        )
        == []
    )


def test_a_definition_s_change_is_told_where_it_is_used() -> None:
    changed = shop().replace("^[A-Z]-[0-9]+$", "^[A-Z]$").replace('"1"', '"2"')
    assert changes(shop(), changed) == [
        "tightened events.Purchase.params.sku: has another pattern (breaking)"
    ]


def test_a_definition_that_refers_to_itself_is_compared_to_an_end() -> None:
    def file(version: str, more: str) -> str:
        tree = {"properties": {"left": {"$ref": "#/definitions/tree"}, "value": {"type": more}}}
        attributes = {"a": {"schema": {"$ref": "#/definitions/tree"}}}
        return text(**{"version": version, "definitions": {"tree": tree}, "attributes": attributes})

    assert "loosened attributes.a.value: can now be a number" in changes(
        file("1", "integer"), file("2", "number")
    )


def test_the_same_plan_differs_in_nothing() -> None:
    assert changes(shop(), shop()) == []


def test_a_changed_plan_of_the_same_version_is_told() -> None:
    assert (
        changes(text(), text(events={"A": {}}))[0]
        == "changed version: is the same although the plan has changed"
    )


def test_events_come_and_go() -> None:
    both = changes(text(events={"A": {}}), text(**{"version": "2", "events": {"B": {}}}))
    assert both == ["removed events.A: unknown events are under allow", "added events.B: is new"]


def test_a_removed_event_breaks_something_where_unknown_ones_are_refused() -> None:
    unknown = {"events": "enforce"}
    (one,) = changes(
        text(unknown=unknown, events={"A": {}}), text(**{"version": "2", "unknown": unknown})
    )
    assert one == "removed events.A: unknown events are under enforce (breaking)"


def test_an_added_event_breaks_something_where_it_was_let_through_whatever_it_had() -> None:
    def added(unknown: str) -> str:
        of = {"unknown": {"events": unknown}, "definitions": SKU}
        old = {"events": {"A": {"params": {"$ref": "#/definitions/sku"}}}}
        return changes(
            text(**of, **old),
            text(**{**of, "version": "2", "events": {**old["events"], "P": PURCHASE}}),
        )[0]

    assert added("allow") == "added events.P: was let through with any content (breaking)"
    assert added("enforce") == "added events.P: is new"


def test_modes_and_policies_that_become_stricter_are_told() -> None:
    old = text(mode="warn", events={"A": {}}, unknown={"states": "allow", "events": "enforce"})
    new = text(
        **{"version": "2", "mode": "enforce", "events": {"A": {}}, "unknown": {"states": "enforce"}}
    )
    assert changes(old, new) == [
        "loosened unknown.events: enforce became allow",
        "tightened events.A.mode: warn became enforce (breaking)",
        "tightened unknown.states: allow became enforce (breaking)",
    ]


def test_several_apps_are_told_apart_and_what_they_share_is_told_once() -> None:
    old = text(apps=["shop", "game"], events={"A": {}})
    new = text(**{"version": "2", "apps": ["shop", "game"], "events": {"A": {"owner": "x"}}})
    assert changes(old, new) == ["changed events.A: has another description or owner"]
    only = text(**{"version": "2", "apps": ["shop"], "events": {"A": {}}})
    assert "removed game: the plan: no longer exists: every item is let through" in changes(
        old, only
    )
