"""Leanplum's texts, without the values of the items that they are about."""

import orjson
import pytest

from app.leanplum.value_redaction import without_values
from app.model import DONE, ConfigRefused, Done, Ignored, ItemRefused, Outcome, Trouble

BODY = orjson.dumps(
    {
        "userId": "ann",
        "event": "Purchase",
        "currencyCode": "EUR",
        "value": 12.75,
        "params": {"email": "alice@example.com", "size": "XL", "count": 4711, "on": True},
        "userAttributes": {"tags": ["golden tier", {"deep": "secret note"}]},
    }
).decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Invalid value alice@example.com.", "Invalid value …."),
        ("golden tier and secret note", "… and …"),
        ("4711 is more than 12.75", "… is more than …"),
        ("User ann: no Purchase in EUR", "User ann: no Purchase in EUR"),
        ("XL is short, and True no text", "XL is short, and True no text"),
    ],
)
def test_the_values_of_an_item_are_replaced_and_what_names_it_stays(
    text: str, expected: str
) -> None:
    for outcome in (Ignored(text), ItemRefused(text), Trouble(text, 3.0)):
        found = without_values(outcome, BODY)
        assert isinstance(found, type(outcome))
        assert found.reason == expected
    assert without_values(Done(text), BODY) == Done(expected)


def test_of_values_that_contain_each_other_the_longest_is_replaced() -> None:
    body = '{"params":{"a":"blue","b":"blue green"}}'
    assert without_values(ItemRefused("no blue green"), body) == ItemRefused("no …")


@pytest.mark.parametrize("outcome", [DONE, ConfigRefused("Invalid access key for Purchase")])
def test_what_has_no_text_or_is_about_the_key_stays_as_it_is(outcome: Outcome) -> None:
    assert without_values(outcome, BODY) is outcome


def test_the_text_about_an_item_that_cannot_be_decrypted_stays() -> None:
    assert without_values(ItemRefused("no"), "~sealed") == ItemRefused("no")
