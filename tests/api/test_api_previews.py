"""POST /v1/preview: which part of a body is wrong, with a pointer to it."""

from typing import Any

import pytest

from tests.support.gateway import Talk

ITEM = {"userId": "u", "event": "E"}


def faults(answer: Any) -> list[tuple[str, str]]:
    problem = answer["results"][0]["problem"] if "results" in answer else answer
    return [(fault["pointer"], fault["code"]) for fault in problem["errors"]]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (ITEM, ("/action", "required")),
        ({"items": [ITEM]}, ("/items/0/action", "required")),
        ({"items": [{}]}, ("/items/0/action", "required")),
        ({**ITEM, "action": "trak"}, ("/action", "unknown-action")),
        ({"items": []}, ("/items", "count")),
        ({"items": 1}, ("", "type")),
        ([], ("", "type")),
    ],
)
def test_the_fault_of_a_body_is_found(gateway: Talk, body: Any, expected: tuple[str, str]) -> None:
    assert faults(gateway.post("/v1/preview", body).json()) == [expected]


def test_a_batch_says_of_an_item_without_an_action_that_it_is_required(gateway: Talk) -> None:
    assert faults(gateway.batch([ITEM]).json()) == [("/items/0/action", "required")]
