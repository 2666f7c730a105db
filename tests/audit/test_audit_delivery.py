"""Calls to Leanplum in the audit: what came of their items, and whom they were about."""

import threading
from collections.abc import Callable, Iterator

import httpx
import pytest

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.gateway import EVENT, Talk


def test_a_call_to_leanplum_is_found_by_each_of_its_users(start: Callable[..., Talk]) -> None:
    config = SimulatorConfig(app_id="app_tests", production_key="prod_tests_secret")
    with BackgroundServer(config) as leanplum:
        talk = start(delivery=True, leanplum_api_url=f"{leanplum.url}/api")
        for user in ("ann", "bob"):
            answer = talk.event(EVENT | {"userId": user}, headers={"Prefer": "wait=20"})
            assert answer.json()["status"] == "delivered"
        found = talk.get("/v1/audit?userId=ann&order=oldest").json()["records"]
        accepted, delivered = [one["record"] for one in found]
        assert [one["api"]["operation"] for one in (accepted, delivered)] == [
            "POST /v1/events",
            "leanplum multi",
        ]
        hashed = talk.app.services.pseudonyms.of("default", "uann")
        assert delivered["unmapped"] == {
            "app": "default", "items": {"delivered": 1}, "actions": {"track": 1}, "user": hashed,
        }  # fmt: skip


@pytest.fixture
def slow(start: Callable[..., Talk]) -> Iterator[Talk]:
    """A gateway whose Leanplum takes a second to answer."""
    config = SimulatorConfig(
        app_id="app_tests", development_key="dev", production_key="prod", latency_seconds=1.0
    )
    with BackgroundServer(config) as leanplum:
        given = {"leanplum_development_key": "dev", "leanplum_production_key": "prod"}
        yield start(leanplum_api_url=f"{leanplum.url}/api", **given)


def calls(talk: Talk, action: str) -> list[str]:
    """The statuses of the recorded calls of this action."""
    told = [one for one in talk.audit() if one["api"]["operation"] == f"leanplum {action}"]
    return [one["status_code"] for one in told]


def test_a_call_that_changes_something_is_on_record_before_leanplum_answers(slow: Talk) -> None:
    answers = list[httpx.Response]()
    asking = threading.Thread(
        target=lambda: answers.append(slow.post("/v1/variables", {"vars": {"a": 1}}, method="PUT"))
    )
    asking.start()
    while asking.is_alive() and not calls(slow, "setVars"):
        pass
    assert asking.is_alive(), "it was answered before anything was on record"
    assert calls(slow, "setVars") == ["102"]
    asking.join(20)
    assert answers[0].status_code == 200
    assert calls(slow, "setVars") == ["102", "200"]
    of = {
        outcome: slow.get(f"/v1/audit?action=setVars&outcome={outcome}").json()["records"]
        for outcome in ("success", "failed")
    }
    assert [len(found) for found in of.values()] == [1, 0], "what is only begun has no outcome"


def test_a_call_that_only_looks_has_one_record(slow: Talk) -> None:
    assert slow.get("/v1/users/u1/variables").status_code == 404  # Leanplum doesn't know the user
    assert calls(slow, "getVars") == ["200"]
