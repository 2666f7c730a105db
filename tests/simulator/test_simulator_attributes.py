"""setUserAttributes in all its parts, and device attributes, on the pure world (fact sheet §3.4,
§3.5).
"""

from typing import Any

import pytest

from app.simulator import SimulatorConfig
from app.simulator.config import ClientKeyKind
from app.simulator.execution import ActionExecutor
from app.simulator.profiles import User
from app.simulator.world import World

NOW = 1_800_000_000.0


@pytest.fixture
def world() -> World:
    return World(SimulatorConfig())


def do(world: World, action: str, **args: Any) -> dict[str, Any]:
    return (
        ActionExecutor(world, ClientKeyKind.PRODUCTION, NOW, NOW)
        .execute({"action": action, **args})
        .entry
    )


def ann(world: World, **args: Any) -> User:
    """The user after setUserAttributes."""
    assert do(world, "setUserAttributes", userId="ann", **args) == {
        "success": True,
        "isOffline": True,
    }
    return world.users["ann"]


def test_attributes_are_merged_and_null_clears_one(world: World) -> None:
    ann(world, userAttributes={"a": 1, "b": 2})
    user = ann(world, userAttributes='{"b": null, "c": [1, 2]}')
    assert user.attributes == {"a": 1, "c": [1, 2]}


def test_set_values_are_added_once_and_removed(world: World) -> None:
    ann(world, userAttributeValuesToAdd={"tags": "a"})
    ann(world, userAttributeValuesToAdd={"tags": ["a", "b", "c"]})
    assert ann(world, userAttributeValuesToRemove={"tags": "b"}).sets == {"tags": ["a", "c"]}


def test_a_list_attribute_becomes_a_set_when_values_are_added(world: World) -> None:
    ann(world, userAttributes={"tags": ["a"]})
    user = ann(world, userAttributeValuesToAdd={"tags": "b"})
    assert (user.attributes, user.sets) == ({}, {"tags": ["a", "b"]})
    assert ann(world, userAttributes={"tags": None}).sets == {}


def test_increments_need_integers_on_both_sides(world: World) -> None:
    ann(world, userAttributes={"n": 2, "text": "x", "half": 1.5})
    steps = {"n": 3, "new": 1, "text": 1, "half": 1, "n2": 0.5}
    user = ann(world, userAttributeValuesToIncrement=steps)
    assert user.attributes == {"n": 5, "text": "x", "half": 1.5, "new": 1}


def test_counters_are_set_and_incremented(world: World) -> None:
    ann(world, events={"Buy": {"count": 2, "value": 5, "firstTime": 1.0, "lastTime": "2"}})
    user = ann(
        world,
        events={"Buy": {"countIncrement": 1, "valueIncrement": 2.5}},
        states={"S": {"count": 1}},
    )
    assert user.events["Buy"].summary() == {
        "count": 3,
        "value": 7.5,
        "firstTime": 1.0,
        "lastTime": 2.0,
    }
    assert user.states["S"].count == 1


def test_a_counter_time_in_words_is_refused_and_changes_nothing(world: World) -> None:
    counters = {"eventName1": {"count": 1, "firstTime": "2015-02-01"}}
    entry = do(world, "setUserAttributes", userId="ann", userAttributes={"a": 1}, events=counters)
    error = {"message": "event 'eventName1' firstTime is invalid."}
    assert entry == {"success": False, "error": error}
    assert world.users["ann"].attributes == {}


def test_profile_fields_are_kept(world: World) -> None:
    user = ann(
        world,
        created=1.0,
        lastActive=2,
        timeSpentInApp=3.5,
        totalSessions=4,
        city="Sofia",
        timezone="UTC",
    )
    expected = {"created": 1.0, "lastActive": 2, "timeSpentInApp": 3.5, "totalSessions": 4}
    assert user.profile == {**expected, "city": "Sofia", "timezone": "UTC"}


def test_devices_are_linked_with_what_is_said_of_them(world: World) -> None:
    user = ann(world, devices=[{"deviceId": "d1", "iosPushToken": "t"}, {"deviceId": "d2"}])
    assert user.devices == ["d1", "d2"]
    assert world.devices["d1"].attributes == {"iosPushToken": "t"}


def test_unsubscriptions_are_added_and_removed(world: World) -> None:
    ann(world, unsubscribeCategoriesToAdd=[1, 2], unsubscribeChannelsToAdd="Email")
    user = ann(world, unsubscribeCategoriesToRemove=[1], unsubscribeChannelsToRemove=["Email"])
    assert (user.unsubscribed_categories, user.unsubscribed_channels) == (["2"], [])


def test_registering_renames_an_anonymous_user(world: World) -> None:
    do(world, "track", deviceId="d1", event="Open")
    do(world, "setUserAttributes", deviceId="d1", newUserId="ann", userAttributes={"a": 1})
    assert set(world.users) == {"ann"}
    assert (world.users["ann"].events["Open"].count, world.users["ann"].attributes) == (1, {"a": 1})
    assert world.devices["d1"].user_id == "ann"


def test_logging_in_merges_the_anonymous_user_into_the_known_one(world: World) -> None:
    ann(world, userAttributes={"a": 1})
    do(world, "track", userId="ann", event="Open")
    do(world, "setUserAttributes", deviceId="d1", userAttributes={"a": 2, "b": 2})
    do(world, "track", deviceId="d1", event="Open")
    do(world, "setUserAttributes", deviceId="d1", newUserId="ann")
    user = world.users["ann"]
    assert set(world.users) == {"ann"}
    assert (user.attributes, user.events["Open"].count, user.devices) == (
        {"a": 1, "b": 2},
        2,
        ["d1"],
    )


def test_switching_users_ends_one_session_and_begins_another(world: World) -> None:
    do(world, "start", userId="ann", deviceId="d1")
    do(
        world,
        "setUserAttributes",
        userId="ann",
        deviceId="d1",
        newUserId="bob",
        userAttributes={"b": 1},
    )
    assert world.users["ann"].session(NOW) is None
    assert world.users["bob"].session(NOW) is not None
    assert (world.users["ann"].attributes, world.users["bob"].attributes) == ({}, {"b": 1})
    assert world.devices["d1"].user_id == "bob"


def test_an_empty_new_user_id_means_none(world: World) -> None:
    ann(world, newUserId="")
    assert set(world.users) == {"ann"}


@pytest.mark.parametrize("shape", ["flat", "nested"])
def test_device_attributes_come_flat_or_nested(world: World, shape: str) -> None:
    fields: dict[str, Any] = {"appVersion": "2", "deviceModel": "X"}
    args = fields if shape == "flat" else {"deviceAttributes": fields}
    assert do(world, "setDeviceAttributes", deviceId="d1", userId="ann", **args) == {
        "success": True
    }
    assert world.devices["d1"].attributes == fields


def test_device_attributes_need_a_device_and_at_least_one_of_them(world: World) -> None:
    assert do(world, "setDeviceAttributes", userId="ann", appVersion="2")["success"] is False
    assert do(world, "setDeviceAttributes", deviceId="d1")["success"] is False


def test_the_traffic_source_is_kept_as_an_object_or_as_a_string_of_one(world: World) -> None:
    for source in ({"publisherName": "p"}, '{"publisherName": "p"}'):
        do(world, "setTrafficSourceInfo", userId="ann", trafficSource=source)
        assert world.users["ann"].traffic_source == {"publisherName": "p"}
