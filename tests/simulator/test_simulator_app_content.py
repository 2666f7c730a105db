"""What calls make of the app: development devices, variables, notification channels, postbacks
(fact sheet §3.5).
"""

from typing import Any

import pytest

from .client import Talk, message
from .simulated_app import App


def test_a_device_is_registered_once(app: App) -> None:
    device = {"deviceId": "d1", "email": "ann@example.com"}
    assert app.do("registerDevice", **device) == {"success": True, "registered": True}
    assert app.do("registerDevice", **device) == {"success": True, "registered": False}


@pytest.mark.parametrize("left_out", ["deviceId", "email"])
def test_a_device_is_registered_with_its_id_and_an_email_only(app: App, left_out: str) -> None:
    device = {"deviceId": "d1", "email": "ann@example.com", left_out: ""}
    assert left_out in message(app.do("registerDevice", **device), "error")


@pytest.mark.parametrize(
    "given", [{"speed": 2, "look": {"dark": True}}, '{"speed": 2, "look": {"dark": true}}']
)
def test_variables_that_are_set_are_told_by_get_vars_and_start(app: App, given: Any) -> None:
    assert app.do("setVars", vars=given) == {"success": True}
    started, told = app.ann("start"), app.ann("getVars")
    assert started["vars"] == told["vars"] == {"speed": 2, "look": {"dark": True}}


def test_setting_variables_keeps_the_others(app: App) -> None:
    app.do("setVars", vars={"a": 1, "b": 1})
    app.do("setVars", vars={"b": 2})
    app.ann()
    assert app.ann("getVars")["vars"] == {"a": 1, "b": 2}


def test_without_defaults_no_variable_is_told(app: App) -> None:
    app.do("setVars", vars={"a": 1})
    app.ann()
    assert app.ann("getVars", includeDefaults="false")["vars"] == {}


@pytest.mark.parametrize("names", [["a", "c", "a"], '["a", "c"]', "a"])
def test_deleting_variables_tells_which_were_removed(app: App, names: Any) -> None:
    app.do("setVars", vars={"a": 1, "b": 2})
    assert app.do("deleteVars", vars=names) == {"success": True, "variablesRemoved": ["a"]}
    app.ann()
    assert app.ann("getVars")["vars"] == {"b": 2}


@pytest.mark.parametrize(
    ("action", "given"), [("setVars", ["a"]), ("setVars", "a"), ("deleteVars", [{"a": 1}])]
)
def test_variables_of_another_shape_are_refused(app: App, action: str, given: Any) -> None:
    assert "vars" in message(app.do(action, vars=given), "error")


def test_variables_take_less_than_a_megabyte_together(app: App) -> None:
    assert app.do("setVars", vars={"a": "x" * 600_000})["success"] is True
    assert app.do("setVars", vars={"b": "x" * 600_000})["success"] is False
    assert list(app.world.content.variables) == ["a"]


def test_a_notification_channel_is_created_and_then_updated(app: App) -> None:
    created = app.do(
        "addAndroidNotificationChannel", id="news", name="News", importance="4", showBadge="true"
    )
    told = {"channelId": "news", "name": "News", "importance": 4}
    assert created == {"success": True, "channelCreated": True, "channelUpdated": False, **told}
    updated = app.do(
        "addAndroidNotificationChannel", id="news", name="All news", vibrationPattern="[1, 2]"
    )
    assert (updated["channelCreated"], updated["channelUpdated"], updated["importance"]) == (
        False,
        True,
        3,
    )
    channel = {"id": "news", "name": "All news", "importance": 3, "vibrationPattern": [1, 2]}
    assert app.do("getAndroidNotificationChannels")["notificationChannels"] == [channel]


def test_a_deleted_notification_channel_is_gone(app: App) -> None:
    app.do("addAndroidNotificationChannel", id="news", name="News", importance=3)
    deletions = [
        app.do("deleteAndroidNotificationChannel", channelId="news")["channelDeleted"]
        for _ in range(2)
    ]
    assert deletions == [True, False]
    assert app.do("getAndroidNotificationChannels") == {"success": True, "notificationChannels": []}


def test_postbacks_are_added_listed_and_deleted(app: App) -> None:
    postback = {"type": "messageEvents", "postbackUrl": "https://example.com/?u={{User ID}}"}
    added = app.do("addPostback", **postback, channels='["Email"]')
    listed = app.do("listPostbacks")["postbacks"]
    assert listed == [{"postbackId": added["postbackId"], **postback}]
    assert app.do("deletePostback", postbackId=added["postbackId"]) == {"success": True}
    assert app.do("listPostbacks")["postbacks"] == []


def test_an_app_has_at_most_three_postbacks(app: App) -> None:
    added = [
        app.do("addPostback", type="abTestEvents", postbackUrl="https://example.com")
        for _ in range(4)
    ]
    assert [entry["success"] for entry in added] == [True, True, True, False]


def test_a_postback_of_an_unknown_type_is_refused(app: App) -> None:
    assert "type" in message(
        app.do("addPostback", type="sales", postbackUrl="https://example.com"), "error"
    )


def test_deleting_an_unknown_postback_is_404(leanplum: Talk) -> None:
    assert leanplum.call("deletePostback", "exp", postbackId="9").status_code == 404


def test_the_page_of_the_app_shows_what_calls_made_of_it(leanplum: Talk) -> None:
    leanplum.call("setVars", "dev", vars={"a": 1})
    leanplum.call("registerDevice", "dev", deviceId="d1", email="ann@example.com")
    shown = leanplum.http.get("/_simulator/app").json()
    assert (shown["variables"], shown["registeredDevices"]) == ({"a": 1}, {"d1": "ann@example.com"})
    assert (shown["notificationChannels"], shown["postbacks"]) == ([], [])
