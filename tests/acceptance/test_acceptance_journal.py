"""What is read from the simulator's journal, on journals made up by hand."""

from math import inf
from typing import Any

from .journal import Call, done_for, overlaps


def call(index: int, began: float, ended: float, *users: str) -> Call:
    actions: list[dict[str, Any]] = [{"action": "track", "userId": user} for user in users]
    return Call(index, began, ended, users, actions, [True] * len(users))


def found(*calls: Call) -> list[tuple[str, int, int]]:
    return [(one.user, one.earlier.index, one.later.index) for one in overlaps(calls)]


def test_calls_of_one_user_that_follow_each_other_do_not_overlap() -> None:
    assert found(call(1, 0, 1, "ann"), call(2, 1, 2, "ann"), call(3, 2, 3, "ann")) == []


def test_calls_of_different_users_do_not_overlap() -> None:
    assert found(call(1, 0, 1, "ann"), call(2, 0, 1, "bob")) == []


def test_a_call_that_begins_while_another_of_its_user_is_at_work_overlaps() -> None:
    assert found(call(1, 0, 2, "ann", "bob"), call(2, 1, 3, "bob", "cid")) == [("bob", 1, 2)]


def test_a_call_overlaps_the_one_at_work_though_a_shorter_one_came_between() -> None:
    assert found(call(1, 0, 9, "ann"), call(2, 1, 2, "ann"), call(3, 5, 6, "ann")) == [
        ("ann", 1, 2),
        ("ann", 1, 3),
    ]


def test_a_call_that_was_never_answered_overlaps_all_that_follow() -> None:
    assert found(call(1, 0, inf, "ann"), call(2, 100, 101, "ann")) == [("ann", 1, 2)]


def test_what_was_done_for_a_user_leaves_out_what_was_refused() -> None:
    refused = Call(2, 1, 2, ("ann",), [{"action": "start", "userId": "ann"}], [False])
    assert [action["action"] for _, action in done_for([call(1, 0, 1, "ann"), refused])["ann"]] == [
        "track"
    ]
