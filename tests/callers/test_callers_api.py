"""The keys API: made, listed, changed, rotated, revoked; each with its audit
record.
"""

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from app.callers import key_format
from app.model import Scope
from tests.support.gateway import Talk, problem
from tests.support.wait import until

Start = Callable[..., Talk]
KEYS = "/v1/keys"
APPS = '[apps.one]\napp_id = "1"\nproduction_key = "p"\n[apps.two]\napp_id = "2"\nproduction_key = "q"\n'


@pytest.fixture
def talk(start: Start, tmp_path: Path) -> Talk:
    """A gateway with two apps."""
    (tmp_path / "apps.toml").write_text(APPS)
    return start(
        gateway_apps_file=tmp_path / "apps.toml", leanplum_app_id=None, leanplum_production_key=None
    )


def made(talk: Talk, **fields: Any) -> dict[str, Any]:
    answer = talk.post(KEYS, {"name": "shop", "scopes": ["events:write"]} | fields)
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


def event(talk: Talk, key: str, app: str | None = "one") -> httpx.Response:
    return talk.event(key=key, headers={} if app is None else {"X-Leanplum-App": app})


def rotated(talk: Talk, key_id: str, once: str | None = None, **fields: Any) -> dict[str, Any]:
    headers = {} if once is None else {"Idempotency-Key": once}
    answer = talk.post(f"{KEYS}/{key_id}/rotate", fields, headers=headers)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def test_a_key_works_as_soon_as_it_is_made_and_is_shown_this_once(talk: Talk) -> None:
    answer = talk.post(
        KEYS, {"name": "shop", "scopes": ["events:write", "users:write"], "apps": ["one"]}
    )
    assert answer.status_code == 201
    document = answer.json()
    key, key_id = document["key"], document["id"]
    assert key_format.well_formed(key)
    assert answer.headers["location"] == f"{KEYS}/{key_id}"
    assert event(talk, key).status_code == 202
    seen = talk.get(f"{KEYS}/{key_id}").json()
    assert seen == {name: value for name, value in document.items() if name != "key"}
    assert seen in talk.get(KEYS).json()["keys"]
    assert key not in talk.get(KEYS).text
    assert (seen["scopes"], seen["apps"], seen["lastFour"]) == (
        ["events:write", "users:write"],
        ["one"],
        key[-4:],
    )


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"scopes": ["sdk"]}, "/name"),
    "an empty name": ({"name": "", "scopes": ["sdk"]}, "/name"),
    "a blank name": ({"name": " ", "scopes": ["sdk"]}, "/name"),
    "a name with a NUL": ({"name": "a\0b", "scopes": ["sdk"]}, "/name"),
    "a name of two lines": ({"name": "a\nb", "scopes": ["sdk"]}, "/name"),
    "a name of two lines, as Unicode has them": ({"name": "a\u2028b", "scopes": ["sdk"]}, "/name"),
    "a name with a control character beyond ASCII": (
        {"name": "a\x9bb", "scopes": ["sdk"]},
        "/name",
    ),
    "no app": ({"name": "a", "scopes": ["sdk"], "apps": []}, "/apps"),
    "no scope": ({"name": "a", "scopes": []}, "/scopes"),
    "scopes left out": ({"name": "a"}, "/scopes"),
    "an unknown scope": ({"name": "a", "scopes": ["events:fly"]}, "/scopes/0"),
    "no name of an app": ({"name": "a", "scopes": ["sdk"], "apps": ["a b"]}, "/apps/0"),
    "a past expiry": ({"name": "a", "scopes": ["sdk"], "expiresAt": 1}, "/expiresAt"),
    "a rate of none": ({"name": "a", "scopes": ["sdk"], "ratePerSecond": 0}, "/ratePerSecond"),
    "an unknown field": ({"name": "a", "scopes": ["sdk"], "key": "x"}, "/key"),
}


@pytest.mark.parametrize(("body", "pointer"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_named_and_no_key_is_made(
    talk: Talk, body: dict[str, Any], pointer: str
) -> None:
    before = len(talk.get(KEYS).json()["keys"])
    found = problem(talk.post(KEYS, body), 422, "validation")
    assert [one["pointer"] for one in found["errors"]] == [pointer]
    assert len(talk.get(KEYS).json()["keys"]) == before


def test_a_change_is_in_force_at_once_and_what_is_left_out_stays(talk: Talk) -> None:
    document = made(talk, ratePerSecond=5)
    changed = talk.post(
        f"{KEYS}/{document['id']}", {"scopes": ["receipts:read"]}, method="PATCH"
    ).json()
    assert (changed["scopes"], changed["name"], changed["ratePerSecond"]) == (
        ["receipts:read"],
        "shop",
        5,
    )
    assert event(talk, document["key"]).status_code == 403
    path = f"{KEYS}/{document['id']}"
    assert (
        talk.post(path, {"ratePerSecond": None, "apps": ["two"]}, method="PATCH").json()[
            "ratePerSecond"
        ]
        is None
    )
    talk.post(path, {"scopes": ["events:write"]}, method="PATCH")
    assert [event(talk, document["key"], app).status_code for app in ("one", "two", None)] == [
        403,
        202,
        202,
    ]


def test_two_changes_of_one_key_at_once_are_both_there(talk: Talk) -> None:
    document = made(talk)
    path = f"{KEYS}/{document['id']}"
    changes: dict[str, Any] = {"name": "new", "ratePerSecond": 7, "rateBurst": 9, "scopes": ["sdk"]}
    headers = {"Content-Type": "application/json"}
    calls = [
        ("PATCH", path, {"json": {name: value}, "headers": headers})
        for name, value in changes.items()
    ]
    assert {answer.status_code for answer in talk.at_once(*calls)} == {200}
    seen = talk.get(path).json()
    assert {name: seen[name] for name in changes} == changes


def test_an_expiry_that_is_given_later_ends_a_key_and_null_takes_it_away(talk: Talk) -> None:
    document = made(talk)
    path = f"{KEYS}/{document['id']}"
    soon = time.time() + 2
    assert talk.post(path, {"expiresAt": soon}, method="PATCH").json()["expiresAt"] is not None
    assert event(talk, document["key"]).status_code == 202
    until(lambda: event(talk, document["key"]).status_code == 401)
    assert time.time() >= soon
    assert talk.post(path, {"expiresAt": None}, method="PATCH").json()["expiresAt"] is None
    assert event(talk, document["key"]).status_code == 202


def test_of_a_rotated_key_old_and_new_work_for_the_overlap_and_then_only_the_new(
    talk: Talk,
) -> None:
    document = made(talk)
    overlap_ends = time.time() + 1.0
    new = rotated(talk, document["id"], overlapSeconds=1)
    assert new["id"] == document["id"]
    assert new["key"] != document["key"]
    assert [one["lastFour"] for one in new["secrets"]] == [new["key"][-4:], document["key"][-4:]]
    assert [event(talk, key).status_code for key in (document["key"], new["key"])] == [202, 202]
    time.sleep(max(0.0, overlap_ends + 0.1 - time.time()))
    assert [event(talk, key).status_code for key in (document["key"], new["key"])] == [401, 202]


def test_without_an_overlap_the_old_key_stops_at_once(talk: Talk) -> None:
    document = made(talk)
    new = rotated(talk, document["id"], overlapSeconds=0)
    assert [event(talk, key).status_code for key in (document["key"], new["key"])] == [401, 202]


def test_a_day_is_the_overlap_unless_told(talk: Talk) -> None:
    document = made(talk)
    answer = talk.call("POST", f"{KEYS}/{document['id']}/rotate")
    old = answer.json()["secrets"][1]
    left = (
        time.mktime(time.strptime(old["expiresAt"][:19], "%Y-%m-%dT%H:%M:%S"))
        - time.timezone
        - time.time()
    )
    assert 86_300 < left <= 86_400


def test_a_rotation_asked_for_again_with_its_key_is_done_once(talk: Talk) -> None:
    document = made(talk)
    first, again = rotated(talk, document["id"], "r-1"), rotated(talk, document["id"], "r-1")
    assert again["key"] == first["key"]
    assert len(again["secrets"]) == 2
    other = rotated(talk, document["id"], "r-2")
    assert other["key"] != first["key"]
    assert len(other["secrets"]) == 3
    assert event(talk, document["key"]).status_code == 202


def test_a_late_repeat_of_a_rotation_does_not_rotate_again_however_many_came_after_it(
    talk: Talk,
) -> None:
    document = made(talk)
    path = f"{KEYS}/{document['id']}/rotate"
    for name in ("a", "b", "c", "d"):
        newest = talk.post(path, {"overlapSeconds": 0}, headers={"Idempotency-Key": name}).json()
    repeated = talk.post(path, {"overlapSeconds": 0}, headers={"Idempotency-Key": "a"})
    assert repeated.status_code == 200
    assert len(repeated.json()["secrets"]) == 1, "those that have ended are not shown"
    assert event(talk, newest["key"]).status_code == 202


def test_a_reading_of_the_keys_that_comes_late_undoes_none_that_came_after_it(talk: Talk) -> None:
    directory, document = talk.app.services.directory, made(talk)
    begun, go_on = threading.Event(), threading.Event()
    read = directory._store.changed

    class Slow:
        def newest_change(self) -> int:
            return 10**9

        def changed(self, after: int) -> Any:
            found = read(-1)
            begun.set()
            go_on.wait(10)
            return found

    store, directory._store = directory._store, cast(Any, Slow())
    late = threading.Thread(target=directory.refresh)
    late.start()
    begun.wait(10)
    directory._store = store
    revoking = threading.Thread(target=lambda: talk.call("DELETE", f"{KEYS}/{document['id']}"))
    revoking.start()
    revoking.join(0.5)
    go_on.set()
    late.join(10)
    revoking.join(10)
    assert event(talk, document["key"]).status_code == 401


def test_one_rotation_asked_for_many_times_at_once_is_done_once(talk: Talk) -> None:
    document = made(talk)
    path = f"{KEYS}/{document['id']}/rotate"
    answers = talk.at_once(*[("POST", path, {"headers": {"Idempotency-Key": "same"}})] * 8)
    assert {answer.status_code for answer in answers} == {200}
    assert len(talk.get(f"{KEYS}/{document['id']}").json()["secrets"]) == 2
    shown = {answer.json()["key"] for answer in answers}
    assert len(shown) == 1


def test_the_same_rotation_key_for_another_caller_key_is_another_rotation(talk: Talk) -> None:
    first, second = made(talk), made(talk)
    assert rotated(talk, first["id"], "r")["key"] != rotated(talk, second["id"], "r")["key"]


def test_another_process_does_not_rotate_again_either(
    talk: Talk, settings: Callable[..., Any]
) -> None:
    from app.callers.store import KeyStore

    document = made(talk)
    rotated(talk, document["id"], "r")
    other = KeyStore(talk.app.services.engine, talk.app.services.macs)
    key, stored = other.rotate(document["id"], int(time.time() * 1000), 0, once="r")
    assert key is None, "it was shown by the process that made it"
    assert len(stored.secrets) == 2


def test_a_revoked_key_stops_at_once_and_can_be_neither_changed_nor_rotated(talk: Talk) -> None:
    document = made(talk)
    path = f"{KEYS}/{document['id']}"
    assert talk.call("DELETE", path).status_code == 204
    assert event(talk, document["key"]).status_code == 401
    assert talk.get(path).json()["revokedAt"] is not None
    for answer in (
        talk.post(path, {"name": "x"}, method="PATCH"),
        talk.post(f"{path}/rotate", {}),
        talk.call("DELETE", path),
    ):
        problem(answer, 404, "not-found")


def test_a_key_that_is_not_there_is_not_found(talk: Talk) -> None:
    for answer in (
        talk.get(f"{KEYS}/key_none"),
        talk.post(f"{KEYS}/key_none", {"name": "x"}, method="PATCH"),
        talk.call("DELETE", f"{KEYS}/key_none"),
        talk.call("POST", f"{KEYS}/key_none/rotate"),
    ):
        problem(answer, 404, "not-found")


def test_when_a_key_was_last_used_is_known_soon(talk: Talk) -> None:
    document = made(talk)
    assert document["lastUsedAt"] is None
    event(talk, document["key"])
    talk.do(talk.app.services.directory.tell_used)
    seen = talk.get(f"{KEYS}/{document['id']}").json()["lastUsedAt"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", seen)


def test_who_manages_keys_for_some_apps_sees_and_makes_only_keys_for_these(talk: Talk) -> None:
    every, of_two = made(talk, name="every"), made(talk, name="of two", apps=["two"])
    manager = made(talk, name="manager", scopes=["keys:manage"], apps=["one"])["key"]
    mine = talk.post(KEYS, {"name": "mine", "scopes": ["sdk"], "apps": ["one"]}, key=manager)
    assert mine.status_code == 201
    assert {one["name"] for one in talk.get(KEYS, key=manager).json()["keys"]} == {
        "manager",
        "mine",
    }
    for apps in (["two"], ["one", "two"], None):
        problem(
            talk.post(KEYS, {"name": "x", "scopes": ["sdk"], "apps": apps}, key=manager),
            403,
            "forbidden",
        )
        change = talk.post(
            f"{KEYS}/{mine.json()['id']}", {"apps": apps}, method="PATCH", key=manager
        )
        problem(change, 403, "forbidden")
    problem(talk.post(KEYS, {"name": "x", "scopes": ["sdk"]}, key=manager), 403, "forbidden")
    for other in (every, of_two):
        problem(talk.get(f"{KEYS}/{other['id']}", key=manager), 404, "not-found")
        problem(talk.call("DELETE", f"{KEYS}/{other['id']}", key=manager), 404, "not-found")
        problem(talk.post(f"{KEYS}/{other['id']}/rotate", {}, key=manager), 404, "not-found")


def test_each_act_has_one_audit_record_that_names_the_key_it_was_done_to(talk: Talk) -> None:
    document = made(talk)
    path = f"{KEYS}/{document['id']}"
    acts: dict[str, Callable[[], httpx.Response]] = {
        "PATCH /v1/keys/{keyId}": partial(talk.post, path, {"name": "x"}, method="PATCH"),
        "POST /v1/keys/{keyId}/rotate": partial(talk.post, f"{path}/rotate", {}),
        "DELETE /v1/keys/{keyId}": partial(talk.call, "DELETE", path),
    }
    for act in acts.values():
        assert act().status_code in {200, 204}
    of_keys = [one for one in talk.audit() if "/v1/keys" in one["api"]["operation"]]
    done = [(one["api"]["operation"], one["resources"][0]["uid"]) for one in of_keys]
    assert done == [(operation, document["id"]) for operation in ["POST /v1/keys", *acts]]
    assert document["key"] not in repr(of_keys)


def test_a_refused_act_is_recorded_too(talk: Talk) -> None:
    weak = made(talk)["key"]
    talk.get(KEYS, key=weak)
    last = talk.audit()[-1]
    assert (last["api"]["operation"], last["status_code"]) == ("GET /v1/keys", "403")


def test_while_the_database_is_locked_an_act_is_answered_503_and_nothing_is_done(
    talk: Talk,
) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(talk.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        found = problem(
            talk.post(KEYS, {"name": "late", "scopes": ["sdk"]}), 503, "storage-unavailable"
        )
        other.execute("ROLLBACK")
    assert "locked" in found["detail"]
    assert "late" not in talk.get(KEYS).text


def test_rotating_under_load_fails_no_call(talk: Talk) -> None:
    document = made(talk)
    current, statuses = [document["key"]], list[int]()

    def calls(count: int) -> None:
        statuses.extend(event(talk, current[0]).status_code for _ in range(count))

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(calls, 50) for _ in range(4)]
        for _ in range(3):
            current[0] = rotated(talk, document["id"], overlapSeconds=60)["key"]
        for one in running:
            one.result()
    assert statuses == [202] * 200


def test_every_scope_of_the_contract_is_there() -> None:
    assert {scope.value for scope in Scope} == {
        "events:write", "users:write", "users:read", "users:erase", "messages:send", "content:read", "content:write",
        "exports:run", "sdk", "receipts:read", "dead-letters:manage", "audit:read", "keys:manage", "console:read",
    }  # fmt: skip
