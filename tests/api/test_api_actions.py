"""Every action over REST, against a real simulator: what arrives is compared field by field."""

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.leanplum.actions import ACTIONS
from tests.support.gateway import PROBLEM, Talk, pointers
from tests.support.processes import ended
from tests.support.simulator import KEYS, Leanplum, delivering_to, simulated
from tests.support.wait import until

PRODUCTION, DEVELOPMENT, EXPORT, CONTENT = KEYS.values()
DAY = time.strftime("%Y%m%d", time.gmtime(time.time() - 3 * 86_400))
# What the gateway itself says
ADDED = {"appId", "clientKey", "apiVersion", "time", "reqId", "uuid"}


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def talk(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Iterator[Talk]:
    from tests.support.gateway import WIDE, make_settings

    folder = tmp_path_factory.mktemp("actions")

    def settings(**given: Any) -> Any:
        return make_settings(folder, migrated, WIDE | given)

    with delivering_to(leanplum, settings, folder / "g.db", gateway_cache_seconds=0) as found:
        yield found


@pytest.fixture(autouse=True)
def anew(talk: Talk, leanplum: Leanplum) -> None:
    # What an earlier test left to be delivered
    talk.until_nothing_waits()
    leanplum.forget()


USER = {"userId": "u1"}
WRITES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any], str]] = {
    "track": ("POST", "/v1/events", {**USER, "event": "E", "value": 1.5, "params": {"a": 1}, "currencyCode": "EUR"},
              {**USER, "event": "E", "value": 1.5, "params": {"a": 1}, "currencyCode": "EUR"}, PRODUCTION),
    "setUserAttributes": ("PATCH", "/v1/users/u1", {"userAttributes": {"a": None, "b": [1]}, "newUserId": "u2"},
                          {**USER, "userAttributes": {"a": None, "b": [1]}, "newUserId": "u2"}, PRODUCTION),
    "setDeviceAttributes": ("PATCH", "/v1/devices/d1", {"appVersion": "2", "userId": "u1"},
                            {"deviceId": "d1", "appVersion": "2", "userId": "u1"}, PRODUCTION),
    "setTrafficSourceInfo": ("PUT", "/v1/users/u1/traffic-source", {"trafficSource": {"publisherName": "p"}},
                             {**USER, "trafficSource": {"publisherName": "p"}}, PRODUCTION),
    "advance": ("POST", "/v1/users/u1/states", {"state": "S", "params": {"n": 2}},
                {**USER, "state": "S", "params": {"n": 2}}, PRODUCTION),
    "pauseState": ("POST", "/v1/users/u1/states/pause", {}, USER, PRODUCTION),
    "resumeState": ("POST", "/v1/users/u1/states/resume", {}, USER, PRODUCTION),
    "stop": ("POST", "/v1/users/u1/sessions/stop", {"deviceId": "d1"}, {**USER, "deviceId": "d1"}, PRODUCTION),
    "pauseSession": ("POST", "/v1/users/u1/sessions/pause", {}, USER, PRODUCTION),
    "resumeSession": ("POST", "/v1/users/u1/sessions/resume", {}, USER, PRODUCTION),
    "heartbeat": ("POST", "/v1/users/u1/sessions/heartbeat", {}, USER, PRODUCTION),
    "sendMessage": ("POST", "/v1/messages/1001/send", {**USER, "values": {"x": [{"y": 1}]}, "force": True},
                    {**USER, "messageId": 1001, "values": {"x": [{"y": 1}]}, "force": True}, PRODUCTION),
    "startCampaign": ("POST", "/v1/campaigns/7/start", {**USER, "values": {"x": 1}},
                      {**USER, "campaignId": 7, "values": {"x": 1}}, DEVELOPMENT),
    "block": ("PUT", "/v1/users/u1/block", {}, USER, PRODUCTION),
    "unblock": ("DELETE", "/v1/users/u1/block", {}, USER, DEVELOPMENT),
    "deleteUser": ("DELETE", "/v1/users/u1?fullErasure=true", {}, {**USER, "fullErasure": True}, DEVELOPMENT),
}  # fmt: skip


def the_action(leanplum: Leanplum, action: str) -> tuple[dict[str, Any], str]:
    """The one action of this name that arrived, less what the gateway adds; and the key of its
    call.
    """
    (found,) = [one for one in leanplum.arrived() if one["action"] == action]
    return {name: value for name, value in found.items() if name not in ADDED | {"action"}}, found[
        "clientKey"
    ]


@pytest.mark.parametrize("action", WRITES)
def test_a_write_arrives_as_its_action_with_the_fields_and_the_key_it_needs(
    talk: Talk, leanplum: Leanplum, action: str
) -> None:
    method, url, body, fields, key = WRITES[action]
    answer = talk.post(url, body, method=method)
    assert answer.status_code == 202, answer.text
    until(lambda: [one for one in leanplum.arrived() if one["action"] == action])
    assert the_action(leanplum, action) == (fields, key)


@pytest.mark.parametrize(
    "action", [action for action, (_, _, body, _, _) in WRITES.items() if not body]
)
def test_a_write_that_says_all_in_its_path_needs_no_body(talk: Talk, action: str) -> None:
    method, url, _, _, _ = WRITES[action]
    assert talk.call(method, url).status_code == 202


def test_a_batch_takes_every_write_and_each_arrives_in_its_user_s_order(
    talk: Talk, leanplum: Leanplum
) -> None:
    items = [
        {"action": action, **fields}
        for action, (_, _, _, fields, _) in WRITES.items()
        if action != "deleteUser"
    ]
    answer = talk.batch(items)
    assert (answer.status_code, answer.json()["accepted"]) == (202, len(items)), answer.text
    until(lambda: len(leanplum.arrived()) == len(items))
    assert [one["action"] for one in leanplum.arrived()] == [one["action"] for one in items]


ASKED: dict[str, tuple[str, str, Any, dict[str, Any], str, set[str]]] = {
    "start": ("POST", "/v1/users/u1/sessions", {"deviceId": "d1", "userAttributes": {"a": 1}, "country": "DE"},
              {**USER, "deviceId": "d1", "userAttributes": {"a": 1}, "country": "DE"}, PRODUCTION,
              {"vars", "messages", "variants", "token"}),
    "getVars": ("GET", "/v1/users/u1/variables?includeDefaults=false", None, {**USER, "includeDefaults": False},
                PRODUCTION, {"vars", "variants"}),
    "exportUser": ("GET", "/v1/users/u1", None, USER, EXPORT, {"userId", "userAttributes", "devices"}),
    "getMessages": ("GET", "/v1/messages?includeDrafts=true", None, {"includeDrafts": True}, CONTENT, {"messages"}),
    "getMessage": ("GET", "/v1/messages/1001", None, {"id": 1001}, CONTENT, {"message"}),
    "getAbTests": ("GET", "/v1/ab-tests?recent=false", None, {"recent": False}, CONTENT, {"abTests"}),
    "getAbTest": ("GET", "/v1/ab-tests/2001", None, {"id": 2001}, CONTENT, {"abTest"}),
    "getVariant": ("GET", "/v1/variants/3001", None, {"id": 3001}, CONTENT, {"variant"}),
    "getUnsubscribeCategories": ("GET", "/v1/unsubscribe-categories", None, {}, CONTENT, {"categories"}),
    "getAndroidNotificationChannels": ("GET", "/v1/notification-channels", None, {}, PRODUCTION,
                                       {"notificationChannels"}),
    "addAndroidNotificationChannel": ("PUT", "/v1/notification-channels/c1", {"name": "n", "importance": 3},
                                      {"id": "c1", "name": "n", "importance": 3}, DEVELOPMENT, {"channelCreated"}),
    "deleteAndroidNotificationChannel": ("DELETE", "/v1/notification-channels/c1", None, {"channelId": "c1"},
                                         DEVELOPMENT, {"channelDeleted"}),
    "setVars": ("PUT", "/v1/variables", {"vars": {"a.b": [1, None]}}, {"vars": {"a.b": [1, None]}}, DEVELOPMENT,
                set()),
    "deleteVars": ("DELETE", "/v1/variables", {"vars": ["a"]}, {"vars": ["a"]}, DEVELOPMENT, {"variablesRemoved"}),
    "registerDevice": ("POST", "/v1/development-devices", {"deviceId": "d1", "email": "a@example.com"},
                       {"deviceId": "d1", "email": "a@example.com"}, DEVELOPMENT, {"registered"}),
    "exportUsers": ("POST", "/v1/exports/users", {"audienceName": "x"}, {"audienceName": "x"}, EXPORT, {"jobId"}),
    "exportReport": ("POST", "/v1/exports/report", {"startDate": DAY, "dataType": "UserActivity"},
                     {"startDate": DAY, "dataType": "UserActivity"}, EXPORT, {"jobId"}),
    "addPostback": ("POST", "/v1/postbacks", {"type": "messageEvents", "postbackUrl": "https://example.com/{{x}}"},
                    {"type": "messageEvents", "postbackUrl": "https://example.com/{{x}}"}, EXPORT, {"postbackId"}),
    "listPostbacks": ("GET", "/v1/postbacks", None, {}, EXPORT, {"postbacks"}),
}  # fmt: skip


@pytest.mark.parametrize("action", ASKED)
def test_what_is_asked_arrives_with_its_fields_and_key_and_the_answer_comes_back(
    talk: Talk, leanplum: Leanplum, action: str
) -> None:
    method, url, body, fields, key, answered = ASKED[action]
    before = {
        "exportUser": lambda: talk.post("/v1/users/u1/sessions", {}),
        "getVars": lambda: talk.post("/v1/users/u1/sessions", {}),
        "deleteAndroidNotificationChannel": lambda: talk.post(
            "/v1/notification-channels/c1", {"name": "n", "importance": 3}, method="PUT"
        ),
    }.get(action)
    if before is not None:
        assert before().status_code == 200
    answer = talk.call(method, url) if body is None else talk.post(url, body, method=method)
    assert answer.status_code == 200, answer.text
    assert answered <= answer.json().keys()
    assert not {"success", "reqId"} & answer.json().keys()
    assert the_action(leanplum, action) == (fields, key)


def test_an_export_is_begun_polled_and_ends_with_its_files(talk: Talk, leanplum: Leanplum) -> None:
    body = {"startDate": DAY, "exportFormat": "csv"}
    job = talk.post("/v1/exports/data", body).json()["jobId"]
    assert the_action(leanplum, "exportData") == (body, EXPORT)
    states = [talk.get(f"/v1/exports/{job}").json() for _ in range(3)]
    assert [one["state"] for one in states] == ["PENDING", "RUNNING", "FINISHED"]
    assert states[2]["files"]
    polls = [one for one in leanplum.arrived() if one["action"] == "getExportResults"]
    assert {(one["jobId"], one["clientKey"]) for one in polls} == {(job, EXPORT)}


def test_an_import_is_begun_from_a_file_polled_and_done(talk: Talk, leanplum: Leanplum) -> None:
    form = {"defaultAction": "track"}
    answer = talk.call(
        "POST",
        "/v1/imports",
        data=form,
        files={"file": ("rows.csv", b"userId,event\nu9,Imported\n")},
    )
    assert answer.status_code == 200, answer.text
    (call,) = leanplum.calls()
    assert call["args"] | form == call["args"]
    assert (call["args"]["createJob"], call["args"]["clientKey"]) == ("true", DEVELOPMENT)
    job = answer.json()["jobId"]
    states = [talk.get(f"/v1/imports/{job}").json() for _ in range(3)]
    assert states[2]["state"] == "FINISHED"
    assert leanplum.user("u9")["events"]["Imported"]["count"] == 1


def test_files_go_up_and_come_down_byte_by_byte(talk: Talk, leanplum: Leanplum) -> None:
    content = bytes(range(256)) * 20_000  # more than is kept in memory
    answer = talk.call("POST", "/v1/files", data={"filename": "a b.bin", "size": str(len(content)), "hash": "h"},
                       files={"file": ("a b.bin", content)})  # fmt: skip
    assert answer.status_code == 200, answer.text
    (stored,) = leanplum.files()
    assert stored["sha256"] == hashlib.sha256(content).hexdigest()
    down = talk.get("/v1/files/a%20b.bin")
    assert (down.status_code, down.content) == (200, content)


def test_a_postback_is_removed_by_its_id(talk: Talk, leanplum: Leanplum) -> None:
    made = talk.post(
        "/v1/postbacks", {"type": "messageEvents", "postbackUrl": "https://example.com"}
    ).json()
    assert talk.call("DELETE", f"/v1/postbacks/{made['postbackId']}").status_code == 200
    assert the_action(leanplum, "deletePostback") == (
        {"postbackId": str(made["postbackId"])},
        EXPORT,
    )
    assert talk.get("/v1/postbacks").json()["postbacks"] == []


def test_every_documented_action_has_its_call() -> None:
    elsewhere = {"exportData", "getExportResults", "multi", "getMultiResults", "uploadFile", "downloadFile",
                 "deletePostback"}  # fmt: skip
    assert {*WRITES, *ASKED, *elsewhere} == {
        name for name, action in ACTIONS.items() if action.documented
    }


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "fault", "status", "slug"),
    [
        ("/v1/users/nobody", {}, 404, "not-found"),
        ("/v1/messages/99", {}, 404, "not-found"),
        ("/v1/users/u1/variables", {"mode": "500-html"}, 503, "upstream-unavailable"),
        ("/v1/users/u1/variables", {"mode": "429", "times": 9}, 503, "upstream-unavailable"),
        ("/v1/users/u1/variables", {"mode": "403-key"}, 502, "upstream-rejected"),
        ("/v1/users/u1/variables", {"mode": "truncated"}, 502, "upstream-rejected"),
        ("/v1/users/u1/variables", {"mode": "redirect-item"}, 502, "upstream-rejected"),
        ("/v1/users/u1/variables", {"mode": "success-false"}, 502, "upstream-rejected"),
        ("/v1/users/u1/variables", {"mode": "disconnect"}, 504, "upstream-timeout"),
    ],
)
def test_trouble_upstream_is_a_problem_of_its_kind(
    talk: Talk, leanplum: Leanplum, url: str, fault: dict[str, Any], status: int, slug: str
) -> None:
    if fault:
        leanplum.fault(**fault)
    answer = talk.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    assert answer.json()["type"] == f"/problems/{slug}"
    assert ("retry-after" in answer.headers) == (status == 503)
    assert not any(key in answer.text for key in KEYS.values())


@pytest.mark.parametrize(
    ("method", "url", "body", "pointer"),
    [
        ("POST", "/v1/exports/data", {"startDate": "tomorrow"}, "/startDate"),
        ("POST", "/v1/exports/report", {"startDate": DAY}, "/dataType"),
        ("PUT", "/v1/variables", {"vars": {}}, "/vars"),
        ("PUT", "/v1/variables", [], ""),
        ("POST", "/v1/users/u1/sessions", {"unknown": 1}, "/unknown"),
        ("POST", "/v1/users/u1/sessions", {"userId": "u2"}, "/userId"),
        ("POST", "/v1/messages/x/send", {"userId": "u"}, "messageId"),
        ("PATCH", "/v1/devices/d1", {}, ""),
        ("PUT", "/v1/users/u1/traffic-source", {"trafficSource": {}}, "/trafficSource"),
        ("DELETE", "/v1/users/u1?fullErasure=yes", {}, "fullErasure"),
    ],
)
def test_what_breaks_the_action_s_rules_is_told_with_its_place_and_not_sent(
    talk: Talk, leanplum: Leanplum, method: str, url: str, body: Any, pointer: str
) -> None:
    answer = talk.post(url, body, method=method)
    assert answer.status_code == 422, answer.text
    assert pointer in pointers(answer.json())
    assert leanplum.arrived() == []


def test_without_a_kind_of_key_what_needs_it_is_not_implemented_and_names_the_setting(
    leanplum: Leanplum, settings: Callable[..., Any], tmp_path: Any
) -> None:
    missing = dict.fromkeys([name for name in KEYS if "production" not in name])
    with delivering_to(leanplum, settings, tmp_path / "g.db", **missing) as talk:
        for url, setting in (
            ("/v1/users/u1", "LEANPLUM_DATA_EXPORT_KEY"), ("/v1/messages", "LEANPLUM_CONTENT_READ_ONLY_KEY"),
        ):  # fmt: skip
            answer = talk.get(url)
            assert (answer.status_code, answer.json()["type"]) == (
                501,
                "/problems/key-not-configured",
            )
            assert setting in answer.json()["detail"]
        assert talk.call("DELETE", "/v1/users/u1").status_code == 501
        assert (
            talk.post("/v1/users/u1", {"resetAnomalies": True}, method="PATCH").status_code == 501
        )
        told = talk.batch(
            [
                {"action": "deleteUser", "userId": "u"},
                {"action": "track", "userId": "u", "event": "e"},
            ]
        )
        assert [one["status"] for one in told.json()["results"]] == ["rejected", "accepted"]
        assert told.json()["results"][0]["problem"]["status"] == 501
        assert leanplum.arrived() == [] or {one["action"] for one in leanplum.arrived()} == {
            "track"
        }


def test_what_changes_seldom_is_asked_once_and_told_by_its_tag(
    leanplum: Leanplum, settings: Callable[..., Any], tmp_path: Any
) -> None:
    with delivering_to(leanplum, settings, tmp_path / "g.db", gateway_cache_seconds=60) as talk:
        first, second = talk.get("/v1/messages"), talk.get("/v1/messages")
        assert first.json() == second.json()
        assert first.headers["cache-control"].startswith("private, max-age=")
        assert len(leanplum.calls()) == 1
        again = talk.get("/v1/messages", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        talk.get("/v1/messages?includeDrafts=true")
        assert len(leanplum.calls()) == 2


def test_exports_past_the_day_s_number_are_refused_here(
    leanplum: Leanplum, settings: Callable[..., Any], tmp_path: Any
) -> None:
    with delivering_to(leanplum, settings, tmp_path / "g.db") as talk:
        assert {
            talk.post("/v1/exports/data", {"startDate": DAY}).status_code for _ in range(24)
        } == {200}
        refused = talk.post("/v1/exports/data", {"startDate": DAY})
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/rate-limited")
        assert 0 < int(refused.headers["retry-after"]) <= 86_400
        assert len(leanplum.arrived()) == 24


def test_what_is_asked_waits_for_what_was_accepted_for_the_user_before(
    talk: Talk, leanplum: Leanplum
) -> None:
    talk.batch([{"action": "track", "userId": "u1", "event": f"e{number}"} for number in range(20)])
    talk.get("/v1/users/u1/variables")
    assert [one["action"] for one in leanplum.arrived()] == ["track"] * 20 + ["getVars"]


def test_calls_for_one_user_never_overlap_whoever_makes_them(
    talk: Talk, leanplum: Leanplum
) -> None:
    event, none = ("POST", "/v1/events", {"json": {"userId": "u1", "event": "e"}}), dict[str, Any]()
    answers = talk.at_once(*[event, ("GET", "/v1/users/u1/variables", none)] * 20)
    assert {one.status_code for one in answers} <= {202, 200, 404}
    until(lambda: len(leanplum.arrived()) == 40)
    stats = leanplum._http.get("/_simulator/stats").json()
    assert stats["overlaps"] == 0


def test_each_key_is_checked_without_touching_a_user(talk: Talk, leanplum: Leanplum) -> None:
    told = talk.post("/v1/apps/default/check", {}).json()
    assert told["keys"] == {
        kind: {"configured": True, "accepted": True}
        for kind in ("production", "development", "data export", "content read-only")
    }
    assert len(leanplum.arrived()) == 4
    assert leanplum._http.get("/_simulator/stats").json()["users"] == 0
    assert talk.post("/v1/apps/other/check", {}).status_code == 404
    assert talk.get("/v1/apps").json()["apps"][0]["keys"]["development"] == {"configured": True}


def test_a_key_that_leanplum_refuses_is_told(
    leanplum: Leanplum, settings: Callable[..., Any], tmp_path: Any
) -> None:
    given = {"leanplum_development_key": "dev_wrong", "leanplum_data_export_key": None}
    with delivering_to(leanplum, settings, tmp_path / "g.db", **given) as talk:
        told = talk.post("/v1/apps/default/check", {}).json()["keys"]
    assert (told["development"]["accepted"], told["data export"]) == (False, {"configured": False})
    assert "Invalid access key" in told["development"]["detail"]
    assert "dev_wrong" not in str(told)


def test_the_command_tells_of_each_key_and_ends_with_1_where_one_is_refused(
    leanplum: Leanplum, tmp_path: Any
) -> None:
    given = {"LEANPLUM_APP_ID": "app_sandbox", "LEANPLUM_API_URL": f"{leanplum.url}/api"}
    good = {name.upper(): key for name, key in KEYS.items()}
    done = ended(tmp_path, "check", **given, **good)
    assert (done.returncode, done.stdout.count("accepted")) == (0, 4), done.stderr
    done = ended(tmp_path, "check", **given, LEANPLUM_PRODUCTION_KEY="prod_wrong")
    assert done.returncode == 1
    assert "refused" in done.stdout
    assert done.stdout.count("not set") == 3
    assert "prod_wrong" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "media", ["multipart/form-data", "multipart/form-data; boundary=x", "application/json"]
)
@pytest.mark.parametrize("body", [b"", b"\x00", b"--x\r\n\r\n--x--", b"--y"])
def test_a_form_that_is_none_is_refused(talk: Talk, media: str, body: bytes) -> None:
    for url in ("/v1/files", "/v1/imports"):
        answer = talk.call("POST", url, content=body, headers={"Content-Type": media})
        assert answer.status_code in {400, 415, 422}, answer.text
