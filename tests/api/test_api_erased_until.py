"""Whatever is refused because a user was erased names the time until which that applies."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from app.clock import instant
from tests.api.erasure_gateway import APP, Gateway, gateway
from tests.support.gateway import make_settings
from tests.support.simulator import simulated

X, Y = "until-ann", "until-bea"
CSV = {"Content-Type": "text/csv"}
Ask = Callable[[Gateway], httpx.Response]
TIME = re.compile(r"until (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)")

EVENT = {"userId": X, "event": "E"}
TRACK = {"action": "track", **EVENT}
WAYS: dict[str, tuple[int, Ask]] = {
    "an event": (403, lambda at: at.call("POST", "/v1/events", EVENT)),
    "an event with an id": (403, lambda at: at.call("POST", "/v1/events", {**EVENT, "id": "own"})),
    "an update": (403, lambda at: at.call("PATCH", f"/v1/users/{X}", {"userAttributes": {"a": 1}})),
    "a login": (403, lambda at: at.call("PATCH", "/v1/users/bob", {"newUserId": X})),
    "a session": (403, lambda at: at.call("POST", f"/v1/users/{X}/sessions", {})),
    "variables": (403, lambda at: at.call("GET", f"/v1/users/{X}/variables")),
    "a batch": (422, lambda at: at.call("POST", "/v1/batch", {"items": [TRACK]})),
    "lines": (
        422,
        lambda at: at.call(
            "POST",
            "/v1/batch",
            content=f'{{"action":"track","userId":"{X}","event":"E"}}\n',
            headers={"Content-Type": "application/x-ndjson"},
        ),
    ),
    "a message": (403, lambda at: at.segment("track", userId=X, event="E")),
    "messages": (
        403,
        lambda at: at.segment("batch", batch=[{"type": "track", "userId": X, "event": "E"}]),
    ),
    "an alias": (403, lambda at: at.segment("alias", userId=X, previousId="bob")),
    "an SDK's entry": (451, lambda at: at.sdk(**TRACK)),
    "an SDK's login": (
        451,
        lambda at: at.sdk(action="setUserAttributes", userId="bob", newUserId=X),
    ),
    "an SDK's batch": (200, lambda at: at.sdk(action="multi", data=[TRACK])),
    "an SDK's start": (451, lambda at: at.sdk(action="start", userId=X)),
    "an SDK's batch with a start": (
        200,
        lambda at: at.sdk(action="multi", data=[{"action": "start", "userId": X}, TRACK]),
    ),
    "an SDK's batch with starts of two": (
        200,
        lambda at: at.sdk(
            action="multi",
            data=[{"action": "start", "userId": X}, {"action": "start", "userId": Y}],
        ),
    ),
    "an SDK's development write": (451, lambda at: at.sdk(**TRACK, devMode=True)),
    "an import": (
        422,
        lambda at: at.call(
            "POST", "/v1/imports", content=f"action,userId\ntrack,{X}\n", headers=CSV
        ),
    ),
    "an SDK's import": (
        400,
        lambda at: at.call(
            "POST",
            "/api",
            content=f"action,userId\ntrack,{X}\n",
            headers=CSV,
            params={**APP, "clientKey": at.key, "action": "multi", "createJob": "true"},
        ),
    ),
}


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory, migrated: Any) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("until")

    def settings(**given: Any) -> Any:
        return make_settings(directory, migrated, given)

    with (
        simulated() as leanplum,
        gateway(settings, f"sqlite:///{directory / 'g.db'}", leanplum) as found,
    ):
        for user in (X, Y):
            found.erase(user, wait=10)
        yield found


def stored_ends(at: Gateway) -> set[str]:
    """The ends of all erasures, as the database has them."""
    return {instant(until) for (until,) in at.rows("SELECT until FROM erasures")}


@pytest.mark.parametrize("way", WAYS)
def test_a_refusal_names_the_end_of_the_erasure(at: Gateway, way: str) -> None:
    status, ask = WAYS[way]
    answer = ask(at)
    assert answer.status_code == status, answer.text
    named = TIME.findall(answer.text)
    assert named, answer.text
    assert set(named) <= stored_ends(at)


def test_each_entry_names_the_end_for_its_own_user(at: Gateway) -> None:
    ends = {
        user: TIME.findall(at.call("POST", "/v1/events", {**EVENT, "userId": user}).text)
        for user in (X, Y)
    }
    assert ends[X] != ends[Y]
    users = [X, Y, "bob", X]
    items = [{**TRACK, "userId": user} for user in users]
    results = at.call("POST", "/v1/batch", {"items": items}).json()["results"]
    entries = at.sdk(action="multi", data=items).json()["response"]
    messages = [{"type": "track", **each} for each in items]
    rejected = {
        each["index"]: each["message"]
        for each in at.segment("batch", batch=messages).json()["rejected"]
    }
    for place, user in enumerate(users):
        for text in (str(results[place]), str(entries[place]), rejected.get(place, "")):
            assert TIME.findall(text) == ends.get(user, []), (place, text)


def test_what_follows_a_deletion_in_its_own_batch_is_refused_until_then_too(at: Gateway) -> None:
    items = [{"action": "deleteUser", "userId": "until-cid"}, {**TRACK, "userId": "until-cid"}]
    first, second = at.call("POST", "/v1/batch", {"items": items}).json()["results"]
    assert (first["status"], second["status"]) == ("accepted", "rejected")
    (named,) = TIME.findall(second["problem"]["detail"])
    assert named in stored_ends(at)
    entries = [{"action": "deleteUser", "userId": "until-dee"}, {**TRACK, "userId": "until-dee"}]
    (named,) = TIME.findall(at.sdk(action="multi", data=entries).text)
    assert named in stored_ends(at)


def test_a_repeated_deletion_moves_the_time_that_is_named(at: Gateway) -> None:
    before = TIME.findall(at.call("POST", "/v1/events", EVENT).text)
    at.erase(X)
    (after,) = TIME.findall(at.call("POST", "/v1/events", EVENT).text)
    assert [after] > before
    assert after in stored_ends(at)
