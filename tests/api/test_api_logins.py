"""Every way in that takes `newUserId` makes what follows wait for it (`app/outbox/logins.py`)."""

from collections.abc import Callable
from typing import Any

import pytest

from app import ids
from app.compat.leanplum_sdk import classify
from app.model import Scope
from tests.support.gateway import Talk
from tests.support.segment import post

Ask = Callable[[Talk], Any]
LOGIN = {"action": "setUserAttributes", "userId": "a", "newUserId": "k"}
APP = {"appId": "app_sandbox", "apiVersion": "1.0.6"}


def sdk(talk: Talk, path: str, args: dict[str, Any]) -> Any:
    return talk.post(path, APP | {"clientKey": talk.key} | args, key=None)


WAYS: dict[str, tuple[Ask, set[str]]] = {
    "an update": (
        lambda talk: talk.post("/v1/users/a", {"newUserId": "k"}, method="PATCH"),
        {"uk"},
    ),
    "a batch": (lambda talk: talk.batch([LOGIN]), {"uk"}),
    "a batch, with a device": (lambda talk: talk.batch([LOGIN | {"deviceId": "d"}]), {"uk", "dd"}),
    "an SDK": (lambda talk: sdk(talk, "/api", LOGIN), {"uk"}),
    "an SDK's batch": (
        lambda talk: sdk(talk, "/api", {"action": "multi", "data": [LOGIN | {"deviceId": "d"}]}),
        {"uk", "dd"},
    ),
    "an SDK with numbers": (lambda talk: sdk(talk, "/api", LOGIN | {"newUserId": 7}), {"u7"}),
    "identify": (lambda talk: post(talk, "identify", {"userId": "k", "anonymousId": "d"}), {"dd"}),
    "alias": (lambda talk: post(talk, "alias", {"userId": "k", "previousId": "a"}), {"uk"}),
    "alias of the device": (
        lambda talk: post(talk, "alias", {"userId": "k", "previousId": "d", "anonymousId": "d"}),
        {"dd"},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_login_is_known_as_one_whichever_way_it_comes(
    start: Callable[..., Talk], way: str
) -> None:
    talk = start(leanplum_app_id="app_sandbox", delivery=False)
    ask, subjects = WAYS[way]
    assert ask(talk).status_code in {200, 202}
    (seq,) = (seq for (seq,) in talk.rows("SELECT seq FROM items"))
    assert set(talk.rows("SELECT lane, seq FROM logins")) == {
        (ids.lane("default", one), seq) for one in subjects
    }


def test_a_login_that_was_accepted_before_is_none_again(start: Callable[..., Talk]) -> None:
    talk = start(leanplum_app_id="app_sandbox", delivery=False)
    for _ in range(2):
        assert talk.batch([LOGIN | {"id": "login"}]).status_code == 202
    assert len(talk.rows("SELECT lane, seq FROM logins")) == 1


def test_a_relayed_login_locks_both_users() -> None:
    entry = {"action": "start", "userId": "a", "deviceId": "d", "newUserId": "k"}
    found = classify.classify_entry(entry, frozenset(Scope), in_batch=True)
    assert isinstance(found, classify.RelayedEntry)
    assert found.subjects == {"ua", "uk"}
