"""Leanplum's texts, without the values of the items that they are about."""

from typing import Any

import orjson
import pytest

from app.leanplum.value_redaction import redact_values, without_values
from app.model import DONE, ConfigRefused, Done, Ignored, Item, ItemRefused, Outcome, Trouble

FIELDS = {
    "userId": "ann",
    "event": "Purchase",
    "currencyCode": "EUR",
    "value": 12.75,
    "params": {"email": "alice@example.com", "size": "XL", "count": 4711, "on": True, "none": None},
    "userAttributes": {"tags": ["golden tier", {"deep": "secret note"}], "age": 7, "empty": ""},
}


def item(seq: int = 1, fields: Any = FIELDS) -> Item:
    return Item(seq, f"{seq}", "default", "uann", "track", orjson.dumps(fields).decode(), 0, 0, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Invalid value alice@example.com.", "Invalid value …."),
        ("golden tier and secret note", "… and …"),
        ("4711 is more than 12.75", "… is more than …"),
        ("User ann: no Purchase in EUR", "User …: no Purchase in EUR"),
        ("XL is short, XLS is another word", "… is short, XLS is another word"),
        ("7 of 77", "… of 77"),
        ("HTTP 503", "HTTP 503"),
    ],
)
def test_the_values_and_the_user_of_an_item_are_replaced_and_its_event_stays(
    text: str, expected: str
) -> None:
    assert redact_values(text, [item().body]) == expected


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Done("golden tier"), Done("…")),
        (Ignored("golden tier", is_error=True), Ignored("…", is_error=True)),
        (ItemRefused("golden tier"), ItemRefused("…")),
        (ConfigRefused("golden tier"), ConfigRefused("…")),
        (
            Trouble("golden tier", 3.0, throttled=True, lost=True),
            Trouble("…", 3.0, throttled=True, lost=True),
        ),
    ],
)
def test_every_outcome_with_a_text_keeps_all_but_the_values(
    outcome: Outcome, expected: Outcome
) -> None:
    one, other = item(1), item(2)
    assert without_values([(one, DONE), (other, outcome)]) == [(one, DONE), (other, expected)]


def test_how_an_item_was_ignored_is_kept_of_two_texts_that_are_alike() -> None:
    one, other = Ignored("ignored", by_field=True), Ignored("ignored")
    found = [outcome for _, outcome in without_values([(item(1), one), (item(2), other)])]
    assert [getattr(outcome, "by_field", None) for outcome in found] == [True, False]


def test_a_text_about_a_whole_call_repeats_no_value_of_any_of_its_items() -> None:
    outcome = Trouble("HTTP 503: no room for blue and green")
    items = [item(1, {"params": {"a": "blue"}}), item(2, {"params": {"a": "green"}})]
    found = without_values([(one, outcome) for one in items])
    assert {text.reason for _, text in found if isinstance(text, Trouble)} == {
        "HTTP 503: no room for … and …"
    }


def test_the_status_of_a_call_stays_where_an_item_has_a_value_like_it() -> None:
    body = '{"params":{"price":503}}'
    assert redact_values("HTTP 503: 503 is too much", [body]) == "HTTP 503: … is too much"


def test_of_values_that_contain_each_other_the_longest_is_replaced() -> None:
    body = '{"params":{"a":"blue","b":"blue green"}}'
    assert redact_values("no blue green", [body]) == "no …"


def test_no_beginning_of_a_long_value_is_left_where_a_text_is_cut() -> None:
    value = "0123456789" * 100
    assert redact_values(
        f"Bad value {value}: {'x' * 600}", [f'{{"params":{{"a":"{value}"}}}}']
    ) == ("Bad value …: " + "x" * 487)


def test_outcomes_without_a_text_are_not_looked_at() -> None:
    outcomes = [(item(1), DONE), (item(2), DONE)]
    assert without_values(outcomes) is outcomes
    assert without_values([(item(), Done())]) == [(item(), Done())]


def test_the_text_about_an_item_that_cannot_be_decrypted_stays() -> None:
    sealed = item()._replace(body="~sealed")
    assert without_values([(sealed, ItemRefused("no"))]) == [(sealed, ItemRefused("no"))]
