"""What privacy rules are over, path by path; and rules that could never be applied are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.enrichment.privacy import FREE, MASK
from app.errors import StartRefused
from tests.support.gateway import Talk, pointers, problem
from tests.support.segment import post

from .enriched import CARD, PSEUDONYMS, enrich, enricher, fields, rule, warnings

Start = Callable[..., Talk]
UPDATE = "setUserAttributes"
WHOLE = r"'^-?\d{13,19}$'"

# --- what else an attribute is called ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field", ["userAttributes", "userAttributeValuesToAdd", "userAttributeValuesToRemove"]
)
@pytest.mark.parametrize(
    "over", ['["userAttributes.email"]', '["userAttributes"]', '["userAttributes.e*"]']
)
def test_a_rule_over_an_attribute_is_over_what_is_added_to_it_and_removed(
    field: str, over: str
) -> None:
    for config in (rule("hash", keys=over), rule("hash", paths="['^userAttributes(\\.e.*)?$']")):
        item = {field: {"email": ["ann@example.com", "bob@example.com"]}}
        assert fields(UPDATE, item, config)[field] == {
            "email": [PSEUDONYMS.hash("ann@example.com"), PSEUDONYMS.hash("bob@example.com")]
        }


@pytest.mark.parametrize("do", ["drop", "mask", "hash"])
def test_an_increment_under_a_rule_is_dropped_since_it_takes_no_text(do: str) -> None:
    item = {"userAttributeValuesToIncrement": {"visits": 5, "age": 1}}
    made = fields(UPDATE, item, rule(do, keys='["userAttributes.visits"]'))
    assert made == {"userAttributeValuesToIncrement": {"age": 1}}


def test_a_rule_over_what_is_added_is_not_over_the_attribute_itself() -> None:
    item = {"userAttributes": {"email": "a@b"}, "userAttributeValuesToAdd": {"email": "a@b"}}
    made = fields(UPDATE, item, rule("drop", keys='["userAttributeValuesToAdd.email"]'))
    assert made == {"userAttributes": {"email": "a@b"}, "userAttributeValuesToAdd": {}}


def test_a_rule_over_a_field_of_a_device_is_over_a_users_devices() -> None:
    config = rule("drop", keys='["iosPushToken", "deviceName"]')
    item = {
        "devices": [
            {"deviceId": "d", "iosPushToken": "t", "deviceName": "Ann's", "appVersion": "1"}
        ]
    }
    assert fields(UPDATE, item, config) == {"devices": [{"deviceId": "d", "appVersion": "1"}]}


def test_attributes_that_an_sdk_sends_as_text_are_under_the_same_rules() -> None:
    entry = {"userAttributeValuesToAdd": '{"email":["ann@example.com"],"a":1}'}
    guarded(UPDATE, entry, rule("mask", keys='["userAttributes.email"]'))
    assert entry == {"userAttributeValuesToAdd": '{"email":["***"],"a":1}'}


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", ["4111111111111111", "4111111111111111.0", "4.111111111111111e15", "-4.1e15"]
)
@pytest.mark.parametrize("nesting", ["{}", "[{}]", '{{"a":{}}}', '[[{}],{{"b":[{}]}}]'])
def test_a_whole_number_is_looked_at_as_its_digits(number: str, nesting: str) -> None:
    text = nesting.replace("{}", number).replace("{{", "{").replace("}}", "}")
    masked = nesting.replace("{}", f'"{MASK}"').replace("{{", "{").replace("}}", "}")
    found = fields("sendMessage", {"values": {"x": orjson.loads(text)}}, rule("mask", values=WHOLE))
    assert found == {"values": {"x": orjson.loads(masked)}}
    entry = {"values": f'{{"x":{text}}}', "other": text, "value": number}
    guarded("sendMessage", entry, rule("mask", values=WHOLE))
    assert orjson.loads(entry["values"]) == {"x": orjson.loads(masked)}
    assert MASK in entry["other"]
    assert number not in entry["other"] + entry["value"]


@pytest.mark.parametrize(
    ("number", "pattern"),
    [
        (-0.0, "^0$"),
        ("-0.0", "^0$"),
        (1e22, "^10{22}$"),
        (1e300, "^10{300}$"),
        ("1E+3", "^1000$"),
        (" 1.50e1 ", "^15$"),
        (4.111111111111111e18, "^4111111111111111000$"),
        (4111111111111110656.0, "^4111111111111110656$"),
        ("4111111111111111.", "^4111111111111111$"),
        (1.5, r"^1\.5$"),
        (True, "^true$"),
        (7, "^7$"),
    ],
)
def test_each_way_to_write_a_number_is_found(number: Any, pattern: str) -> None:
    assert fields("track", {"params": {"a": number}}, rule("mask", values=f"'{pattern}'")) == {
        "params": {"a": MASK}
    }


@pytest.mark.parametrize(
    "number", [1.5, "1.5", "1e-3", "1e999x", "0x10", "1_0", "", "e5", "9" * 5_000 + ".0"]
)
def test_what_is_no_whole_number_is_looked_at_as_it_is(number: Any) -> None:
    item = {"params": {"a": number}}
    assert (
        fields("track", {"params": {"a": number}}, rule("mask", values=r"'^(\d{1,4}|\d{1,9}000)$'"))
        == item
    )


def test_a_whole_number_has_one_hash_however_it_is_written() -> None:
    item = {"params": {"a": 5, "b": 5.0, "c": "5"}}
    made = fields("track", item, rule("hash", keys='["params"]'))["params"]
    assert set(made.values()) == {PSEUDONYMS.hash("5")}


# --- what is written otherwise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("do", "left"), [("mask", MASK), ("drop", None), ("hash", PSEUDONYMS.hash("+4930123456"))]
)
def test_a_rule_finds_a_phone_number_as_it_was_sent(do: str, left: str | None) -> None:
    config = rule(do, values=r"'^0\d{2} \d+$'") + '[contact]\nregion = "DE"'
    made = fields(UPDATE, {"userAttributes": {"phone": "030 123456"}}, config)["userAttributes"]
    assert made == ({} if left is None else {"phone": left})


def test_a_rule_finds_a_locale_and_a_zone_as_they_were_sent_and_nothing_is_warned_of() -> None:
    config = rule("mask", values="'^(en-us|europe berlin)$'")
    item = {"locale": "en-us", "timezone": "europe berlin"}
    assert fields(UPDATE, dict(item), config) == {"locale": MASK, "timezone": MASK}
    assert warnings(UPDATE, dict(item), config) == ()


# --- rules that could not be applied ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FREE))
def test_a_rule_over_a_field_that_is_under_no_rule_is_refused(name: str) -> None:
    for over in (name, name.upper(), f"{name[:-1]}[{name[-1]}]"):
        with pytest.raises(StartRefused, match="is under no rule"):
            enricher(rule("drop", keys=f"['params.a', '{over}']"))
    for over in (f"^{name}$", f"\\A{name.upper()}(\\.|$)"):
        with pytest.raises(StartRefused, match="is under no rule"):
            enricher(rule("drop", paths=f"['{over}']"))


@pytest.mark.parametrize(
    "over", ["keys = ['*Id']", "keys = ['user*']", "keys = ['*']", "paths = ['userId']"]
)
def test_a_rule_that_is_over_something_beside_is_taken(over: str) -> None:
    item = {"userId": "u", "userAttributes": {"userId": 1}}
    assert "userId" not in fields(UPDATE, item, f'[[privacy]]\ndo = "drop"\n{over}').get(
        "userAttributes", {}
    )
    assert item["userId"] == "u"


# --- Leanplum's own protocol ------------------------------------------------------------------------------------------


def guarded(action: str, entry: dict[str, Any], config: str) -> None:
    enricher(config).enrich_sdk_entry(action, entry)


def test_all_rules_are_over_an_action_that_is_not_known() -> None:
    entry = {"secret": CARD}
    guarded("trackk", entry, rule("mask", keys='["secret"]', actions='["track"]'))
    assert entry == {"secret": MASK}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"card":"4111111111111111","a":1}', '{"card":"***","a":1}'),
        ('["4111111111111111"]', '["***"]'),
        ('{"card":"4111111111111111","card":1}', '{"card":1}'),
        ('"4111111111111111"', '"***"'),
        ('"{\\"card\\":4111111111111111}"', '{"card":"***"}'),
        ('{"a": 1}', '{"a": 1}'),
        ('{"a": 1', '{"a": 1'),
        ('"a', '"a'),
    ],
)
def test_a_text_that_is_json_is_looked_into_wherever_an_sdk_sends_it(text: str, left: str) -> None:
    entry = {"whatever": text}
    guarded("track", entry, rule("mask", values=WHOLE))
    assert entry == {"whatever": left}


# --- through the server -----------------------------------------------------------------------------------------------


@pytest.fixture
def ruled(start: Start, tmp_path: Path) -> Callable[[str], Talk]:
    """A gateway with this file, and no Leanplum."""

    def make(toml: str) -> Talk:
        file = tmp_path / "enrichment.toml"
        file.write_text(toml)
        keys = {f"leanplum_{kind}_key": f"{kind}_secret" for kind in ("development", "data_export")}
        return start(gateway_enrichment_file=file, **keys)

    return make


def stored(talk: Talk) -> list[Any]:
    return [orjson.loads(one) for (one,) in talk.rows("SELECT body FROM items ORDER BY seq")]


SENT = {
    "track": {"event": f'a, "{CARD}"'},
    "page": {"name": f'b | "{CARD}"'},
    "screen": {"name": f"{CARD}"},
}


@pytest.mark.parametrize("kind", SENT)
@pytest.mark.parametrize("toml", ["", rule("mask", values=r"'\d{16}'")])
def test_a_warning_of_a_changed_name_names_the_field_alone(
    ruled: Callable[[str], Talk], kind: str, toml: str
) -> None:
    talk = ruled(toml)
    message = {"userId": "u", **SENT[kind], "properties": {"a,b": 1}, "messageId": "m"}
    assert post(talk, kind, message).json() == {"success": True}
    field = "event" if kind == "track" else "state"
    names = "a_b" if toml else f"{field}, a_b"  # *** is a name as it is
    told = talk.get("/v1/receipts/m").json()
    warning = (
        f"Names were changed to such as Leanplum takes: {', '.join(sorted(names.split(', ')))}"
    )
    (found,) = told["enrichment"]["warnings"]
    assert sorted(found.partition(": ")[2].split(", ")) == sorted(
        warning.partition(": ")[2].split(", ")
    )
    assert CARD not in str(talk.rows("SELECT notes FROM items"))
    assert CARD not in str(stored(talk)) or not toml


def test_a_name_that_went_with_its_value_is_not_warned_of(ruled: Callable[[str], Talk]) -> None:
    talk = ruled(rule("drop", values=r"'\d{16}'"))
    message = {"userId": "u", "event": "E", "properties": {"a,b": CARD, "c,d": 1}, "messageId": "m"}
    assert post(talk, "track", message).json() == {"success": True}
    told = talk.get("/v1/receipts/m").json()["enrichment"]["warnings"]
    assert told == ["Names were changed to such as Leanplum takes: c_d"]


def test_a_template_of_a_states_name_gets_what_rules_leave(ruled: Callable[[str], Talk]) -> None:
    talk = ruled(
        rule("mask", values=r"'^\d{16}$'") + '[segment]\npage_state = "Seen {category}: {name}"'
    )
    post(talk, "page", {"userId": "u", "name": CARD, "category": CARD})
    assert stored(talk)[0]["state"] == "Seen ***: ***"


@pytest.mark.parametrize("event", [CARD, f"{CARD},", "x" * 200 + CARD])
def test_an_events_name_is_looked_at_as_it_was_sent(
    ruled: Callable[[str], Talk], event: str
) -> None:
    talk = ruled(rule("mask", values=r"'^x*\d{16},?$'"))
    post(talk, "track", {"userId": "u", "event": event})
    assert stored(talk)[0]["event"] == MASK


def test_an_import_from_a_bucket_is_refused_where_a_rule_is_in_force(
    ruled: Callable[[str], Talk],
) -> None:
    talk = ruled(rule("mask", keys='["params.a"]'))
    bucket = {"gcsBucket": "b", "file": "f.csv"}
    assert pointers(problem(talk.post("/v1/imports", bucket), 422, "validation")) == {
        "/gcsBucket": "privacy"
    }
    form = talk.call("POST", "/v1/imports", data=bucket, files={})
    assert form.status_code in {415, 422}
    endpoint = talk.post(
        "/api", {**bucket, "action": "multi", "appId": "app_tests", "clientKey": talk.key}, key=None
    )
    assert endpoint.status_code == 400
    assert "privacy rules are in force" in endpoint.text


NUMBER = "4111111111111111"
ROWS = ("rows.csv", b"userId,event\nu,E\n", "text/csv")


@pytest.mark.parametrize(
    "name",
    ["defaultAction", "dataType", "audienceName", "messageId", "postbackUrl", "file", "gcsBucket"],
)
@pytest.mark.parametrize("form", ["csv", "form", "json", "sdk"])
def test_the_record_of_an_import_has_no_value_that_a_rule_is_over(
    ruled: Callable[[str], Talk], form: str, name: str
) -> None:
    talk = ruled(rule("mask", values=r"'\d{13,19}'"))
    said = {name: f"https://{NUMBER}.example.com" if name.endswith("Url") else NUMBER}
    sdk = {
        "appId": "app_tests",
        "clientKey": talk.key,
        "action": "multi",
        "createJob": "true",
        **said,
    }
    answer = {
        "csv": lambda: talk.call(
            "POST",
            "/v1/imports",
            content=ROWS[1],
            headers={"Content-Type": "text/csv"},
            params=said,
        ),
        "form": lambda: talk.call("POST", "/v1/imports", files={"file": ROWS}, data=said),
        "json": lambda: talk.post("/v1/imports", said),
        "sdk": lambda: talk.call(
            "POST", "/api", params=sdk, content=ROWS[1], headers={"Content-Type": "text/csv"}
        ),
    }[form]()
    (record,) = talk.audit(answer.headers["x-request-id"])
    assert NUMBER not in orjson.dumps(record).decode()


@pytest.mark.parametrize(
    "rows",
    [b"userId;params.a\nu;1\n", b"userId\tparams.a\nu\t1\n", b'"userId\nu', b"userId\n\xe9\n"],
)
def test_rows_that_rules_can_not_be_applied_to_are_refused(
    ruled: Callable[[str], Talk], rows: bytes
) -> None:
    talk = ruled(rule("mask", keys='["params.a"]'))
    answer = talk.call("POST", "/v1/imports", content=rows, headers={"Content-Type": "text/csv"})
    assert pointers(problem(answer, 422, "validation")) == {"": "privacy"}


def test_a_file_that_a_rule_is_over_is_not_sent_on(ruled: Callable[[str], Talk]) -> None:
    talk = ruled(rule("drop", keys='["file*"]', actions='["uploadFile"]'))
    answer = talk.call("POST", "/v1/files", data={"filename": "f"}, files={"file": ("f", b"x")})
    assert "a privacy rule applies to this file" in problem(answer, 403, "forbidden")["detail"]


def test_a_parameter_that_a_rule_takes_away_is_missing(ruled: Callable[[str], Talk]) -> None:
    talk = ruled(rule("drop", keys='["email"]', actions='["registerDevice"]'))
    answer = talk.post("/v1/development-devices", {"deviceId": "d", "email": "ann@example.com"})
    assert pointers(problem(answer, 422, "validation")) == {"/email": "required"}


def test_steps_tell_that_a_rule_was_applied() -> None:
    _, notes = enrich(
        UPDATE, {"userAttributeValuesToAdd": {"a": "b"}}, rule("mask", keys='["userAttributes.a"]')
    )
    assert notes.steps == ("privacy",)


# --- rows of an import ------------------------------------------------------------------------------------------------


def lines(config: str, text: str, default_action: str = "track") -> str:
    made = enricher(config).cover_rows(text.encode(), default_action)
    return b"".join(made).decode()


def test_each_row_of_an_import_is_under_the_rules_of_its_action() -> None:
    config = rule("mask", keys='["params.card"]', actions='["track"]') + rule(
        "drop", keys='["userAttributes.email"]'
    )
    rows = (
        "userId,action,params.card,userAttributes.email,userAttributeValuesToAdd.email,params\n"
        'u,,1,a@b,c@d,"{""card"":1,""x"":2}"\nu,advance,1,,,\nu,what,1,"a,b",,\nu,track,"1\n2",,,\n'
    )
    assert lines(config, rows) == (
        "userId,action,params.card,userAttributes.email,userAttributeValuesToAdd.email,params\n"
        'u,,***,,,"{""card"":""***"",""x"":2}"\nu,advance,1,,,\nu,what,***,,,\nu,track,***,,,\n'
    )


def test_rows_are_looked_at_whatever_their_columns_are_called() -> None:
    config = rule("mask", values=WHOLE)
    assert lines(config, f"userId,,odd,userId\r\n{CARD},{CARD},{CARD}.0,u,{CARD}\r\n") == (
        f"userId,,odd,userId\n{CARD},***,***,u\n"
    )


def test_a_row_that_says_two_actions_is_under_all_rules() -> None:
    config = rule("mask", keys='["info"]', actions='["track"]')
    assert (
        lines(config, "action,action,info\nadvance,track,x\n", "advance")
        == "action,action,info\nadvance,track,***\n"
    )
