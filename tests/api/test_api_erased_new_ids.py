"""Nobody who was erased comes back by `newUserId`: whichever way it comes, and whenever it was
accepted.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import httpx
import pytest

from tests.api.erasure_gateway import Gateway, gateway
from tests.support.gateway import make_settings
from tests.support.simulator import Leanplum, simulated
from tests.support.wait import until

Ask = Callable[[Gateway, str, str], httpx.Response]
DATA_KEY = "a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
number = count(1)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture
def leanplum(simulator: Leanplum) -> Leanplum:
    simulator.forget()
    simulator.mend()
    return simulator


def login(old: str, new: str, **more: Any) -> dict[str, Any]:
    return {"action": "setUserAttributes", "userId": old, "newUserId": new, **more}


def refused_of(answer: httpx.Response) -> bool:
    """Whether the one entry of a call, or the call, is refused for an erasure."""
    text = answer.text
    return (
        "erased" in text
        and answer.status_code in {200, 202, 403, 422, 451}
        and '"success":true' not in text
    )


WAYS: dict[str, Ask] = {
    "an update": lambda at, old, new: at.call("PATCH", f"/v1/users/{old}", {"newUserId": new}),
    "an update with attributes": lambda at, old, new: at.call(
        "PATCH", f"/v1/users/{old}", {"newUserId": f" {new} ", "userAttributes": {"a": 1}}
    ),
    "a batch": lambda at, old, new: at.call("POST", "/v1/batch", {"items": [login(old, new)]}),
    "a batch of a device": lambda at, old, new: at.call(
        "POST", "/v1/batch", {"items": [{"action": "setUserAttributes", "deviceId": old, "newUserId": new}]}
    ),
    "lines": lambda at, old, new: at.call(
        "POST", "/v1/batch", content=f'{{"action":"setUserAttributes","userId":"{old}","newUserId":"{new}"}}\n',
        headers={"Content-Type": "application/x-ndjson"},
    ),
    "an SDK's write": lambda at, old, new: at.sdk(**login(old, new)),
    "an SDK's write of a device": lambda at, old, new: at.sdk(
        action="setUserAttributes", deviceId=old, newUserId=new
    ),
    "an SDK's batch": lambda at, old, new: at.sdk(action="multi", data=[login(old, new)]),
    "an SDK's event": lambda at, old, new: at.sdk(action="track", event="E", userId=old, newUserId=new),
    "an SDK's start": lambda at, old, new: at.sdk(action="start", userId=old, newUserId=new),
    "an SDK's start of a device": lambda at, old, new: at.sdk(action="start", deviceId=old, newUserId=new),
    "an SDK's start of nobody": lambda at, old, new: at.sdk(action="start", newUserId=new),
    "an SDK's start in a batch": lambda at, old, new: at.sdk(
        action="multi", data=[{"action": "start", "userId": old, "newUserId": new}]
    ),
    "an SDK's development write": lambda at, old, new: at.sdk(**login(old, new, devMode=True)),
    "an SDK's query": lambda at, old, new: at.call(
        "GET", "/api", params={"appId": "app_sandbox", "clientKey": at.key, **login(old, f"\t{new}")}
    ),
    "an SDK's form": lambda at, old, new: at.call(
        "POST", "/api", data={"appId": "app_sandbox", "clientKey": at.key, **login(old, new)}
    ),
    "identify": lambda at, old, new: at.segment("identify", userId=new, anonymousId=old, traits={"a": 1}),
    "alias": lambda at, old, new: at.segment("alias", userId=new, previousId=old),
    "alias of a device": lambda at, old, new: at.segment("alias", userId=new, previousId=old, anonymousId=old),
    "a batch of Segment's": lambda at, old, new: at.segment(
        "batch", batch=[{"type": "alias", "userId": new, "previousId": old}]
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def apart() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def shared(
    apart: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Iterator[Callable[[str], Gateway]]:
    """A gateway for many tests, once it has erased a user."""
    directory = tmp_path_factory.mktemp("erased")
    database = f"sqlite:///{directory / 'g.db'}"

    def settings(**given: Any) -> Any:
        return make_settings(directory, migrated, given)

    with gateway(settings, database, apart) as found:
        yield lambda user: _erased(found, user)


def _erased(found: Gateway, user: str) -> Gateway:
    found.erase(user, wait=10)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_a_login_as_somebody_who_was_erased_is_refused_whichever_way_it_comes(
    shared: Callable[[str], Gateway], apart: Leanplum, way: str
) -> None:
    user = f"erased-{next(number)}"
    at = shared(user)
    before = at.rows("SELECT count(*) FROM items")
    answer = WAYS[way](at, f"anon-{user}", user)
    assert refused_of(answer), (answer.status_code, answer.text)
    assert at.rows("SELECT count(*) FROM items") == before
    assert [one["action"] for one in apart.arrived() if user in str(one)] == ["deleteUser"]
    assert apart.user(user).get("error")


@pytest.mark.parametrize(
    "way", ["an update", "a batch of a device", "an SDK's batch", "alias", "identify"]
)
def test_a_login_as_anybody_else_is_taken(shared: Callable[[str], Gateway], way: str) -> None:
    user = f"erased-{next(number)}"
    answer = WAYS[way](shared(user), f"anon-{user}", f"other-{user}")
    assert answer.status_code in {200, 202}
    assert "was erased" not in answer.text
    assert '"rejected"' not in answer.text.replace('"rejected":0', "")


def test_what_stands_behind_the_deletion_in_its_batch_is_refused_and_what_stands_before_it_comes_before(
    settings: Callable[..., Any], database: str, leanplum: Leanplum
) -> None:
    with gateway(settings, database, leanplum) as at:
        items = [
            login("a", "ann", id="before"),
            {"action": "deleteUser", "userId": "ann", "id": "gone"},
        ]
        answer = at.call("POST", "/v1/batch", {"items": [*items, login("b", "ann", id="after")]})
        assert [one["status"] for one in answer.json()["results"]] == [
            "accepted",
            "accepted",
            "rejected",
        ]
        until(lambda: at.settled("gone"))
        assert sent(leanplum) == [("setUserAttributes", "a"), ("deleteUser", "ann")]
        assert leanplum.user("ann").get("error")


def sent(leanplum: Leanplum) -> list[tuple[str, str]]:
    return [(one["action"], one["userId"]) for one in leanplum.arrived()]


def test_logins_from_before_the_erasure_leave_nobody_behind_with_two_deliverers_and_a_restart_in_between(
    settings: Callable[..., Any], database: str, leanplum: Leanplum
) -> None:
    users = [f"user-{number}" for number in range(12)]
    with gateway(settings, database, leanplum, delivery=False) as at:
        for user in users:
            at.call(
                "POST", "/v1/batch", {"items": [login(f"a-{user}", user), login(f"b-{user}", user)]}
            )
        found = [at.erase(user)["id"] for user in users]
    with gateway(settings, database, leanplum) as one, gateway(settings, database, leanplum):
        for item_id in found:
            until(partial(one.settled, item_id))
    assert [user for user in users if not leanplum.user(user).get("error")] == []
    for user in users:
        of_user = [
            one["action"]
            for one in leanplum.arrived()
            if user in (one["userId"], one.get("newUserId"))
        ]
        assert of_user == ["setUserAttributes", "setUserAttributes", "deleteUser"]


@pytest.mark.parametrize("data_key", [None, DATA_KEY], ids=["in clear", "sealed"])
def test_a_dead_letter_that_names_whoever_is_erased_is_never_sent_again(
    settings: Callable[..., Any], database: str, leanplum: Leanplum, data_key: str | None
) -> None:
    with gateway(
        settings, database, leanplum, gateway_data_key=data_key, gateway_erased_seconds=0
    ) as at:
        leanplum.fault(mode="success-false", message="ann is bad.", userId="a", times=2)
        for item_id in ("names", "other"):
            at.call(
                "POST",
                "/v1/batch",
                {"items": [login("a", "ann" if item_id == "names" else "bob", id=item_id)]},
            )
            assert until(partial(at.settled, item_id))["status"] == "rejected"
        leanplum.mend()
        receipt = at.erase("ann", wait=10)
        assert (receipt["status"], receipt["erased"]["deadLetters"]) == ("skipped", 1)
        letters = at.call("GET", "/v1/dead-letters").json()["deadLetters"]
        assert [one["id"] for one in letters] == ["other"]
        kept = at.settled("names")
        assert kept is not None
        assert (kept["status"], kept["userId"], kept["leanplum"]["success"]) == (
            "rejected",
            "a",
            False,
        )
        assert "ann" not in str(kept)
        at.call("POST", "/v1/dead-letters/replay", {"ids": ["names", "other"]})
        until(lambda: (at.settled("other") or {}).get("status") == "delivered")
        assert leanplum.user("ann").get("error")


def test_a_login_that_is_refused_while_the_deletion_waits_for_it_is_never_sent_again(
    settings: Callable[..., Any], database: str, leanplum: Leanplum
) -> None:
    with gateway(settings, database, leanplum, gateway_erased_seconds=0) as at:
        leanplum.fault(mode="503", contains="newUserId", times=1)
        leanplum.fault(mode="success-false", message="ann is bad.", contains="newUserId", times=1)
        at.call("POST", "/v1/batch", {"items": [login("a", "ann", id="names")]})
        receipt = at.erase("ann")
        assert until(lambda: at.settled(receipt["id"]), 20)["status"] in {"delivered", "skipped"}
        found = at.settled("names")
        assert found is not None
        assert found["status"] == "rejected"
        assert "ann" not in str(found)
        leanplum.mend()
        assert at.call("GET", "/v1/dead-letters").json()["deadLetters"] == []
        assert (
            at.call("POST", "/v1/dead-letters/replay", {"ids": ["names"]}).json()["replayed"] == 0
        )
        at.call("POST", "/v1/events", {"userId": "a", "event": "E", "id": "last"})
        until(lambda: at.settled("last"))
        assert leanplum.user("ann").get("error")
