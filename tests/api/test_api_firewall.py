"""Through a real server: one item that a firewall blocks, among many users' items, and a firewall
that blocks all.
"""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from app.simulator import SimulatorConfig
from tests.support.gateway import Talk
from tests.support.simulator import delivering_to, simulated
from tests.support.wait import until

USERS, ROUNDS, LATE_MS = 60, 8, 5_000
PROBE_SECONDS = 2.0  # between probes of the held app; 15 in production
ATTACK = "' OR 1=1 --"


def post(talk: Talk, number: int, *more: dict[str, Any]) -> list[str]:
    """One event of each user, and more items, in one call; where their receipts are."""
    items = [
        {"action": "track", "userId": f"user{user}", "event": "E", "value": number}
        for user in range(USERS)
    ]
    return [f"/v1/receipts/{one['id']}" for one in talk.batch([*items, *more]).json()["results"]]


def late(receipts: list[dict[str, Any]]) -> list[str]:
    """The items that took over 5 s."""
    took = [(one["id"], _ms(one["settledAt"]) - _ms(one["acceptedAt"])) for one in receipts]
    return [item for item, ms in took if ms > LATE_MS]


def _ms(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp() * 1000


@pytest.mark.timed
@pytest.mark.parametrize(
    ("mode", "alone"),
    [("403-html", False), ("403-other", True)],
    ids=["among others", "alone first"],
)
def test_one_blocked_item_becomes_a_dead_letter_and_none_of_the_others_takes_over_five_seconds(
    settings: Callable[..., Settings], tmp_path: Path, mode: str, alone: bool
) -> None:
    with (
        simulated(SimulatorConfig(latency_seconds=0.05)) as leanplum,
        delivering_to(leanplum, settings, tmp_path / "g.db") as talk,
    ):
        leanplum.fault(mode=mode, contains=ATTACK, times=None)
        hrefs = list[str]()
        bad = {"userId": "attacker", "event": "E", "params": {"comment": f"x{ATTACK}"}}
        if alone:
            blocked = talk.event(bad).json()["href"]
            until(lambda: talk.get(blocked).json()["status"] == "held")
        for number in range(ROUNDS):
            if number == 3 and not alone:
                *others, blocked = post(talk, number, {"action": "track", **bad})
                hrefs += others
            else:
                hrefs += post(talk, number)
            time.sleep(0.1)
        until(lambda: all(talk.get(href).json().get("settledAt") for href in hrefs), 30)
        receipts = [talk.get(href).json() for href in hrefs]
        assert {one["status"] for one in receipts} == {"delivered"}
        assert late(receipts) == [], f"{len(late(receipts))} of {len(receipts)} took over 5 s"
        found = until(
            lambda: talk.get(blocked).json().get("settledAt") and talk.get(blocked).json(), 40
        )
        assert found["status"] == "rejected", found
        assert found["leanplum"]["error"].startswith("HTTP 403")
        assert [one["id"] for one in talk.get("/v1/dead-letters").json()["deadLetters"]] == [
            found["id"]
        ]
        assert talk.get("/readyz").json()["ready"] is True


def test_a_firewall_that_blocks_everything_holds_the_app_and_makes_no_dead_letter(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with (
        simulated() as leanplum,
        delivering_to(
            leanplum, settings, tmp_path / "g.db", gateway_retry_max_seconds=PROBE_SECONDS
        ) as talk,
    ):
        leanplum.fault(mode="403-html", times=None)
        hrefs = post(talk, 0)
        until(lambda: "held" in {talk.get(href).json()["status"] for href in hrefs})
        time.sleep(1.0)
        assert len(leanplum.calls()) <= 16
        assert {talk.get(href).json()["status"] for href in hrefs} <= {"held", "accepted"}
        assert talk.get("/v1/dead-letters").json()["deadLetters"] == []
        leanplum.mend()
        until(lambda: {talk.get(href).json()["status"] for href in hrefs} == {"delivered"}, 40)
