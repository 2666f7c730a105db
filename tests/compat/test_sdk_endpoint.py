"""Leanplum's own protocol at /api: what SDKs and client libraries send, and what they get back."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from app.leanplum.actions import ACTIONS
from app.model import Scope
from tests.support.gateway import WIDE, Talk, make_settings
from tests.support.sdk import TRACK, Sdk, entries, scoped, settled
from tests.support.simulator import KEYS, Leanplum, delivering_to, simulated
from tests.support.wait import until

PERMANENT = ("Invalid access key", "App not found", "Development mode requested but not permitted")
Start = Callable[..., Talk]


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def talk(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("endpoint")

    def settings(**given: Any) -> Any:
        return make_settings(folder, migrated, WIDE | given)

    with delivering_to(leanplum, settings, folder / "g.db") as found:
        yield found


@pytest.fixture(autouse=True)
def anew(talk: Talk, leanplum: Leanplum) -> None:
    settled(talk)
    leanplum.forget()


@pytest.fixture
def sdk(talk: Talk) -> Sdk:
    return Sdk(talk)


START: dict[str, Any] = {"action": "start", "userId": "u1", "deviceId": "d1"}

# --- each action ------------------------------------------------------------------------------------------------------

ARGS: dict[str, dict[str, Any]] = {
    "track": {"event": "E", "params": '{"a":1}', "value": "9.99"},
    "trackGeofence": {"event": "enter"},
    "advance": {"state": "S"},
    "setUserAttributes": {"userAttributes": '{"a":1}'},
    "setDeviceAttributes": {"deviceId": "d1", "appVersion": "1"},
    "setTrafficSourceInfo": {"trafficSource": {"publisherName": "p"}},
    "sendMessage": {"messageId": 1001},
    "startCampaign": {"campaignId": 5},
    "registerDevice": {"deviceId": "d1", "email": "a@example.com"},
    "setVars": {"vars": {"a": 1}},
    "deleteVars": {"vars": ["a"]},
    "addAndroidNotificationChannel": {"id": "c", "name": "n", "importance": 3},
    "deleteAndroidNotificationChannel": {"channelId": "c"},
    "getMessage": {"id": 1001},
    "getAbTest": {"id": 2001},
    "getVariant": {"id": 3001},
    "exportData": {"startDate": time.strftime("%Y%m%d", time.gmtime(time.time() - 3 * 86_400))},
    "exportReport": {"startDate": time.strftime("%Y%m%d"), "dataType": "UserActivity"},
    "getExportResults": {"jobId": "x"},
    "getMultiResults": {"jobId": "x"},
    "addPostback": {"type": "messageEvents", "postbackUrl": "https://example.com"},
    "deletePostback": {"postbackId": "1"},
    "markNewsfeedMessageAsRead": {"newsfeedMessageId": "1##1"},
    "deleteNewsfeedMessage": {"newsfeedMessageId": "1##1"},
    "getNewsfeedMessages": {"ids": []},
    "log": {"type": "sdkLog", "message": "m"},
}
FILES = {"uploadFile", "downloadFile", "multi"}
KEY_OF = dict(
    zip(
        ("production", "development", "data export", "content read-only"),
        KEYS.values(),
        strict=True,
    )
)


@pytest.mark.parametrize("action", sorted(ACTIONS.keys() - FILES))
def test_an_action_alone_arrives_whole_with_the_key_that_it_needs(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, action: str
) -> None:
    args = {
        "userId": "u1",
        "reqId": "r-1",
        "uuid": "v-1",
        "unknownField": None,
        **ARGS.get(action, {}),
    }
    answer = sdk.post({"action": action, **args})
    assert entries(answer)[0]["reqId"] == "r-1", answer.text
    settled(talk)
    (call,) = leanplum.calls()
    told = call["args"]["data"][0] if "data" in call["args"] else call["args"]
    assert {name: told[name] for name in args} == args
    assert (told["action"], call["args"]["appId"]) == (action, "app_sandbox")
    assert call["args"]["clientKey"] == KEY_OF[ACTIONS[action].key.value]
    assert sdk.key not in json.dumps(call)
    assert not any(key in answer.text for key in KEYS.values())


@pytest.mark.parametrize("action", sorted(ACTIONS.keys() - FILES))
def test_an_action_in_a_batch_has_its_answer_in_its_place(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, action: str
) -> None:
    around = [
        {**TRACK, "event": name, "reqId": name, "uuid": action} for name in ("before", "after")
    ]
    one = {"action": action, "userId": "u1", "reqId": "r-1", "uuid": "v-2", **ARGS.get(action, {})}
    answer = sdk.multi(around[0], one, around[1])
    assert [entry["reqId"] for entry in entries(answer)] == ["before", "r-1", "after"]
    settled(talk)
    assert [one["action"] for one in leanplum.arrived()].count(action) == (
        3 if action == "track" else 1
    )
    before = [] if action == "deleteUser" else ["before"]  # it erases what waits of its user
    assert [one["reqId"] for one in leanplum.arrived()] == [*before, "r-1", "after"]


def test_files_go_up_and_come_down(sdk: Sdk, leanplum: Leanplum) -> None:
    keys = {"appId": "app_sandbox", "clientKey": sdk.key, "action": "uploadFile"}
    data = json.dumps([{"filename": "a.bin", "size": 3_000_000, "hash": "h"}])
    content = b"\x00\x01\x02" * 1_000_000
    sent = sdk.call(
        "POST", "/api", data={**keys, "data": data}, files={"file0": ("a.bin", content)}
    )
    assert entries(sent) == [{"success": True}], sent.text
    (call,) = leanplum.calls()
    assert (call["args"]["clientKey"], call["args"]["data"]) == ("dev_sandbox", json.loads(data))
    down = sdk.get(action="downloadFile", filename="a.bin")
    assert (down.status_code, down.content) == (200, content)
    assert down.headers["access-control-allow-origin"] == "*"
    assert entries(sdk.get(action="downloadFile", filename="none"))[0]["success"] is False


# --- every kind of body -----------------------------------------------------------------------------------------------

JSON_DATA = json.dumps({"data": [TRACK, TRACK]})
BATCHES: dict[str, Callable[[str], tuple[str, bytes, str]]] = {
    "query alone": lambda keys: (f"?{keys}&data={quote(JSON_DATA)}", b"", ""),
    "JSON": lambda keys: (f"?{keys}", JSON_DATA.encode(), "application/json"),
    "JSON as text": lambda keys: (f"?{keys}", JSON_DATA.encode(), "text/plain"),
    "JSON without a type": lambda keys: (f"?{keys}", b" \n" + JSON_DATA.encode(), ""),
    "JSON that says it is a form": lambda keys: (
        f"?{keys}", JSON_DATA.encode(), "application/x-www-form-urlencoded",
    ),
    "a bare list": lambda keys: (f"?{keys}", json.dumps([TRACK, TRACK]).encode(), "application/json"),
    "data as text in JSON": lambda keys: (f"?{keys}", json.dumps({"data": JSON_DATA}).encode(), "application/json"),
    "a form": lambda keys: ("", f"{keys}&data={quote(JSON_DATA)}".encode(), "application/x-www-form-urlencoded"),
    "a form without a type": lambda keys: ("", f"{keys}&data={quote(json.dumps([TRACK] * 2))}".encode(), ""),
    "a form that says it is JSON": lambda keys: ("", f"{keys}&data={quote(JSON_DATA)}".encode(), "application/json"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("path", ["/api", "/api-batch"])
def test_a_batch_is_read_by_what_it_is_not_by_what_it_says(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, kind: str, path: str
) -> None:
    keys = urlencode(
        {"appId": "app_sandbox", "clientKey": sdk.key, "action": "multi", "time": "1.7E9"}
    )
    query, body, media = BATCHES[kind](keys)
    answer = sdk.call(
        "POST", path + query, content=body, headers={"Content-Type": media} if media else {}
    )
    assert (answer.status_code, entries(answer)) == (200, [{"success": True}] * 2)
    settled(talk)
    assert [one["event"] for one in leanplum.arrived()] == ["E", "E"]


def test_a_batch_as_multipart_and_an_action_by_get(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    fields = {"appId": "app_sandbox", "clientKey": sdk.key, "action": "multi", "data": JSON_DATA}
    answer = sdk.call("POST", "/api", files={name: (None, value) for name, value in fields.items()})
    assert entries(answer) == [{"success": True}] * 2
    assert entries(sdk.get(action="track", userId="u1", event="by GET", value="1.5")) == [
        {"success": True}
    ]
    settled(talk)
    assert [(one["event"], one.get("value")) for one in leanplum.arrived()][2:] == [
        ("by GET", "1.5")
    ]


# --- Android, iOS, JavaScript -----------------------------------------------------------------------------------------


def test_android_s_form_gets_every_reqid_back_and_its_texts_arrive_as_texts(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    common = {
        "deviceId": "d1",
        "userId": "u1",
        "sdkVersion": "7.8.0",
        "devMode": "false",
        "ct": False,
    }
    sent = [
        {"action": "start", **common, "time": "1.700000000123E9", "reqId": "A1", "uuid": "s", "country": "DE",
         "userAttributes": '{"age":29}', "newsfeedMessages": [], "includeDefaults": "false"},
        {"action": "track", **common, "event": "Purchase", "value": "9.99", "currencyCode": "USD", "reqId": "A2",
         "params": '{"sku":"a"}', "uuid": "s"},
        {"action": "setUserAttributes", **common, "userAttributes": '{"plan":"pro"}', "reqId": "A3", "uuid": "s"},
    ]  # fmt: skip
    answer = sdk.android(*sent)
    assert (answer.status_code, [one["reqId"] for one in entries(answer)]) == (
        200,
        ["A1", "A2", "A3"],
    )
    assert {"vars", "messages", "variants", "regions", "token", "syncNewsfeed"} <= entries(answer)[
        0
    ].keys()
    settled(talk)
    arrived = [
        {name: one[name] for name in like}
        for one, like in zip(leanplum.arrived(), sent, strict=True)
    ]
    moved = arrived[0].pop("time")  # by the error of the phone's clock
    assert isinstance(moved, str)
    assert float(moved) == pytest.approx(time.time(), abs=10)
    del sent[0]["time"]
    assert arrived == sent


def test_android_s_batch_that_is_sent_again_arrives_once(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    sent = [{**TRACK, "reqId": f"B{number}", "uuid": "same"} for number in range(5)]
    assert entries(sdk.android(*sent)) == entries(sdk.android(*sent))
    settled(talk)
    assert [one["reqId"] for one in leanplum.arrived()] == ["B0", "B1", "B2", "B3", "B4"]


def test_two_actions_that_say_the_same_ids_but_differ_both_arrive(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    sdk.android(*[{**TRACK, "event": name, "reqId": "C", "uuid": "c"} for name in ("one", "two")])
    settled(talk)
    assert [one["event"] for one in leanplum.arrived()] == ["one", "two"]


def test_ios_finds_its_answers_by_position(sdk: Sdk, leanplum: Leanplum, talk: Talk) -> None:
    sent = [
        {**TRACK, "devMode": 0, "time": "1700000000.123456"},
        {"action": "start", "userId": "u1", "deviceId": "d1", "newUserId": "", "devMode": 0},
        {"action": "setTrafficSourceInfo", "userId": "u1", "trafficSource": {"publisherName": "x"}},
        {"action": "getVars", "userId": "u1"},
        {"action": "nothing known"},
    ]
    found = entries(sdk.android(*sent))
    assert [one["success"] for one in found] == [True, True, True, True, False]
    assert ["vars" in one for one in found] == [False, True, False, True, False]
    settled(talk)
    assert [one["action"] for one in leanplum.arrived()] == [one["action"] for one in sent[:-1]]


def test_javascript_s_keys_are_put_in_everywhere_and_its_answer_may_be_read_by_any_page(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    answer = sdk.javascript(
        {"action": "getMigrateState", "deviceId": "d1", "userId": "u1", "devMode": False},
        {"action": "start", "deviceId": "d1", "userId": "u1", "devMode": False},
        {
            "action": "track",
            "event": "Purchase",
            "value": 9.99,
            "deviceId": "d1",
            "userId": "u1",
            "devMode": False,
        },
    )
    assert answer.headers["access-control-allow-origin"] == "*"
    found = entries(answer)
    assert (found[0]["sdk"], found[1]["messages"], found[2]) == ("lp", {}, {"success": True})
    assert "sha256" in answer.json()["migrateState"]  # a field beside `response` comes back too
    settled(talk)
    assert {one["clientKey"] for one in leanplum.arrived()} == {"prod_sandbox"}
    inner = [one for call in leanplum.calls() for one in call["args"]["data"]]
    assert {(one["clientKey"], one["appId"]) for one in inner} == {("prod_sandbox", "app_sandbox")}
    assert [one["action"] for one in inner] == ["getMigrateState", "start", "track"]
    assert sdk.key not in json.dumps(leanplum.calls())


def test_a_preflight_is_answered_and_so_are_errors_for_any_page(sdk: Sdk) -> None:
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Headers": "content-type"}
    answer = sdk.call("OPTIONS", "/api", headers=asked)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (answer.headers["access-control-allow-origin"], answer.headers["access-control-allow-headers"]) == (
        "*", "content-type",
    )  # fmt: skip
    for wrong in (
        sdk.call("PUT", "/api"),
        sdk.call("GET", "/api"),
        sdk.call("POST", "/api", content=b"{"),
    ):
        assert wrong.headers["access-control-allow-origin"] == "*"
        assert entries(wrong)[0]["success"] is False


# --- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "lpgw_mistyped", "prod_sandbox", "ünïcode"])
def test_a_bad_key_is_403_in_leanplum_s_words_once_for_each_entry_and_switches_no_sdk_off(
    talk: Talk, key: str
) -> None:
    sdk = Sdk(talk)
    sdk.key = key
    answer = sdk.multi(TRACK, {**TRACK, "reqId": "r"})
    found = entries(answer)
    assert (answer.status_code, len(found), found[1]["reqId"]) == (403, 2, "r")
    assert not any(one["error"]["message"].startswith(PERMANENT) for one in found)


def test_another_app_is_refused_and_a_key_without_the_scope_too(talk: Talk, sdk: Sdk) -> None:
    assert sdk.post({**TRACK, "appId": "app_other"}).status_code == 403
    assert Sdk(talk, scoped(talk, Scope.EVENTS_WRITE)).post(TRACK).status_code == 403
    assert Sdk(talk, scoped(talk, Scope.SDK)).post(TRACK).status_code == 200


def test_a_key_that_any_phone_has_reads_no_user_and_changes_nothing_that_sdks_do_not(
    talk: Talk, leanplum: Leanplum
) -> None:
    phone = Sdk(talk, scoped(talk, Scope.SDK))
    for action in (
        "exportUser",
        "deleteUser",
        "exportUsers",
        "setVars",
        "sendMessage",
        "getMessages",
    ):
        answer = phone.multi({"action": action, "userId": "u1", **ARGS.get(action, {})}, TRACK)
        assert [one["success"] for one in entries(answer)] == [False, True]
        assert "scope" in entries(answer)[0]["error"]["message"]
    settled(talk)
    assert {one["action"] for one in leanplum.arrived()} == {"track"}


def test_a_limit_that_is_spent_is_429_with_an_entry_for_each(start: Start) -> None:
    talk = start(leanplum_app_id="app_sandbox", gateway_rate_per_second=1, gateway_rate_burst=3)
    sdk = Sdk(talk)
    assert sdk.multi(TRACK, TRACK, TRACK).status_code == 200
    answer = sdk.multi(TRACK, TRACK)
    assert (answer.status_code, len(entries(answer))) == (429, 2)
    assert int(answer.headers["retry-after"]) >= 1


def test_a_batch_larger_than_the_burst_is_taken_when_the_bucket_is_full(start: Start) -> None:
    talk = start(leanplum_app_id="app_sandbox", gateway_rate_burst=3)
    assert Sdk(talk).multi(*[TRACK] * 10).status_code == 200
    assert talk.items() == 10


# --- trouble upstream -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", ["500-html", "429", "truncated", "empty", "403-key", "404-app", "redirect-item"]
)
def test_in_trouble_the_durable_entries_are_kept_and_the_sdk_is_told_to_try_again(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, mode: str
) -> None:
    leanplum.fault(mode=mode, action="start", times=20)
    answer = sdk.multi({**TRACK, "reqId": "1"}, {**START, "reqId": "2"}, {**TRACK, "reqId": "3"})
    assert answer.status_code in {429, 503}, answer.text
    assert [(one["success"], one["reqId"]) for one in entries(answer)] == [
        (True, "1"),
        (False, "2"),
        (True, "3"),
    ]
    assert not any(
        one in answer.text for one in ("apiHost", "apiPath", "devServerHost", *PERMANENT)
    )
    assert int(answer.headers["retry-after"]) >= 1
    leanplum.mend()
    settled(talk)
    assert [one["reqId"] for one in leanplum.arrived() if one["action"] == "track"] == ["1", "3"]


def test_while_leanplum_is_away_events_are_taken_and_what_asks_is_told_in_time(
    start: Start,
) -> None:
    talk = start(leanplum_app_id="app_sandbox", leanplum_api_url="http://127.0.0.1:9/api")
    began = time.monotonic()
    answer = Sdk(talk).javascript(START, TRACK)
    assert (answer.status_code, [one["success"] for one in entries(answer)]) == (503, [False, True])
    assert time.monotonic() - began < 10
    assert talk.items() == 1


@pytest.mark.timed
def test_a_leanplum_that_never_answers_keeps_an_sdk_waiting_once_not_for_each_question(
    leanplum: Leanplum, settings: Callable[..., Any], tmp_path: Any
) -> None:
    with delivering_to(
        leanplum, settings, tmp_path / "g.db", gateway_relay_timeout_seconds=0.3
    ) as talk:
        leanplum.fault(mode="slow", delay=2, times=1, action="start")
        answer = Sdk(talk).multi(START, TRACK, {"action": "getVars", "userId": "u1"})
        assert (answer.status_code, [one["success"] for one in entries(answer)]) == (
            504,
            [False, True, False],
        )
        until(lambda: talk.app.services.outbox.queued == 0)
        assert "getVars" not in [one["action"] for one in leanplum.arrived()]


def test_a_kind_of_key_that_is_missing_is_one_entry_s_failure(
    leanplum: Leanplum, settings: Callable[..., Any], tmp_path: Any
) -> None:
    with delivering_to(
        leanplum, settings, tmp_path / "g.db", leanplum_data_export_key=None
    ) as talk:
        sdk, ask = Sdk(talk), {"action": "exportUser", "userId": "u1"}
        answer = sdk.multi(TRACK, ask)
        assert (answer.status_code, [one["success"] for one in entries(answer)]) == (
            200,
            [True, False],
        )
        assert "LEANPLUM_DATA_EXPORT_KEY" in entries(answer)[1]["error"]["message"]
        assert sdk.post(ask).status_code == 501


def test_what_leanplum_refuses_is_told_as_it_says_it(sdk: Sdk) -> None:
    answer = sdk.post({"action": "getMessage", "id": 99})
    assert (answer.status_code, entries(answer)[0]["error"]) == (
        404,
        {"message": "Message not found."},
    )


@pytest.mark.parametrize("mode", ["shuffle", "no-reqid", "short"])
def test_answers_find_their_places_or_are_told_to_be_missing(
    sdk: Sdk, leanplum: Leanplum, mode: str
) -> None:
    leanplum.fault(mode=mode)
    found = entries(
        sdk.multi({**START, "reqId": "1"}, {"action": "getVars", "userId": "u1", "reqId": "2"})
    )
    assert len(found) == 2
    if mode == "short":
        assert [one["success"] for one in found] == [True, False]


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.timed
def test_ten_thousand_entries_are_taken_within_ten_seconds_and_arrive_in_order(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    sent = [
        {**TRACK, "event": f"e{number}", "params": json.dumps({"text": "x" * 400})}
        for number in range(10_000)
    ]
    began = time.monotonic()
    answer = sdk.android(*sent)
    assert time.monotonic() - began < 10
    assert (answer.status_code, len(entries(answer))) == (200, 10_000)
    until(lambda: talk.app.services.outbox.queued == 0, 60)
    assert [one["event"] for one in leanplum.arrived()] == [one["event"] for one in sent]


def test_more_entries_than_ten_thousand_are_too_many(sdk: Sdk) -> None:
    assert sdk.multi(*[TRACK] * 10_001).status_code == 413


def test_an_empty_batch_is_an_error_with_one_answer_since_javascript_looks_at_the_first(
    sdk: Sdk,
) -> None:
    answer = sdk.multi()
    assert (answer.status_code, [one["success"] for one in entries(answer)]) == (400, [False])


SENSELESS: list[Any] = [
    None, 1, "x", [], {}, {"action": 7}, {"action": "track"}, {"action": "track", "event": "e"},
    {"action": "track", "userId": {}, "event": "e"}, {"action": None, "reqId": "r"},
]  # fmt: skip


@pytest.mark.parametrize("one", SENSELESS)
def test_an_entry_that_makes_no_sense_harms_no_neighbour(sdk: Sdk, one: Any) -> None:
    answer = sdk.multi(TRACK, one, TRACK)
    assert (answer.status_code, [entry["success"] for entry in entries(answer)]) == (
        200,
        [True, False, True],
    )


@pytest.mark.parametrize("action", sorted(FILES))
def test_a_file_s_action_inside_a_batch_is_refused_there(sdk: Sdk, action: str) -> None:
    answer = sdk.multi(TRACK, {"action": action, "filename": "f"})
    assert (answer.status_code, [one["success"] for one in entries(answer)]) == (200, [True, False])


@pytest.mark.parametrize("data", ["{", "7", '{"data": 7}', "null"])
def test_data_that_is_no_list_is_malformed(sdk: Sdk, data: str) -> None:
    answer = sdk.post({"action": "multi", "data": data})
    assert (answer.status_code, entries(answer)[0]["success"]) == (400, False)


def test_in_development_mode_an_entry_is_asked_at_once_with_the_development_key(
    sdk: Sdk, leanplum: Leanplum
) -> None:
    sdk.multi({**TRACK, "devMode": "true"})
    (call,) = leanplum.calls()
    assert (call["args"]["clientKey"], call["args"]["data"][0]["devMode"]) == (
        "dev_sandbox",
        "true",
    )


@pytest.mark.parametrize(
    "nest", [lambda inner: [inner], lambda inner: {"a": inner}], ids=["lists", "objects"]
)
def test_a_call_nested_too_deeply_is_refused_wherever_it_stands(
    sdk: Sdk, nest: Callable[[Any], Any]
) -> None:
    deep: Any = 1
    for _ in range(65):
        deep = nest(deep)
    entry = {**TRACK, "params": deep}
    for answer in (sdk.multi(entry), sdk.post(entry), sdk.android(entry), sdk.javascript(entry)):
        assert (answer.status_code, entries(answer)[0]["success"]) == (400, False)
        assert "nested more than 64 levels deep" in entries(answer)[0]["error"]["message"]
