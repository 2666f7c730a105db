"""The console's page about the tracking plan."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.model import Scope
from tests.console.visitor import signed_in, text_of
from tests.support.gateway import CANARY, Talk
from tests.support.tracking_plans import PURCHASE, SKU, text
from tests.support.wait import until

HOSTILE = "<img src=x onerror=alert(1)>"
SEARCH = {
    "mode": "warn",
    "owner": HOSTILE,
    "description": f"Somebody searched {HOSTILE}",
    "params": {"properties": {"n": {"type": "integer"}}},
    "examples": [{"userId": "u1", "event": "Search", "params": {"n": 1}}],
}


@pytest.fixture
def talk(start: Callable[..., Talk], tmp_path: Path) -> Talk:
    plan = text(
        definitions=SKU, events={"Purchase": PURCHASE, "Search": SEARCH}, unknown={"events": "warn"}
    )
    (tmp_path / "plan.yaml").write_text(plan)
    return start(
        gateway_tracking_plan=tmp_path / "plan.yaml",
        gateway_taxonomy_limits="events=4",
        gateway_taxonomy_policy="warn",
    )


def test_entries_names_and_violations_are_shown_without_values(talk: Talk) -> None:
    for number in range(3):
        answer = talk.event({"userId": "u1", "event": "Search", "params": {"n": CANARY}})
        assert answer.status_code == 202, number
    talk.event({"userId": "u1", "event": "Unplanned", "params": {"other": CANARY}})
    visitor = signed_in(talk)
    until(lambda: "/params/n" in visitor.get("/tracking-plan").text)  # counted after the answer
    page = visitor.get("/tracking-plan")
    words = text_of(page)
    for expected in (
        "Events 2 of 4",
        "Purchase events enforce not yet 0",
        "Search events warn",
        "plan-type",
        "/params/n",
        "Events in use that the plan does not have: 1",
        "unknown events: warn",
    ):
        assert expected in words, expected
    assert CANARY not in page.text


def test_texts_of_plans_and_callers_are_shown_as_texts(talk: Talk) -> None:
    talk.event({"userId": "u1", "event": HOSTILE})
    talk.event({"userId": "u1", "event": "Search", "params": {HOSTILE: 1, "n": "x"}})
    page = signed_in(talk).get("/tracking-plan").text
    assert HOSTILE not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_a_full_taxonomy_says_that_leanplum_drops_names(talk: Talk) -> None:
    for number in range(5):
        talk.event({"userId": "u1", "event": f"Event {number}"})
    words = text_of(signed_in(talk).get("/tracking-plan"))
    assert "of 4" in words
    assert "Leanplum drops new names" in words


def test_a_refused_plan_is_shown(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(json.dumps({"version": "2", "events": {"Purchase": 1}}))
    talk.do(talk.app.services.tracking.plans.refresh)
    words = text_of(signed_in(talk).get("/tracking-plan"))
    assert "the plan stays as it was" in words
    assert "Purchase events enforce" in words


def test_without_audit_read_no_violations_are_shown(talk: Talk) -> None:
    talk.event({"userId": "u1", "event": "Search", "params": {"n": "x"}})
    _, key = talk.create_key(Scope.CONSOLE_READ, Scope.CONTENT_READ)
    words = text_of(signed_in(talk, key).get("/tracking-plan"))
    assert "Search events warn" in words
    assert "iolations" not in words
    assert "plan-type" not in words


def test_each_app_has_its_page_and_a_key_sees_only_its_apps(
    start: Callable[..., Talk], two_apps: dict[str, Any]
) -> None:
    talk = start(**two_apps)
    talk.event({"userId": "u1", "event": "Of two"}, headers={"X-Leanplum-App": "two"})
    _, key = talk.create_key(Scope.CONSOLE_READ, Scope.CONTENT_READ, apps=["one"])
    visitor = signed_in(talk, key)
    assert "Of two" not in visitor.get("/tracking-plan").text
    assert visitor.get("/tracking-plan?app=two").status_code == 404
    assert "Of two" in signed_in(talk).get("/tracking-plan?app=two").text
    assert "No plan is loaded" in visitor.get("/tracking-plan").text
