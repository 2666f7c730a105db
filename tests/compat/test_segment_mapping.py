"""What each kind of Segment's messages becomes, field by field (docs/segment.md's table)."""

from typing import Any

import pytest

from app.ingest.segment_context import SegmentRules
from tests.support.segment import TRACK, faults, fields, item, judged

ADVANCE = {"createDisposition": "CreateIfNeeded"}


def track(**given: Any) -> dict[str, Any]:
    return {"type": "track", **TRACK, **given}


def identify(**given: Any) -> dict[str, Any]:
    return {"type": "identify", "userId": "ann", **given}


# --- whom it is about -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "expected", "subject"),
    [
        ({"userId": "ann"}, {"userId": "ann"}, "uann"),
        ({"userId": "ann", "anonymousId": "a1"}, {"userId": "ann", "deviceId": "a1"}, "uann"),
        ({"userId": None, "anonymousId": "a1"}, {"deviceId": "a1"}, "da1"),
        ({"userId": 7}, {"userId": "7"}, "u7"),
        (
            {"userId": "ann", "anonymousId": "00000000-0000-0000-0000-000000000000"},
            {"userId": "ann"},
            "uann",
        ),
    ],
)
def test_user_and_anonymous_id_are_leanplum_s_user_and_device(
    ids: dict[str, Any], expected: dict[str, Any], subject: str
) -> None:
    found = item(track(**ids))
    assert (fields(track(**ids)), found.subject) == ({**expected, "event": "E"}, subject)


@pytest.mark.parametrize(
    ("rules", "expected", "subject"),
    [
        (SegmentRules(), {"deviceId": "a1", "newUserId": "ann"}, "uann"),
        (SegmentRules(login=False), {"userId": "ann", "deviceId": "a1"}, "uann"),
        (SegmentRules(anonymous="user"), {"userId": "a1", "newUserId": "ann"}, "ua1"),
        (SegmentRules(anonymous="user", login=False), {"userId": "ann"}, "uann"),
    ],
)
def test_identify_with_both_ids_logs_the_anonymous_user_in(
    rules: SegmentRules, expected: dict[str, Any], subject: str
) -> None:
    message = identify(anonymousId="a1")
    assert fields(message, rules) == {**expected, "userAttributes": {}}
    assert item(message, rules).subject == subject


def test_an_anonymous_user_may_be_a_user_instead_of_a_device() -> None:
    rules = SegmentRules(anonymous="user")
    assert fields(track(userId=None, anonymousId="a1"), rules) == {"userId": "a1", "event": "E"}
    assert fields(track(anonymousId="a1"), rules) == {"userId": "ann", "event": "E"}


def test_an_anonymous_id_that_no_device_may_have_is_hashed_the_same_way_each_time() -> None:
    one, again, other = (
        item(track(userId=None, anonymousId=text)).subject for text in ("ü,1", "ü,1", "ü,2")
    )
    assert one == again != other
    assert one.startswith("dsegment:")
    assert len(one) == len("dsegment:") + 32


def test_nobody_at_all_is_refused() -> None:
    assert faults({"type": "track", "event": "E"}) == {"": "missing-subject"}


@pytest.mark.parametrize(
    ("message", "expected", "subject"),
    [
        ({"previousId": "p"}, {"userId": "p", "newUserId": "ann"}, "up"),
        ({"previousId": "p", "anonymousId": "a"}, {"userId": "p", "newUserId": "ann"}, "up"),
        ({"previousId": "a", "anonymousId": "a"}, {"deviceId": "a", "newUserId": "ann"}, "uann"),
        ({"anonymousId": "a"}, {"deviceId": "a", "newUserId": "ann"}, "uann"),
    ],
)
def test_alias_gives_the_previous_user_a_new_id(
    message: dict[str, Any], expected: dict[str, Any], subject: str
) -> None:
    message = {"type": "alias", "userId": "ann", **message}
    assert (fields(message), item(message).subject) == (expected, subject)


def test_alias_without_two_ids_is_refused() -> None:
    assert faults({"type": "alias", "userId": "ann"}) == {"": "required"}


# --- track ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "value", "params"),
    [
        ({"revenue": 1.5, "value": 2, "total": 3}, 1.5, {"value": 2, "total": 3}),
        ({"value": 2, "total": 3}, 2, {"total": 3}),
        ({"total": "3.25"}, 3.25, None),
        ({"revenue": "gratis", "value": True}, None, {"revenue": "gratis", "value": True}),
        ({"revenue": "NaN"}, None, {"revenue": "NaN"}),
        ({"revenue": None, "total": 0}, 0, None),
    ],
)
def test_revenue_else_value_else_total_is_the_value(
    properties: dict[str, Any], value: float | None, params: dict[str, Any] | None
) -> None:
    found = fields(track(properties=properties))
    assert (found.get("value"), found.get("params")) == (value, params)


@pytest.mark.parametrize(
    ("currency", "code", "params"),
    [
        ("eur", "EUR", None),
        (" USD ", "USD", None),
        ("€", None, {"currency": "€"}),
        (978, None, {"currency": 978}),
    ],
)
def test_a_currency_is_its_iso_code(
    currency: Any, code: str | None, params: dict[str, Any] | None
) -> None:
    found = fields(track(properties={"currency": currency}))
    assert (found.get("currencyCode"), found.get("params")) == (code, params)


def test_properties_are_params_with_dots_and_lists_are_their_json_text() -> None:
    properties = {
        "a": {"b": {"c": 1, "d": {}}, "e": None},
        "list": [1, "zwei"],
        "products": [{"sku": "A"}],
        "ü": "🦊",
    }
    assert fields(track(properties=properties))["params"] == {
        "a.b.c": 1, "list": '[1,"zwei"]', "products": '[{"sku":"A"}]', "ü": "🦊",
    }  # fmt: skip


def test_the_first_fifty_params_are_kept_and_the_receipt_tells_of_the_others() -> None:
    message = track(properties={f"p{index}": index for index in range(60)})
    assert list(fields(message)["params"]) == [f"p{index}" for index in range(50)]
    assert "10 properties were left out" in (item(message).notes or "")


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("Order, Completed", "Order_ Completed"), ("Home | Shop", "Home _ Shop"), (".x", "_x"), ("-x", "_x"),
        ("x/", "x_"), ("123", "_123"), ("/", "_"), ("a" * 200, "a" * 139), ("1" * 139, "_" + "1" * 138),
        ("a{b}\t\n", "a_b___"), ("plain näme", "plain näme"),
    ],
)  # fmt: skip
def test_names_are_made_such_as_leanplum_takes(name: str, made: str) -> None:
    message = track(event=name, properties={name: 1})
    assert fields(message) == {"userId": "ann", "event": made, "params": {made: 1}}
    assert ("Names were changed" in (item(message).notes or "")) == (name != made)


def test_events_are_renamed_only_where_that_is_configured() -> None:
    assert fields(track(event="Order Completed"))["event"] == "Order Completed"
    rules = SegmentRules(events={"Order Completed": "Purchase"})
    assert fields(track(event="Order Completed"), rules)["event"] == "Purchase"
    assert fields(track(event="Other"), rules)["event"] == "Other"


def test_context_active_false_is_a_passive_event() -> None:
    assert fields(track(context={"active": False}))["disposition"] == "passive"
    assert "disposition" not in fields(track(context={"active": True}))


@pytest.mark.parametrize("event", [None, "", 5, {}])
def test_an_event_without_a_name_is_refused(event: Any) -> None:
    assert faults(track(event=event)) == {"/event": "required"}


# --- pages and screens ------------------------------------------------------------------------------------------------


def test_a_page_is_a_state_with_what_is_known_of_the_page() -> None:
    message = {
        "type": "page", "userId": "ann", "name": "Home", "category": "Shop",
        "properties": {"path": "/", "title": "Home | Shop", "name": "Home", "referrer": "", "extra": 1},
        "context": {"page": {"path": "/elsewhere", "url": "https://shop.example/", "search": "?q"}},
    }  # fmt: skip
    assert fields(message) == ADVANCE | {
        "userId": "ann", "state": "Home",
        "params": {"path": "/", "url": "https://shop.example/", "search": "?q", "title": "Home | Shop", "referrer": "",
                   "extra": 1, "category": "Shop"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("message", "state"),
    [
        ({"type": "page", "name": "Home"}, "Home"),
        ({"type": "page", "properties": {"name": "Home"}}, "Home"),
        ({"type": "page", "category": "Shop"}, "Shop"),
        ({"type": "page"}, "Page"),
        ({"type": "page", "properties": {"path": "/p/1", "title": "T"}}, "Page"),
        ({"type": "screen", "event": "Basket"}, "Basket"),
        ({"type": "screen", "name": " "}, "Screen"),
    ],
)
def test_a_state_has_a_name_whatever_is_missing(message: dict[str, Any], state: str) -> None:
    assert fields(message | {"userId": "ann"})["state"] == state


def test_the_name_of_a_state_is_made_by_a_template() -> None:
    rules = SegmentRules(page_state="Viewed {category} {name} {type}", screen_state="S {name}")
    page = {"type": "page", "userId": "ann", "name": "Home", "category": "Shop"}
    assert fields(page, rules)["state"] == "Viewed Shop Home Page"
    assert fields(page | {"type": "screen"}, rules)["state"] == "S Home"


# --- users ------------------------------------------------------------------------------------------------------------


def test_traits_are_attributes_over_those_of_the_context() -> None:
    message = identify(
        traits={"plan": "pro", "n": None}, context={"traits": {"plan": "old", "age": 3}}
    )
    assert fields(message)["userAttributes"] == {"plan": "pro", "age": 3, "n": None}


def test_nested_traits_have_dots_and_lists_of_scalars_stay_lists() -> None:
    traits = {"a": {"b": [1, "x", True]}, "c": [{"d": 1}], "e": [None], "f": []}
    assert fields(identify(traits=traits))["userAttributes"] == {
        "a.b": [1, "x", True], "c": '[{"d":1}]', "e": "[null]", "f": [],
    }  # fmt: skip


def test_what_leanplum_has_a_parameter_for_goes_there_and_nowhere_else() -> None:
    message = identify(
        traits={
            "createdAt": "2020-02-03T04:05:06+00:00",
            "address": {"city": "Köln", "country": "de", "state": "NRW", "street": "S"},
            "city": "elsewhere",
        },
        context={
            "locale": "de-DE",
            "timezone": "Europe/Berlin",
            "location": {"country": "FR", "latitude": 50.9, "longitude": 6},
        },
    )
    assert fields(message) == {
        "userId": "ann", "created": 1580702706.0, "city": "Köln", "country": "DE", "region": "NRW", "locale": "de-DE",
        "timezone": "Europe/Berlin", "location": "50.9,6",
        "userAttributes": {"address.street": "S", "city": "elsewhere"},
    }  # fmt: skip


def test_what_does_not_fit_its_parameter_stays_an_attribute() -> None:
    traits = {"createdAt": "once", "country": "Deutschland", "city": 5}
    assert fields(identify(traits=traits)) == {"userId": "ann", "userAttributes": traits}


def test_the_context_of_a_device_is_told_of_the_device() -> None:
    context = {"app": {"version": "2.0", "build": "7"}, "os": {"name": "Android", "version": 14},
               "device": {"type": "android", "model": "Pixel", "name": "p", "token": "t0k"}}  # fmt: skip
    found = fields(identify(anonymousId="a1", context=context))
    assert found["devices"] == [
        {"deviceId": "a1", "appVersion": "2.0", "systemName": "Android", "systemVersion": "14", "deviceModel": "Pixel",
         "deviceName": "p", "gcmRegistrationId": "t0k"}
    ]  # fmt: skip
    assert "devices" not in fields(identify(context=context))


def test_a_group_is_attributes_with_a_prefix() -> None:
    message = {
        "type": "group",
        "userId": "ann",
        "groupId": 7,
        "traits": {"name": "Acme", "a": {"b": 1}},
    }
    assert fields(message) == {
        "userId": "ann", "userAttributes": {"group_id": "7", "group_name": "Acme", "group_a.b": 1},
    }  # fmt: skip
    assert fields(message, SegmentRules(group_prefix="org "))["userAttributes"]["org id"] == "7"


def test_a_group_without_an_id_is_refused() -> None:
    assert faults({"type": "group", "userId": "ann"}) == {"/groupId": "required"}


# --- what all have ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        ("2023-01-02T03:04:05.678Z", 1672628645.678), ("2023-01-02T04:04:05.678+01:00", 1672628645.678),
        ("2023-01-02T03:04:05", 1672628645.0), ("2023-01-02", 1672617600.0), (1672628645, 1672628645.0),
        (1672628645678, 1672628645.678), ("2023-01-02T03:04:05.678912345Z", 1672628645.678912),
    ],
)  # fmt: skip
def test_a_timestamp_is_the_time(timestamp: Any, seconds: float) -> None:
    assert fields(track(timestamp=timestamp, originalTimestamp="2020-01-01"))["time"] == seconds
    assert fields(track(originalTimestamp=timestamp))["time"] == seconds


@pytest.mark.parametrize("timestamp", ["yesterday", "", True, [], {}, -1, "0001-01-01", 1e300])
def test_a_timestamp_that_is_none_is_refused(timestamp: Any) -> None:
    assert faults(track(timestamp=timestamp)) == {"/timestamp": "time"}


def test_a_message_id_is_the_item_s_id_or_a_hash_of_it() -> None:
    assert item(track(messageId="node-next-1-a:b.c_D")).id == "node-next-1-a:b.c_D"
    assert item(track(messageId=7)).id == "7"
    assert item(track(messageId="")).id is item(track()).id is None
    odd = [
        item(track(messageId=text)).id
        for text in ("a b", "a b", "a  b", "x" * 129, "ümlaut", "nl\n")
    ]
    assert odd[0] == odd[1]
    assert len(set(odd)) == 5
    assert all(one is not None and one.startswith("segment:") and len(one) == 40 for one in odd)


@pytest.mark.parametrize(
    ("integrations", "wanted"),
    [
        ({}, True), ({"All": True}, True), ({"All": False}, False), ({"Leanplum": False}, False),
        ({"All": False, "Leanplum": True}, True), ({"All": False, "Leanplum": {"option": 1}}, True),
        ({"All": True, "Leanplum": False}, False), ({"Other": False}, True), ({"All": None}, True),
    ],
)  # fmt: skip
def test_integrations_say_whether_it_is_for_leanplum(
    integrations: dict[str, Any], wanted: bool
) -> None:
    assert (judged(track(integrations=integrations)) is not None) == wanted


def test_what_a_batch_says_for_all_stands_beneath_each_message() -> None:
    message = track(context={"active": True})
    assert "disposition" not in fields(message, context={"active": False})
    assert fields(track(), context={"active": False})["disposition"] == "passive"
    assert judged(track(), integrations={"All": False}) is None
    assert judged(track(integrations={"All": True}), integrations={"All": False}) is not None


@pytest.mark.parametrize("name", ["context", "integrations", "properties"])
def test_an_object_that_is_none_is_refused(name: str) -> None:
    assert faults(track(**{name: [1]})) == {f"/{name}": "type"}


@pytest.mark.parametrize("message", [None, 5, "x", []])
def test_a_message_that_is_no_object_is_refused(message: Any) -> None:
    assert faults(message) == {"": "type"}


@pytest.mark.parametrize("kind", [None, "merge", 5, "Track", []])
def test_a_kind_that_nobody_knows_is_refused(kind: Any) -> None:
    assert faults(track(type=kind)) == {"/type": "choice"}


def test_faults_of_the_rules_are_told_where_they_are_in_the_message() -> None:
    assert faults(track(userId="o'hara")) == {"/userId": "characters"}
    assert faults(identify(userId="o'hara", anonymousId="a")) == {"/userId": "characters"}


def test_what_is_only_for_enrichment_is_never_sent_on() -> None:
    sent = {
        "sentAt": "2023-01-02T03:04:05Z",
        "context": {"ip": "203.0.113.9", "userAgent": "Mozilla/5.0"},
    }
    assert fields(track(**sent)) == {"userId": "ann", "event": "E"}


def test_text_that_leanplum_does_not_take_is_mended() -> None:
    found = fields(track(properties={"nul": "a\0b", "big": 2**63 - 1, "inf": float("1e308")}))
    assert found["params"] == {"nul": "ab", "big": 2**63 - 1, "inf": 1e308}
