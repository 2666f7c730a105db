"""Leanplum's texts, without the values of the items that they are about."""

from typing import Any

import orjson
import pytest

from app.leanplum.replies import read_reply
from app.leanplum.value_redaction import without_values
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


def redacted(text: str, *items: Item) -> str:
    """Return a text about the first of these items, which were sent in one attempt."""
    outcomes: list[tuple[Item, Outcome]] = [(items[0], ItemRefused(text))]
    outcomes += [(each, DONE) for each in items[1:]]
    (_, found), *_ = without_values(outcomes)
    assert isinstance(found, ItemRefused)
    return found.reason


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
    assert redacted(text, item()) == expected


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


def test_a_text_repeats_no_value_of_another_item_of_the_attempt() -> None:
    alice = item(1, {"userId": "alice", "params": {"email": "alice@example.com", "plan": "gold"}})
    carol = item(2, {"userId": "carol", "params": {"plan": "silver"}})
    outcomes: list[tuple[Item, Outcome]] = [
        (alice, ItemRefused("HTTP 403: bad user alice, alice@example.com; others pass")),
        (carol, ConfigRefused("HTTP 403: bad user alice, alice@example.com")),
    ]
    found = [outcome for _, outcome in without_values(outcomes)]
    assert found[0] == ItemRefused("HTTP 403: bad user …, …; others pass")
    assert found[1] == ConfigRefused("HTTP 403: bad user alice, …"), "short words of others stay"


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        ("alice@example.com", "Bad ALICE@Example.com", "Bad …"),
        (12.0, "Invalid value 12, not 12.0", "Invalid value …, not …"),
        ('{"orderId":"GPA.1234-5678"}', "Order GPA.1234-5678 is unknown", "Order … is unknown"),
        ("not", "cannot, not", "cannot, …"),
        ("(+)", "a (+) b", "a … b"),
        (503, "HTTP 503: 503 is too much", "HTTP 503: … is too much"),
        (True, "It is true", "It is true"),
    ],
)
def test_a_value_is_found_in_other_forms_and_in_no_other_word(
    value: Any, text: str, expected: str
) -> None:
    assert redacted(text, item(1, {"params": {"a": value}})) == expected


@pytest.mark.parametrize(
    "text",
    [
        "No answer from Leanplum: timed out",
        "Leanplum gave no reason",
        "The gateway failed on this call; see its log",
        "LEANPLUM_PRODUCTION_KEY is not set",
        "HTTP 503",
        *(
            outcome.reason
            for status, body in [(200, b"x"), (200, b'{"response":[{},{},{}]}'), (302, b"")]
            for reply in [read_reply(status, body, ["1", "2"], location="https://example.com/")]
            for outcome in (reply if isinstance(reply, list) else [reply])
            if not isinstance(outcome, Done)
        ),
    ],
)
def test_the_gateway_s_own_texts_stay_whatever_values_an_item_has(text: str) -> None:
    assert redacted(text, item(1, {"params": {word: word for word in text.split()}})) == text


def test_of_values_that_contain_each_other_the_longest_is_replaced() -> None:
    values = {"a": "blue", "b": "blue green"}
    assert redacted("no blue green", item(1, {"params": values})) == "no …"


def test_no_beginning_of_a_long_value_is_left_where_a_text_is_cut() -> None:
    value = "0123456789" * 100
    found = redacted(f"Bad value {value}: {'x' * 1_600}", item(1, {"params": {"a": value}}))
    assert found == "Bad value …: " + "x" * 987


def test_outcomes_without_a_text_are_not_looked_at() -> None:
    outcomes = [(item(1), DONE), (item(2), DONE)]
    assert without_values(outcomes) is outcomes
    assert without_values([(item(), Done())]) == [(item(), Done())]


def test_the_text_about_an_item_that_cannot_be_decrypted_stays() -> None:
    sealed = item()._replace(body="~sealed")
    assert without_values([(sealed, ItemRefused("no"))]) == [(sealed, ItemRefused("no"))]
