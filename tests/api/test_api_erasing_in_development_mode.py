"""A deletion in development mode erases in the gateway like any other: single, in a batch, or as
the call says.
"""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.api.erasure_gateway import Gateway, gateway
from tests.support.simulator import Leanplum, simulated
from tests.support.wait import until

Ask = Callable[[Gateway, str], httpx.Response]
GONE = {"action": "deleteUser", "fullErasure": True}
WAYS: dict[str, Ask] = {
    "single": lambda at, user: at.sdk(**GONE, userId=user, devMode=True),
    "single as text": lambda at, user: at.sdk(**GONE, userId=user, devMode="1"),
    "in a query": lambda at, user: at.call(
        "GET",
        "/api",
        params={
            "appId": "app_sandbox",
            "clientKey": at.key,
            **GONE,
            "userId": user,
            "devMode": "true",
        },
    ),
    "an entry": lambda at, user: at.sdk(
        action="multi", data=[{**GONE, "userId": user, "devMode": True}]
    ),
    "the call": lambda at, user: at.sdk(
        action="multi", devMode=True, data=[{**GONE, "userId": user}]
    ),
}


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.mark.parametrize("way", WAYS)
def test_a_deletion_in_development_mode_removes_what_waits_and_refuses_the_user(
    settings: Callable[..., Any], tmp_path: Any, leanplum: Leanplum, way: str
) -> None:
    database = f"sqlite:///{tmp_path / 'g.db'}"
    with gateway(settings, database, leanplum, delivery=False) as at:
        assert at.call("POST", "/v1/events", {"userId": "ann", "event": "E"}).status_code == 202
        answer = WAYS[way](at, "ann")
        assert (answer.status_code, "erased" in answer.text) == (200, False)
        assert at.rows("SELECT subject, action FROM items") == [("uann", "deleteUser")]
        assert at.rows("SELECT count(*) FROM erasures")[0][0] > 0
        assert at.call("POST", "/v1/events", {"userId": "ann", "event": "E"}).status_code == 403


def test_such_a_deletion_is_delivered(
    settings: Callable[..., Any], tmp_path: Any, leanplum: Leanplum
) -> None:
    leanplum.forget()
    with gateway(settings, f"sqlite:///{tmp_path / 'g.db'}", leanplum) as at:
        at.call("POST", "/v1/events", {"userId": "ann", "event": "E", "id": "before"})
        WAYS["the call"](at, "ann")
        until(lambda: "deleteUser" in [one["action"] for one in leanplum.arrived()])
        until(lambda: at.rows("SELECT lane FROM items WHERE action = 'deleteUser'") == [(0,)])
        assert leanplum.user("ann").get("error")
