"""After an erasure no value in the database is made of the user's id without a key: a list of ids
tells nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.api.erasure_gateway import found_in, gateway
from tests.support.simulator import Leanplum, simulated
from tests.support.wait import until

USER, DEVICE, OTHER = "canary-user-9d1e", "canary-device-5c2f", "somebody-else"


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.mark.parametrize(
    "data_key", [None, "a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="], ids=["clear", "sealed"]
)
def test_nothing_in_the_database_is_made_of_the_id_of_whoever_was_erased(
    settings: Callable[..., Any], database: str, leanplum: Leanplum, data_key: str | None
) -> None:
    leanplum.forget()
    leanplum.mend()
    with gateway(settings, database, leanplum, gateway_data_key=data_key) as at:
        for number in range(3):
            at.call("POST", "/v1/events", {"userId": USER, "event": "E", "id": f"event-{number}"})
        at.call("POST", "/v1/batch", {"items": [
            {"action": "setUserAttributes", "userId": OTHER, "newUserId": USER, "deviceId": DEVICE},
            {"action": "setUserAttributes", "userId": USER, "newUserId": f"{OTHER}-2"},
        ]})  # fmt: skip
        at.call("POST", f"/v1/users/{USER}/sessions", {})  # leaves a lock for a moment
        leanplum.fault(mode="success-false", message=f"User {USER} is bad.", userId=USER, times=1)
        at.call("POST", "/v1/events", {"userId": USER, "event": "E", "id": "dead"})
        until(lambda: not at.rows("SELECT 1 FROM items WHERE settled_at IS NULL"))
        leanplum.mend()
        assert ("items", "lane", "lane") in found_in(database, USER)
        assert at.erase(USER, wait=10)["status"] in {"delivered", "skipped"}
        refused = at.call("POST", "/v1/events", {"userId": USER, "event": "E"})
        assert refused.status_code == 403
        until(lambda: not at.rows("SELECT 1 FROM user_locks"))
        assert found_in(database, USER) == []


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (f"User {USER} not found; request skipped.", "User … not found; request skipped."),
        (f"Deleted '{USER.upper()}', and u{USER}.", "Deleted '…', and u…."),
    ],
)
def test_what_leanplum_says_of_the_deletion_is_kept_without_the_id(
    settings: Callable[..., Any], database: str, leanplum: Leanplum, message: str, expected: str
) -> None:
    leanplum.forget()
    leanplum.mend()
    with gateway(settings, database, leanplum) as at:
        at.call("POST", "/v1/events", {"userId": USER, "event": "E"}, headers={"Prefer": "wait=10"})
        leanplum.fault(mode="warning", message=message, action="deleteUser")
        receipt = at.erase(USER, wait=10)
        assert (receipt["status"], receipt["leanplum"]["warning"]) == ("skipped", expected)
        assert found_in(database, USER) == []


def test_other_users_lanes_stay_as_they_are(
    settings: Callable[..., Any], database: str, leanplum: Leanplum
) -> None:
    leanplum.forget()
    leanplum.mend()
    with gateway(settings, database, leanplum) as at:
        at.call("POST", "/v1/events", {"userId": OTHER, "event": "E"})
        at.erase(USER, wait=10)
        until(lambda: not at.rows("SELECT 1 FROM items WHERE settled_at IS NULL"))
        assert ("items", "lane", "lane") in found_in(database, OTHER)
