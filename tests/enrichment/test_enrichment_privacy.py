"""Privacy rules: what they reach, what is left of it, and what a keyed hash is."""

from typing import Any

import pytest

from app.enrichment.privacy import MASK, MAX_DEPTH, ValueHasher

from .enriched import CARD, PSEUDONYMS, enrich, enricher, fields, rule


def test_a_value_under_a_rule_is_dropped_masked_or_hashed() -> None:
    item = {"params": {"card_no": CARD, "sku": "A"}}
    for do, left in (
        ("drop", {}),
        ("mask", {"card_no": MASK}),
        ("hash", {"card_no": PSEUDONYMS.hash(CARD)}),
    ):
        made, notes = enrich(
            "track", {**item, "params": dict(item["params"])}, rule(do, keys='["params.card_*"]')
        )
        assert made == {"params": {"sku": "A", **left}}
        assert notes.steps == ("privacy",)


@pytest.mark.parametrize(
    ("keys", "reached"),
    [
        ("params.card.no", True),
        ("params.card.*", True),
        ("params.card", True),
        ("params", True),
        ("*.no", True),
        ("PARAMS.CARD.NO", True),
        ("*card*", True),
        ("params.card.n", False),
        ("card.no", False),
        ("params.car", False),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_a_glob_is_of_the_whole_path_and_reaches_what_is_beneath(
    keys: str, reached: bool, nested: bool
) -> None:
    params: dict[str, Any] = {"card": {"no": CARD}} if nested else {"card.no": CARD}
    assert (
        CARD not in str(fields("track", {"params": params}, rule("drop", keys=f'["{keys}"]')))
    ) == reached


def test_a_regular_expression_is_searched_for_in_the_path() -> None:
    config = rule("drop", paths=r"['\.(ssn|pin)\d*$']")
    item = {"userAttributes": {"ssn": 1, "PIN2": 2, "pinned": 3}}
    assert fields("setUserAttributes", item, config) == {"userAttributes": {"pinned": 3}}


def test_a_rule_over_values_finds_them_wherever_they_stand() -> None:
    config = rule("mask", values=r"'^\d{16}$'")
    item = {"info": CARD, "params": {"a": CARD, "b": int(CARD), "c": "x"}, "userId": CARD}
    assert fields("track", item, config) == {
        "info": MASK, "params": {"a": MASK, "b": MASK, "c": "x"}, "userId": CARD
    }  # fmt: skip


def test_a_rule_over_paths_and_values_is_over_both() -> None:
    config = rule("drop", keys='["params.note"]', values=r"'\d{16}'")
    item = {"info": CARD, "params": {"note": f"card {CARD}", "note2": CARD}}
    assert fields("track", item, config) == {"info": CARD, "params": {"note2": CARD}}


def test_of_lists_and_objects_each_value_is_under_the_rule() -> None:
    item: dict[str, Any] = {
        "userAttributes": {"mails": ["a@b", "c@d", None], "card": {"no": CARD, "cvc": {"x": 1}}}
    }
    config = rule("hash", keys='["userAttributes.mails", "userAttributes.card"]')
    assert fields("setUserAttributes", item, config)["userAttributes"] == {
        "mails": [PSEUDONYMS.hash("a@b"), PSEUDONYMS.hash("c@d"), None],
        "card.no": PSEUDONYMS.hash(CARD),
        "card.cvc.x": PSEUDONYMS.hash("1"),
    }


def test_null_clears_an_attribute_under_a_rule_as_well() -> None:
    item = {"userAttributes": {"email": None}}
    for do in ("mask", "hash"):
        assert fields("setUserAttributes", dict(item), rule(do, keys='["*.email"]')) == item


def test_the_strongest_of_several_rules_is_kept_and_rules_of_all_sections_are() -> None:
    config = rule("mask", keys='["params.*"]') + rule("hash", keys='["params.a"]') + "[apps.shop]\n"
    config += rule("drop", keys='["params.b"]').replace("[[privacy]]", "[[apps.shop.privacy]]")
    assert fields("track", {"params": {"a": 1, "b": 2}}, config) == {"params": {"a": MASK}}
    assert fields("track", {"params": {"a": 1, "b": 2}}, config, app="other") == {
        "params": {"a": MASK, "b": MASK}
    }


def test_a_rule_may_be_for_some_actions() -> None:
    config = rule("drop", keys='["params.a"]', actions='["advance"]')
    assert fields("track", {"params": {"a": 1}}, config) == {"params": {"a": 1}}
    assert fields("advance", {"params": {"a": 1}}, config) == {"params": {}}


def test_whom_an_item_is_about_is_under_no_rule() -> None:
    item = {"userId": CARD, "deviceId": CARD, "newUserId": CARD, "id": CARD}
    assert fields("setUserAttributes", dict(item), rule("drop", values="'.'")) == item


def test_what_is_nested_too_deeply_to_be_looked_at_is_dropped() -> None:
    value: Any = CARD
    for _ in range(MAX_DEPTH + 1):
        value = {"a": value}
    assert CARD not in str(
        fields("sendMessage", {"values": value}, rule("drop", keys='["nothing"]'))
    )
    assert CARD in str(
        fields("sendMessage", {"values": value["a"]["a"]}, rule("drop", keys='["nothing"]'))
    )
    assert fields("track", {"params": {"a" * 1_001: CARD}}, rule("drop", keys='["nothing"]')) == {
        "params": {}
    }


def test_an_address_is_hashed_as_it_is_written_in_the_end() -> None:
    config = (
        rule("hash", keys='["*.email", "*.mail"]')
        + '[renames.setUserAttributes]\n"mail" = "userAttributes.email"'
    )
    expected = {"userAttributes": {"email": PSEUDONYMS.hash("ann@example.com")}}
    assert (
        fields("setUserAttributes", {"userAttributes": {"email": " Ann@Example.com"}}, config)
        == expected
    )


def test_a_rule_over_an_old_name_is_kept_though_the_value_is_renamed() -> None:
    config = (
        rule("drop", keys='["params.cardNo"]')
        + '[renames.track]\n"params.cardNo" = "params.reference"'
    )
    assert fields("track", {"params": {"cardNo": CARD}}, config) == {"params": {}}


def test_what_enrichment_itself_adds_is_under_the_rules() -> None:
    config = rule("drop", keys='["city", "location"]')
    assert fields("setUserAttributes", {"ip": "203.0.113.7"}, config) == {
        "country": "DE",
        "region": "State of Berlin",
    }


# --- the hash ---------------------------------------------------------------------------------------------------------


def test_a_hash_is_the_same_for_the_same_key_and_tells_nothing_to_another() -> None:
    other = ValueHasher(b"o" * 32)
    assert ValueHasher(b"k" * 32).hash("ann") == PSEUDONYMS.hash("ann")
    assert len({PSEUDONYMS.hash("ann"), PSEUDONYMS.hash("bob"), other.hash("ann")}) == 3


def test_a_hash_is_not_hashed_again_and_what_only_looks_like_one_is() -> None:
    made = PSEUDONYMS.hash("ann")
    assert PSEUDONYMS.hash(made) == made
    forged = made[:2] + ("A" if made[2] != "A" else "B") + made[3:]
    assert PSEUDONYMS.hash(forged) != forged
    assert ValueHasher(b"o" * 32).hash(made) != made


def test_a_hash_is_a_name_and_a_text_that_leanplum_takes() -> None:
    from pydantic import TypeAdapter

    from app.leanplum.values import Name, Text

    for kind in (Name, Text):
        TypeAdapter[Any](kind).validate_python(PSEUDONYMS.hash("ann"))


# --- Leanplum's own protocol ------------------------------------------------------------------------------------------


def guarded(entry: dict[str, Any], config: str) -> dict[str, Any]:
    made = enricher(config)
    made.enrich_sdk_entry("track", entry)
    return entry


@pytest.mark.parametrize(
    "told",
    [
        '{"card_no":"4111111111111111","a":1}',
        '  {"card_no": "4111111111111111", "a": 1} ',
        '{"card_no":"4111111111111111","card_no":"h_","a":1}',
        '{"card_no":NaN,"card_no":"4111111111111111","a":1}',
        r'"{\"card_no\":\"4111111111111111\",\"a\":1}"',
        '{"card_no":["4111111111111111"],"a":1}',
        '{"card_no":{"4111111111111111":1},"a":1}',
    ],
)
def test_rules_reach_into_objects_that_sdks_send_as_text(told: str) -> None:
    assert guarded({"params": told, "x": 1}, rule("drop", keys='["params.card_no"]')) == {
        "params": '{"a":1}',
        "x": 1,
    }


@pytest.mark.parametrize(
    "told", ['{"card_no":"4111111111111111"', '{"card_no":', "[" * 100_000, '"\\"\\\\\\"x"']
)
def test_a_text_that_nobody_can_read_is_dropped_where_an_object_should_be(told: str) -> None:
    assert guarded({"params": told, "x": 1}, rule("drop", keys='["params.card_no"]')) == {"x": 1}


def test_without_rules_what_an_sdk_sends_stays_as_it_is() -> None:
    entry = {
        "params": '{"card_no": "4111111111111111"',
        "ip": "203.0.113.7",
        "sentAt": 5,
        "time": 1.0,
    }
    assert guarded(dict(entry), "") == entry


def test_leanplums_own_fields_are_under_no_rule() -> None:
    entry = {
        "reqId": "r",
        "uuid": "u",
        "time": "1.7E9",
        "devMode": "false",
        "sdkVersion": "1",
        "userId": "u",
    }
    assert guarded(dict(entry), rule("drop", values="'.'")) == entry
