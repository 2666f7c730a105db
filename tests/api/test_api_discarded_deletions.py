"""A deletion that Leanplum refused, and an operator gave up, tells of nobody any more."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.api.erasure_gateway import gateway
from tests.support.simulator import Leanplum, simulated
from tests.support.wait import until

from .erasure_gateway import found_in

USER = "canary-discarded-77aa"
DATA_KEY = "a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.mark.parametrize(("kind", "data_key"), [("userId", DATA_KEY), ("deviceId", None)])
def test_nothing_is_made_of_the_id_once_the_deletion_is_discarded(
    settings: Callable[..., Any], database: str, leanplum: Leanplum, data_key: str | None, kind: str
) -> None:
    leanplum.forget()
    leanplum.mend()
    with gateway(settings, database, leanplum, gateway_data_key=data_key) as at:
        leanplum.fault(
            mode="success-false", message=f"User {USER} can't go.", action="deleteUser", times=1
        )
        other = {"action": "track", "event": "E", "userId": "other", "id": "other"}
        at.call(
            "POST",
            "/v1/batch",
            {"items": [{"action": "deleteUser", kind: USER, "id": "gone"}, other]},
        )
        assert until(lambda: at.settled("gone"))["status"] == "rejected"
        assert found_in(database, USER)
        assert (
            at.call("POST", "/v1/dead-letters/discard", {"ids": ["gone"], "dryRun": True}).json()[
                "matched"
            ]
            == 1
        )
        assert found_in(database, USER)
        assert (
            at.call("POST", "/v1/dead-letters/discard", {"ids": ["gone"]}).json()["discarded"] == 1
        )
        until(lambda: not at.rows("SELECT 1 FROM user_locks"))
        assert found_in(database, USER) == []
        assert at.rows("SELECT 1 FROM logins") == []
        receipt = at.settled("gone")
        assert receipt is not None
        assert (receipt["status"], "userId" in receipt, "deviceId" in receipt) == (
            "rejected",
            False,
            False,
        )
        assert USER not in str(receipt)
        left = at.rows("SELECT subject, lane <> 0 FROM items WHERE id = 'other'")
        assert [(subject, bool(has)) for subject, has in left] == [("uother", True)]
        again = at.call("POST", "/v1/events", {"userId": USER, "event": "E"})
        assert again.status_code == 403
