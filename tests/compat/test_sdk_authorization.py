"""Every action at /api × every scope × every form of its name: denied unless it is allowed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest

from app.leanplum.actions import ACTIONS
from app.model import Scope
from app.settings import Settings
from tests.support.gateway import WIDE, Talk, make_settings
from tests.support.sdk import Sdk, entries, scoped, settled
from tests.support.simulator import Leanplum, delivering_to, simulated

# The scope that each action needs beside `sdk`; what SDKs do themselves needs no other.
NEEDS = {
    "users:read": ["exportUser"],
    "users:erase": ["block", "unblock", "deleteUser"],
    "messages:send": ["sendMessage", "startCampaign"],
    "content:read": [
        "getMessages", "getMessage", "getAbTests", "getAbTest", "getVariant", "getUnsubscribeCategories",
        "getAndroidNotificationChannels",
    ],
    "content:write": [
        "setVars", "deleteVars", "registerDevice", "uploadFile", "addAndroidNotificationChannel",
        "deleteAndroidNotificationChannel", "saveInterface", "saveInterfaceImage", "getViewControllerVersionsList",
    ],
    "exports:run": [
        "exportData", "exportUsers", "exportReport", "getExportResults", "multi", "getMultiResults", "addPostback",
        "listPostbacks", "deletePostback",
    ],
}  # fmt: skip
OPEN = [
    "start", "stop", "pauseSession", "resumeSession", "heartbeat", "track", "advance", "pauseState", "resumeState",
    "setUserAttributes", "setDeviceAttributes", "setTrafficSourceInfo", "getVars", "downloadFile",
    "getNewsfeedMessages", "markNewsfeedMessageAsRead", "deleteNewsfeedMessage", "getMigrateState", "log",
    "trackGeofence", "restart",
]  # fmt: skip
NEEDED = {action: scope for scope, actions in NEEDS.items() for action in actions}
OF_THEIR_OWN = {"multi", "uploadFile", "downloadFile"}
FULL_WIDTH = {
    ord(char): ord(char) + 0xFEE0
    for char in map(chr, range(ord("A"), ord("z") + 1))
    if char.isalpha()
}
FORMS: dict[str, Callable[[str], str]] = {
    "capital": lambda name: name[0].upper() + name[1:],
    "upper case": str.upper,
    "a space behind": lambda name: f"{name} ",
    "a line break before": lambda name: f"\n{name}",
    "a tab within": lambda name: f"{name[:2]}\t{name[2:]}",
    "percent-encoded": lambda name: f"%{ord(name[0]):02x}{name[1:]}",
    "a NUL": lambda name: f"{name}\0",
    "full width": lambda name: name.translate(FULL_WIDTH),
    "a zero-width space": lambda name: f"{name[:1]}\u200b{name[1:]}",
    "an accent": lambda name: f"{name[:1]}\u0301{name[1:]}",
    "quoted": lambda name: f'"{name}"',
    "two": lambda name: f"{name},track",
    "a list as text": lambda name: orjson.dumps([name]).decode(),
}
FILLED = {
    "event": "E", "state": "S", "userAttributes": {"a": 1}, "appVersion": "1", "trafficSource": {"publisherId": "p"},
    "messageId": "1", "campaignId": "1", "blockReason": "GDPR", "newsfeedMessageId": "1", "filename": "f",
}  # fmt: skip
SENT = {"userId": "u1", "deviceId": "d1", **FILLED}
ARGUMENTS = {"multi": {"createJob": True, "file": "f", "gcsBucket": "b"}}


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def talk(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("authorization")

    def settings(**given: Any) -> Settings:
        return make_settings(folder, migrated, WIDE | given)

    with ExitStack() as stack:
        yield stack.enter_context(delivering_to(leanplum, settings, folder / "g.db"))


@pytest.fixture(scope="module")
def phones(talk: Talk) -> dict[str, Sdk]:
    """Keys with the scope `sdk` and one more; of `sdk`, with it alone."""
    return {scope.value: Sdk(talk, scoped(talk, *{Scope.SDK, scope})) for scope in Scope}


@pytest.fixture
def sdk(talk: Talk, leanplum: Leanplum) -> Sdk:
    settled(talk)
    leanplum.forget()
    return Sdk(talk)


def why(entry: dict[str, Any]) -> str:
    return str(entry.get("error", {}).get("message", ""))


def denied(entry: dict[str, Any]) -> bool:
    return any(
        text in why(entry)
        for text in ("needs a caller key with the scope", "is not known to this gateway")
    )


def test_the_table_has_every_action() -> None:
    assert {*NEEDED, *OPEN} == set(ACTIONS)


@pytest.mark.parametrize("scope", list(Scope))
def test_each_action_passes_with_its_own_scope_alone(
    phones: dict[str, Sdk], leanplum: Leanplum, scope: Scope
) -> None:
    phone = phones[scope.value]
    for action in ACTIONS:
        allowed = NEEDED.get(action, scope.value) == scope.value
        answer = phone.post({**SENT, "action": action, **ARGUMENTS.get(action, {})})
        if action != "downloadFile":
            (entry,) = entries(answer)
            assert denied(entry) is not allowed, (action, answer.text)
        assert (answer.status_code == 403) is not allowed, (action, answer.text)
    sent = [action for action in ACTIONS if action not in OF_THEIR_OWN]
    batch = entries(phone.multi(*({**SENT, "action": action} for action in sent)))
    passed = {action for action, entry in zip(sent, batch, strict=True) if not denied(entry)}
    assert passed == {action for action in sent if NEEDED.get(action, scope.value) == scope.value}


@pytest.mark.parametrize("scope", [one for one in Scope if one is not Scope.SDK])
def test_without_the_scope_sdk_no_action_passes(
    talk: Talk, sdk: Sdk, leanplum: Leanplum, scope: Scope
) -> None:
    other = Sdk(talk, scoped(talk, scope))
    for action in ("track", "deleteUser", "getVars", "multi", "DeleteUser"):
        assert other.post({**SENT, "action": action}).status_code == 403
    assert other.multi({**SENT, "action": "track"}).status_code == 403
    assert leanplum.calls() == []


@pytest.mark.parametrize("form", FORMS)
def test_no_other_form_of_a_name_passes_with_any_scope(
    sdk: Sdk, leanplum: Leanplum, form: str
) -> None:
    """`sdk` is a key with every scope there is."""
    names = [FORMS[form](action) for action in ACTIONS]
    sent = [{**SENT, "action": name} for name in names]
    nested = [{"action": "multi", "data": [one]} for one in sent]
    as_text = orjson.dumps({"data": sent}).decode()
    answers = [
        sdk.multi(*sent), sdk.multi(*sent, devMode=True), sdk.multi(*nested),
        sdk.post({"action": "multi", "data": as_text}), sdk.post({"data": sent}, "/api-batch"),
        sdk.post({"data": [*sent, {"action": None}, {"action": [names[0]]}, {"action": True}, {}, names[0]]}),
        *map(sdk.post, sent[:8]), *(sdk.post({**one, "devMode": True}) for one in sent[8:12]),
    ]  # fmt: skip
    for answer in answers:
        assert not any(entry["success"] for entry in entries(answer)), answer.text[:300]
    assert [answer.status_code for answer in (*answers[:5], *answers[6:])] == [403] * (
        len(answers) - 1
    )
    assert leanplum.calls() == []


def test_a_batch_of_which_something_is_known_is_answered_entry_by_entry(
    sdk: Sdk, talk: Talk
) -> None:
    answer = sdk.multi({**SENT, "action": "DeleteUser"}, {**SENT, "action": "track"})
    assert (answer.status_code, [one["success"] for one in entries(answer)]) == (200, [False, True])
    settled(talk)


# --- resetAnomalies ---------------------------------------------------------------------------------------------------

ON = [True, "true", "TRUE", 1, "1", 1.0, "yes", "on", "t", " true", [], {}, "anything"]
OFF = [False, "false", "False", 0, "0", 0.0, "", None, "no", "off"]


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("action", ["setUserAttributes", "track", "start"])
def test_resetting_anomalies_needs_the_scope_that_writes_users(
    phones: dict[str, Sdk], leanplum: Leanplum, talk: Talk, scope: Scope, action: str
) -> None:
    settled(talk)
    leanplum.forget()
    phone, passes = phones[scope.value], scope is Scope.USERS_WRITE
    for value in ON if not passes else ON[:1]:
        sent = {**SENT, "action": action, "resetAnomalies": value}
        answers = [phone.post(sent), phone.post({**sent, "devMode": True}), phone.multi(sent)]
        assert [answer.status_code == 403 for answer in answers[:2]] == [not passes] * 2, (
            value,
            answers[0].text,
        )
        assert [denied(entries(answer)[0]) for answer in answers] == [not passes] * 3, value
    settled(talk)
    assert bool(leanplum.calls()) is passes


@pytest.mark.parametrize("value", OFF)
def test_anomalies_that_are_not_reset_need_no_further_scope(
    phones: dict[str, Sdk], talk: Talk, value: Any
) -> None:
    answer = phones["sdk"].post({**SENT, "action": "setUserAttributes", "resetAnomalies": value})
    assert answer.status_code == 200
    settled(talk)


def test_resetting_anomalies_for_a_whole_batch_says_nothing(
    phones: dict[str, Sdk], leanplum: Leanplum, talk: Talk
) -> None:
    settled(talk)
    leanplum.forget()
    answer = phones["sdk"].multi({**SENT, "action": "getVars"}, resetAnomalies=True)
    assert entries(answer)[0]["success"] is True
    (call,) = leanplum.calls()
    assert "resetAnomalies" not in call["args"]


# --- the arguments of a whole call ------------------------------------------------------------------------------------

OF_A_BATCH = {
    "action",
    "appId",
    "clientKey",
    "apiVersion",
    "client",
    "sdkVersion",
    "devMode",
    "time",
    "data",
}
FOREIGN: dict[str, Any] = {
    "createJob": "on", "file": "rows.csv", "gcsBucket": "b", "s3BucketName": "b", "s3AccessId": "i", "defaultAction":
    "deleteUser", "CreateJob": True, "createjob": "1", "actions": "[]", "Data": [{"action": "deleteUser"}],
    "data[]": "x", "resetAnomalies": True, "userId": "u9", "anything": {"a": 1},
}  # fmt: skip


def test_a_batch_goes_on_with_the_arguments_that_a_batch_has_and_no_other(
    sdk: Sdk, leanplum: Leanplum
) -> None:
    known: dict[str, Any] = {
        "client": "android",
        "sdkVersion": "7.8.0",
        "apiVersion": "1.0.6",
        "devMode": False,
    }
    sdk.multi({"action": "getVars", "userId": "u1"}, **known, **FOREIGN)
    fields = {"appId": "app_sandbox", "clientKey": sdk.key, "action": "multi", **FOREIGN}
    data = [{"action": "getVars", "userId": "u2"}]
    query = urlencode({name: value for name, value in fields.items() if isinstance(value, str)})
    sdk.call("POST", f"/api?{query}", json={"data": data})
    sdk.call(
        "POST",
        "/api",
        data={**dict(fields, Data="x", anything="x"), "data": orjson.dumps(data).decode()},
    )
    found = [call["args"] for call in leanplum.calls()]
    assert len(found) == 3
    for args in found:
        assert (args["action"], args.keys() - OF_A_BATCH) == ("multi", set())
    assert known.items() <= found[0].items()


@pytest.mark.parametrize("switch", [True, "true", "1", 1, "yes", "on", "TRUE"])
def test_a_batch_with_the_switch_of_an_import_is_no_way_around_scopes(
    phones: dict[str, Sdk], leanplum: Leanplum, talk: Talk, switch: Any
) -> None:
    settled(talk)
    leanplum.forget()
    data = [{"action": "deleteUser", "userId": "u1"}]
    job = {"createJob": switch, "file": "f", "gcsBucket": "b", "s3BucketName": "b"}
    for phone in (phones["sdk"], phones["exports:run"]):
        phone.post({"action": "multi", "data": data, **job})
        phone.post({"data": data, **job}, "/api-batch")
    for call in leanplum.calls():
        assert "data" not in call["args"]
        assert "s3BucketName" not in call["args"]
    assert "deleteUser" not in [one["action"] for one in leanplum.arrived()]


# --- how long a name may be -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["x" * 3_000_000, "deleteUser" + " " * 3_000_000, "\u00e9" * 1_000_000]
)
def test_a_very_long_name_reaches_neither_the_audit_nor_the_answer_nor_leanplum(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = len(talk.audit())
    sdk = Sdk(talk, scoped(talk, *Scope))  # whose refusals are not folded yet
    answers = [
        sdk.post({**SENT, "action": name}), sdk.multi({**SENT, "action": name}),
        sdk.multi({"action": "multi", "data": [{"action": name}]}),
        sdk.post({"action": "multi", "createJob": True, "file": "f", "gcsBucket": "b", "defaultAction": name}),
        talk.batch([{"action": name, "userId": "u", "event": "E"}]),
        talk.post("/segment/v1/batch", {"batch": [{"type": name, "userId": "u"}]}),
    ]  # fmt: skip
    assert [answer.status_code for answer in answers[:2]] == [403, 403]
    assert all(len(answer.content) < 2_000 for answer in answers)
    records = talk.audit()[before:]
    assert len(records) >= 2
    assert max(len(orjson.dumps(record)) for record in records) < 2_000
    assert leanplum.calls() == []
    told = capfd.readouterr()
    assert max(map(len, f"{told.out}\n{told.err}".split("\n"))) < 2_000
