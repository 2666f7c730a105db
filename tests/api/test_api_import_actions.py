"""An import brings events and changes of users; any other action needs its own scope, unknown ones
are refused.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from app.ingest.import_rows import check_actions
from app.model import Scope
from app.settings import Settings
from tests.support.gateway import WIDE, Talk, make_settings
from tests.support.sdk import scoped
from tests.support.simulator import Leanplum, delivering_to, simulated

BUCKET = {"gcsBucket": "public-bucket", "file": "rows.csv"}
IMPORTS = (Scope.EXPORTS_RUN, Scope.SDK)
ROWS = b"userId,event\nann,E\n"
Import = Callable[[Talk, str, bytes, str], httpx.Response]


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def talk(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("import-actions")

    def settings(**given: Any) -> Settings:
        extra = {"gateway_sdk_extra_actions": "newAction,DeleteUser"}
        return make_settings(folder, migrated, WIDE | extra | given)

    with delivering_to(leanplum, settings, folder / "g.db") as found:
        yield found


@pytest.fixture(scope="module")
def importer(talk: Talk) -> str:
    return scoped(talk, *IMPORTS)


@pytest.fixture(autouse=True)
def anew(leanplum: Leanplum) -> None:
    leanplum.forget()


def _default(default: str) -> dict[str, str]:
    return {"defaultAction": default} if default else {}


def rest_csv(talk: Talk, key: str, rows: bytes, default: str) -> httpx.Response:
    query = urlencode(_default(default))
    return talk.call(
        "POST", f"/v1/imports?{query}", key=key, content=rows, headers={"Content-Type": "text/csv"}
    )


def rest_form(talk: Talk, key: str, rows: bytes, default: str) -> httpx.Response:
    return talk.call(
        "POST", "/v1/imports", key=key, data=_default(default), files={"file": ("r.csv", rows)}
    )


def door_url(key: str, **query: str) -> str:
    return "/api?" + urlencode(
        {"appId": "app_sandbox", "clientKey": key, "action": "multi", **query}
    )


def door_csv(talk: Talk, key: str, rows: bytes, default: str) -> httpx.Response:
    url = door_url(key, createJob="true", **_default(default))
    return talk.call("POST", url, key=None, content=rows, headers={"Content-Type": "text/csv"})


def door_form(talk: Talk, key: str, rows: bytes, default: str) -> httpx.Response:
    url = door_url(key, createJob="true")
    return talk.call("POST", url, key=None, data=_default(default), files={"file": ("r.csv", rows)})


def rest_bucket(talk: Talk, key: str, default: str) -> httpx.Response:
    return talk.call("POST", "/v1/imports", key=key, json={**BUCKET, **_default(default)})


def rest_bucket_form(talk: Talk, key: str, default: str) -> httpx.Response:
    fields = {name: (None, value) for name, value in {**BUCKET, **_default(default)}.items()}
    return talk.call("POST", "/v1/imports", key=key, files=fields)


def door_bucket(talk: Talk, key: str, default: str) -> httpx.Response:
    return talk.call(
        "GET", door_url(key, createJob="true", **BUCKET, **_default(default)), key=None
    )


WITH_ROWS = pytest.mark.parametrize("brought", [rest_csv, rest_form, door_csv, door_form])

DENIED = {
    "an unknown action": (b"action,userId\nevilAction,u1\n", "", "is not known"),
    "an erasure": (b"action,userId\ntrack,u1\ndeleteUser,u2\n", "track", "users:erase"),
    "an erasure in the last column": (b"userId,x,action\nu1,,block\n", "", "users:erase"),
    "an erasure in quotes": (b'userId,"action"\r\nu1,"deleteUser"\r\n', "", "users:erase"),
    "two columns of actions": (b"action,action,userId\ntrack,deleteUser,u1\n", "", "users:erase"),
    "another case": (b"Action,userId\ndeleteUser,u1\n", "", "users:erase"),
    "a message": (b"action,userId\nsendMessage,u1\n", "", "messages:send"),
    "variables": (b"action,vars\nsetVars,{}\n", "", "content:write"),
    "a profile": (b"action,userId\nexportUser,u1\n", "", "users:read"),
    "a batch": (b"action,data\nmulti,[]\n", "", "can't be a row"),
    "the development key": (
        b"resetAnomalies,userId\ntrue,u1\n",
        "setUserAttributes",
        "users:write",
    ),
    "an erasure by another name that is allowed": (
        b"action,userId\nDeleteUser,u1\n",
        "",
        "users:erase",
    ),
    "a space behind": (b"action,userId\ndeleteUser ,u1\n", "", "is not known"),
    "an erasure by default": (ROWS, "deleteUser", "users:erase"),
    "an unknown default": (ROWS, "evil", "is not known"),
    "an erasure by a default that no row needs": (
        b"action,userId\ntrack,u1\n",
        "deleteUser",
        "users:erase",
    ),
    "a very long name": (b"action,userId\n" + b"x" * 90_000 + b",u1\n", "", "is not known"),
}


@WITH_ROWS
@pytest.mark.parametrize("name", DENIED)
def test_an_import_brings_nothing_that_its_key_may_not_do(
    talk: Talk, importer: str, leanplum: Leanplum, brought: Import, name: str
) -> None:
    rows, default, told = DENIED[name]
    answer = brought(talk, importer, rows, default)
    assert (answer.status_code, told in answer.json().get("detail", answer.text)) == (403, True), (
        answer.text
    )
    assert len(answer.content) < 1_000
    assert leanplum.calls() == []


BAD_TEXT = {
    "semicolons": b"action;userId\ndeleteUser;u1\n",
    "a first line that ends in no quote": b'"action,userId\ndeleteUser,u1\n',
    "tabs": b"userId\taction\nu1\tdeleteUser\n",
    "an open quote": b'action,userId\ntrack,u1\n"deleteUser,u2\n',
    "a first line in quotes of another kind": b"'action,x';userId\ndeleteUser,u1\n",
}


@WITH_ROWS
@pytest.mark.parametrize("name", BAD_TEXT)
def test_actions_that_can_t_be_read_are_refused(
    talk: Talk, importer: str, leanplum: Leanplum, brought: Import, name: str
) -> None:
    answer = brought(talk, importer, BAD_TEXT[name], "track")
    assert answer.status_code == (400 if brought in {door_csv, door_form} else 422), answer.text
    assert leanplum.calls() == []


ALLOWED = {
    "events by default": (ROWS, "track"),
    "events and attributes": (b"action,userId,event,userAttributes.action\ntrack,u,E,1\nsetUserAttributes,u,,2\n", ""),
    "rows without an action": (b"action,userId,event\n,u1,E\n", "track"),
    "an action that a setting allows": (b"action,userId\nnewAction,u1\n", "track"),
    "semicolons without an action": (b"userId;event\nu1;E\n", "track"),
    "a transaction": (b"userId,event,params.transaction action\nu1,E,3\n", "track"),
}  # fmt: skip


@WITH_ROWS
@pytest.mark.parametrize("name", ALLOWED)
def test_an_import_brings_what_imports_are_for(
    talk: Talk, importer: str, leanplum: Leanplum, brought: Import, name: str
) -> None:
    rows, default = ALLOWED[name]
    answer = brought(talk, importer, rows, default)
    assert answer.status_code == 200, answer.text
    assert len(leanplum.calls()) == 1


@pytest.mark.parametrize("text", [b'userId,event\nu1,"E"x\n', b'"userId\nu1', b"userId\n\xff\n"])
def test_rows_that_name_no_action_need_not_be_readable(text: bytes) -> None:
    assert not any(check_actions(text, frozenset(), frozenset()))


@WITH_ROWS
def test_with_its_scope_an_action_may_be_imported(
    talk: Talk, leanplum: Leanplum, brought: Import
) -> None:
    eraser = scoped(talk, *IMPORTS, Scope.USERS_ERASE)
    assert brought(talk, eraser, b"action,userId\ndeleteUser,u1\n", "").status_code == 200
    assert brought(talk, eraser, ROWS, "deleteUser").status_code == 200
    assert brought(talk, eraser, b"action,userId\nsendMessage,u1\n", "").status_code == 403


@pytest.mark.parametrize("brought", [rest_bucket, rest_bucket_form, door_bucket])
def test_the_default_action_of_a_bucket_is_judged_as_well(
    talk: Talk,
    importer: str,
    leanplum: Leanplum,
    brought: Callable[[Talk, str, str], httpx.Response],
) -> None:
    for default, told in (
        ("deleteUser", "users:erase"),
        ("evil", "is not known"),
        ("multi", "can't be a row"),
    ):
        answer = brought(talk, importer, default)
        assert (answer.status_code, told in answer.json().get("detail", answer.text)) == (
            403,
            True,
        ), answer.text
    assert leanplum.calls() == []
    assert brought(talk, importer, "track").status_code == 200
    assert brought(talk, importer, "").status_code == 200
