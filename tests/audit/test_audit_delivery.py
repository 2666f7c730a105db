"""Calls to Leanplum in the audit: what came of their items, and whom they were about."""

from collections.abc import Callable

from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.api.talk import EVENT, Talk


def test_a_call_to_leanplum_is_found_by_each_of_its_users(start: Callable[..., Talk]) -> None:
    config = SimulatorConfig(app_id="app_tests", production_key="prod_tests_secret")
    with BackgroundServer(config) as leanplum:
        talk = start(delivery=True, leanplum_api_url=f"{leanplum.url}/api")
        for user in ("ann", "bob"):
            answer = talk.event(EVENT | {"userId": user}, headers={"Prefer": "wait=20"})
            assert answer.json()["status"] == "delivered"
        found = talk.get("/v1/audit?userId=ann&order=oldest").json()["records"]
        accepted, delivered = [one["record"] for one in found]
        assert [one["api"]["operation"] for one in (accepted, delivered)] == ["POST /v1/events", "leanplum multi"]
        hashed = talk.app.state.gateway.pseudonyms.of("default", "uann")
        assert delivered["unmapped"] == {
            "app": "default", "items": {"delivered": 1}, "actions": {"track": 1}, "user": hashed,
        }  # fmt: skip
