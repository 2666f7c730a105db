"""Who is let in, by which header, and what the key may do."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.callers import key_format
from app.callers.store import KeyStore
from app.clock import now_ms
from app.errors import StartRefused
from app.model import Scope
from app.server.preparation import prepare
from app.settings import Settings
from tests.support.gateway import EVENT, Talk, problem

Start = Callable[..., Talk]
TRACK = EVENT | {"action": "track"}
UPDATE = {"action": "setUserAttributes", "userId": "u", "userAttributes": {"a": 1}}


def make(talk: Talk, *scopes: Scope, expires_in_ms: int | None = None) -> str:
    """A new key that works at once."""
    gateway = talk.app.services
    now = now_ms()
    expires_at = None if expires_in_ms is None else now + expires_in_ms
    key, _ = KeyStore(gateway.engine, gateway.macs).create(
        "made", scopes, None, now, expires_at=expires_at
    )
    gateway.directory.refresh()
    return key


def changed(key: str) -> str:
    return key[:10] + ("a" if key[10] != "a" else "b") + key[11:]


GOOD_HEADERS: dict[str, Callable[[str], dict[str, str]]] = {
    "Bearer": lambda key: {"Authorization": f"Bearer {key}"},
    "bearer": lambda key: {"Authorization": f"bearer {key}"},
    "BEARER, more spaces": lambda key: {"Authorization": f"BEARER   {key} "},
    "X-API-Key": lambda key: {"X-API-Key": key},
    "x-api-key, spaces": lambda key: {"x-api-key": f" {key} "},
    "both": lambda key: {"Authorization": f"Bearer {key}", "X-API-Key": key},
}
BAD_HEADERS: dict[str, Callable[[str], dict[str, str]]] = {
    "none": lambda key: {},
    "Basic": lambda key: {"Authorization": f"Basic {key}"},
    "no scheme": lambda key: {"Authorization": key},
    "empty Authorization": lambda key: {"Authorization": ""},
    "empty Bearer": lambda key: {"Authorization": "Bearer "},
    "empty X-API-Key": lambda key: {"X-API-Key": ""},
    "the key twice": lambda key: {"X-API-Key": f"{key} {key}"},
    "quoted": lambda key: {"Authorization": f'Bearer "{key}"'},
    "another scheme beside a good key": lambda key: {"Authorization": "Basic x", "X-API-Key": key},
}


@pytest.mark.parametrize("made", GOOD_HEADERS.values(), ids=GOOD_HEADERS.keys())
def test_a_key_is_taken_in_either_header(
    gateway: Talk, made: Callable[[str], dict[str, str]]
) -> None:
    assert gateway.event(key=None, headers=made(gateway.key)).status_code == 202


@pytest.mark.parametrize("made", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_without_a_readable_key_a_caller_is_unknown_and_told_how_to_send_one(
    gateway: Talk, made: Callable[[str], dict[str, str]]
) -> None:
    answer = gateway.event(key=None, headers=made(gateway.key))
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert gateway.key not in answer.text


def test_a_mistyped_key_is_told_from_one_that_is_not_known(gateway: Talk) -> None:
    mistyped = problem(gateway.event(key=changed(gateway.key)), 401, "unauthorized")["detail"]
    unknown = problem(gateway.event(key=key_format.make()), 401, "unauthorized")["detail"]
    assert "mistyped" in mistyped
    assert "unknown" in unknown


@pytest.mark.parametrize(
    "key", ["é" * 41, "\xff" * 10, "lpgw_" + "0" * 36, "x" * 8_000, "lpgw_"], ids=range(5)
)
def test_any_text_as_a_key_is_refused_and_not_repeated(gateway: Talk, key: str) -> None:
    answer = gateway.event(key=None, headers={"X-API-Key": key.encode("latin-1")})
    problem(answer, 401, "unauthorized")
    assert key not in answer.text


def test_revoked_expired_and_unknown_keys_are_refused_in_the_same_words(start: Start) -> None:
    """Who has lost a key may not learn from it whether it was ever right."""
    talk = start()
    expiring, revoked = make(talk, *Scope, expires_in_ms=150), make(talk, *Scope)
    assert [talk.event(key=key).status_code for key in (expiring, revoked)] == [202, 202]
    store = KeyStore(talk.app.services.engine, talk.app.services.macs)
    store.revoke(
        next(
            one.caller.key_id
            for one in store.all()
            if one.secrets[0].hash == key_format.digest(revoked)
        ),
        now_ms(),
    )
    talk.app.services.directory.refresh()
    time.sleep(0.2)
    details = {
        problem(talk.event(key=key), 401, "unauthorized")["detail"]
        for key in (expiring, revoked, key_format.make())
    }
    assert len(details) == 1


def test_a_key_that_another_process_revokes_stops_working_within_a_second(start: Start) -> None:
    talk = start()
    other = make(talk, *Scope)
    assert talk.event(key=other).status_code == 202
    store = KeyStore(talk.app.services.engine, talk.app.services.macs)
    store.revoke(
        next(
            one.caller.key_id
            for one in store.all()
            if one.secrets[0].hash == key_format.digest(other)
        ),
        now_ms(),
    )
    time.sleep(1.0)
    assert talk.event(key=other).status_code == 401
    assert talk.event().status_code == 202


def test_a_key_that_another_process_makes_works_within_a_second(start: Start) -> None:
    talk = start()
    key, _ = KeyStore(talk.app.services.engine, talk.app.services.macs).create(
        "new", Scope, None, now_ms()
    )
    time.sleep(1.0)
    assert talk.event(key=key).status_code == 202


CALLS: dict[str, tuple[Scope, Callable[[Talk, str], Any]]] = {
    "POST /v1/events": (Scope.EVENTS_WRITE, lambda talk, key: talk.event(key=key)),
    "PATCH /v1/users": (
        Scope.USERS_WRITE,
        lambda talk, key: talk.post(
            "/v1/users/u", {"userAttributes": {"a": 1}}, method="PATCH", key=key
        ),
    ),
    "POST states": (
        Scope.EVENTS_WRITE,
        lambda talk, key: talk.post("/v1/users/u/states", {"state": ""}, key=key),
    ),
    "GET receipt": (
        Scope.RECEIPTS_READ,
        lambda talk, key: talk.get("/v1/receipts/scoped", key=key),
    ),
}


@pytest.mark.parametrize(("scope", "call"), CALLS.values(), ids=CALLS.keys())
def test_a_call_needs_its_own_scope_and_no_other(
    gateway: Talk, scope: Scope, call: Callable[[Talk, str], Any]
) -> None:
    gateway.event(EVENT | {"id": "scoped"})
    assert call(gateway, make(gateway, scope)).status_code in {200, 202}
    before = gateway.items()
    found = problem(call(gateway, make(gateway, *set(Scope) - {scope})), 403, "forbidden")
    assert scope.value in found["detail"]
    assert gateway.items() == before


def test_in_a_batch_each_item_needs_the_scope_of_its_own_action(gateway: Talk) -> None:
    before = gateway.items()
    document = gateway.batch(
        [TRACK, UPDATE, TRACK, {}], key=make(gateway, Scope.EVENTS_WRITE)
    ).json()
    results = document["results"]
    assert [result["status"] for result in results] == [
        "accepted",
        "rejected",
        "accepted",
        "rejected",
    ]
    assert results[1]["problem"]["type"] == "/problems/forbidden"
    assert Scope.USERS_WRITE.value in results[1]["problem"]["detail"]
    assert gateway.items() == before + 2


def test_a_batch_of_which_nothing_is_permitted_takes_nothing(gateway: Talk) -> None:
    before = gateway.items()
    answer = gateway.batch([TRACK, UPDATE], key=make(gateway, Scope.SDK))
    assert answer.status_code in {403, 422}
    assert gateway.items() == before


def test_who_is_unknown_learns_nothing_of_the_body(gateway: Talk) -> None:
    """The key comes first: neither the rules nor the type of a body or a query are spoken of
    before.
    """
    for answer in (
        gateway.event({}, key=None),
        gateway.batch(b"{", key=None),
        gateway.event(key=None, headers={"Content-Type": "text/plain"}),
        gateway.post("/v1/users/u/states", {}, key=None),
        gateway.post(f"/v1/users/{'u' * 401}", {}, method="PATCH", key=None),
        gateway.event(b" " * 6_000_000, key=None),
        gateway.get("/v1/dead-letters?limit=x", key=None),
        gateway.get("/v1/audit/consistency", key=None),
    ):
        problem(answer, 401, "unauthorized")


def test_the_first_key_is_made_once_and_another_is_not_added(start: Start) -> None:
    first = start()
    second = start()
    assert second.event(key=first.key).status_code == 202
    assert second.event(key=second.key).status_code == 401
    assert len(second.rows("SELECT id FROM caller_keys")) == 1


def test_without_a_first_key_nobody_is_let_in(start: Start) -> None:
    talk = start(gateway_bootstrap_key=None)
    assert talk.rows("SELECT id FROM caller_keys") == []
    problem(talk.event(key=key_format.make()), 401, "unauthorized")


def test_a_first_key_of_another_form_stops_the_start_with_its_variables_name(start: Start) -> None:
    with pytest.raises(StartRefused) as caught:
        start(gateway_bootstrap_key="my-own-secret")
    assert "GATEWAY_BOOTSTRAP_KEY" in caught.value.detail
    assert "my-own-secret" not in caught.value.detail


def test_a_first_key_of_another_form_is_refused_before_a_database_is_made(tmp_path: Path) -> None:
    settings = Settings(
        leanplum_app_id="app",
        leanplum_production_key="p",
        gateway_database_url=f"sqlite:///{tmp_path}/data/g.db",
        gateway_bootstrap_key="mistyped",
    )
    with pytest.raises(StartRefused, match="GATEWAY_BOOTSTRAP_KEY: the key hasn't the form"):
        prepare(settings)
    assert list(tmp_path.iterdir()) == []


def test_no_key_is_in_the_database_files_of_a_gateway_that_was_used(start: Start) -> None:
    talk = start()
    other = make(talk, *Scope)
    talk.event()
    talk.event(key=other)
    talk.event(key=changed(other))
    talk.audit()
    for file in talk.path.parent.glob("g.db*"):
        data = file.read_bytes()
        for key in (talk.key, other, changed(other), "prod_tests_secret"):
            assert key.encode() not in data, file
            assert key[5:-6].encode() not in data, file


def test_settings_show_no_secret(settings: Callable[..., Settings]) -> None:
    made = settings()
    key = made.gateway_bootstrap_key
    assert key is not None
    assert (
        key.get_secret_value()
        not in f"{made!r} {made} {made.model_dump()} {made.model_dump_json()}"
    )
    assert (
        "prod_tests_secret" not in f"{made!r} {made} {made.model_dump()} {made.model_dump_json()}"
    )


def test_a_scope_that_this_version_does_not_know_neither_stops_the_gateway_nor_lets_revoked_keys_go_on(
    start: Start,
) -> None:
    talk = start()
    key = make(talk, Scope.EVENTS_WRITE)
    with closing(sqlite3.connect(talk.path)) as connection, connection:
        connection.execute(
            "UPDATE caller_keys SET scopes = 'events:write from:later' WHERE name = 'made'"
        )
    talk.app.services.directory.refresh()
    assert talk.event(key=key).status_code == 202
    KeyStore(talk.app.services.engine, talk.app.services.macs).revoke(
        talk.rows("SELECT id FROM caller_keys WHERE name = 'made'")[0][0], 1
    )
    deadline = time.monotonic() + 5
    while talk.event(key=key).status_code == 202:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert talk.event(key=key).status_code == 401


def test_keys_are_read_again_after_a_reading_that_failed_for_whatever_reason(start: Start) -> None:
    talk = start()
    directory = talk.app.services.directory
    read, failures = directory.refresh, [RuntimeError("unforeseen")]

    def refresh() -> None:
        if failures:
            raise failures.pop()
        read()

    directory.refresh = refresh  # type: ignore[method-assign]
    key, _ = KeyStore(talk.app.services.engine, talk.app.services.macs).create(
        "late", {Scope.EVENTS_WRITE}, None, now_ms()
    )
    deadline = time.monotonic() + 5
    while talk.event(key=key).status_code != 202:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not failures
