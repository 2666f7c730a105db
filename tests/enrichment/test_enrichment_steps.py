"""What each step makes of an item."""

from typing import Any

import pytest

from app.enrichment import client_facts, normalizers, timestamps
from app.model import NO_NOTES

from .enriched import DAY, NOW, SECONDS, enrich, fields, warnings

CHROME = (
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.1.2 Mobile "
    "Safari/537.36"
)
BERLIN = {"country": "DE", "region": "State of Berlin", "city": "Berlin", "location": "52.5,13.25"}


def test_an_item_that_needs_nothing_is_left_alone_and_nothing_is_told() -> None:
    item = {"userId": "u", "event": "e", "value": 1, "currencyCode": "EUR", "params": {"a": 1}}
    before = {**item, "params": {**item["params"]}}  # type: ignore[dict-item]
    assert enrich("track", item) == (before, NO_NOTES)


# --- time -------------------------------------------------------------------------------------------------------------


def test_time_is_corrected_by_what_the_senders_clock_is_behind() -> None:
    item, notes = enrich("track", {"time": SECONDS - 100, "sentAt": SECONDS - 60})
    assert item == {"time": SECONDS - 40}
    assert notes.steps == ("time",)


def test_time_is_corrected_whether_it_is_a_number_or_text() -> None:
    assert fields("track", {"time": "2027-01-15T07:00:00Z", "sentAt": "2027-01-15T07:59:00Z"}) == {
        "time": SECONDS - 3540
    }


def test_without_a_time_the_clock_of_the_sender_says_nothing() -> None:
    assert enrich("track", {"sentAt": 5.0}) == ({}, NO_NOTES)


def test_a_correction_out_of_all_time_is_not_made_and_warned_about() -> None:
    item, notes = enrich("track", {"time": 5.0, "sentAt": 9e10})
    assert item == {"time": 5.0}
    assert timestamps.UNCORRECTED in notes.warnings


@pytest.mark.parametrize(
    ("age", "warned"),
    [
        (0, None),
        (-9 * DAY, None),
        (7 * DAY, None),
        (7 * DAY + 1, timestamps.OUT_OF_ANALYTICS),
        (365 * DAY, timestamps.OUT_OF_ANALYTICS),
        (365 * DAY + 600, timestamps.REWRITTEN),
    ],
)
def test_an_old_event_is_warned_about_as_leanplum_treats_it(age: int, warned: str | None) -> None:
    assert warnings("track", {"time": SECONDS - age}) == ((warned,) if warned else ())


@pytest.mark.parametrize(("action", "warned"), [("startCampaign", True), ("advance", False)])
def test_a_time_a_day_ago_is_a_wrong_clock_to_leanplum_where_the_item_is_a_call_of_its_own(
    action: str, warned: bool
) -> None:
    assert warnings(action, {"time": SECONDS - DAY - 1}) == ((timestamps.SKEWED,) if warned else ())
    assert warnings(action, {"time": SECONDS - DAY}) == ()


# --- location ---------------------------------------------------------------------------------------------------------


def test_the_place_is_found_by_the_items_own_address_which_is_gone_then() -> None:
    item, notes = enrich("setUserAttributes", {"ip": "203.0.113.7"})
    assert item == BERLIN
    assert notes.steps == ("location",)


def test_the_items_own_address_goes_before_the_one_that_a_proxy_named() -> None:
    assert fields("setUserAttributes", {"ip": "198.51.100.3"}, address="203.0.113.7") == {
        "country": "FR"
    }
    assert fields("setUserAttributes", {"ip": "192.0.2.1"}, address="203.0.113.7") == BERLIN
    assert fields("setUserAttributes", {}, address="203.0.113.7") == BERLIN


@pytest.mark.parametrize(
    "said", [{"country": "AT"}, {"city": "Graz"}, {"location": "1,2"}, {"region": ""}]
)
def test_what_the_caller_says_of_the_place_stays_and_nothing_of_another_is_added(
    said: dict[str, Any],
) -> None:
    assert fields("setUserAttributes", {"ip": "203.0.113.7", **said}) == said


def test_leanplums_word_for_detecting_is_replaced_since_it_would_detect_the_gateway() -> None:
    assert fields("start", {"ip": "203.0.113.7", **dict.fromkeys(BERLIN, "(detect)")}) == BERLIN


@pytest.mark.parametrize("action", ["track", "advance", "setDeviceAttributes", "deleteUser"])
def test_an_action_that_takes_no_place_gets_none_and_the_address_is_gone_all_the_same(
    action: str,
) -> None:
    assert fields(action, {"ip": "203.0.113.7"}, address="203.0.113.7") == {}


@pytest.mark.parametrize("address", ["", "unknown", "10.0.0.1", "::", "203.0.113.7, 1.2.3.4"])
def test_an_address_that_is_none_or_not_known_is_no_place(address: str) -> None:
    assert enrich("setUserAttributes", {"ip": address}) == ({}, NO_NOTES)


# --- device -----------------------------------------------------------------------------------------------------------


def test_a_user_agent_tells_the_device_and_is_gone_then() -> None:
    item, notes = enrich("setDeviceAttributes", {"deviceId": "d", "userAgent": CHROME})
    assert item == {
        "deviceId": "d",
        "systemName": "Android",
        "systemVersion": "14",
        "browserName": "Chrome Mobile",
        "browserVersion": "120.0.1",
        "deviceModel": "Pixel 8",
    }
    assert notes.steps == ("device",)


def test_what_the_caller_says_of_the_device_stays_and_its_name_gets_no_other_version() -> None:
    found = fields("start", {"userAgent": CHROME, "systemName": "Replicant", "browserVersion": "1"})
    assert found == {
        "systemName": "Replicant", "browserName": "Chrome Mobile", "browserVersion": "1", "deviceModel": "Pixel 8"
    }  # fmt: skip


@pytest.mark.parametrize("agent", ["", "\t", "x", "é" * 3_000, "Mozilla/5.0"])
def test_a_user_agent_that_tells_nothing_changes_nothing(agent: str) -> None:
    assert enrich("setDeviceAttributes", {"userAgent": agent}) == ({}, NO_NOTES)


def test_an_event_takes_no_device_and_the_user_agent_is_gone_all_the_same() -> None:
    assert fields("track", {"userAgent": CHROME}) == {}


def test_user_agents_are_remembered_and_not_without_end() -> None:
    client_facts.parse_agent.cache_clear()
    for _ in range(3):
        fields("start", {"userAgent": CHROME})
    assert (
        client_facts.parse_agent.cache_info().hits,
        client_facts.parse_agent.cache_info().misses,
    ) == (2, 1)
    assert client_facts.parse_agent.cache_info().maxsize == client_facts.MAX_CACHED_AGENTS


# --- how things are written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "written"),
    [
        ("en-us", "en_US"),
        ("EN_us", "en_US"),
        ("de", "de"),
        ("zh-hans-cn", "zh_Hans_CN"),
        (" pt_br ", "pt_BR"),
    ],
)
def test_a_locale_is_written_as_leanplum_does(told: str, written: str) -> None:
    item, notes = enrich("setUserAttributes", {"locale": told})
    assert item == {"locale": written}
    assert notes.steps == (("locale",) if told != written else ())


@pytest.mark.parametrize(
    "told", ["english", "en_XQ", "xx_YY", "", "12", "e", "en_US_extra_long_one"]
)
def test_an_unknown_locale_is_left_and_warned_about(told: str) -> None:
    item, notes = enrich("setUserAttributes", {"locale": told})
    assert item == {"locale": told}
    assert notes.warnings == (normalizers.UNKNOWN_LOCALE,)


@pytest.mark.parametrize(
    ("told", "at", "written", "offset"),
    [
        ("europe/berlin", NOW, "Europe/Berlin", 3600),
        ("Europe/Berlin", 1_780_000_000_000, "Europe/Berlin", 7200),
        ("America/New York", NOW, "America/New_York", -18_000),
        ("Asia/Kolkata", NOW, "Asia/Kolkata", 19_800),
        ("utc", NOW, "UTC", 0),
    ],
)
def test_a_time_zone_gets_its_name_and_its_offset_at_that_time(
    told: str, at: int, written: str, offset: int
) -> None:
    item, notes = enrich("start", {"timezone": told, "time": at / 1000})
    assert item == {"timezone": written, "timezoneOffsetSeconds": offset, "time": at / 1000}
    assert notes.steps == ("timezone",)


def test_an_offset_that_the_caller_says_stays() -> None:
    said = {"timezone": "Europe/Berlin", "timezoneOffsetSeconds": 0}
    assert enrich("start", dict(said)) == (said, NO_NOTES)


def test_without_a_time_the_offset_is_that_of_now() -> None:
    assert fields("start", {"timezone": "Europe/Berlin"})["timezoneOffsetSeconds"] == 3600


@pytest.mark.parametrize("told", ["Berlin", "UTC+1", "+01:00", "", "Europe/Atlantis"])
def test_an_unknown_time_zone_is_left_and_warned_about(told: str) -> None:
    item, notes = enrich("start", {"timezone": told})
    assert item == {"timezone": told}
    assert notes.warnings == (normalizers.UNKNOWN_ZONE,)


@pytest.mark.parametrize(("told", "written"), [("eur", "EUR"), (" usd ", "USD"), ("DEM", "DEM")])
def test_a_currency_in_lower_case_is_mended(told: str, written: str) -> None:
    assert fields("track", {"currencyCode": told}) == {"currencyCode": written}


def test_an_unknown_currency_is_warned_about() -> None:
    item, notes = enrich("track", {"currencyCode": "EUX"})
    assert item == {"currencyCode": "EUX"}
    assert notes.warnings == (normalizers.UNKNOWN_CURRENCY,)


def test_a_value_without_a_currency_gets_the_apps_own() -> None:
    config = '[apps.shop.currency]\ndefault = "SEK"'
    assert fields("track", {"value": 5}, config) == {"value": 5, "currencyCode": "SEK"}
    assert fields("track", {"value": 5, "currencyCode": "EUR"}, config) == {
        "value": 5,
        "currencyCode": "EUR",
    }
    assert fields("track", {"event": "e"}, config) == {"event": "e"}
    assert fields("track", {"value": 5}, config, app="other") == {"value": 5}


def test_an_email_address_is_trimmed_and_in_lower_case() -> None:
    assert fields("setUserAttributes", {"userAttributes": {"email": " Ann@Example.COM "}}) == {
        "userAttributes": {"email": "ann@example.com"}
    }


@pytest.mark.parametrize(
    ("told", "region", "written"),
    [
        ("+49 171 1234567", None, "+491711234567"),
        ("0171 1234567", "DE", "+491711234567"),
        ("+491711234567", "FR", "+491711234567"),
        ("0171 1234567", None, None),
        ("none", "DE", None),
        ("12", "DE", None),
        ("", "DE", None),
    ],
)
def test_a_phone_number_is_written_as_e164_or_left_and_warned_about(
    told: str, region: str | None, written: str | None
) -> None:
    config = f'[contact]\nregion = "{region}"' if region else ""
    item, notes = enrich("setUserAttributes", {"userAttributes": {"phone": told}}, config)
    assert item == {"userAttributes": {"phone": written or told}}
    assert notes.warnings == (() if written else (normalizers.NO_PHONE.format("phone"),))


def test_the_attributes_for_contact_are_configured() -> None:
    config = '[contact]\nemails = ["mail", "work"]\nphones = []'
    item = {
        "userAttributes": {
            "mail": "A@B.C",
            "work": "D@E.F",
            "email": "G@H.I",
            "phone": "+49 171 1234567",
        }
    }
    assert fields("setUserAttributes", item, config) == {
        "userAttributes": {
            "mail": "a@b.c",
            "work": "d@e.f",
            "email": "G@H.I",
            "phone": "+49 171 1234567",
        }
    }


# --- shaping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "flat"),
    [
        ({"a": {"b": 1, "c": {"d": "x"}}, "e": 2}, {"e": 2, "a.b": 1, "a.c.d": "x"}),
        ({"a": {}}, {}),
        ({"a": {"b": [1]}}, {"a.b": [1]}),
        ({"a": {"b": 1}, "a.b": 2}, {"a": {"b": 1}, "a.b": 2}),
        ({"a": {"b": 1}, "a.b": {"c": 2}}, {"a.b": 1, "a.b.c": 2}),
        ({"a.b": {"c": 1}, "a": {"b.c": 2}}, {"a": {"b.c": 2}, "a.b.c": 1}),
        ({"a": {"b.c": 1, "b": {"c": 2}}}, {"a": {"b.c": 1, "b": {"c": 2}}}),
    ],
)
def test_nested_params_become_keys_with_dots_and_none_overwrites_another(
    params: dict[str, Any], flat: dict[str, Any]
) -> None:
    assert fields("track", {"params": params}) == {"params": flat}


def test_what_is_nested_too_deeply_is_left_for_the_rules_to_refuse() -> None:
    deep: dict[str, Any] = {"a": 1}
    for _ in range(500):
        deep = {"a": deep}
    assert fields("track", {"params": dict(deep)}) == {"params": deep}


def test_what_is_renamed_moves_between_fields_and_overwrites_nothing() -> None:
    config = '[renames.track]\n"params.colour" = "params.color"\n"amount" = "value"\n"params.note" = "info"'
    assert fields("track", {"amount": 5, "params": {"colour": "red", "note": "n"}}, config) == {
        "value": 5,
        "info": "n",
        "params": {"color": "red"},
    }
    item, notes = enrich("track", {"params": {"colour": "red", "color": "blue"}}, config)
    assert item == {"params": {"colour": "red", "color": "blue"}}
    assert notes.warnings == (
        "params.colour: params.color already exists; both are left as they are",
    )


def test_what_was_nested_is_renamed_by_its_flat_name() -> None:
    config = '[renames.track]\n"params.item.colour" = "params.color"'
    assert fields("track", {"params": {"item": {"colour": "red"}}}, config) == {
        "params": {"color": "red"}
    }


def test_values_are_mapped_by_their_text_in_json() -> None:
    config = '[values.track."params.plan"]\n1 = "basic"\ntrue = "pro"\nold = 7'
    for told, mapped in (
        (1, "basic"),
        (True, "pro"),
        ("1", "basic"),
        ("old", 7),
        (1.5, 1.5),
        (None, None),
        ([1], [1]),
    ):
        assert fields("track", {"params": {"plan": told}}, config) == {"params": {"plan": mapped}}


def test_defaults_say_what_the_caller_does_not() -> None:
    config = '[defaults."*"]\n"params.source" = "backend"\n[defaults.setUserAttributes]\n"userAttributes.tags" = ["a"]'
    assert fields("track", {}, config) == {"params": {"source": "backend"}}
    assert fields("advance", {"params": {"source": "web", "x": 1}}, config) == {
        "params": {"source": "web", "x": 1}
    }
    assert fields("setUserAttributes", {}, config) == {"userAttributes": {"tags": ["a"]}}
    assert fields("stop", {}, config) == {}


def test_no_two_items_share_a_default() -> None:
    config = '[defaults.setUserAttributes]\n"userAttributes.tags" = ["a"]'
    both = [fields("setUserAttributes", {}, config)["userAttributes"]["tags"] for _ in range(2)]
    both[0].append("b")
    assert both[1] == ["a"]


# --- on and off -------------------------------------------------------------------------------------------------------


def test_each_step_is_on_or_off_for_all_for_an_app_and_for_a_caller() -> None:
    config = "[steps]\nlocale = false\n[apps.shop.steps]\nlocale = true\n[callers.key_2.steps]\nlocale = false\ntime = false"

    def of(app: str, caller: str) -> object:
        return fields("start", {"locale": "en-us"}, config, app=app, caller=caller)["locale"]

    assert of("shop", "key_1") == "en_US"
    assert of("other", "key_1") == of("shop", "key_2") == "en-us"
    assert fields("track", {"time": 5.0, "sentAt": 6.0}, config, caller="key_2") == {"time": 5.0}
