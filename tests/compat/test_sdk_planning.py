"""The plan of a batch: as few steps as keep the order of each user and device."""

from itertools import groupby, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.compat.leanplum_sdk.call_plan import (
    EntryKind,
    PlannedStep,
    StepEntry,
    find_names,
    find_superseded,
    number_groups,
    plan_steps,
)

ACCEPT, ASK, LOOK = EntryKind.ACCEPT, EntryKind.RELAY, EntryKind.READ
PARTS = st.lists(
    st.builds(StepEntry, st.sampled_from(EntryKind), st.sampled_from([None, 0, 1, 2])),
    max_size=40,
)
NAMES = st.frozensets(st.sampled_from(["ua", "ub", "uc", "d1", "d2"]), max_size=3)


def parts(text: str) -> list[StepEntry]:
    """Read `a:ua k:ua+d1`: accepted, asked (k) or looked up (l), and whom it concerns."""
    kinds = {"a": ACCEPT, "k": ASK, "l": LOOK}
    split = [one.split(":") for one in text.split()]
    numbers = number_groups([set(filter(None, names.split("+"))) for _, names in split])
    return [
        StepEntry(kinds[kind], number) for (kind, _), number in zip(split, numbers, strict=True)
    ]


def steps(text: str) -> list[str]:
    """Return the plan as texts: `ask 1 2`."""
    return [
        " ".join(["ask" if step.relays else "accept", *map(str, step.places)])
        for step in plan_steps(parts(text))
    ]


PLANS = {
    "one device with one session left": ("a:u a:u k:u a:u", ["accept 0 1", "ask 2", "accept 3"]),
    "users share steps": (
        "a:u k:u a:u a:v k:v a:v",
        ["accept 0 3", "ask 1 4", "accept 2 5"],
    ),
    "a read waits for the next question of its user": ("l:u a:u k:u", ["accept 1", "ask 0 2"]),
    "a read that no question follows keeps its place": (
        "k:u a:u l:u a:u",
        ["ask 0", "accept 1", "ask 2", "accept 3"],
    ),
    "reads alone are one call at the place of the last": (
        "l:u a:u l:u a:u l:u a:u",
        ["accept 1 3", "ask 0 2 4", "accept 5"],
    ),
    "a read of another user waits for nobody": ("l:u a:v k:v", ["accept 1", "ask 0 2"]),
    "a read of nobody goes with any question": (
        "a:u l: k:u a:u",
        ["accept 0", "ask 1 2", "accept 3"],
    ),
    "only reads of nobody": ("l: l:", ["ask 0 1"]),
    "a question of nobody keeps its place": ("a:u k: a:v", ["accept 0", "ask 1", "accept 2"]),
    "a login joins two users": ("a:u a:u+v k:v a:u", ["accept 0 1", "ask 2", "accept 3"]),
    "a device joins its users": ("k:u+d a:u+d k:v+d", ["ask 0", "accept 1", "ask 2"]),
    "a read is asked once, though two questions follow": (
        "l:u+d k:u a:d k:d",
        ["ask 0 1", "accept 2", "ask 3"],
    ),
    "reads of two devices of one user": ("l:u l:u+d k:d", ["ask 0 1 2"]),
    "nothing": ("", []),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan(name: str) -> None:
    given, planned = PLANS[name]
    assert steps(given) == planned


@given(PARTS)
def test_every_entry_has_one_step_of_its_kind_and_steps_alternate(
    given: list[StepEntry],
) -> None:
    found = plan_steps(given)
    assert sorted(place for step in found for place in step.places) == list(range(len(given)))
    assert all(
        (given[place].kind is not ACCEPT) == step.relays for step in found for place in step.places
    )
    assert all(step.places == sorted(step.places) and step.places for step in found)
    assert all(one.relays != two.relays for one, two in pairwise(found))


@given(PARTS)
def test_the_order_of_each_user_and_device_is_kept_but_that_reads_may_be_later(
    given: list[StepEntry],
) -> None:
    step_of = _step_of(plan_steps(given))
    for later, part in enumerate(given):
        for earlier, before in enumerate(given[:later]):
            nobody = before.group is None or part.group is None
            if before.kind is LOOK or (part.kind is LOOK and nobody):
                continue
            if nobody or before.group == part.group:
                assert step_of[earlier] <= step_of[later]


@given(st.lists(NAMES, max_size=12))
def test_who_is_named_together_anywhere_belongs_together_and_nobody_else_does(
    given: list[frozenset[str]],
) -> None:
    found = number_groups(given)
    reached = [set(names) for names in given]
    for _ in given:  # by another way: who can be reached from whom
        reached = [one.union(*(two for two in reached if one & two)) for one in reached]
    for one, group in zip(reached, found, strict=True):
        assert (group is None) == (not one)
        others = [
            other
            for other, two in zip(found, reached, strict=True)
            if two and not one.isdisjoint(two)
        ]
        assert all(other == group for other in others)
        assert found.count(group) == len(others) or group is None


@given(st.lists(st.sampled_from(EntryKind), max_size=40))
def test_one_device_has_no_more_steps_than_its_order_takes(kinds: list[EntryKind]) -> None:
    asking = [place for place, kind in enumerate(kinds) if kind is not ACCEPT]
    moved = {place for place in asking[:-1] if kinds[place] is LOOK}
    fixed = [kind is not ACCEPT for place, kind in enumerate(kinds) if place not in moved]
    given = [StepEntry(kind, 0) for kind in kinds]
    assert len(plan_steps(given)) == len(list(groupby(fixed)))


@given(st.lists(st.sampled_from(EntryKind), max_size=12), st.integers(1, 5))
def test_many_users_have_no_more_steps_than_one(kinds: list[EntryKind], users: int) -> None:
    one = [StepEntry(kind, 0) for kind in kinds]
    many = [StepEntry(kind, user) for user in range(users) for kind in kinds]
    assert len(plan_steps(many)) == len(plan_steps(one))


def test_ten_thousand_entries_of_as_many_users_are_planned_at_once() -> None:
    given = [StepEntry(kind, user) for user in range(2_500) for kind in (LOOK, ACCEPT, ASK, ACCEPT)]
    found = plan_steps(given)
    assert [(step.relays, len(step.places)) for step in found] == [
        (False, 2_500),
        (True, 5_000),
        (False, 2_500),
    ]


def _step_of(found: list[PlannedStep]) -> dict[int, int]:
    return {place: number for number, step in enumerate(found) for place in step.places}


STARTS: list[tuple[str, list[dict[str, Any]], set[int]]] = [
    ("one device", [{"userId": "a", "deviceId": "d"}] * 3, {0, 1}),
    (
        "a user who changes",
        [{"userId": "a", "deviceId": "d"}, {"userId": "b", "deviceId": "d"}],
        {0},
    ),
    (
        "two devices of one user",
        [{"userId": "a", "deviceId": "d"}, {"userId": "a", "deviceId": "e"}],
        set(),
    ),
    ("a user without a device", [{"userId": "a"}, {"userId": "b"}, {"userId": "a"}], {0}),
    ("a device without a user", [{"deviceId": "d"}, {"userId": "a", "deviceId": "d"}], {0}),
    ("an id that is a number", [{"deviceId": 7}, {"deviceId": "7"}], {0}),
    ("a user whose id is a device's", [{"userId": "x"}, {"deviceId": "x"}], set()),
    ("an empty device", [{"userId": "a", "deviceId": ""}, {"userId": "a"}], {0}),
]


@pytest.mark.parametrize(("name", "starts", "left"), STARTS, ids=[name for name, *_ in STARTS])
def test_only_the_last_session_of_a_device_is_asked(
    name: str, starts: list[dict[str, Any]], left: set[int]
) -> None:
    assert find_superseded(enumerate(starts)) == left


def test_whom_an_entry_concerns() -> None:
    entry = {"userId": "a", "newUserId": 5, "deviceId": "d", "other": "x"}
    assert find_names(entry) == {"ua", "u5", "dd"}
    assert find_names({"userId": "", "newUserId": None, "deviceId": {}}) == frozenset()
