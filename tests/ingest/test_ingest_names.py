"""Names, ids and choices, at the borders of Leanplum's rules (fact sheet §5)."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ingest.judge import body, faults, item, takes

FORBIDDEN = {
    "comma": ",", "bar": "|", "quote": '"', "brace": "{", "closing-brace": "}", "tab": "\t", "newline": "\n",
    "return": "\r", "nul": "\0",
}  # fmt: skip
GOOD_NAMES = {
    "one character": "a",
    "139 characters": "n" * 139,
    "139 characters outside the BMP": "😀" * 139,
    "digits and a letter": "12a",
    "a letter and digits": "a12",
    "a digit, then an end that is no letter": "1-",
    "dot inside and last": "a.b.",
    "dash inside and last": "a-b-",
    "slash first and inside": "/a/b",
    "digits around a slash": "1/2",
    "space": "Push Opened",
    "only a space": " ",
    "quote, brackets, backslash": "it's [a] \\ (b)",
    "not Latin": "購入",
    "line separator": "a\u2028b",
    "del": "a\x7fb",
}
BAD_NAMES = {
    "140 characters": "n" * 140,
    "140 characters outside the BMP": "😀" * 140,
    "one digit": "7",
    "only digits": "0123456789",
    "leading dot": ".a",
    "only a dot": ".",
    "leading dash": "-a",
    "only a dash": "-",
    "trailing slash": "a/",
    "only a slash": "/",
    "digits and a trailing slash": "12/",
    **{f"{word} inside": f"a{character}b" for word, character in FORBIDDEN.items()},
    **{f"{word} last": f"ab{character}" for word, character in FORBIDDEN.items()},
    **{f"{word} alone": character for word, character in FORBIDDEN.items()},
}


def named(name: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Every place that takes a name: the action, and the fields that put it there."""
    return {
        "event": ("track", {"event": name}),
        "state": ("advance", {"state": name}),
        "event parameter": ("track", {"params": {name: 1}}),
        "state parameter": ("advance", {"params": {name: 1}}),
        "attribute": ("setUserAttributes", {"userAttributes": {name: 1}}),
        "attribute to add to": ("setUserAttributes", {"userAttributeValuesToAdd": {name: 1}}),
        "attribute to remove from": (
            "setUserAttributes",
            {"userAttributeValuesToRemove": {name: 1}},
        ),
        "attribute to increment": (
            "setUserAttributes",
            {"userAttributeValuesToIncrement": {name: 1}},
        ),
        "counted event": ("setUserAttributes", {"events": {name: {"count": 1}}}),
        "counted state": ("setUserAttributes", {"states": {name: {"count": 1}}}),
    }


@pytest.mark.parametrize("place", named(""))
@pytest.mark.parametrize("name", GOOD_NAMES.values(), ids=GOOD_NAMES.keys())
def test_a_good_name_is_taken_wherever_names_stand(name: str, place: str) -> None:
    action, fields = named(name)[place]
    assert takes(action, **fields)


@pytest.mark.parametrize("place", named(""))
@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_a_bad_name_is_refused_wherever_names_stand(name: str, place: str) -> None:
    action, fields = named(name)[place]
    assert not takes(action, **fields)


@pytest.mark.parametrize("place", [place for place in named("") if place not in {"event", "state"}])
def test_an_empty_name_is_refused_where_it_has_no_meaning(place: str) -> None:
    action, fields = named("")[place]
    assert not takes(action, **fields)


def test_an_empty_event_is_taken_only_with_a_message() -> None:
    assert not takes("track", event="")
    assert takes("track", event="", messageId=5)


def test_an_empty_state_leaves_the_state() -> None:
    assert takes("advance", state="")


def good_name(name: str) -> bool:
    """The rule of the fact sheet in other words than the app's pattern."""
    return (
        1 <= len(name) <= 139
        and not set(name) & set(FORBIDDEN.values())
        and name[0] not in ".-"
        and name[-1] != "/"
        and not re.fullmatch("[0-9]+", name)
    )


@pytest.mark.slow
@given(st.text(st.sampled_from('aZ019.-/,|"{}\t\n\r\0 é😀'), max_size=6) | st.text(max_size=145))
def test_names_are_judged_as_the_fact_sheet_says(name: str) -> None:
    assert takes("track", params={name: 1}) == good_name(name)


USER_IDS = {
    "one character": ("u", True),
    "400 characters": ("u" * 400, True),
    "400 characters outside the BMP": ("😀" * 400, True),
    "401 characters": ("u" * 401, False),
    "empty": ("", False),
    "digits": ("123", True),
    "email": ("ann+b@example.org", True),
    "not Latin": ("アン", True),
    "brackets, comma, slash, bar": ("a[1],b/c|d", True),
    "quote": ('a"b', False),
    "apostrophe": ("a'b", False),
    "newline": ("a\nb", False),
    "newline last": ("a\n", False),
    "return": ("a\rb", False),
    "nul": ("a\0b", False),
    "zero UUID": ("00000000-0000-0000-0000-000000000000", False),
    "nearly the zero UUID": ("00000000-0000-0000-0000-000000000001", True),
    "true": (True, False),
    "null": (None, False),
    "list": (["u"], False),
    "object": ({}, False),
}
DEVICE_IDS = USER_IDS | {
    "400 characters outside the BMP": ("😀" * 400, False),
    "not Latin": ("アン", False),
    "last of ASCII": ("a\x7f", True),
    "first after ASCII": ("a\x80", False),
    "brackets, comma, slash, bar": ("a[1],b/c|d", False),
    "bracket": ("a[b", False),
    "comma": ("a,b", False),
    "closing bracket, slash, bar": ("a]/|", True),
}


@pytest.mark.parametrize(("user", "good"), USER_IDS.values(), ids=USER_IDS.keys())
def test_user_ids_keep_the_rules_of_the_sdks(user: Any, good: bool) -> None:
    assert takes("track", userId=user) == good
    assert takes("setUserAttributes", newUserId=user) == good


@pytest.mark.parametrize(("device", "good"), DEVICE_IDS.values(), ids=DEVICE_IDS.keys())
def test_device_ids_keep_the_rules_of_the_sdks(device: Any, good: bool) -> None:
    assert takes("track", deviceId=device) == good
    assert takes("setUserAttributes", devices=[{"deviceId": device}]) == good


def test_a_whole_number_as_an_id_is_its_text() -> None:
    assert item("track", userId=123).subject == "u123"
    assert body("track", userId=123)["userId"] == "123"


@pytest.mark.parametrize("number", [1.0, 1.5, 1e22, 1e-7, float("nan"), float("inf")])
def test_a_number_that_is_not_whole_is_no_id(number: float) -> None:
    """1.0 would be user 1 or user 1.0, as the reader likes, and nan is nobody."""
    assert faults("track", {"userId": number, "event": "e"}) == {"/userId": "type"}


def test_an_item_is_about_its_user_or_else_its_device() -> None:
    assert item("track", userId="u", deviceId="d").subject == "uu"
    assert faults("track", {"event": "e"}) == {"": "missing-subject"}
    assert faults("track", {"event": "e", "deviceId": "d"}) == {}


ITEM_IDS = {
    "one character": ("a", True),
    "128 characters": ("a" * 128, True),
    "129 characters": ("a" * 129, False),
    "every kind": ("azAZ09._:-", True),
    "empty": ("", False),
    "space": ("a b", False),
    "slash": ("a/b", False),
    "newline last": ("a\n", False),
    "not ASCII": ("é", False),
    "number": (5, False),
}


@pytest.mark.parametrize(("item_id", "good"), ITEM_IDS.values(), ids=ITEM_IDS.keys())
def test_item_ids_are_1_to_128_plain_characters(item_id: Any, good: bool) -> None:
    assert takes("track", id=item_id) == good


def test_an_item_id_is_ours_and_is_not_sent_to_leanplum() -> None:
    assert item("track", id="mine").id == "mine"
    assert "id" not in body("track", id="mine")


@pytest.mark.parametrize(
    ("action", "field", "good"),
    [
        ("track", "createDisposition", ["CreateIfNeeded", "CreateNever"]),
        ("advance", "createDisposition", ["CreateIfNeeded", "CreateNever"]),
        ("track", "disposition", ["active", "passive", "requireActive"]),
        ("setUserAttributes", "locationAccuracyType", ["IP", "CELL", "GPS"]),
        (
            "setUserAttributes",
            "unsubscribeChannelsToAdd",
            ["Email", "Push Notification", "Webhook", "Newsfeed Message", ["Email", "Webhook"], []],
        ),
    ],
)
def test_a_choice_takes_its_own_words_only(action: str, field: str, good: list[Any]) -> None:
    for value in good:
        assert takes(action, **{field: value})
    for value in ("", "Other", "email", None, 1, ["Other"], {}):
        assert not takes(action, **{field: value})
