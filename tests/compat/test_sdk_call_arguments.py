"""The arguments of a whole batch at /api apply to each of its entries; development mode above all."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from app.simulator import SimulatorConfig
from tests.support.gateway import WIDE, Talk, make_settings
from tests.support.sdk import Sdk, entries, settled
from tests.support.simulator import Leanplum, delivering_to, simulated

TRACK: dict[str, Any] = {"action": "track", "userId": "u1", "event": "E"}
START: dict[str, Any] = {"action": "start", "userId": "u1", "deviceId": "d1"}
DURABLE = (
    "track",
    "setUserAttributes",
    "advance",
    "stop",
    "heartbeat",
    "setDeviceAttributes",
    "log",
)
OF_EACH: dict[str, dict[str, Any]] = {"setUserAttributes": {"userAttributes": {"a": 1}}, "advance": {"state": "S"},
    "track": {"event": "E"}, "setDeviceAttributes": {"appVersion": "1"}}  # fmt: skip
OF_THE_CALL = {"client": "android", "sdkVersion": "7.8.0", "apiVersion": "1.0.6"}
ON = [True, "true", "True", 1, "1", "yes"]
OFF = [False, "false", 0, "0", "", None]


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated(SimulatorConfig(strict_dev_mode=True)) as found:
        yield found


@pytest.fixture(scope="module")
def begin(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Iterator[Callable[..., Talk]]:
    """Starts a gateway of these settings, before the same Leanplum."""
    with ExitStack() as stack:

        def started(**more: Any) -> Talk:
            folder = tmp_path_factory.mktemp("arguments")

            def settings(**given: Any) -> Any:
                return make_settings(folder, migrated, WIDE | given)

            return stack.enter_context(delivering_to(leanplum, settings, folder / "g.db", **more))

        yield started


@pytest.fixture(scope="module")
def talk(begin: Callable[..., Talk]) -> Talk:
    return begin()


@pytest.fixture(scope="module")
def without_key(begin: Callable[..., Talk]) -> Talk:
    """A gateway that has no development key."""
    return begin(leanplum_development_key=None)


@pytest.fixture
def sdk(talk: Talk, leanplum: Leanplum) -> Sdk:
    settled(talk)
    leanplum.forget()
    return Sdk(talk)


def one_of_each() -> list[dict[str, Any]]:
    return [
        {"action": name, "userId": "u1", "deviceId": "d1", **OF_EACH.get(name, {})}
        for name in DURABLE
    ]


def test_arguments_of_the_call_arrive_with_each_entry(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    sent = [START, *one_of_each(), {"action": "getVars", "userId": "u1"}]
    assert all(one["success"] for one in entries(sdk.multi(*sent, **OF_THE_CALL)))
    settled(talk)
    arrived = leanplum.arrived()
    assert [one["action"] for one in arrived] == [one["action"] for one in sent]
    assert all(OF_THE_CALL.items() <= one.items() for one in arrived)
    assert {one["clientKey"] for one in arrived} == {"prod_sandbox"}


@pytest.mark.parametrize("empty", ["absent", None, ""])
def test_what_an_entry_says_itself_stands_and_what_it_leaves_empty_is_filled(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, empty: Any
) -> None:
    own = {**TRACK, "client": "js", "sdkVersion": "1.9.1"}
    bare = TRACK if empty == "absent" else {**TRACK, "client": empty}
    sdk.multi(own, bare, **OF_THE_CALL)
    settled(talk)
    told = [(one["client"], one["sdkVersion"], one["apiVersion"]) for one in leanplum.arrived()]
    assert told == [("js", "1.9.1", "1.0.6"), ("android", "7.8.0", "1.0.6")]


def test_a_call_without_these_arguments_adds_none(sdk: Sdk, leanplum: Leanplum, talk: Talk) -> None:
    sdk.multi(TRACK, client=None, sdkVersion="")
    settled(talk)
    (one,) = leanplum.arrived()
    assert not one.keys() & {"client", "sdkVersion", "apiVersion", "devMode"}


def test_a_call_of_one_action_keeps_all_four(sdk: Sdk, leanplum: Leanplum, talk: Talk) -> None:
    sdk.post({**TRACK, **OF_THE_CALL, "devMode": False})
    settled(talk)
    (one,) = leanplum.arrived()
    assert (OF_THE_CALL | {"devMode": False}).items() <= one.items()


def as_json(sdk: Sdk, sent: list[dict[str, Any]], value: Any) -> Any:
    return sdk.multi(*sent, devMode=value)


def as_query(sdk: Sdk, sent: list[dict[str, Any]], value: Any) -> Any:
    keys = {
        "appId": "app_sandbox",
        "clientKey": sdk.key,
        "action": "multi",
        "time": repr(time.time()),
    }
    query = keys | {"devMode": str(value).lower()}
    return sdk.call("POST", "/api", params=query, content=json.dumps({"data": sent}).encode())


def as_form(sdk: Sdk, sent: list[dict[str, Any]], value: Any) -> Any:
    form = {
        "appId": "app_sandbox",
        "clientKey": sdk.key,
        "action": "multi",
        "devMode": str(value).lower(),
    }
    return sdk.call("POST", "/api-batch", data=form | {"data": json.dumps({"data": sent})})


@pytest.mark.parametrize("own", ["absent", False, "false", 0, None, ""])
@pytest.mark.parametrize("way", [as_json, as_query, as_form])
def test_a_call_in_development_mode_never_reaches_production(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, way: Callable[..., Any], own: Any
) -> None:
    sent = [START, *one_of_each()]
    if own != "absent":
        sent = [{**one, "devMode": own} for one in sent]
    before = talk.items()
    answer = way(sdk, sent, True)
    assert all(one["success"] for one in entries(answer)), answer.text
    assert talk.items() == before  # nothing waits for later
    arrived = leanplum.arrived()
    assert [one["action"] for one in arrived] == [one["action"] for one in sent]
    assert {one["clientKey"] for one in arrived} == {"dev_sandbox"}
    assert all(str(one["devMode"]).lower() == "true" for one in arrived)


@pytest.mark.parametrize("value", ON)
def test_every_way_to_say_yes_is_development_mode(sdk: Sdk, leanplum: Leanplum, value: Any) -> None:
    assert entries(sdk.multi(TRACK, devMode=value))[0]["success"] is True
    assert {one["clientKey"] for one in leanplum.arrived()} == {"dev_sandbox"}


@pytest.mark.parametrize("value", OFF)
def test_every_way_to_say_no_is_production(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, value: Any
) -> None:
    sdk.multi(TRACK, devMode=value)
    settled(talk)
    assert {one["clientKey"] for one in leanplum.arrived()} == {"prod_sandbox"}


def test_entries_of_both_kinds_in_one_batch_go_by_different_keys(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    sdk.multi(
        TRACK, {**TRACK, "userId": "u2", "devMode": True}, {**START, "userId": "u3"}, devMode=False
    )
    settled(talk)
    assert {one["userId"]: one["clientKey"] for one in leanplum.arrived()} == {
        "u1": "prod_sandbox", "u2": "dev_sandbox", "u3": "prod_sandbox",
    }  # fmt: skip


def test_a_file_is_fetched_with_the_development_key_in_development_mode(
    sdk: Sdk, leanplum: Leanplum
) -> None:
    sdk.get(action="downloadFile", filename="none", devMode="true")
    assert [call["args"]["clientKey"] for call in leanplum.calls()] == ["dev_sandbox"]


def test_an_action_that_is_not_known_gets_no_development_key(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    (unknown, known) = entries(
        sdk.multi({"action": "whatever", "userId": "u1"}, TRACK, devMode=True)
    )
    assert (unknown["success"], known["success"]) == (False, True)
    assert [one["action"] for one in leanplum.arrived()] == ["track"]


@pytest.mark.parametrize("where", ["call", "entry"])
def test_without_the_development_key_such_entries_are_refused_and_the_setting_is_named(
    without_key: Talk, leanplum: Leanplum, where: str
) -> None:
    leanplum.forget()
    sdk, before = Sdk(without_key), without_key.items()
    sent = [START, *one_of_each(), {"action": "getVars", "userId": "u1"}]
    if where == "call":
        answer = sdk.multi(*sent, devMode=True)
    else:
        answer = sdk.multi(*[{**one, "devMode": "true"} for one in sent])
    assert not any(one["success"] for one in entries(answer))
    assert len(entries(answer)) == len(sent)
    assert all("LEANPLUM_DEVELOPMENT_KEY" in one["error"]["message"] for one in entries(answer))
    assert (without_key.items(), leanplum.calls()) == (before, [])


def test_without_the_development_key_a_call_of_one_action_is_refused_too(
    without_key: Talk, leanplum: Leanplum
) -> None:
    leanplum.forget()
    sdk = Sdk(without_key)
    for answer in (
        sdk.post({**TRACK, "devMode": 1}),
        sdk.get(action="downloadFile", filename="f", devMode="true"),
    ):
        assert answer.status_code == 501
        assert "LEANPLUM_DEVELOPMENT_KEY" in entries(answer)[0]["error"]["message"]
    assert leanplum.calls() == []


def test_without_the_development_key_production_entries_beside_are_taken(
    without_key: Talk, leanplum: Leanplum
) -> None:
    leanplum.forget()
    answer = Sdk(without_key).multi(TRACK, {**TRACK, "devMode": True}, TRACK)
    assert [one["success"] for one in entries(answer)] == [True, False, True]
    settled(without_key)
    assert [one["clientKey"] for one in leanplum.arrived()] == ["prod_sandbox"] * 2
