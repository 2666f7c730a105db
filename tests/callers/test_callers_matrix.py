"""Every operation × every scope: only the right one passes; × wrong app, × expired, revoked and
rotated-out key.

The scopes stand here as the contract has them (§3-§5, §10), not as the code has them; an operation
that is not in the table fails the test.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.model import Scope
from tests.support.gateway import WIDE, Talk, make_settings, running

APPS = "".join(
    f'[apps.{name}]\napp_id = "{name}"\nproduction_key = "p"\ndevelopment_key = "d"\ndata_export_key = "e"\n'
    'content_read_only_key = "c"\napi_url = "http://127.0.0.1:9/api"\n'
    for name in ("one", "two")
)
USER = "/v1/users/{userId}"
ERASURE = "GET /v1/erasures/{recordId}"
NEEDS = {
    "events:write": [
        "POST /v1/events", f"POST {USER}/states", f"POST {USER}/states/pause", f"POST {USER}/states/resume",
        f"POST {USER}/sessions/stop", f"POST {USER}/sessions/pause", f"POST {USER}/sessions/resume",
        f"POST {USER}/sessions/heartbeat", f"POST {USER}/sessions",
    ],
    "users:write": [f"PATCH {USER}", "PATCH /v1/devices/{deviceId}", f"PUT {USER}/traffic-source"],
    "messages:send": ["POST /v1/messages/{messageId}/send", "POST /v1/campaigns/{campaignId}/start"],
    "users:erase": [f"PUT {USER}/block", f"DELETE {USER}/block", f"DELETE {USER}", ERASURE],
    "users:read": [f"GET {USER}"],
    "content:read": [
        f"GET {USER}/variables", "GET /v1/messages", "GET /v1/messages/{id}", "GET /v1/ab-tests",
        "GET /v1/ab-tests/{id}", "GET /v1/variants/{id}", "GET /v1/unsubscribe-categories",
        "GET /v1/notification-channels", "GET /v1/files/{filename}", "GET /v1/tracking-plan",
        "GET /v1/taxonomy",
    ],
    "content:write": [
        "PUT /v1/variables", "DELETE /v1/variables", "PUT /v1/notification-channels/{id}",
        "DELETE /v1/notification-channels/{id}", "POST /v1/files", "POST /v1/development-devices",
        "DELETE /v1/taxonomy/{kind}/{name}",
    ],
    "exports:run": [
        "POST /v1/exports/data", "POST /v1/exports/users", "POST /v1/exports/report", "GET /v1/exports/{jobId}",
        "POST /v1/imports", "GET /v1/imports/{jobId}", "POST /v1/postbacks", "GET /v1/postbacks",
        "DELETE /v1/postbacks/{id}",
    ],
    "receipts:read": ["GET /v1/receipts", "GET /v1/receipts/{id}"],
    "dead-letters:manage": [
        "GET /v1/dead-letters", "POST /v1/dead-letters/replay", "POST /v1/dead-letters/discard",
    ],
    "audit:read": [
        "GET /v1/audit", "GET /v1/audit/checkpoint", "GET /v1/audit/consistency", "GET /v1/audit/{recordId}/proof",
        "GET /v1/tracking-plan/violations",
    ],
    "keys:manage": [
        "POST /v1/keys", "GET /v1/keys", "GET /v1/keys/{keyId}", "PATCH /v1/keys/{keyId}", "DELETE /v1/keys/{keyId}",
        "POST /v1/keys/{keyId}/rotate", "GET /v1/apps", "POST /v1/apps/{name}/check",
    ],
}  # fmt: skip
RIGHT = {operation: scope for scope, operations in NEEDS.items() for operation in operations}
OF_NO_APP = {one for one in NEEDS["keys:manage"] if "/v1/keys" in one or one == "GET /v1/apps"}
OF_NO_APP |= {one for one in NEEDS["audit:read"] if "/v1/audit" in one} | {ERASURE}
QUERIES = {"GET /v1/audit/consistency": "?from=1&to=1"}  # what is required
# Need the scope of each item's own action: test_callers_auth.py
EACH_ITEM = ("POST /v1/batch", "POST /v1/preview")
NO_KEY = re.compile(r"GET /(livez|readyz|metrics|problems.*)?")
ALL = frozenset(Scope)


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Talk]:
    """A gateway with two apps, whose Leanplum can't be reached: what passes is answered otherwise
    than 401 or 403.
    """
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "apps.toml").write_text(APPS)
    given = {
        "gateway_apps_file": folder / "apps.toml",
        "leanplum_app_id": None,
        "leanplum_production_key": None,
    }
    with running(make_settings(folder, migrated, WIDE | given), folder / "g.db") as found:
        yield found


@pytest.fixture(scope="module")
def keys(talk: Talk) -> dict[str, str]:
    """A key with each scope alone, and one with all the others; and keys that are no longer good
    for anything.
    """
    store, now = talk.app.services.keys, int(time.time() * 1000)

    def make(name: str, scopes: Any, apps: list[str] | None = None, **given: Any) -> str:
        return str(store.create(name, scopes, apps, now, **given)[0])

    def key_id(name: str) -> str:
        return str(next(one.caller.key_id for one in store.all() if one.caller.name == name))

    made = {f"only {scope}": make(f"only {scope}", [scope]) for scope in Scope}
    made |= {f"all but {scope}": make(f"all but {scope}", ALL - {scope}) for scope in Scope}
    made["of two"] = make("of two", ALL, ["two"])
    made["expired"] = make("expired", ALL, expires_at=now - 1)
    made["revoked"] = make("revoked", ALL)
    store.revoke(key_id("revoked"), now)
    made["rotated out"] = make("rotated out", ALL)
    store.rotate(key_id("rotated out"), now, 0)
    talk.do(talk.app.services.directory.refresh)
    return made


def called(talk: Talk, operation: str, key: str | None, app: str = "one") -> int:
    method, template = operation.split()
    path = re.sub(r"\{name\}", "one", template.replace("{kind}", "events"))
    path = re.sub(r"\{\w+\}", "1", path) + QUERIES.get(operation, "")
    headers = {"Content-Type": "application/json", "X-Leanplum-App": app}
    return talk.call(method, path, content=b"[]", headers=headers, key=key).status_code


def operations(talk: Talk) -> list[str]:
    document = talk.get("/openapi.json").json()
    return [
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
    ]


def test_the_table_has_every_operation(talk: Talk) -> None:
    known = {one for one in operations(talk) if not NO_KEY.fullmatch(one)}
    assert known == {*RIGHT, *EACH_ITEM}


@pytest.mark.parametrize("operation", RIGHT)
def test_only_the_right_scope_passes(talk: Talk, keys: dict[str, str], operation: str) -> None:
    right = RIGHT[operation]
    found = {scope.value: called(talk, operation, keys[f"only {scope}"]) for scope in Scope}
    assert {scope for scope, status in found.items() if status not in {401, 403}} == {right}, found
    assert called(talk, operation, keys[f"all but {right}"]) == 403
    assert found[right] not in {405, 500}


@pytest.mark.parametrize("operation", [*RIGHT, *EACH_ITEM])
def test_a_key_that_is_expired_revoked_rotated_out_or_missing_passes_nowhere(
    talk: Talk, keys: dict[str, str], operation: str
) -> None:
    for name in ("expired", "revoked", "rotated out"):
        assert called(talk, operation, keys[name]) == 401, name
    assert called(talk, operation, None) == 401


@pytest.mark.parametrize("operation", [*RIGHT, *EACH_ITEM])
def test_a_key_for_another_app_does_nothing_to_this_one(
    talk: Talk, keys: dict[str, str], operation: str
) -> None:
    refused = {403} if operation not in OF_NO_APP else {200, 201, 204, 404, 422}
    if operation == "POST /v1/apps/{name}/check":
        refused = {404}  # of the app in the path, which its key can't see
    assert called(talk, operation, keys["of two"], app="one") in refused
    assert called(talk, operation, keys["of two"], app="two") != 403


@pytest.mark.parametrize("app", ["none", "ONE", "", "one,two", "\x80"])
def test_an_app_that_is_not_there_is_refused_like_one_that_the_key_is_not_for(
    talk: Talk, keys: dict[str, str], app: str
) -> None:
    headers: dict[Any, Any] = {"X-Leanplum-App": app.encode("latin-1")}
    answers = [
        talk.event(key=keys[name], headers=headers) for name in ("of two", "only events:write")
    ]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert answers[0].json()["detail"] == answers[1].json()["detail"]


def test_with_several_apps_one_must_be_named_and_the_answer_says_which_there_are(
    talk: Talk, keys: dict[str, str]
) -> None:
    answer = talk.event(key=keys["only events:write"])
    assert answer.status_code == 400
    assert "one, two" in answer.json()["detail"]
    assert talk.event(key=keys["of two"]).status_code == 202
