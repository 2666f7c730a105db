"""The sample of the cases of a test that `make test` runs."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import sampled


def cases(*values: str, n: int | None) -> list[Any]:
    """Cases of one test as pytest collects them: a parameter for each text, a value a letter."""
    marker = None if n is None else SimpleNamespace(args=(n,))

    def get_closest_marker(_name: str) -> Any:
        return marker

    return [
        SimpleNamespace(
            function=cases,
            callspec=SimpleNamespace(_idlist=list(each)),
            get_closest_marker=get_closest_marker,
        )
        for each in product(*values)
    ]


@pytest.fixture(autouse=True)
def only_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "ALL", False)


def test_a_sample_has_each_value_of_every_parameter() -> None:
    items = cases("abcde", "ABCD", n=4)
    run, left = sampled.split(items)
    assert (len(run), len(left)) == (5, 15)
    chosen: list[Any] = [*run]
    assert {one.callspec._idlist[0] for one in chosen} == set("abcde")
    assert {one.callspec._idlist[1] for one in chosen} == set("ABCD")


def test_a_case_that_is_asked_for_alone_runs() -> None:
    (item,) = cases("c", "D", n=4)
    assert sampled.split([item]) == ([item], [])


def test_tests_without_the_marker_all_run() -> None:
    items = cases("abc", n=None)
    assert sampled.split(items) == (items, [])


def test_in_make_soak_all_cases_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "ALL", True)
    items = cases("abcde", n=4)
    assert sampled.split(items) == (items, [])
