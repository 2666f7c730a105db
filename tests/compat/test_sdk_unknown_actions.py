"""Which actions /api passes on: those that are known, and those that GATEWAY_SDK_EXTRA_ACTIONS
names.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from app.apps import read_apps
from app.errors import StartRefused
from app.leanplum.actions import (
    ACTIONS,
    find_similar_action,
    is_allowed_action,
    suggest_action_name,
)
from app.model import Scope
from app.settings import Settings, load
from tests.support.gateway import WIDE, Talk, make_settings
from tests.support.sdk import TRACK, Sdk, entries, scoped, settled
from tests.support.simulator import Leanplum, delivering_to, simulated

FULL_WIDTH = "".join(chr(ord(char) + 0xFEE0) for char in "deleteUser")
RESEMBLING = [
    "DeleteUser",
    "DELETEUSER",
    "deleteUser ",
    "\tdeleteUser\r\n",
    "deleteUser%20",
    "deleteUser%2520",
    "delete%55ser",
    "deleteUser\0",
    "\0deleteUser",
    "delete\u200bUser",
    "\ufeffdeleteUser",
    "deleteUser\u00a0",
    "delete_user",
    "déleteUser",
    "deleteU\u017fer",
    FULL_WIDTH,
]
OTHERS = ["getSomething", "drop table", "5", "\u202e", "track;deleteUser", "\U0001f600"]
RESERVED = [
    "Multi",
    "MULTI",
    "mult\u0131",
    "multi%20",
    "\uff4dulti",
    "SetVars",
    "Track",
    "\u017ftart",
]
EXTRA = ["futureAction", "DeleteUser", "Track", FULL_WIDTH, "SetVars"]


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def begin(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Iterator[Callable[..., Talk]]:
    with ExitStack() as stack:

        def started(**more: Any) -> Talk:
            folder = tmp_path_factory.mktemp("actions")

            def settings(**given: Any) -> Settings:
                return make_settings(folder, migrated, WIDE | given)

            return stack.enter_context(delivering_to(leanplum, settings, folder / "g.db", **more))

        yield started


@pytest.fixture(scope="module")
def talk(begin: Callable[..., Talk]) -> Talk:
    return begin()


@pytest.fixture(scope="module")
def extended(begin: Callable[..., Talk]) -> Talk:
    return begin(gateway_sdk_extra_actions=", ".join(EXTRA))


@pytest.fixture
def sdk(talk: Talk, leanplum: Leanplum) -> Sdk:
    settled(talk)
    leanplum.forget()
    return Sdk(talk)


def message(entry: dict[str, Any]) -> str:
    found: str = entry["error"]["message"]
    return found


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [*RESEMBLING, *RESERVED, *OTHERS])
def test_an_unknown_action_is_refused_alone_and_in_a_batch_and_never_sent(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, action: str
) -> None:
    sent = {"action": action, "userId": "u1", "reqId": "r"}
    for answer in (
        sdk.post(sent),
        sdk.get(**sent),
        sdk.call("POST", "/api", content=_form(sdk, sent)),
    ):
        (entry,) = entries(answer)
        assert (answer.status_code, entry["success"], entry["reqId"]) == (403, False, "r"), (
            answer.text
        )
        assert "is not known to this gateway" in message(entry)
        assert "GATEWAY_SDK_EXTRA_ACTIONS" in message(entry)
    batch = sdk.multi(TRACK, sent, {"action": "getVars", "userId": "u1"})
    assert batch.status_code == 200
    assert [one["success"] for one in entries(batch)] == [True, False, True]
    assert "is not known to this gateway" in message(entries(batch)[1])
    settled(talk)
    assert [one["action"] for one in leanplum.arrived()] == ["track", "getVars"]


def _form(sdk: Sdk, sent: dict[str, str]) -> bytes:
    fields = {"appId": "app_sandbox", "clientKey": sdk.key, **sent}
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items()).encode()


@pytest.mark.parametrize("action", RESEMBLING)
def test_the_known_name_is_suggested(sdk: Sdk, action: str) -> None:
    assert "did you mean deleteUser?" in message(
        entries(sdk.post({"action": action, "userId": "u1"}))[0]
    )


@pytest.mark.parametrize(
    ("action", "meant"),
    [("trak", "track"), ("traack", "track"), ("trakc", "track"), ("setUserAttribute", "setUserAttributes"),
     ("getVar", "getVars"), ("Multi", "multi"), ("deleteUsers", "deleteUser"), ("xyz", None), ("", None),
     ("x" * 10_000, None), ("deleteUser" * 3, None)],
)  # fmt: skip
def test_a_name_that_is_a_letter_away_is_suggested_and_no_other(
    action: str, meant: str | None
) -> None:
    assert suggest_action_name(action) == meant


@pytest.mark.parametrize(
    "action", ["x" * 100_000, "deleteUser" + " " * 100_000, "\U0001f600" * 5_000, "%25" * 50_000]
)
def test_a_very_long_name_is_refused_and_repeated_in_part_alone(
    sdk: Sdk, leanplum: Leanplum, action: str
) -> None:
    for answer in (sdk.post({"action": action}), sdk.multi({"action": action})):
        assert answer.status_code in {403, 200}
        assert len(message(entries(answer)[0])) < 330
        assert action[:101] not in answer.text
    assert leanplum.calls() == []


@pytest.mark.parametrize("nested", ["multi", "Multi", "multi\0"])
def test_a_batch_in_a_batch_is_refused(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, nested: str
) -> None:
    inner = {"action": nested, "data": [{"action": "deleteUser", "userId": "u1"}]}
    assert [one["success"] for one in entries(sdk.multi(inner, TRACK))] == [False, True]
    settled(talk)
    assert [one["action"] for one in leanplum.arrived()] == ["track"]


def test_arguments_of_an_import_never_go_along_with_a_batch(
    talk: Talk, leanplum: Leanplum, sdk: Sdk
) -> None:
    phone = Sdk(talk, scoped(talk, Scope.SDK))
    job = {
        "createJob": "on",
        "file": "rows.csv",
        "gcsBucket": "bucket",
        "defaultAction": "deleteUser",
    }
    phone.multi({"action": "getVars", "userId": "u1"}, devMode=True, **job)
    (call,) = leanplum.calls()
    assert call["args"]["action"] == "multi"
    assert not job.keys() & call["args"].keys()


def test_the_action_of_an_import_s_rows_must_be_known(sdk: Sdk, leanplum: Leanplum) -> None:
    job = {
        "action": "multi",
        "createJob": True,
        "file": "rows.csv",
        "gcsBucket": "b",
        "defaultAction": "DeleteUser",
    }
    answer = sdk.post(job)
    assert answer.status_code == 403
    assert "did you mean deleteUser?" in message(entries(answer)[0])
    assert leanplum.calls() == []


def test_a_file_with_an_unknown_action_is_refused_without_its_whole_name(
    sdk: Sdk, leanplum: Leanplum
) -> None:
    fields = {"appId": "app_sandbox", "clientKey": sdk.key, "action": "y" * 10_000}
    answer = sdk.call("POST", "/api", data=fields, files={"file0": ("a", b"1")})
    assert answer.status_code == 403
    assert len(answer.text) < 400
    assert leanplum.calls() == []


def test_a_batch_of_unknown_actions_is_answered_quickly(sdk: Sdk) -> None:
    batch = [{"action": f"deleteUserNumber{number:03}{'é' * 60}"} for number in range(9_000)]
    begun = time.process_time()
    answer = sdk.multi(*batch)
    assert time.process_time() - begun < 3.0
    assert not any(one["success"] for one in entries(answer))


# --- what is passed on ------------------------------------------------------------------------------------------------


def test_every_known_action_is_allowed_and_resembles_itself_alone() -> None:
    for name, action in ACTIONS.items():
        assert is_allowed_action(name, frozenset())
        assert find_similar_action(name) is action
        assert find_similar_action(name.upper()) is action
        assert suggest_action_name(name) == name


def test_a_named_action_goes_to_leanplum_with_the_production_key(
    extended: Talk, leanplum: Leanplum
) -> None:
    leanplum.forget()
    sdk = Sdk(extended)
    sdk.post({"action": "futureAction", "userId": "u1", "new": [1]})
    sdk.multi({"action": "futureAction", "userId": "u2"}, TRACK)
    settled(extended)
    found = sorted((one["action"], one["clientKey"]) for one in leanplum.arrived())
    assert found == [("futureAction", "prod_sandbox")] * 2 + [("track", "prod_sandbox")]
    assert entries(sdk.post({"action": "FutureAction", "userId": "u1"}))[0]["success"] is False


def test_a_named_action_never_gets_the_development_key(extended: Talk, leanplum: Leanplum) -> None:
    leanplum.forget()
    sdk = Sdk(extended)
    for answer in (sdk.post({"action": "futureAction", "devMode": True}),
                   sdk.multi({"action": "futureAction"}, devMode=1)):  # fmt: skip
        assert entries(answer)[0]["success"] is False
    assert leanplum.calls() == []


@pytest.mark.parametrize(
    ("action", "scope"),
    [
        ("DeleteUser", Scope.USERS_ERASE),
        (FULL_WIDTH, Scope.USERS_ERASE),
        ("SetVars", Scope.CONTENT_WRITE),
    ],
)
def test_a_named_spelling_of_a_known_action_needs_its_scope(
    extended: Talk, leanplum: Leanplum, action: str, scope: Scope
) -> None:
    leanplum.forget()
    phone, backend = (
        Sdk(extended, scoped(extended, Scope.SDK)),
        Sdk(extended, scoped(extended, Scope.SDK, scope)),
    )
    answer = phone.post({"action": action, "userId": "u1"})
    assert answer.status_code == 403
    for entry in (*entries(answer), *entries(phone.multi({"action": action, "userId": "u1"}))):
        assert scope.value in message(entry)
    assert leanplum.calls() == []
    backend.post({"action": action, "userId": "u1"})
    assert [one["clientKey"] for one in leanplum.arrived()] == ["prod_sandbox"]


def test_a_named_spelling_of_what_sdks_do_needs_no_scope(
    extended: Talk, leanplum: Leanplum
) -> None:
    leanplum.forget()
    Sdk(extended, scoped(extended, Scope.SDK)).post(
        {"action": "Track", "userId": "u1", "event": "E"}
    )
    assert [one["action"] for one in leanplum.arrived()] == ["Track"]


# --- the setting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["", " , ", "a", " futureAction , other,", "track", "deleteUser%20", FULL_WIDTH]
)
def test_the_setting_takes_exact_names(value: str) -> None:
    found = load({}, _env_file=None, gateway_sdk_extra_actions=value).sdk_extra
    assert found == {one.strip() for one in value.split(",")} - {""}


@pytest.mark.parametrize(
    "name", ["two words", "x" * 101, "a\0", "a\u200b", "Multi", "multi%20", "mult\u0131"]
)
def test_a_bad_name_prevents_the_start_with_one_line(
    tmp_path: Path, settings: Callable[..., Settings], name: str
) -> None:
    with pytest.raises(StartRefused) as refused:
        load({}, _env_file=None, gateway_sdk_extra_actions=f"good,{name}")
    (line,) = refused.value.lines
    assert line.startswith("GATEWAY_SDK_EXTRA_ACTIONS: ")
    file = tmp_path / "apps.toml"
    escaped = "".join(f"\\u{ord(char):04x}" for char in name)
    file.write_text(f'{APP.format("a")}sdk_extra_actions = ["{escaped}"]\n')
    with pytest.raises(StartRefused) as refused:
        read_apps(settings(gateway_apps_file=file), {})
    assert refused.value.lines[0].startswith("GATEWAY_APPS_FILE: apps.a.sdk_extra_actions")


APP = '[apps.{0}]\napp_id = "{0}"\nproduction_key = "p"\n'


def test_an_app_s_own_list_wins(tmp_path: Path, settings: Callable[..., Settings]) -> None:
    file = tmp_path / "apps.toml"
    none = f"{APP.format('b')}sdk_extra_actions = []\n"
    own = f'{APP.format("c")}sdk_extra_actions = ["one", "two"]\n'
    file.write_text(APP.format("a") + none + own)
    apps = read_apps(settings(gateway_apps_file=file, gateway_sdk_extra_actions="x"), {})
    assert {name: set(app.sdk_extra) for name, app in apps.items()} == {
        "default": {"x"}, "a": {"x"}, "b": set(), "c": {"one", "two"}}  # fmt: skip
