"""What recorded exchanges and today's docs say against the older sections of the fact sheet (fact
sheet §12).
"""

import time
from typing import Any

import pytest

from app.simulator.config import Texts
from app.simulator.execution import DAY, EffectiveTime, effective_time

from .client import Talk, event
from .simulated_app import NOW, App

SKEWS = [-30 * DAY, -DAY, -20 * 3600, -90.0, -0.25, 0.25, 90.0, 20 * 3600, DAY, 30 * DAY]


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("age", [0.0, 5.0, 3 * DAY, 364 * DAY, -3600.0])
def test_a_time_is_moved_by_the_error_of_the_request_s_clock(skew: float, age: float) -> None:
    request_time = NOW + skew
    moment = effective_time(
        request_time - age, request_time=request_time, now=NOW, past_rule=True, texts=Texts()
    )
    assert moment.time == pytest.approx(NOW - age, abs=1e-3)
    assert (moment.warning is not None) == (skew <= -DAY)


@pytest.mark.parametrize("skew", SKEWS)
def test_an_event_of_more_than_a_year_ago_by_the_request_s_clock_is_rewritten(skew: float) -> None:
    request_time = NOW + skew
    moment = effective_time(
        request_time - 366 * DAY, request_time=request_time, now=NOW, past_rule=True, texts=Texts()
    )
    assert moment == EffectiveTime(NOW, "Past event detected (366 days ago). Rewriting timestamp.")


@pytest.mark.parametrize("skew", [-5 * DAY, -3600.0, 3600.0, 30 * DAY])
def test_a_skewed_multi_counts_its_events_when_they_happened(leanplum: Talk, skew: float) -> None:
    now = time.time()
    leanplum.multi(event("ann", time=now + skew - 5), time=now + skew)
    assert leanplum.user("ann")["events"]["Open"]["firstTime"] == pytest.approx(now - 5, abs=2)


@pytest.mark.parametrize("none", [{}, {"deviceId": None}, {"deviceId": ""}])
def test_a_device_without_an_id_is_taken_and_exported_with_none(
    app: App, none: dict[str, Any]
) -> None:
    devices = [{**none}, {"deviceId": "d1"}, {**none, "appVersion": "2"}]
    for _ in range(2):
        assert app.ann(devices=devices) == {"success": True, "isOffline": True}
    exported = app.ann("exportUser")["devices"]
    assert exported == [
        {"deviceId": "d1"},
        {"deviceId": None},
        {"deviceId": None, "appVersion": "2"},
    ]


def test_a_device_without_an_id_follows_its_user_into_a_login(app: App) -> None:
    app.do("setUserAttributes", userId="bob")
    app.ann(devices=[{"appVersion": "2"}])
    app.ann(newUserId="bob")
    assert app.do("exportUser", userId="bob")["devices"] == [{"deviceId": None, "appVersion": "2"}]


@pytest.mark.parametrize("odd", [["d1"], {"a": 1}, True])
def test_a_device_whose_id_is_no_text_is_refused(app: App, odd: Any) -> None:
    assert app.ann(devices=[{"deviceId": odd}])["success"] is False


def test_a_user_without_a_session_is_exported_with_none_and_no_time(app: App) -> None:
    app.ann()
    exported = app.ann("exportUser")
    assert (exported["totalSessions"], exported["timeSpentInApp"]) == (0, 0.0)
    assert isinstance(exported["timeSpentInApp"], float)


def test_sessions_and_time_that_are_known_are_exported(app: App) -> None:
    app.ann(timeSpentInApp=3.5)
    app.ann("start")
    exported = app.ann("exportUser")
    assert (exported["totalSessions"], exported["timeSpentInApp"]) == (1, 3.5)


@pytest.mark.parametrize("none", [{}, {"value": None}, {"value": ""}])
def test_an_event_that_never_had_a_value_is_exported_without_one(
    app: App, none: dict[str, Any]
) -> None:
    for _ in range(2):
        app.ann("track", event="Open", **none)
    app.ann("advance", state="Level")
    app.ann(events={"Set": {"count": 2}})
    exported = app.ann("exportUser")
    times = {"firstTime": NOW, "lastTime": NOW}
    assert exported["events"]["Open"] == {"count": 2, **times}
    assert exported["states"]["Level"] == {"count": 1, **times}
    assert "value" not in exported["events"]["Set"]


@pytest.mark.parametrize("value", [0, 0.0, "0.0", 2, "9.99"])
def test_an_event_that_had_a_value_once_has_one(app: App, value: Any) -> None:
    app.ann("track", event="Open")
    app.ann("track", event="Open", value=value)
    app.ann("track", event="Open")
    assert app.ann("exportUser")["events"]["Open"]["value"] == float(value)


def test_values_that_counters_set_or_increment_are_values(app: App) -> None:
    app.ann(events={"A": {"value": 5}, "B": {"valueIncrement": 2.5}})
    events = app.ann("exportUser")["events"]
    assert (events["A"]["value"], events["B"]["value"]) == (5, 2.5)


@pytest.mark.parametrize("way", [int, str])
def test_a_postback_s_id_is_a_whole_number_and_deletes_as_text_too(app: App, way: type) -> None:
    added = app.do("addPostback", type="messageEvents", postbackUrl="https://example.com")[
        "postbackId"
    ]
    assert type(added) is int
    assert [each["postbackId"] for each in app.do("listPostbacks")["postbacks"]] == [added]
    assert app.do("deletePostback", postbackId=way(added)) == {"success": True}


def test_unsubscribe_categories_are_exported_with_id_and_name(app: App) -> None:
    app.ann(unsubscribeCategoriesToAdd=[4001, "4002"])
    exported = app.ann("exportUser")["unsubscribeCategories"]
    assert exported == [{"id": 4001, "name": "Offers"}, {"id": 4002, "name": "News"}]
    app.ann(unsubscribeCategoriesToRemove=["4001"])
    assert app.ann("exportUser")["unsubscribeCategories"] == [{"id": 4002, "name": "News"}]


def test_details_of_an_ab_test_are_an_object(app: App) -> None:
    assert isinstance(app.do("getAbTest", id=2001)["abTest"]["details"], dict)
    assert all(isinstance(each["details"], dict) for each in app.do("getAbTests")["abTests"])


def test_an_update_says_that_the_user_has_no_open_session(app: App) -> None:
    assert app.ann(userAttributes={"plan": "pro"}) == {"success": True, "isOffline": True}
    app.do("start", userId="ann", deviceId="d1")
    assert app.ann(userAttributes={"plan": "free"}) == {"success": True}
