"""What only SDKs call: the newsfeed, the state of migration, logs, geofences (fact sheet §3.8)."""

from collections.abc import Callable

from .client import Talk, event
from .simulated_app import NOW, App


def fed(app: App) -> str:
    """Send ann a newsfeed message; its id."""
    app.ann()
    app.ann("sendMessage", messageId=1004, values={"Title": "Hello", "name": "Ann"})
    (message_id,) = app.user.newsfeed
    return message_id


def test_a_newsfeed_message_that_was_sent_is_in_the_feed(app: App) -> None:
    message_id = fed(app)
    told = app.ann("getNewsfeedMessages")["newsfeedMessages"][message_id]
    assert message_id == "1004##1"
    assert (told["deliveryTimestamp"], told["isRead"]) == (int(NOW * 1000), False)
    assert told["messageData"]["vars"]["Title"] == "Hello"
    assert set(told["messageData"]["vars"]) == {"Title", "Subtitle", "Image", "Data", "Open action"}


def test_messages_of_another_kind_are_not_in_the_feed(app: App) -> None:
    app.ann()
    app.ann("sendMessage", messageId=1001)
    assert app.ann("getNewsfeedMessages") == {"success": True, "newsfeedMessages": {}}


def test_a_newsfeed_message_is_marked_as_read(app: App) -> None:
    message_id = fed(app)
    assert app.ann("markNewsfeedMessageAsRead", newsfeedMessageId=message_id) == {"success": True}
    assert app.ann("getNewsfeedMessages")["newsfeedMessages"][message_id]["isRead"] is True


def test_a_deleted_newsfeed_message_is_gone(app: App) -> None:
    message_id = fed(app)
    assert app.ann("deleteNewsfeedMessage", newsfeedMessageId=message_id) == {"success": True}
    assert app.ann("deleteNewsfeedMessage", newsfeedMessageId=message_id) == {"success": True}
    assert app.ann("getNewsfeedMessages")["newsfeedMessages"] == {}


def test_a_start_says_whether_the_client_lacks_newsfeed_messages(app: App) -> None:
    message_id = fed(app)
    assert app.ann("start", newsfeedMessages=[])["syncNewsfeed"] is True
    assert app.ann("start", newsfeedMessages=f'["{message_id}"]')["syncNewsfeed"] is False


def test_the_newsfeed_moves_with_a_login(app: App) -> None:
    app.do("start", deviceId="d1")
    app.do("sendMessage", deviceId="d1", messageId=1004)
    app.do("setUserAttributes", deviceId="d1", newUserId="ann")
    assert list(app.ann("getNewsfeedMessages")["newsfeedMessages"]) == ["1004##1"]


def test_the_state_of_migration_is_leanplum_only_and_constant(app: App) -> None:
    first, second = app.do("getMigrateState", deviceId="d1"), app.do("getMigrateState")
    assert first == second
    assert (first["success"], first["sdk"], len(first["sha256"])) == (True, "lp", 64)


def test_logs_are_taken(app: App) -> None:
    assert app.do("log", type="sdkLog", message="oops") == {"success": True}


def test_restart_is_taken(app: App) -> None:
    assert app.do("restart", userId="ann") == {"success": True}


def test_a_geofence_event_is_counted_as_an_event(app: App) -> None:
    app.ann("trackGeofence", event="enter_region", params={"id": "r1"})
    assert app.user.events["enter_region"].count == 1


def test_sdk_actions_take_the_production_key(leanplum: Talk) -> None:
    for action in ("getMigrateState", "log", "restart"):
        assert leanplum.call(action).status_code == 200
        assert leanplum.call(action, "cro").status_code == 403


def test_a_multi_of_sdk_actions_is_answered_one_by_one(leanplum: Talk) -> None:
    entries = leanplum.entries(
        {"action": "getMigrateState", "reqId": "a"}, {"action": "log", "reqId": "b"}
    )
    assert [entry["reqId"] for entry in entries] == ["a", "b"]


def test_a_migrate_state_is_added_to_every_envelope_when_it_is_switched_on(
    configured: Callable[..., Talk], leanplum: Talk
) -> None:
    migrating = configured(migrate_state=True)
    sha256 = migrating.entry("getMigrateState")["sha256"]
    for answer in (migrating.track(), migrating.multi(event("ann")), migrating.track(kind="exp")):
        assert answer.json()["migrateState"] == {"sha256": sha256}
    assert "migrateState" not in leanplum.track().json()


def test_an_answer_that_is_no_envelope_gets_no_migrate_state(
    configured: Callable[..., Talk],
) -> None:
    migrating = configured(migrate_state=True)
    migrating.plan({"mode": "503"}, {"mode": "empty"})
    assert [migrating.track().text[:6], migrating.track().text] == ["<html>", ""]
