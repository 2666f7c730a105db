"""Who may call what: app, keys, sizes, development mode (fact sheet §2, §5)."""

import time
from collections.abc import Callable

import pytest

from .client import Talk, event, message


@pytest.mark.parametrize(
    ("changed", "status", "text"),
    [
        ({"appId": None}, 400, "appId"),
        ({"appId": "app_other"}, 404, "App not found"),
        ({"clientKey": ""}, 400, "clientKey"),
        ({"clientKey": "prod_other"}, 403, "Invalid access key"),
        ({"clientKey": "exp_sandbox"}, 403, "Invalid access key"),
        ({"clientKey": "dev_sandbox"}, 403, "Invalid access key"),
        ({"event": None}, 400, "event"),
        ({"action": ""}, 400, "action"),
        ({"action": "levitate"}, 400, "Unknown action: levitate"),
        ({"time": "yesterday"}, 400, "time"),
        ({"createDisposition": "Maybe"}, 400, "createDisposition"),
    ],
)
def test_a_call_that_may_not_be_made_is_refused(
    leanplum: Talk, changed: dict[str, object], status: int, text: str
) -> None:
    body = {**leanplum.keys(), "action": "track", "userId": "ann", "event": "Open", **changed}
    answer = leanplum.http.post("/api", json=body)
    assert answer.status_code == status
    assert text in message(answer.json()["response"][0], "error")


@pytest.mark.parametrize(
    ("action", "kind", "args"),
    [
        ("deleteUser", "dev", {"userId": "ann"}),
        ("unblock", "dev", {"userId": "ann"}),
        ("startCampaign", "dev", {"userId": "ann", "campaignId": 7}),
        ("exportUser", "exp", {"userId": "ann"}),
        ("getMessages", "cro", {}),
        ("getMessage", "cro", {"id": 1001}),
        ("getAbTest", "cro", {"id": 2001}),
        ("getAbTests", "cro", {}),
        ("getVariant", "cro", {"id": 3001}),
        ("getUnsubscribeCategories", "cro", {}),
        ("registerDevice", "dev", {"deviceId": "d1", "email": "ann@example.com"}),
        ("setVars", "dev", {"vars": {"a": 1}}),
        ("deleteVars", "dev", {"vars": ["a"]}),
        ("addAndroidNotificationChannel", "dev", {"id": "c", "name": "C", "importance": 3}),
        ("deleteAndroidNotificationChannel", "dev", {"channelId": "c"}),
        ("addPostback", "exp", {"type": "messageEvents", "postbackUrl": "https://example.com"}),
        ("listPostbacks", "exp", {}),
    ],
)
def test_each_action_takes_its_own_kind_of_key_only(
    leanplum: Talk, action: str, kind: str, args: dict[str, object]
) -> None:
    assert leanplum.call(action, kind, **args).status_code == 200
    assert leanplum.call(action, "prod", **args).status_code == 403


def test_the_development_key_does_production_actions_in_dev_mode(leanplum: Talk) -> None:
    assert (
        leanplum.call("track", "dev", userId="ann", event="Open", devMode="true").status_code == 200
    )


def test_resetting_anomalies_takes_the_development_key(leanplum: Talk) -> None:
    assert (
        leanplum.call("setUserAttributes", "dev", userId="ann", resetAnomalies=True).status_code
        == 200
    )
    assert leanplum.call("setUserAttributes", "dev", userId="ann").status_code == 403


def test_a_multi_needs_its_own_time(leanplum: Talk) -> None:
    answer = leanplum.call("multi", data=[event("ann")])
    assert answer.status_code == 400
    assert "time" in message(answer.json()["response"][0], "error")


def test_a_multi_refuses_the_export_key(leanplum: Talk) -> None:
    assert leanplum.multi(event("ann"), kind="exp").status_code == 403


def test_fifty_users_and_five_hundred_actions_pass(leanplum: Talk) -> None:
    assert leanplum.multi(*[event(f"u{index % 50}") for index in range(500)]).status_code == 200


def test_over_fifty_users_the_whole_multi_is_ignored_with_403(leanplum: Talk) -> None:
    assert leanplum.multi(*[event(f"u{index}") for index in range(51)]).status_code == 403
    assert leanplum.stats()["users"] == 0


def test_over_five_hundred_actions_the_whole_multi_is_ignored_with_403(leanplum: Talk) -> None:
    assert leanplum.multi(*[event("ann")] * 501).status_code == 403
    assert leanplum.stats()["applied"] == 0


def test_sdk_clients_may_send_more(leanplum: Talk) -> None:
    assert (
        leanplum.multi(*[event(f"u{index}") for index in range(51)], client="ios").status_code
        == 200
    )


def test_dev_mode_is_one_call_a_second_for_each_user(leanplum: Talk) -> None:
    assert leanplum.track(devMode=True).status_code == 200
    again = leanplum.track(devMode=True)
    assert again.status_code == 429
    assert message(again.json()["response"][0], "error") == "Per device rate limit exceeded."
    assert leanplum.track("bob", devMode=True).status_code == 200
    assert leanplum.track().status_code == 200


def test_sdks_over_the_dev_mode_rate_are_told_with_408(leanplum: Talk) -> None:
    leanplum.track(devMode=1, client="android")
    assert leanplum.track(devMode=1, client="android").status_code == 408


def test_strict_dev_mode_refuses_the_production_key(configured: Callable[..., Talk]) -> None:
    leanplum = configured(strict_dev_mode=True)
    answer = leanplum.track(devMode=True)
    assert answer.status_code == 403
    text = message(answer.json()["response"][0], "error")
    assert text.startswith("Development mode requested but not permitted")


def test_a_wrong_key_inside_a_multi_fails_only_its_entry(leanplum: Talk) -> None:
    first, second = leanplum.entries({"action": "deleteUser", "userId": "ann"}, event("bob"))
    assert (first["success"], second["success"]) == (False, True)


@pytest.mark.parametrize("mixed_status", [200, 404])
def test_a_mixed_multi_answers_the_configured_status(
    configured: Callable[..., Talk], mixed_status: int
) -> None:
    leanplum = configured(mixed_status=mixed_status)
    answer = leanplum.multi(event("ann"), {"action": "track", "event": "Open"}, time=time.time())
    assert answer.status_code == mixed_status
    nobody = {"success": False, "error": {"message": "Invalid app/user combination"}}
    assert answer.json()["response"] == [{"success": True, "isOffline": True}, nobody]
