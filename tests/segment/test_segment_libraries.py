"""Unchanged libraries of Segment and RudderStack send through a real gateway to a real simulator:
what arrives is compared field by field, and what is sent again arrives once.
"""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.segment import running
from tests.support.processes import Process, serving
from tests.support.simulator import Leanplum, simulated
from tests.support.wait import until

NEEDED = bool(os.environ.get("GATEWAY_TESTS_NEED_SDKS"))
LIBRARIES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not NEEDED and not running.installed(name), reason=f"`make test` installs {name}"
        ),
    )
    for name in running.LIBRARIES
]
AT = datetime.now(UTC).replace(microsecond=125_000) - timedelta(hours=3)
MESSAGES: list[dict[str, Any]] = [
    {
        "type": "identify", "userId": "ann", "anonymousId": "anon-1", "messageId": "m-identify",
        "timestamp": AT.isoformat(),
        "traits": {
            "plan": "pro", "näme": "Añn 🦊", "age": 29, "vip": True, "nickname": None, "tags": ["a", "b"],
            "email": "ann@example.com", "createdAt": "2020-02-03T04:05:06Z",
            "address": {"city": "Köln", "country": "DE", "street": "Domkloster 4"}, "company": {"size": {"exact": 7}},
        },
        "context": {
            "locale": "de-DE", "timezone": "Europe/Berlin", "app": {"version": "2.0.1"},
            "os": {"name": "iOS", "version": "17.1"}, "device": {"type": "ios", "model": "iPhone16,1", "token": "t0k"},
        },
    },
    {
        "type": "track", "userId": "ann", "anonymousId": "anon-1", "messageId": "m-track",
        "timestamp": (AT + timedelta(seconds=1)).isoformat(), "event": "Order Completed",
        "properties": {
            "revenue": 9.99, "currency": "EUR", "total": 12, "coupon": None, "gift": False, "größe": "XL “neu”",
            "shipping": {"method": "air", "cost": {"net": 1.5}}, "products": [{"sku": "A-1"}, {"sku": "B-2"}],
        },
    },
    {
        "type": "page", "userId": "ann", "name": "Home", "category": "Shop", "messageId": "m-page",
        "timestamp": (AT + timedelta(seconds=2)).isoformat(),
        "properties": {"url": "https://shop.example/?q=1", "path": "/", "referrer": "", "title": "Home | Shop",
                       "search": "?q=1"},
    },
    {"type": "screen", "userId": "ann", "name": "Basket", "messageId": "m-screen",
     "timestamp": (AT + timedelta(seconds=3)).isoformat(), "properties": {"items": 3}},
    {"type": "group", "userId": "ann", "groupId": "g-7", "messageId": "m-group",
     "timestamp": (AT + timedelta(seconds=4)).isoformat(), "traits": {"name": "Acme", "size": 50}},
    {"type": "alias", "userId": "anna", "previousId": "ann", "messageId": "m-alias",
     "timestamp": (AT + timedelta(seconds=5)).isoformat()},
]  # fmt: skip
OFFSET = int((AT.astimezone(ZoneInfo("Europe/Berlin")).utcoffset() or timedelta()).total_seconds())
ON_ITS_WAY = (
    # Seconds that a message may take here: `sentAt` tells them, and they are taken for a clock that
    # is late
    20.0
)
PAGE = MESSAGES[2]["properties"]
EXPECTED: list[dict[str, Any]] = [
    {
        "action": "setUserAttributes", "deviceId": "anon-1", "newUserId": "ann",
        "userAttributes": {
            "plan": "pro", "näme": "Añn 🦊", "age": 29, "vip": True, "nickname": None, "tags": ["a", "b"],
            "email": "ann@example.com", "address.street": "Domkloster 4", "company.size.exact": 7,
        },
        "created": 1580702706.0, "city": "Köln", "country": "DE", "locale": "de_DE", "timezone": "Europe/Berlin",
        "timezoneOffsetSeconds": OFFSET,
        "devices": [{"deviceId": "anon-1", "appVersion": "2.0.1", "systemName": "iOS", "systemVersion": "17.1",
                     "deviceModel": "iPhone16,1", "iosPushToken": "t0k"}],
    },
    {
        "action": "track", "userId": "ann", "deviceId": "anon-1", "event": "Order Completed", "value": 9.99,
        "currencyCode": "EUR",
        "params": {"total": 12, "gift": False, "größe": "XL “neu”", "shipping.method": "air", "shipping.cost.net": 1.5,
                   "products": '[{"sku":"A-1"},{"sku":"B-2"}]'},
    },
    {"action": "advance", "userId": "ann", "state": "Home", "params": {**PAGE, "category": "Shop"},
     "createDisposition": "CreateIfNeeded"},
    {"action": "advance", "userId": "ann", "state": "Basket", "params": {"items": 3},
     "createDisposition": "CreateIfNeeded"},
    {"action": "setUserAttributes", "userId": "ann",
     "userAttributes": {"group_id": "g-7", "group_name": "Acme", "group_size": 50}},
    {"action": "setUserAttributes", "userId": "ann", "newUserId": "anna"},
]  # fmt: skip


@pytest.fixture(scope="module")
def simulator() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def gateway(simulator: Leanplum, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("gateway"), simulator.url) as found:
        yield found


@pytest.fixture
def leanplum(simulator: Leanplum) -> Leanplum:
    """Leanplum, to which nothing has been sent yet: each test waits for all that it sends."""
    simulator.forget()
    return simulator


def arrived(leanplum: Leanplum, count: int) -> list[dict[str, Any]]:
    """Every action that arrived, once there are as many."""
    until(lambda: len(leanplum.arrived()) >= count, 30)
    return leanplum.arrived()


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_kind_of_message_arrives_field_by_field(
    library: str, gateway: Process, leanplum: Leanplum
) -> None:
    messages = [one | {"messageId": f"{one['messageId']}-{library}"} for one in MESSAGES]
    assert running.send(library, gateway.url, gateway.key, messages) == []
    found = arrived(leanplum, len(EXPECTED))
    for index, (one, expected) in enumerate(zip(found, EXPECTED, strict=True)):
        made = {name: one.pop(name) for name in ("time", "reqId", "uuid", "clientKey")}
        assert one == expected
        assert made["time"] == pytest.approx(
            (AT + timedelta(seconds=index)).timestamp(), abs=ON_ITS_WAY
        )
        assert made["clientKey"] == gateway.settings["LEANPLUM_PRODUCTION_KEY"]
    if not library.startswith("@"):
        until(lambda: gateway.status(f"m-track-{library}") == "delivered")
    assert gateway.key not in json.dumps(leanplum.calls())


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_batch_of_250_arrives_once_and_in_order(
    library: str, gateway: Process, leanplum: Leanplum
) -> None:
    messages = [{"type": "track", "userId": "ann", "event": f"e{index % 50}", "properties": {"index": index}}
                for index in range(250)]  # fmt: skip
    assert running.send(library, gateway.url, gateway.key, messages, batch=250) == []
    assert [one["params"]["index"] for one in arrived(leanplum, 250)] == [*range(250)]


@pytest.mark.parametrize("how", ["503", "reset"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_sent_again_arrives_once(
    library: str, how: Any, gateway: Process, leanplum: Leanplum
) -> None:
    messages = [
        {"type": "track", "userId": "ann", "event": "E", "properties": {"index": index}}
        for index in range(20)
    ]
    with running.losing(gateway.port, how) as (url, answers):
        assert running.send(library, url, gateway.key, messages) == []
    assert answers == [200, 200]
    gateway.call(
        "POST", "/v1/events", json={"userId": "ann", "event": "last"}, headers={"Prefer": "wait=30"}
    )
    assert [one["params"]["index"] for one in leanplum.arrived() if one["event"] == "E"] == [
        *range(20)
    ]


def test_what_is_sent_while_the_gateway_is_away_arrives_when_it_is_back(
    leanplum: Leanplum, tmp_path: Path
) -> None:
    """With the library that is the most patient: how long a gateway takes to start differs by
    machine.
    """
    gateway = Process(tmp_path, leanplum.url)
    messages = [
        {"type": "track", "userId": "ann", "event": "E", "properties": {"index": index}}
        for index in range(5)
    ]
    process = running.start("segment-analytics-python", gateway.url, gateway.key, messages, 100)
    try:
        gateway.start()
        assert running.said(process) == []
        assert [one["params"]["index"] for one in arrived(leanplum, 5)] == [*range(5)]
    finally:
        process.kill()
        gateway.close()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_bad_key_is_told_once_and_not_tried_again(library: str, gateway: Process) -> None:
    with running.losing(gateway.port, "503") as (url, answers):
        answers.append(0)  # nothing is lost here: the proxy only counts
        wrong = running.send(library, url, "lpgw_wrong", MESSAGES[1:2])
    assert answers == [0, 401]
    assert len(wrong) == 1


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_bad_message_neither_harms_its_neighbours_nor_is_tried_again(
    library: str, gateway: Process, leanplum: Leanplum
) -> None:
    messages = [
        {"type": "track", "userId": user, "event": "E"} for user in ("ann", "o'hara", "bob")
    ]
    with running.losing(gateway.port, "503") as (url, answers):
        answers.append(0)
        assert running.send(library, url, gateway.key, messages) == []
    assert answers == [0, 200]
    assert {one["userId"] for one in arrived(leanplum, 2)} == {"ann", "bob"}
    assert b'refused":1' in gateway.output.read_bytes()
