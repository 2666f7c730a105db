"""Relayed writes of several users in one batch: what waits for one user concerns no other."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from app.compat.leanplum_sdk.classify import RelayedEntry
from app.compat.leanplum_sdk.steps import PlacedEntry, split_into_calls
from app.model import KeyKind
from tests.support.gateway import WIDE, Talk, make_settings
from tests.support.postgres import Server
from tests.support.sdk import Sdk, entries, settled
from tests.support.simulator import Leanplum, delivering_to, simulated
from tests.support.wait import until

RELAYED = "track, setUserAttributes"
Entry = dict[str, Any]


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def talk(
    request: pytest.FixtureRequest,
    leanplum: Leanplum,
    tmp_path_factory: pytest.TempPathFactory,
    migrated: Any,
) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("others")
    own = {}
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgresql_server")
        own["gateway_database_url"] = server.empty()

    def settings(**given: Any) -> Any:
        return make_settings(folder, migrated, WIDE | own | given)

    with delivering_to(
        leanplum, settings, folder / "g.db", gateway_sdk_relayed_actions=RELAYED
    ) as found:
        yield found


@pytest.fixture
def sdk(talk: Talk, leanplum: Leanplum) -> Sdk:
    leanplum.mend()
    settled(talk)
    leanplum.forget()
    return Sdk(talk)


def track(user: str, event: str = "E", **more: Any) -> Entry:
    return {"action": "track", "userId": user, "event": event, **more}


def stick(sdk: Sdk, leanplum: Leanplum, user: str) -> None:
    """Let an item of this user wait for a retry."""
    leanplum.fault(mode="500-html", action="advance", times=300)
    sdk.multi(
        {"action": "advance", "userId": user, "state": "S", "createDisposition": "CreateIfNeeded"}
    )
    until(lambda: any(one["action"] == "advance" for one in leanplum.arrived()))


def succeeded(answer: Any) -> list[bool]:
    return [one["success"] for one in entries(answer)]


def sent(leanplum: Leanplum) -> list[str]:
    return [one["userId"] for one in leanplum.arrived() if one["action"] != "advance"]


def test_one_user_whose_items_wait_fails_alone(sdk: Sdk, leanplum: Leanplum) -> None:
    stick(sdk, leanplum, "stuck")
    answer = sdk.multi(
        track("a"), track("stuck"), track("b"), {**track("c"), "deviceId": "d"}, track("stuck", "F")
    )
    assert (answer.status_code, succeeded(answer)) == (503, [True, False, True, True, False])
    assert "have not been delivered yet" in entries(answer)[1]["error"]["message"]
    assert int(answer.headers["retry-after"]) >= 1
    assert sent(leanplum) == ["a", "b", "c"]


def test_what_is_asked_otherwise_does_not_fail_with_a_write_that_waits(
    sdk: Sdk, leanplum: Leanplum
) -> None:
    stick(sdk, leanplum, "stuck")
    began = time.monotonic()
    answer = sdk.multi(
        {"action": "start", "userId": "a", "deviceId": "d"}, track("stuck"), track("a")
    )
    assert time.monotonic() - began < 5
    assert succeeded(answer) == [True, False, True]
    assert "vars" in entries(answer)[0]
    assert sent(leanplum) == ["a", "a"]


def test_a_further_call_of_a_user_whose_write_waits_is_not_made(
    sdk: Sdk, leanplum: Leanplum
) -> None:
    stick(sdk, leanplum, "stuck")
    answer = sdk.multi(
        track("stuck"), {"action": "start", "userId": "stuck", "deviceId": "d"}, track("a")
    )
    assert succeeded(answer) == [False, False, True]
    assert sent(leanplum) == ["a"]


def test_whoever_is_one_with_a_user_whose_items_wait_waits_too(
    sdk: Sdk, leanplum: Leanplum
) -> None:
    stick(sdk, leanplum, "stuck")
    login = {"action": "setUserAttributes", "userId": "anonymous", "newUserId": "stuck"}
    answer = sdk.multi(login, track("anonymous"), track("a"))
    assert succeeded(answer) == [False, False, True]
    assert sent(leanplum) == ["a"]


def test_several_calls_fail_by_their_own_users_alone(sdk: Sdk, leanplum: Leanplum) -> None:
    stick(sdk, leanplum, "u7")
    answer = sdk.multi(*(track(f"u{number}") for number in range(120)))
    assert [number for number, done in enumerate(succeeded(answer)) if not done] == [7]
    assert len(sent(leanplum)) == 119


def now(user: str | None, *, writes: bool = False, alone: bool = False) -> RelayedEntry:
    return RelayedEntry({}, user, KeyKind.PRODUCTION, alone, writes=writes)


def places(*asked: RelayedEntry) -> list[list[int]]:
    numbers: dict[str | None, int] = {}
    groups = {
        place: None if one.subject is None else numbers.setdefault(one.subject, len(numbers))
        for place, one in enumerate(asked)
    }
    placed = [PlacedEntry(place, entry) for place, entry in enumerate(asked)]
    return [[place for place, _ in shared] for shared in split_into_calls(placed, groups)]


def test_writes_and_others_have_calls_of_their_own_and_each_user_keeps_the_order() -> None:
    both = [one for user in "abc" for one in (now(user), now(user, writes=True))]
    assert places(*both) == [[0, 2, 4], [1, 3, 5]]
    assert places(now("a"), now("a", writes=True), now("a"), now("b")) == [[0], [1], [2, 3]]
    assert places(now("a"), now(None, writes=True), now("a"), now("b")) == [[0], [1], [2, 3]]
    assert places(now(None), now("a"), now(None)) == [[0, 1, 2]]
    assert places(now("a"), now("b", alone=True), now("a"), now("b")) == [[0, 2], [1], [3]]
    assert [len(run) for run in places(*(now(f"u{number}") for number in range(120)))] == [
        50,
        50,
        20,
    ]
