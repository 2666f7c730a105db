"""What each action does to users and devices: the pure rules, without HTTP (fact sheet §3, §4)."""

from typing import Any

import pytest

from app.simulator.actions.table import ACTIONS, UserAction
from app.simulator.profiles import OCCURRENCES_KEPT

from .simulated_app import NOW, App

SKIPPED = {"success": True, "warning": {"message": "User not found; request skipped."}}

CREATING: dict[str, dict[str, Any]] = {
    "start": {},
    "track": {"event": "Open"},
    "setUserAttributes": {},
    "setDeviceAttributes": {"deviceId": "d1", "appVersion": "1"},
    "setTrafficSourceInfo": {"trafficSource": {"publisherName": "p"}},
    "trackGeofence": {"event": "enter_region"},
}
SKIPPING: dict[str, dict[str, Any]] = {
    "advance": {"state": "Level"},
    "sendMessage": {"messageId": 1001},
    "startCampaign": {"campaignId": 1},
    **{name: {} for name in ("getVars", "heartbeat", "pauseSession", "resumeSession", "stop")},
    **{name: {} for name in ("pauseState", "resumeState", "deleteUser", "unblock", "exportUser")},
    "getNewsfeedMessages": {},
    **{
        name: {"newsfeedMessageId": "1004##1"}
        for name in ("markNewsfeedMessageAsRead", "deleteNewsfeedMessage")
    },
}


@pytest.mark.parametrize("action", CREATING)
def test_these_actions_create_an_unknown_user(app: App, action: str) -> None:
    assert app.ann(action, **CREATING[action])["success"] is True
    assert "ann" in app.world.users


@pytest.mark.parametrize("action", SKIPPING)
def test_these_actions_skip_an_unknown_user_with_a_warning(app: App, action: str) -> None:
    assert app.ann(action, **SKIPPING[action]) == SKIPPED
    assert not app.world.users
    assert app.world.applied == 0


def test_create_disposition_overrides_the_default_of_the_action(app: App) -> None:
    assert app.ann("track", event="Open", createDisposition="CreateNever") == SKIPPED
    assert app.ann("advance", state="Level", createDisposition="CreateIfNeeded") == {
        "success": True
    }


def test_every_action_about_users_is_tried_here() -> None:
    about_users = {name for name, action in ACTIONS.items() if isinstance(action, UserAction)}
    assert about_users == {*CREATING, *SKIPPING, "block"}


def test_an_action_without_user_and_device_is_an_invalid_combination(app: App) -> None:
    entry = app.do("track", event="Open")
    assert entry == {"success": False, "error": {"message": "Invalid app/user combination"}}


def test_a_device_alone_means_its_last_user(app: App) -> None:
    app.do("track", userId="ann", deviceId="d1", event="Open")
    app.do("track", deviceId="d1", event="Open")
    assert app.user.events["Open"].count == 2


def test_a_new_device_alone_is_a_user_of_its_id(app: App) -> None:
    app.do("track", deviceId="d1", event="Open")
    assert app.world.users["d1"].devices == ["d1"]


def test_a_device_moves_to_the_user_that_it_was_last_named_with(app: App) -> None:
    app.ann(deviceId="d1")
    app.do("track", userId="bob", deviceId="d1", event="Open")
    assert app.user.devices == []
    assert app.world.devices["d1"].user_id == "bob"


def test_numeric_ids_are_the_same_as_strings(app: App) -> None:
    app.do("track", userId=7, event="Open")
    app.do("track", userId="7", event="Open")
    assert app.world.users["7"].events["Open"].count == 2


def test_the_request_id_is_echoed_on_every_kind_of_entry(app: App) -> None:
    entries = [
        app.ann("stop", reqId="a"),
        app.ann(reqId="b"),
        app.do("track", event="x", reqId="c"),
    ]
    assert [entry["reqId"] for entry in entries] == ["a", "b", "c"]


def test_track_adds_up_count_and_value(app: App) -> None:
    app.ann("track", event="Purchase", value="9.5", params='{"sku":"a"}', currencyCode="EUR")
    app.ann("track", event="Purchase", value=0.5)
    assert (app.user.events["Purchase"].count, app.user.events["Purchase"].value) == (2, 10.0)
    assert app.user.events["Purchase"].occurrences[0]["params"] == {"sku": "a"}
    assert app.user.events["Purchase"].occurrences[0]["currencyCode"] == "EUR"


def test_only_the_latest_occurrences_of_an_event_are_kept(app: App) -> None:
    for _ in range(OCCURRENCES_KEPT + 1):
        app.ann("track", event="Open")
    assert app.user.events["Open"].count == OCCURRENCES_KEPT + 1
    assert len(app.user.events["Open"].occurrences) == OCCURRENCES_KEPT


def test_track_without_a_session_is_offline(app: App) -> None:
    assert app.ann("track", event="Open") == {"success": True, "isOffline": True}
    app.ann("start")
    assert app.ann("track", event="Open") == {"success": True}


def test_require_active_without_a_session_is_ignored(app: App) -> None:
    app.ann()
    entry = app.ann("track", event="Open", disposition="requireActive")
    assert (entry["success"], entry["ignored"], "warning" in entry) == (True, True, True)
    assert not app.user.events


def test_a_passive_event_is_no_activity(app: App) -> None:
    app.ann("track", event="Open", disposition="passive")
    app.ann("track", event="Open", allowOffline=True)
    assert "lastActive" not in app.user.profile
    app.ann("track", event="Open")
    assert app.user.profile["lastActive"] == NOW


def test_an_empty_event_needs_a_message_id(app: App) -> None:
    assert app.ann("track", event="")["success"] is False
    assert app.ann("track", event="", messageId=5)["success"] is True
    assert ".m5" in app.user.events


def test_a_message_is_sent_to_a_known_user(app: App) -> None:
    app.ann()
    sent = {"success": True, "result": "Message sent", "messagesSent": 1}
    assert app.ann("sendMessage", messageId="1001", values={"name": "Ann"}) == sent
    assert app.user.messages == [{"messageId": 1001, "values": {"name": "Ann"}, "time": NOW}]


def test_targeting_that_does_not_fit_sends_nothing_unless_forced(app: App) -> None:
    app.ann()
    assert app.ann("sendMessage", messageId=1003) == {"success": True, "messagesSent": 0}
    assert app.ann("sendMessage", messageId=1003, force=True)["messagesSent"] == 1


def test_an_unknown_message_is_a_success_with_a_warning(app: App) -> None:
    app.ann()
    warning = {"message": "Message entity not found"}
    assert app.ann("sendMessage", messageId=9) == {"success": True, "warning": warning}


def test_messages_can_be_read_one_or_all(app: App) -> None:
    assert app.do("getMessage", id=1001)["message"]["name"] == "Welcome"
    assert [each["id"] for each in app.do("getMessages")["messages"]] == [1001, 1002, 1003, 1004]
    assert app.do("getMessage", id=9)["error"]["message"] == "Message not found."


def test_blocking_erases_the_user_and_refuses_later_writes_until_unblocked(app: App) -> None:
    app.ann(userAttributes={"a": 1}, deviceId="d1")
    app.ann("block")
    assert (app.user.blocked, app.user.attributes, app.world.devices) == (True, {}, {})
    assert app.ann("track", event="Open")["success"] is False
    app.ann("unblock")
    assert app.ann("track", event="Open")["success"] is True


def test_deleting_a_user_forgets_the_user_and_the_devices(app: App) -> None:
    app.ann(deviceId="d1")
    assert app.do("deleteUser", deviceId="d1") == {"success": True}
    assert not app.world.users
    assert not app.world.devices


def test_exporting_a_user_shows_booleans_as_strings(app: App) -> None:
    app.ann(
        userAttributes={"paid": True, "age": 3}, deviceId="d1", unsubscribeChannelsToAdd="Email"
    )
    app.ann("track", event="Open", value=2)
    exported = app.ann("exportUser")
    counted = {"count": 1, "value": 2.0, "firstTime": NOW, "lastTime": NOW}
    assert exported["userAttributes"] == {"paid": "True", "age": 3}
    assert exported["events"] == {"Open": counted}
    assert (exported["devices"], exported["unsubscribeChannels"]) == (
        [{"deviceId": "d1"}],
        ["Email"],
    )


def test_a_repeat_is_recognised_by_uuid_and_request_id_together(app: App) -> None:
    for uuid, req_id in (("u", "1"), ("u", "1"), ("u", "2"), ("v", "1")):
        assert app.ann("track", event="Open", uuid=uuid, reqId=req_id)["success"] is True
    assert app.user.events["Open"].count == 3
    assert (app.world.applied, app.world.duplicates) == (3, 1)


def test_what_was_skipped_is_no_repeat_later(app: App) -> None:
    app.ann("advance", state="Level", uuid="u", reqId="1")
    app.ann()
    app.ann("advance", state="Level", uuid="u", reqId="1")
    assert (app.user.states["Level"].count, app.world.duplicates) == (1, 0)


ODD: list[Any] = [None, "", "{", "[", "[]", "{}", "null", "NaN", "1e999", True, -1, 1e300]
ODD += [[], [[]], [{}], {}, {"a": {}}, {"a": [{}]}]
ARGUMENTS = (
    *(
        "userId",
        "deviceId",
        "time",
        "reqId",
        "uuid",
        "createDisposition",
        "event",
        "value",
        "params",
        "messageId",
    ),
    *(
        "disposition",
        "allowOffline",
        "state",
        "values",
        "force",
        "trafficSource",
        "userAttributes",
        "devices",
    ),
    *(
        "userAttributeValuesToAdd",
        "userAttributeValuesToRemove",
        "userAttributeValuesToIncrement",
        "events",
    ),
    *(
        "states",
        "newUserId",
        "created",
        "totalSessions",
        "unsubscribeCategoriesToAdd",
        "campaignId",
        "id",
    ),
    *(
        "vars",
        "includeDefaults",
        "newsfeedMessages",
        "newsfeedMessageId",
        "email",
        "name",
        "importance",
        "channelId",
    ),
    *(
        "filename",
        "data",
        "file",
        "hash",
        "client",
        "jobId",
        "startDate",
        "endDate",
        "dataType",
        "exportFormat",
    ),
    *("eventNames", "s3BucketName", "gcsBucket", "defaultAction"),
    *(
        "vibrationPattern",
        "type",
        "postbackUrl",
        "postbackId",
        "channels",
        "includeDrafts",
        "recent",
        "lightColor",
    ),
    *(
        "unsubscribeChannelsToRemove",
        "deviceAttributes",
        "background",
        "resetAnomalies",
        "currencyCode",
    ),
)


@pytest.mark.parametrize("action", ACTIONS)
def test_odd_arguments_are_answered_and_never_break_the_simulator(app: App, action: str) -> None:
    usual = {
        "userId": "ann",
        "deviceId": "d1",
        "event": "Open",
        "state": "S",
        "messageId": 1001,
        "id": 1001,
    }
    usual |= {
        "vars": {"a": 1},
        "email": "e",
        "name": "n",
        "channelId": "c",
        "newsfeedMessageId": "1",
        "filename": "f",
    }
    usual |= {
        "type": "messageEvents",
        "postbackUrl": "u",
        "postbackId": "1",
        "jobId": "j",
        "gcsBucket": "b",
    }
    usual |= {"startDate": "20270115", "dataType": "UserActivity"}
    for name in ARGUMENTS:
        for odd in ODD:
            app.do("unblock", userId="ann")
            entry = app.do(action, **{**usual, "campaignId": 1, "trafficSource": {}, name: odd})
            assert set(entry) & {"error", "warning"} or entry["success"] is True
