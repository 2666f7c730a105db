"""Unchanged clients of Leanplum go through a real gateway to a real simulator: they see success,
and every call arrives once, in order, with the real key.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.sdk import running
from tests.support.chromium import needs_chromium
from tests.support.processes import Process, serving
from tests.support.simulator import Leanplum, simulated
from tests.support.wait import until

NEEDED = bool(os.environ.get("GATEWAY_TESTS_NEED_SDKS"))
VERSIONS = ("1.3.0", "1.8.0", "1.9.0")
needs_node = pytest.mark.skipif(
    not NEEDED and (shutil.which("node") is None or not running.sdk_file("1.9.0").exists()),
    reason="there is no Node.js here, or `make test` has not installed the SDKs",
)
needs_clients = pytest.mark.skipif(
    not NEEDED and not running.CLIENTS.exists(),
    reason="`make test` has not installed the PyPI clients",
)
EVENTS = ["Purchase" if index == 10 else f"event {index}" for index in range(20)]


@pytest.fixture
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture
def gateway(leanplum: Leanplum, tmp_path: Path) -> Iterator[Process]:
    with serving(tmp_path, leanplum.url) as found:
        yield found


def words(gateway: Process) -> tuple[str, str, str, str]:
    """Where the gateway is, and what stands for Leanplum's key."""
    return f"{gateway.url}/api", gateway.settings["LEANPLUM_APP_ID"], gateway.key, "ann"


def arrived(leanplum: Leanplum, last: str) -> list[dict[str, Any]]:
    """Every action that arrived, once `last` has."""
    until(lambda: any(one["action"] == last for one in leanplum.arrived()), 20)
    return leanplum.arrived()


def assert_the_keys_are_where_they_belong(gateway: Process, leanplum: Leanplum) -> None:
    real = gateway.settings["LEANPLUM_PRODUCTION_KEY"]
    assert {one["clientKey"] for one in leanplum.arrived()} == {real}
    assert gateway.key not in json.dumps(leanplum.calls())
    assert real.encode() not in gateway.output.read_bytes()


def assert_javascript_s_calls_arrived(
    gateway: Process, leanplum: Leanplum, said: dict[str, Any]
) -> None:
    assert said == {
        "started": True,
        "variables": said["variables"],
        "greeting": "hello",
        "errors": [],
    }
    assert said["variables"] >= 1
    everything = arrived(leanplum, "stop")
    # Some versions ask beside their queue
    found = [one for one in everything if one["action"] != "getVars"]
    assert len(everything) == len(found) + 1
    assert [one["action"] for one in found] == [
        "start", *["track"] * 20, "setUserAttributes", "advance", "pauseState", "resumeState", "pauseSession",
        "resumeSession", "stop",
    ]  # fmt: skip
    tracks = [one for one in found if one["action"] == "track"]
    assert [one["event"] for one in tracks] == EVENTS
    assert (tracks[10]["value"], json.loads(tracks[10]["params"])) == (
        9.99,
        {"sku": "A-1", "currency": "EUR"},
    )
    assert {one["userId"] for one in found} == {"ann"}
    assert json.loads(found[0]["userAttributes"]) == {"plan": "pro", "age": 29}
    assert json.loads(found[21]["userAttributes"]) == {"plan": "team", "nickname": None}
    assert leanplum.user("ann")["attributes"] == {"plan": "team", "age": 29}
    assert_the_keys_are_where_they_belong(gateway, leanplum)


@needs_node
@pytest.mark.parametrize("version", VERSIONS)
def test_the_javascript_sdk_in_jsdom(version: str, gateway: Process, leanplum: Leanplum) -> None:
    run: AbstractContextManager[dict[str, Any]] = running.in_jsdom(version, *words(gateway))
    with run as said:
        assert_javascript_s_calls_arrived(gateway, leanplum, said)


@needs_node
@needs_chromium
@pytest.mark.parametrize("version", VERSIONS)
def test_the_javascript_sdk_in_chromium(
    version: str, gateway: Process, leanplum: Leanplum, tmp_path: Path
) -> None:
    with running.in_chromium(version, tmp_path, *words(gateway)) as said:
        assert_javascript_s_calls_arrived(gateway, leanplum, said)


ORDERS = {
    "python-leanplum": ["setUserAttributes", *["track"] * 20, "advance", "start", "getVars", "stop"],
    "leanplum": ["start", *["track"] * 20, "setUserAttributes", "advance", "pauseState", "resumeState", "getVars",
                 "stop"],
}  # fmt: skip


@needs_clients
@pytest.mark.parametrize("name", ORDERS)
def test_a_client_of_pypi(name: str, gateway: Process, leanplum: Leanplum) -> None:
    said = running.python_client(name, *words(gateway))
    assert all(one["success"] is True and "warning" not in one for one in said), said
    assert any("vars" in one for one in said)
    found = arrived(leanplum, "stop")
    assert [one["action"] for one in found] == ORDERS[name]
    tracks = [one for one in found if one["action"] == "track"]
    assert [(one["event"], one["value"], one["params"]) for one in tracks] == [
        (event, 9.99 if index == 10 else index, {"index": index})
        for index, event in enumerate(EVENTS)
    ]
    assert_the_keys_are_where_they_belong(gateway, leanplum)
