"""Numbers, texts, times and counts, at their borders (fact sheet §3.2-3.4, §5)."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.leanplum.values import MAX_VALUE_DEPTH
from tests.ingest.judge import LIKE, body, faults, takes

BIG = 2**63


@pytest.mark.parametrize(
    "value", ["", "text", "\n", "x" * 100_000, True, False, 0, -1, 1.5, BIG - 1, -BIG]
)
def test_a_parameter_takes_text_numbers_and_booleans_and_leanplum_gets_them_as_they_are(
    value: Any,
) -> None:
    assert takes("track", params={"p": value})
    found = body("track", params={"p": value})["params"]["p"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("value", [None, [], [1], {}, {"a": 1}, "a\0b"])
def test_a_parameter_takes_nothing_else(value: Any) -> None:
    assert not takes("track", params={"p": value})
    assert not takes("advance", params={"p": value})


@pytest.mark.parametrize("value", [None, [], ["a", 1, 1.5, True], "x", 5, -0.5, False])
def test_an_attribute_takes_a_scalar_a_list_of_them_or_null_to_clear_it(value: Any) -> None:
    assert takes("setUserAttributes", userAttributes={"a": value})
    assert body("setUserAttributes", userAttributes={"a": value})["userAttributes"] == {"a": value}


@pytest.mark.parametrize("value", [{}, {"x": 1}, [None], [[1]], [{}], "a\0", ["a\0"], [BIG]])
def test_an_attribute_takes_nothing_else(value: Any) -> None:
    assert not takes("setUserAttributes", userAttributes={"a": value})


@pytest.mark.parametrize(
    ("number", "good"), [(BIG - 1, True), (BIG, False), (-BIG, True), (-BIG - 1, False)]
)
@pytest.mark.parametrize("field", ["value", "params", "messageId"])
def test_whole_numbers_have_at_most_64_bits(field: str, number: int, good: bool) -> None:
    """One that has more would reach Leanplum as another number, so it is refused and not
    rounded.
    """
    value: Any = {"p": number} if field == "params" else number
    assert takes("track", **{field: value}) == good


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 10**400])
@pytest.mark.parametrize("field", ["value", "time"])
def test_numbers_are_finite(field: str, value: float) -> None:
    assert faults("track", {"userId": "u", "event": "e", field: value}).keys() == {f"/{field}"}
    assert faults("track", {"userId": "u", "event": "e", "params": {"p": value}}).keys() == {
        "/params/p"
    }


@pytest.mark.parametrize("value", ["9.99", "", True, None, [], {}])
def test_a_value_is_a_number(value: Any) -> None:
    assert not takes("track", value=value)


@pytest.mark.parametrize("value", [0, -5, 9.99, 1e-300, 1.7976931348623157e308])
def test_a_value_may_be_any_finite_number(value: float) -> None:
    assert body("track", value=value)["value"] == value


@pytest.mark.parametrize(
    ("code", "good"),
    [("EUR", True), ("eur", False), ("EU", False), ("EURO", False), ("", False), ("E1R", False), ("EUR\n", False),
     ("ÉUR", False), (978, False), (None, False)],
)  # fmt: skip
def test_a_currency_is_three_capital_letters(code: Any, good: bool) -> None:
    assert takes("track", value=1, currencyCode=code) == good


@pytest.mark.parametrize(("count", "good"), [(0, True), (50, True), (51, False)])
@pytest.mark.parametrize("action", ["track", "advance"])
def test_at_most_50_parameters(action: str, count: int, good: bool) -> None:
    params = {f"p{number}": number for number in range(count)}
    assert takes(action, params=params) == good
    if not good:
        assert (
            faults(action, {"userId": "u", "event": "e", "state": "s", "params": params})["/params"]
            == "count"
        )


def test_attributes_are_as_many_as_one_likes() -> None:
    assert takes(
        "setUserAttributes", userAttributes={f"a{number}": number for number in range(500)}
    )


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (
            "userAttributeValuesToIncrement",
            [{"a": 1}, {"a": -1}],
            [{"a": 1.0}, {"a": "1"}, {"a": True}, {"a": None}],
        ),
        (
            "userAttributeValuesToAdd",
            [{"a": 1}, {"a": ["x", "y"]}],
            [{"a": None}, {"a": [None]}, {"a": {}}, []],
        ),
        ("userAttributeValuesToRemove", [{"a": "x"}, {"a": []}], [{"a": None}, {"a": [[1]]}, "a"]),
        ("totalSessions", [0, 5], [-1, 1.5, "5", True, BIG]),
        ("timezoneOffsetSeconds", [-43200, 0, 50400], [1.5, "0", True]),
        ("unsubscribeCategoriesToAdd", [[], [1, 2]], [1, ["1"], [1.5]]),
        (
            "devices",
            [[], [{"deviceId": "d", "appVersion": "1"}], [{}]],
            [{}, [{"deviceId": "d", "x": 1}], [1]],
        ),
        (
            "events",
            [{"e": {"count": 1, "valueIncrement": -1.5}}],
            [{"e": 1}, {"e": {"count": -1}}, {"e": {"x": 1}}],
        ),
        (
            "states",
            [{"s": {"countIncrement": -1}}],
            [{"s": {"value": 1}}, {"s": {"firstTime": -1}}],
        ),
        ("created", [0, "2015-10-01T00:00:00Z"], [-1, "2015-10-01", True]),
    ],
)
def test_the_other_fields_of_a_user_update_take_what_leanplum_takes(
    field: str, good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        assert takes("setUserAttributes", **{field: value}), value
    for value in bad:
        assert not takes("setUserAttributes", **{field: value}), value


def test_an_update_that_changes_nothing_is_refused() -> None:
    assert faults("setUserAttributes", {"userId": "u", "time": 5}) == {"": "empty-update"}


# --- times --------------------------------------------------------------------------------------------------------

DAY = 1_769_817_600  # 2026-01-31T00:00:00Z
GOOD_TIMES: dict[str, tuple[Any, float]] = {
    "epoch": (DAY, DAY),
    "epoch with a fraction": (DAY + 0.25, DAY + 0.25),
    "the beginning": (0, 0),
    "the last second that can't be milliseconds": (99_999_999_999, 99_999_999_999),
    "UTC": ("2026-01-31T00:00:00Z", DAY),
    "small letters": ("2026-01-31t00:00:00z", DAY),
    "a space for the T": ("2026-01-31 00:00:00Z", DAY),
    "unknown offset": ("2026-01-31T00:00:00-00:00", DAY),
    "east": ("2026-01-31T05:30:00+05:30", DAY),
    "west": ("2026-01-30T16:00:00-08:00", DAY),
    "the far east": ("2026-01-31T23:59:00+23:59", DAY),
    "one digit of a fraction": ("2026-01-31T00:00:00.5Z", DAY + 0.5),
    "microseconds": ("2026-01-31T00:00:00.000001Z", DAY + 0.000001),
    "nanoseconds": ("2026-01-31T00:00:00.250000999Z", DAY + 0.25),
    "a fraction of 100 digits": (f"2026-01-31T00:00:00.{'5' * 100}Z", DAY + 0.555555),
    "29 February of a leap year": ("2024-02-29T00:00:00Z", 1_709_164_800),
    "29 February of 2000": ("2000-02-29T00:00:00Z", 951_782_400),
    "the last moment of a day": ("2026-01-30T23:59:59.999Z", DAY - 0.001),
}
BAD_TIMES: dict[str, Any] = {
    "epoch milliseconds": DAY * 1000,
    "epoch milliseconds as the limit": 100_000_000_000,
    "before 1970": -1,
    "before 1970 by offset": "1970-01-01T00:00:00+01:00",
    "year 9999": "9999-12-31T23:59:59Z",
    "year 0": "0000-01-01T00:00:00Z",
    "year 1 with an offset": "0001-01-01T00:00:00+23:59",
    "no offset": "2026-01-31T00:00:00",
    "no time": "2026-01-31",
    "no seconds": "2026-01-31T00:00Z",
    "basic format": "20260131T000000Z",
    "offset without minutes": "2026-01-31T00:00:00+05",
    "offset without colon": "2026-01-31T00:00:00+0530",
    "offset of a day": "2026-01-31T00:00:00+24:00",
    "offset with 60 minutes": "2026-01-31T00:00:00+05:60",
    "empty fraction": "2026-01-31T00:00:00.Z",
    "comma for the fraction": "2026-01-31T00:00:00,5Z",
    "29 February of no leap year": "2026-02-29T00:00:00Z",
    "29 February of 1900 and 2100": "2100-02-29T00:00:00Z",
    "month 13": "2026-13-01T00:00:00Z",
    "day 0": "2026-01-00T00:00:00Z",
    "hour 24": "2026-01-31T24:00:00Z",
    "minute 60": "2026-01-31T00:60:00Z",
    "second 61": "2026-01-31T00:00:61Z",
    "digits that are not ASCII": "\uff12\uff10\uff12\uff16-01-31T00:00:00Z",
    "spaces around": " 2026-01-31T00:00:00Z ",
    "newline after": "2026-01-31T00:00:00Z\n",
    "digits": "1769817600",
    "words": "yesterday",
    "empty": "",
    "true": True,
    "null": None,
    "list": [DAY],
}


@pytest.mark.parametrize(("given_time", "seconds"), GOOD_TIMES.values(), ids=GOOD_TIMES.keys())
def test_a_time_reaches_leanplum_in_epoch_seconds(given_time: Any, seconds: float) -> None:
    assert takes("track", time=given_time)
    assert body("track", time=given_time)["time"] == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("given_time", BAD_TIMES.values(), ids=BAD_TIMES.keys())
def test_what_is_no_time_is_refused(given_time: Any) -> None:
    assert not takes("track", time=given_time)
    assert not takes("setUserAttributes", lastActive=given_time)


def test_a_leap_second_is_a_time_of_rfc_3339_and_is_taken_as_its_neighbour() -> None:
    """RFC 3339 §5.7: 60 is a legal second at the end of a month with a leap second; clients' clocks
    do say it.
    """
    assert takes("track", time="2016-12-31T23:59:60Z")
    assert body("track", time="2016-12-31T23:59:60Z")["time"] == pytest.approx(1_483_228_800, abs=1)


@given(st.datetimes(datetime(1971, 1, 1), datetime(4999, 1, 1), timezones=st.just(UTC)))
def test_every_time_of_the_calendar_is_read_back_to_the_microsecond(moment: datetime) -> None:
    assert body("track", time=moment.isoformat())["time"] == pytest.approx(
        moment.timestamp(), abs=1e-5
    )


def test_a_value_of_any_json_has_so_many_levels_at_most_by_either_reading() -> None:
    made: Any = 1
    for depth in range(1, 120):
        made = {"a": made} if depth % 2 else {"a": 1, "b": made}
        assert takes("sendMessage", values=made) == (depth <= MAX_VALUE_DEPTH), depth
    assert faults("sendMessage", LIKE["sendMessage"] | {"values": made}) == {"/values": "depth"}
