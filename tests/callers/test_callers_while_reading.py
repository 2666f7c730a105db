"""A key that changes while a body comes counts as it is then: on every way in, on both databases,
from any process.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from sqlalchemy import Engine

from app.audit.signing_keys import load_keys_to_write
from app.callers.store import KeyStore
from app.clock import now_ms
from app.database.driver import DIALECTS
from app.database.engine import connect
from app.leanplum.actions import ACTIONS
from app.model import Scope
from app.settings import Settings
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.gateway import WIDE, make_settings
from tests.support.http_server import Wire, served
from tests.support.postgres import Server
from tests.support.processes import requests as sent_to
from tests.support.wait import until

JSON = "application/json"
APP_ID, PRODUCTION_KEY = "app_tests", "prod_tests_secret"
BOUNDARY = "edge"
DAY = time.strftime("%Y%m%d", time.gmtime(time.time() - 3 * 86_400))
FORM = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="rows.csv"\r\n'
    f"Content-Type: text/csv\r\n\r\nuserId,action\r\nann,track\r\n--{BOUNDARY}--\r\n"
)


class Open(NamedTuple):
    """A served gateway with its database, as another process has it too."""

    port: int
    settings: Settings
    engine: Engine
    store: KeyStore
    leanplum: str

    def call(self, method: str, path: str, **given: Any) -> httpx.Response:
        key = self.settings.gateway_bootstrap_key
        assert key is not None
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} | given.pop("headers", {})
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.request(method, url, headers=headers, trust_env=False, timeout=20, **given)

    def rows(self, statement: str) -> list[Any]:
        with self.engine.connect() as connection:
            dialect = DIALECTS[connection.dialect.name]
            return list(connection.exec_driver_sql(dialect.sql(statement)).all())

    def make(self, *scopes: Scope) -> tuple[str, str]:
        """A key, and its id."""
        made = self.call("POST", "/v1/keys", json={"name": "slow", "scopes": sorted(scopes)}).json()
        return made["key"], made["id"]

    def records(self, key_id: str) -> list[dict[str, Any]]:
        told = [
            json.loads(text)
            for (text,) in self.rows("SELECT record FROM audit_records ORDER BY seq")
        ]
        return [one for one in told if one["actor"]["user"]["uid"] == key_id]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def at(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[Open]:
    folder = tmp_path_factory.mktemp("slow")
    config = SimulatorConfig(
        app_id=APP_ID,
        production_key=PRODUCTION_KEY,
        development_key="dev_tests",
        data_export_key="export_tests",
    )
    with BackgroundServer(config) as leanplum:
        given: dict[str, Any] = WIDE | {
            "leanplum_api_url": f"{leanplum.url}/api",
            "leanplum_development_key": "dev_tests",
            "leanplum_data_export_key": "export_tests",
            "gateway_sdk_relayed_actions": "track",
            "gateway_erased_seconds": 60,
        }
        if request.param == "postgresql":
            server: Server = request.getfixturevalue("postgresql_server")
            given["gateway_database_url"] = server.empty()
        settings = make_settings(folder, migrated, given)
        with served(settings) as port:
            engine = connect(settings.gateway_database_url)
            store = KeyStore(engine, load_keys_to_write(engine, settings.audit_root_key).macs)
            yield Open(port, settings, engine, store, leanplum.url)
            engine.dispose()


class Slow(NamedTuple):
    """A call whose body comes in two parts. `scope`: what it needs; `headers`: how it shows its
    key.
    """

    method: str
    path: str
    body: bytes
    scope: Scope
    media: str = JSON
    by: str = "bearer"
    refused: int = 401
    narrowed: int = 403


def json_of(value: Any) -> bytes:
    return json.dumps(value).encode()


TRACK = {"action": "track", "userId": "ann", "event": "E"}
SEGMENT = {"userId": "ann", "event": "E", "messageId": "m-1", "type": "track"}
SDK = {"action": "track", "userId": "sue", "event": "E"}
CALLS = {
    "event": Slow(
        "POST", "/v1/events", json_of({"userId": "ann", "event": "E"}), Scope.EVENTS_WRITE
    ),
    "user": Slow(
        "PATCH", "/v1/users/ann", json_of({"userAttributes": {"a": 1}}), Scope.USERS_WRITE
    ),
    "state": Slow("POST", "/v1/users/ann/states", json_of({"state": "s"}), Scope.EVENTS_WRITE),
    "erasure": Slow("DELETE", "/v1/users/eve", json_of({"fullErasure": True}), Scope.USERS_ERASE),
    "batch": Slow(
        "POST", "/v1/batch", json_of({"items": [TRACK] * 3}), Scope.EVENTS_WRITE, narrowed=422
    ),
    "lines": Slow(
        "POST",
        "/v1/batch",
        b"\n".join([json_of(TRACK)] * 3),
        Scope.EVENTS_WRITE,
        "application/x-ndjson",
        narrowed=422,
    ),
    "import of rows": Slow(
        "POST",
        "/v1/imports?defaultAction=track",
        b"userId,event\nann,E\n",
        Scope.EXPORTS_RUN,
        "text/csv",
    ),
    "import of a form": Slow(
        "POST",
        "/v1/imports",
        FORM.encode(),
        Scope.EXPORTS_RUN,
        f"multipart/form-data; boundary={BOUNDARY}",
    ),
    "import of a bucket": Slow(
        "POST",
        "/v1/imports",
        json_of({"gcsBucket": "b", "file": "f.csv", "defaultAction": "track"}),
        Scope.EXPORTS_RUN,
    ),
    "export": Slow("POST", "/v1/exports/data", json_of({"startDate": DAY}), Scope.EXPORTS_RUN),
    "segment": Slow(
        "POST", "/segment/v1/batch", json_of({"batch": [SEGMENT]}), Scope.EVENTS_WRITE, by="basic"
    ),
    "sdk": Slow(
        "POST",
        "/api",
        json_of({"action": "multi", "data": [SDK]}),
        Scope.SDK,
        by="query",
        refused=403,
    ),
    "making a key": Slow(
        "POST", "/v1/keys", json_of({"name": "stolen", "scopes": ["sdk"]}), Scope.KEYS_MANAGE
    ),
    "replaying": Slow(
        "POST", "/v1/dead-letters/replay", json_of({"filter": {}}), Scope.DEAD_LETTERS_MANAGE
    ),
    "discarding": Slow(
        "POST", "/v1/dead-letters/discard", json_of({"filter": {}}), Scope.DEAD_LETTERS_MANAGE
    ),
}


def revoked(at: Open, key_id: str) -> None:
    assert at.call("DELETE", f"/v1/keys/{key_id}").status_code == 204


def rotated_out(at: Open, key_id: str) -> None:
    given = {"overlapSeconds": 0}
    assert at.call("POST", f"/v1/keys/{key_id}/rotate", json=given).status_code == 200


def expired(at: Open, key_id: str) -> None:
    soon = time.time() + 1.0
    assert at.call("PATCH", f"/v1/keys/{key_id}", json={"expiresAt": soon}).status_code == 200
    until(lambda: time.time() > soon)


def revoked_by_another_process(at: Open, key_id: str) -> None:
    at.store.revoke(key_id, now_ms())
    time.sleep(1.0)  # what is promised to every other process


def without_its_scope(at: Open, key_id: str) -> None:
    change = {"scopes": ["receipts:read"]}
    assert at.call("PATCH", f"/v1/keys/{key_id}", json=change).status_code == 200


def for_another_app(at: Open, key_id: str) -> None:
    assert at.call("PATCH", f"/v1/keys/{key_id}", json={"apps": ["other"]}).status_code == 200


ENDS: Mapping[str, Callable[[Open, str], None]] = {
    "revoked": revoked,
    "rotated out": rotated_out,
    "expired": expired,
    "revoked by another process": revoked_by_another_process,
}


def slowly(at: Open, call: Slow, key: str, meanwhile: Callable[[], object]) -> tuple[int, bytes]:
    """Send half of the body, let something happen, send the rest; the answer."""
    wire = Wire(at.port)
    try:
        wire.say(head(call, key) + call.body[:5])
        until(lambda: known(at, key), 10)
        meanwhile()
        wire.say(call.body[5:])
        status, _, body = wire.answer()
        return status, body
    finally:
        wire.close()


def known(at: Open, key: str) -> bool:
    """Whether the gateway has had a moment to read the head: another call on the loop was answered
    after it.
    """
    return httpx.get(f"http://127.0.0.1:{at.port}/livez", trust_env=False).status_code == 200


def head(call: Slow, key: str) -> bytes:
    path, shown = call.path, f"Authorization: Bearer {key}"
    if call.by == "basic":
        import base64

        shown = f"Authorization: Basic {base64.b64encode(f'{key}:'.encode()).decode()}"
    elif call.by == "query":
        path, shown = f"{path}?clientKey={key}&appId={APP_ID}", "X-Nothing: 1"
    lines = (
        f"{call.method} {path} HTTP/1.1",
        "Host: gateway",
        shown,
        f"Content-Type: {call.media}",
        f"Content-Length: {len(call.body)}",
    )
    return "\r\n".join((*lines, "", "")).encode()


def counts(at: Open) -> tuple[int, int, int]:
    """What a call may have done: items, keys, and calls to Leanplum."""
    items, keys = (
        int(at.rows(f"SELECT count(*) FROM {table}")[0][0]) for table in ("items", "caller_keys")
    )
    return items, keys, len(sent_to(at.leanplum))


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.sampled(4)
def test_a_key_that_ends_while_its_body_comes_does_nothing_and_the_refusal_is_recorded(
    at: Open, call: Slow, end: Callable[[Open, str], None]
) -> None:
    key, key_id = at.make(call.scope)
    before = counts(at)
    status, body = slowly(at, call, key, partial(end, at, key_id))
    assert (status, counts(at)) == (call.refused, before), body
    # The record of a key that is no longer valid may follow the response.
    until(lambda: at.records(key_id))
    assert at.records(key_id)[-1]["status_code"] == str(call.refused)


@pytest.mark.parametrize("change", [without_its_scope, for_another_app])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.sampled(2)
def test_a_key_that_loses_a_scope_or_the_app_while_its_body_comes_does_nothing(
    at: Open, call: Slow, change: Callable[[Open, str], None]
) -> None:
    key, key_id = at.make(call.scope)
    if change is for_another_app and call.scope is Scope.KEYS_MANAGE:
        expected = 403  # it can't give a key to every app any more
    else:
        expected = call.narrowed if change is without_its_scope else 403
    before = counts(at)
    status, body = slowly(at, call, key, partial(change, at, key_id))
    assert (status, counts(at)) == (expected, before), body


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.sampled(3)
def test_a_key_that_was_changed_otherwise_goes_on(at: Open, call: Slow) -> None:
    key, key_id = at.make(call.scope)
    change = {"name": "another", "ratePerSecond": 10**6}
    status, body = slowly(
        at,
        call,
        key,
        lambda: at.call("PATCH", f"/v1/keys/{key_id}", json=change).raise_for_status(),
    )
    assert status in {200, 201, 202}, body


@pytest.mark.parametrize("relayed", [False, True])
def test_what_comes_after_an_answer_of_leanplum_is_not_done_for_a_key_that_was_revoked_meanwhile(
    at: Open, relayed: bool
) -> None:
    key, key_id = at.make(Scope.SDK)
    slow = {"mode": "slow", "delay": 1.5, "action": "start", "times": 1}
    httpx.post(
        f"{at.leanplum}/_simulator/faults", json={"faults": [slow]}, trust_env=False
    ).raise_for_status()
    last = "track" if relayed else "setUserAttributes"
    more = {"event": "E"} if relayed else {"userAttributes": {"a": 1}}
    assert ACTIONS[last].later
    data = [
        {"action": "start", "userId": "bob", "deviceId": "d"},
        {"action": "getVars", "userId": "bob"},
        {"action": last, "userId": "bob", **more},
    ]
    items = counts(at)[0]
    answers = list[httpx.Response]()

    def ask() -> None:
        url = f"http://127.0.0.1:{at.port}/api?clientKey={key}&appId={APP_ID}"
        answers.append(
            httpx.post(url, json={"action": "multi", "data": data}, trust_env=False, timeout=20)
        )

    asking = threading.Thread(target=ask)
    before = len(sent_to(at.leanplum))
    asking.start()
    until(lambda: len(sent_to(at.leanplum)) > before or bool(answers))
    revoked(at, key_id)
    asking.join(20)
    assert answers[0].status_code == 403, answers[0].text
    assert counts(at)[0] == items
    assert last not in json.dumps(sent_to(at.leanplum)[before + 1 :])
