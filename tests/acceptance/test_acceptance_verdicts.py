"""How histories are judged, on journals made up by hand; and that the histories hold what they
should.
"""

import random
from itertools import islice
from typing import Any

import pytest

from .histories import LOGINS, History, Item, events, mark_of
from .journal import Call
from .verdicts import Verdict, arrivals, judge

A, B, PHONE = "ua", "ub", "dphone"
LOGIN = Item("login", A, frozenset({B, PHONE}))


def call(began: float, *marks: str, done: bool = True) -> Call:
    actions: list[dict[str, Any]] = [
        {"action": "track", "params": {"mark": mark}} for mark in marks
    ]
    return Call(int(began), began, began + 1, (), actions, [done] * len(marks))


def judged(accepted: list[Item], *journal: Call, kills: tuple[float, ...] = ()) -> Verdict:
    return judge(accepted, arrivals(journal), kills)


def test_what_arrived_in_its_order_is_in_order() -> None:
    accepted = [Item("1", A), LOGIN, Item("2", B), Item("3", PHONE)]
    found = judged(accepted, call(0, "1", "login"), call(1, "3"), call(2, "2"))
    assert found == Verdict(acknowledged=4, logins=1, arrived=4)


def test_an_item_that_overtakes_an_earlier_one_of_its_user_is_out_of_order() -> None:
    assert judged([Item("1", A), Item("2", A)], call(0, "2"), call(1, "1")).out_of_order == ["2"]


@pytest.mark.parametrize("subject", [A, B, PHONE])
def test_an_item_that_overtakes_a_login_is_out_of_order_under_each_id(subject: str) -> None:
    assert judged([LOGIN, Item("1", subject)], call(0, "1"), call(1, "login")).out_of_order == ["1"]


def test_what_the_new_id_had_before_the_login_has_no_place_beside_it() -> None:
    assert judged([Item("1", B), LOGIN], call(0, "login"), call(1, "1")).out_of_order == []


def test_order_goes_on_through_a_chain_and_back() -> None:
    accepted = [
        Item("ab", A, frozenset({B})),
        Item("bc", B, frozenset({"uc"})),
        Item("ca", "uc", frozenset({A})),
    ]
    accepted.append(Item("last", A))
    found = judged(accepted, call(0, "ab"), call(1, "bc"), call(2, "last"), call(3, "ca"))
    assert found.out_of_order == ["last"]


def test_the_first_arrival_decides_on_the_order() -> None:
    found = judged(
        [LOGIN, Item("1", B)], call(0, "login"), call(1, "1"), call(9, "login"), kills=(0.5,)
    )
    assert (found.out_of_order, found.repeated, found.without_a_kill) == ([], {"login": 2}, [])


def test_what_leanplum_did_not_do_is_lost() -> None:
    assert judged([Item("1", A), Item("2", A)], call(0, "1", done=False), call(1, "2")).lost == [
        "1"
    ]


@pytest.mark.parametrize(("kill", "without"), [(-9, ["1"]), (0, []), (9, []), (11, ["1"])])
def test_a_repeat_needs_a_kill_before_it(kill: float, without: list[str]) -> None:
    assert (
        judged([Item("1", A)], call(0, "1"), call(10, "1"), kills=(kill,)).without_a_kill == without
    )


@pytest.mark.parametrize("history", [events, *LOGINS.values()])
def test_the_marks_of_a_history_are_those_that_leanplum_gets(history: History) -> None:
    items = [item for one in islice(history("ann", random.Random(1)), 50) for item in one.items]
    assert len({item.mark for item in items}) == len(items)
    assert bool([item for item in items if item.joins]) == (history is not events)


@pytest.mark.parametrize("kind", ["chains", "batches", "phones"])
def test_a_history_logs_in_to_each_id_and_back(kind: str) -> None:
    """Each id that is not anonymous is left by a login and is reached by one, again and again."""
    items = [
        item for one in islice(LOGINS[kind]("ann", random.Random(1)), 200) for item in one.items
    ]
    left = {item.subject for item in items if item.joins and "anonymous" not in item.subject}
    reached = {subject for item in items for subject in item.joins if subject.startswith("u")}
    assert left == reached
    assert len(reached) == (2 if kind == "phones" else 3)


def test_an_alias_is_known_by_its_new_id() -> None:
    assert mark_of({"action": "setUserAttributes", "userId": "a", "newUserId": "b"}) == "b"
