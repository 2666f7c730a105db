"""Items as the body of a `multi` (fact sheet §3.7)."""

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from app import ids
from app.leanplum import mapping
from app.model import App, Item, KeyKind

from .items import KEY, LEANPLUM, item


def multi(app: App, items: list[Item], now: float) -> bytes:
    """The body of a call that is a multi."""
    call = mapping.request_for(app, items, now)
    assert call.action == "multi"
    return call.body


def entry(one: Item) -> str:
    return mapping.entry_for(one, KEY)[1]


def request_id(one: Item) -> str:
    """The `reqId` by which the answer is known to be about an item."""
    return mapping.entry_for(one, KEY)[0]


MADE = ids.made(ids.new_prefix(1_700_000_000_000, 7), 42)
WITH_DEVELOPMENT_KEY = replace(
    LEANPLUM, keys={KeyKind.DEVELOPMENT: SecretStr("dev_key"), **LEANPLUM.keys}
)


def sent(one: Item) -> dict[str, Any]:
    """The action that Leanplum reads; a name that occurs twice is an error."""
    read = json.loads(entry(one), object_pairs_hook=_no_repeats)
    assert isinstance(read, dict)
    return read


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({name for name, _ in pairs}) == len(pairs), f"a name occurs twice: {pairs}"
    return dict(pairs)


def test_a_multi_names_the_app_the_key_the_version_its_time_and_the_actions_and_nothing_else() -> (
    None
):
    body = json.loads(multi(LEANPLUM, [item()], 1_700_000_001.5))
    data = body.pop("data")
    assert body == {
        "appId": "app_X",
        "clientKey": KEY,
        "apiVersion": "1.0.6",
        "time": 1_700_000_001.5,
    }
    assert len(data) == 1


def test_the_key_is_in_the_body_once_and_in_no_action() -> None:
    assert multi(LEANPLUM, [item(), item("own-2")], 1.0).count(KEY.encode()) == 1
    assert KEY not in entry(item())


def test_the_actions_keep_the_order_of_the_items() -> None:
    items = [item(f"own-{number}", event=f"e{number}") for number in range(100)]
    data = json.loads(multi(LEANPLUM, items, 1.0))["data"]
    assert [one["event"] for one in data] == [f"e{number}" for number in range(100)]


@pytest.mark.parametrize("action", ["startCampaign", "unblock", "deleteUser"])
def test_what_takes_the_development_key_is_a_call_of_its_own_with_it(action: str) -> None:
    item = Item(1, MADE, "default", "uu", action, '{"userId":"u"}', 1_000, 0, 0)
    call = mapping.request_for(WITH_DEVELOPMENT_KEY, [item], 1.0)
    body = json.loads(call.body, object_pairs_hook=_no_repeats)
    assert (call.action, body["action"], body["userId"], body["reqId"]) == (
        action,
        action,
        "u",
        MADE,
    )
    assert (body["appId"], body["clientKey"], body["apiVersion"]) == ("app_X", "dev_key", "1.0.6")


def test_clearing_an_anomaly_takes_the_development_key_and_an_attribute_of_that_name_does_not() -> (
    None
):
    asked = Item(
        1,
        MADE,
        "default",
        "uu",
        "setUserAttributes",
        '{"userId":"u","resetAnomalies":true}',
        0,
        0,
        0,
    )
    named = asked._replace(body='{"userId":"u","userAttributes":{"resetAnomalies":true}}')
    assert mapping.request_for(WITH_DEVELOPMENT_KEY, [asked], 1.0).action == "setUserAttributes"
    assert mapping.request_for(WITH_DEVELOPMENT_KEY, [named], 1.0).action == "multi"


def test_an_app_without_the_key_that_is_needed_makes_no_call() -> None:
    with pytest.raises(KeyError):
        mapping.request_for(
            LEANPLUM, [Item(1, MADE, "default", "uu", "unblock", '{"userId":"u"}', 0, 0, 0)], 1.0
        )


def test_what_an_sdk_sent_keeps_its_own_ids_and_its_key_is_ours() -> None:
    body = '{"userId":"u","reqId":"r","uuid":"v","time":"1.7E9","clientKey":null,"event":null}'
    item = Item(1, MADE, "default", "uu", "track", body, 0, 0, 0)
    assert request_id(item) == "r"
    assert sent(item) == {
        "action": "track", "userId": "u", "reqId": "r", "uuid": "v", "time": "1.7E9", "clientKey": KEY, "event": None,
    }  # fmt: skip


def test_an_id_made_here_is_sent_as_reqid_and_uuid() -> None:
    action = sent(item(MADE))
    assert (action["reqId"], action["uuid"]) == (MADE, MADE)


def test_an_own_id_is_sent_as_a_uuid_made_of_it_the_same_each_time() -> None:
    first, second = sent(item("order:4711")), sent(item("order:4711", event="another"))
    assert first["reqId"] == first["uuid"] == second["reqId"]
    assert uuid.UUID(first["reqId"]).version == 5


def test_the_uuid_of_an_own_id_never_changes_between_releases() -> None:
    """A repeat after an upgrade must still be known to Leanplum by its `reqId`."""
    namespace = uuid.UUID("7d0f9a1e-6d4c-5e0b-9a67-0c6f3b7f2a11")
    assert request_id(item("order:4711")) == str(uuid.uuid5(namespace, "default/order:4711"))


def test_own_ids_that_differ_or_belong_to_different_apps_get_different_uuids() -> None:
    ours = item("x")
    assert len({request_id(one) for one in (ours, item("y"), ours._replace(app="other"))}) == 3


def test_without_a_time_the_action_has_when_it_was_accepted_in_seconds() -> None:
    assert sent(item(at=1_700_000_000_123))["time"] == 1_700_000_000.123


@pytest.mark.parametrize("time", [0, 1_600_000_000, 1_600_000_000.25])
def test_the_callers_own_time_is_kept(time: float) -> None:
    assert sent(item(time=time))["time"] == time


@pytest.mark.parametrize(
    "fields",
    [
        {"info": 'he said "time":12, then left'},
        {"params": {"time": 5}},
        {"params": {"note": '"time":1'}},
        {"event": "time"},
        {"userAttributes": {"a": ['"time":']}},
    ],
)
def test_what_only_looks_like_a_time_does_not_take_the_place_of_the_acceptance_time(
    fields: dict[str, Any],
) -> None:
    action = sent(item(at=1_700_000_000_000, **fields))
    assert action["time"] == 1_700_000_000
    assert {name: action[name] for name in fields} == fields


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["time", "event", "info", "params", "value", "userAttributes", "Zoë", 'a"b', "\\"]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(NAMES, JSON_VALUES, max_size=5), min_size=1, max_size=5))
def test_whatever_the_fields_are_the_result_is_json_that_carries_exactly_them(
    bodies: list[dict[str, Any]],
) -> None:
    items = [item(f"own-{number}", **fields) for number, fields in enumerate(bodies)]
    data = json.loads(multi(LEANPLUM, items, 1.0), object_pairs_hook=_no_repeats)["data"]
    added = {"action": "track", "userId": "ann"}
    for one, fields, action in zip(items, bodies, data, strict=True):
        ids_added = {"reqId": request_id(one), "uuid": request_id(one)}
        when = {"time": one.accepted_at / 1000} if fields.get("time") in (None, "") else {}
        assert action == fields | when | added | ids_added
