"""Leanplum takes a device's id for its user's where none is told, so one id is erased as a user's
and as a device's.
"""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.api.erasure_gateway import Gateway, gateway
from tests.support.simulator import Leanplum, simulated
from tests.support.wait import until

Ask = Callable[[Gateway], httpx.Response]
X = "ERX"
GONE = {"action": "deleteUser", "fullErasure": True}
TRACK = {"action": "track", "event": "E"}
AS_DEVICE: dict[str, Ask] = {
    "an event": lambda at: at.call("POST", "/v1/events", {"deviceId": X, "event": "E"}),
    "a batch": lambda at: at.call("POST", "/v1/batch", {"items": [{**TRACK, "deviceId": X}]}),
    "a login": lambda at: at.call(
        "POST",
        "/v1/batch",
        {"items": [{"action": "setUserAttributes", "deviceId": X, "newUserId": "bob"}]},
    ),
    "an SDK's event": lambda at: at.sdk(**TRACK, deviceId=X),
    "an SDK's batch": lambda at: at.sdk(action="multi", data=[{**TRACK, "deviceId": X}]),
    "an SDK's session": lambda at: at.sdk(action="start", deviceId=X),
    "Segment's": lambda at: at.segment("track", anonymousId=X, event="E"),
}
AS_USER: dict[str, Ask] = {
    "an event": lambda at: at.call("POST", "/v1/events", {"userId": X, "event": "E"}),
    "an SDK's event": lambda at: at.sdk(**TRACK, userId=X),
    "an SDK's session": lambda at: at.sdk(action="start", userId=X),
    "a new id": lambda at: at.call("PATCH", "/v1/users/bob", {"newUserId": X}),
}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture
def leanplum(simulator: Leanplum) -> Leanplum:
    simulator.forget()
    simulator.mend()
    return simulator


def refused(answer: httpx.Response) -> bool:
    return "erased" in answer.text and '"success":true' not in answer.text


def test_whoever_is_erased_as_a_user_is_gone_and_refused_as_a_device_and_the_other_way_round(
    settings: Callable[..., Any], database: str, leanplum: Leanplum
) -> None:
    with gateway(settings, database, leanplum, delivery=False) as at:
        for kind, other in (("deviceId", "userId"), ("userId", "deviceId")):
            at.call("POST", "/v1/events", {kind: "one-" + kind, "event": "E"})
            body = {"items": [{**GONE, other: "one-" + kind}, {**TRACK, kind: "one-" + kind}]}
            results = at.call("POST", "/v1/batch", body).json()["results"]
            assert [one["status"] for one in results] == ["accepted", "rejected"]
        left = at.rows("SELECT subject, action FROM items ORDER BY seq")
        assert left == [("uone-deviceId", "deleteUser"), ("done-userId", "deleteUser")]


def test_what_waits_for_the_device_is_taken_out_and_all_that_comes_is_refused(
    settings: Callable[..., Any], database: str, leanplum: Leanplum
) -> None:
    with gateway(settings, database, leanplum, delivery=False) as at:
        at.call("POST", "/v1/events", {"deviceId": X, "event": "E"})
        at.call("POST", "/v1/events", {"deviceId": "another", "event": "E"})
        assert at.erase(X)["erased"]["waiting"] == 1
        assert {way: refused(ask(at)) for way, ask in AS_DEVICE.items()} == dict.fromkeys(
            AS_DEVICE, True
        )
        found = at.rows("SELECT subject, action FROM items ORDER BY seq")
        assert found == [("danother", "track"), (f"u{X}", "deleteUser")]
        assert (
            at.call("POST", "/v1/events", {"deviceId": "another", "event": "E"}).status_code == 202
        )
        of_another_user = {"userId": "bob", "deviceId": X, "event": "E"}
        assert at.sdk(action="track", **of_another_user).json()["response"][0]["success"]


def test_whoever_is_erased_as_a_device_is_refused_as_a_user(
    settings: Callable[..., Any], database: str, leanplum: Leanplum
) -> None:
    with gateway(settings, database, leanplum, delivery=False) as at:
        at.call("POST", "/v1/events", {"userId": X, "event": "E"})
        login = {"action": "setUserAttributes", "userId": "a", "newUserId": X}
        at.call("POST", "/v1/batch", {"items": [login, {**GONE, "deviceId": X}]})
        assert at.rows("SELECT subject FROM items ORDER BY seq") == [("ua",), (f"d{X}",)]
        assert {way: refused(ask(at)) for way, ask in AS_USER.items()} == dict.fromkeys(
            AS_USER, True
        )


def test_the_deletion_is_sent_after_what_is_being_sent_for_the_device_and_before_what_comes_later(
    settings: Callable[..., Any], database: str, leanplum: Leanplum
) -> None:
    with (
        gateway(settings, database, leanplum, gateway_erased_seconds=0) as at,
        gateway(settings, database, leanplum, gateway_erased_seconds=0),
    ):
        leanplum.fault(mode="slow", delay=1.5, action="track", times=1)
        at.call("POST", "/v1/events", {"deviceId": X, "event": "Before"})
        until(lambda: at.rows("SELECT 1 FROM attempts"))
        receipt = at.erase(X)
        at.call("POST", "/v1/events", {"deviceId": X, "event": "After", "id": "after"})
        assert receipt["erased"]["inFlight"] == 1
        assert not [one for one in leanplum.arrived() if one["action"] == "deleteUser"]
        assert until(lambda: at.settled("after"), 20)["status"] == "delivered"
        until(lambda: at.settled(receipt["id"]))
        sent = [one.get("event", one["action"]) for one in leanplum.arrived()]
        assert sent == ["Before", "deleteUser", "After"]
        assert at.rows("SELECT 1 FROM logins") == []


def test_an_anonymous_user_does_not_come_back_by_what_was_tried_before(
    settings: Callable[..., Any], database: str, leanplum: Leanplum
) -> None:
    with gateway(settings, database, leanplum) as at:
        leanplum.fault(mode="503", times=2)
        at.call("POST", "/v1/events", {"deviceId": X, "event": "E"})
        until(leanplum.arrived)
        receipt = at.erase(X)
        assert until(lambda: at.settled(receipt["id"]), 30)["status"] in {"delivered", "skipped"}
        at.call("POST", "/v1/events", {"userId": "bob", "event": "E", "id": "last"})
        until(lambda: at.settled("last"), 20)
        actions = [
            one["action"]
            for one in leanplum.arrived()
            if X in (one.get("userId"), one.get("deviceId"))
        ]
        assert set(actions[actions.index("deleteUser") :]) == {"deleteUser"}
        assert leanplum.user(X).get("error")
