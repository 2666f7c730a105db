"""Segment's messages are enriched, guarded and mapped as the configuration says, like all other
items.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.gateway import CANARY, Talk
from tests.support.segment import post
from tests.support.tracking_plans import shop

Start = Callable[..., Talk]


@pytest.fixture
def configured(start: Start, tmp_path: Path) -> Callable[[str], Talk]:
    """A gateway with this configuration file."""

    def make(toml: str) -> Talk:
        file = tmp_path / "enrichment.toml"
        file.write_text(toml)
        return start(gateway_enrichment_file=file)

    return make


def bodies(talk: Talk) -> list[Any]:
    return [orjson.loads(body) for (body,) in talk.rows("SELECT body FROM items ORDER BY seq")]


def test_the_default_steps_are_taken_and_the_receipt_tells(
    configured: Callable[[str], Talk],
) -> None:
    talk = configured("")
    agent = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X) AppleWebKit/605.1.15 Version/17.1 Safari/604.1"
    sent = {"sentAt": time.time() - 3600, "timestamp": time.time() - 3660, "messageId": "m"}
    context = {
        "ip": "203.0.113.9",
        "userAgent": agent,
        "locale": "de-de",
        "timezone": "europe/berlin",
    }
    traits = {"email": " Ann@Example.COM ", "a,b": 1}
    post(talk, "identify", {"userId": "ann", "traits": traits, "context": context, **sent})
    (found,) = bodies(talk)
    assert found["userAttributes"] == {"email": "ann@example.com", "a_b": 1}
    assert (found["locale"], found["timezone"]) == ("de_DE", "Europe/Berlin")
    assert found["time"] == pytest.approx(time.time() - 60, abs=20)
    assert not found.keys() & {"ip", "userAgent", "sentAt"}
    told = talk.get("/v1/receipts/m").json()["enrichment"]
    assert {"time", "contact", "locale", "timezone"} <= set(told["steps"])
    assert told["warnings"] == ["Names were changed to such as Leanplum takes: a_b"]


def test_what_is_said_again_later_is_the_same_message_though_its_clock_is_corrected_anew(
    configured: Callable[[str], Talk],
) -> None:
    talk = configured("")
    for late in (0, 1, 2):
        message = {
            "userId": "ann",
            "event": "E",
            "messageId": "m",
            "timestamp": 1e9,
            "sentAt": time.time() - late,
        }
        assert post(talk, "track", message).json() == {"success": True}
    assert talk.items() == 1


@pytest.mark.parametrize(
    ("rule", "messages"),
    [
        ('do = "drop"\nkeys = ["userAttributes.address.*"]', [("identify", "traits", {"address": {"city": CANARY}})]),
        ('do = "mask"\nkeys = ["params.products.email"]', [
            ("track", "properties", {"products": [{"email": CANARY}]}),
            ("page", "properties", {"products": [{"email": CANARY}]}),
        ]),
        ('do = "hash"\nkeys = ["*secret*"]', [
            ("track", "properties", {"a": {"secret": {"deep": [CANARY]}}}),
            ("identify", "traits", {"list": [{"secret": CANARY}]}),
            ("group", "traits", {"secret": CANARY}),
        ]),
        (f'do = "drop"\nvalues = "{CANARY}"', [
            ("track", "properties", {"revenue": CANARY, "currency": CANARY, "a": [[CANARY]]}),
            ("identify", "traits", {"createdAt": CANARY, "city": CANARY, "country": CANARY}),
            ("screen", "properties", {"name": CANARY}),
            ("page", "properties", {"category": CANARY}),
        ]),
        ('do = "drop"\nkeys = ["userAttributes", "params"]', [("track", "properties", {"a": CANARY})]),
    ],
)  # fmt: skip
def test_no_value_under_a_privacy_rule_reaches_the_disk(
    rule: str, messages: list[tuple[str, str, Any]], configured: Callable[[str], Talk]
) -> None:
    talk = configured(f"[[privacy]]\n{rule}\n")
    for kind, name, found in messages:
        message = {"userId": "ann", "groupId": "g", "event": "E", name: found, "messageId": kind}
        assert post(talk, kind, message).json() == {"success": True}
        assert "privacy" in talk.get(f"/v1/receipts/{kind}").json()["enrichment"]["steps"]
    assert len(bodies(talk)) == len(messages)
    assert all(CANARY.encode() not in path.read_bytes() for path in talk.path.parent.glob("g.db*"))


def test_the_mapping_is_configured_for_all_for_an_app_and_for_a_caller(
    configured: Callable[[str], Talk],
) -> None:
    talk = configured(
        '[segment]\nevents = { "Order Completed" = "Purchase" }\npage_state = "Viewed {name}"\n'
        '[apps.default.segment]\nevents = { "Order Completed" = "Bought" }\n'
    )
    post(talk, "track", {"userId": "ann", "event": "Order Completed"})
    post(talk, "page", {"userId": "ann", "name": "Home"})
    track, page = bodies(talk)
    assert (track["event"], page["state"]) == ("Bought", "Home")


def test_the_tracking_plan_holds_at_this_door_too(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(shop())
    talk = start(gateway_tracking_plan=file)
    good = {
        "userId": "ann",
        "event": "Purchase",
        "messageId": "good",
        "properties": {"revenue": 9.5, "sku": "A-1"},
    }
    bad = {
        "userId": "ann",
        "event": "Purchase",
        "messageId": "bad",
        "properties": {"revenue": 9.5, "sku": "nothing"},
    }
    other = {
        "userId": "bob",
        "event": "Purchase",
        "messageId": "other",
        "properties": {"revenue": -1, "sku": "A-2"},
    }
    messages = [{"type": "track", **one} for one in (good, bad, other)]
    answer = post(talk, "batch", {"batch": messages})
    assert [found["params"]["sku"] for found in bodies(talk)] == ["A-1"]
    told = talk.get("/v1/tracking-plan/violations").json()
    assert sum(one["count"] for one in told["violations"]) == 2, (answer.text, told)
