"""What the apps file may say, and what is wrong with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from app.apps import AppRegistry, read_apps
from app.errors import StartRefused
from app.model import App, KeyKind
from app.settings import Settings
from tests.support.gateway import Talk

Make = Callable[..., Settings]
SECRET = "prod_very_secret"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "apps.toml"


@pytest.fixture
def of_file(file: Path, settings: Make) -> Callable[..., dict[str, App]]:
    """The apps of a file with this text, and of nothing else."""

    def read_it(text: str, **environ: str) -> dict[str, App]:
        file.write_text(text)
        given: dict[str, Any] = {"leanplum_app_id": None, "leanplum_production_key": None}
        return read_apps(settings(gateway_apps_file=file, **given), environ)

    return read_it


def test_an_app_has_the_id_keys_address_and_limits_that_the_file_gives(
    of_file: Callable[..., dict[str, App]],
) -> None:
    apps = of_file(
        '[apps.shop]\napp_id = "app_1"\nproduction_key = "p"\ndevelopment_key = "d"\ndata_export_key = "e"\n'
        'content_read_only_key = "c"\napi_url = "https://eu.example.com/api"\nrate_per_second = 5\nrate_burst = 7\n'
        '[apps.game_2]\napp_id = "app_2"\nproduction_key = "q"\n'
    )
    assert list(apps) == ["shop", "game_2"]
    shop, game = apps["shop"], apps["game_2"]
    assert {kind: key.get_secret_value() for kind, key in shop.keys.items()} == {
        KeyKind.PRODUCTION: "p",
        KeyKind.DEVELOPMENT: "d",
        KeyKind.DATA_EXPORT: "e",
        KeyKind.CONTENT_READ_ONLY: "c",
    }
    assert (shop.app_id, shop.api_url, shop.rate_per_second, shop.rate_burst) == (
        "app_1",
        "https://eu.example.com/api",
        5,
        7,
    )
    assert (game.app_id, game.api_url, game.rate_per_second) == (
        "app_2",
        "http://127.0.0.1:9/api",
        None,
    )


def test_a_key_may_be_named_by_a_variable_or_a_file(
    of_file: Callable[..., dict[str, App]], tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("from a file\n")
    apps = of_file(
        '[apps.a]\napp_id = { env = "ID" }\nproduction_key = { env = "KEY" }\n'
        f'development_key = {{ file = "{tmp_path}/key" }}\n',
        KEY="from a variable",
        ID="app_9",
    )
    assert apps["a"].app_id == "app_9"
    assert [key.get_secret_value() for key in apps["a"].keys.values()] == [
        "from a variable",
        "from a file",
    ]


def test_the_app_of_the_variables_stands_beside_those_of_the_file(
    file: Path, settings: Make
) -> None:
    file.write_text('[apps.other]\napp_id = "app_2"\nproduction_key = "q"\n')
    assert list(read_apps(settings(gateway_apps_file=file), {})) == ["default", "other"]


BAD = {
    "no such variable": (
        '[apps.a]\napp_id = "i"\nproduction_key = { env = "NOT_SET" }',
        ["apps.a.production_key", "NOT_SET"],
    ),
    "no such file": ('[apps.a]\napp_id = "i"\nproduction_key = { file = "/nowhere" }', ["production_key", "/nowhere"]),
    "an impossible file": ('[apps.a]\napp_id = "i"\nproduction_key = { file = "a\\u0000b" }', ["production_key"]),
    "an empty key": ('[apps.a]\napp_id = "i"\nproduction_key = ""', ["apps.a.production_key"]),
    "no production key": ('[apps.a]\napp_id = "i"', ["apps.a.production_key"]),
    "no id": ('[apps.a]\nproduction_key = "p"', ["apps.a.app_id"]),
    "an unknown field": (f'[apps.a]\napp_id = "i"\nproduction_key = "{SECRET}"\nkey = "x"', ["apps.a.key"]),
    "an unknown table": ('[app.a]\napp_id = "i"', ["app"]),
    "no app": ("[apps]", ["apps"]),
    "an address without TLS": (
        '[apps.a]\napp_id = "i"\nproduction_key = "p"\napi_url = "http://example.com"',
        ["apps.a.api_url", "https"],
    ),
    "a name with a blank": ('[apps."a b"]\napp_id = "i"\nproduction_key = "p"', ["apps"]),
    "a rate of none": ('[apps.a]\napp_id = "i"\nproduction_key = "p"\nrate_per_second = 0', ["rate_per_second"]),
    "no TOML": (f'[apps.a]\nproduction_key = "{SECRET}', ["TOML"]),
    "a key that is no text": ("[apps.a]\napp_id = 'i'\nproduction_key = 5", ["apps.a.production_key"]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_told_by_its_place_and_no_key_is_shown(
    of_file: Callable[..., dict[str, App]], text: str, words: list[str]
) -> None:
    with pytest.raises(StartRefused) as caught:
        of_file(text)
    for word in ["GATEWAY_APPS_FILE", *words]:
        assert word in caught.value.detail
    assert SECRET not in caught.value.detail


def test_all_that_is_wrong_is_told_together(of_file: Callable[..., dict[str, App]]) -> None:
    with pytest.raises(StartRefused) as caught:
        of_file('[apps.a]\napp_id = ""\n[apps.b]\nproduction_key = "p"')
    assert len(caught.value.lines) == 3


def test_a_file_that_is_not_there_or_not_text_is_told(file: Path, settings: Make) -> None:
    given = settings(gateway_apps_file=file, leanplum_app_id=None, leanplum_production_key=None)
    with pytest.raises(StartRefused, match="GATEWAY_APPS_FILE"):
        read_apps(given, {})
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(StartRefused, match="not UTF-8"):
        read_apps(given, {})


def test_an_app_may_not_take_the_name_of_the_one_by_variables(file: Path, settings: Make) -> None:
    file.write_text('[apps.default]\napp_id = "i"\nproduction_key = "p"')
    with pytest.raises(StartRefused, match=r"apps\.default"):
        read_apps(settings(gateway_apps_file=file), {})


def test_a_bad_file_keeps_the_apps_as_they_were_and_a_good_one_replaces_them(
    file: Path, settings: Make
) -> None:
    def say(key: str) -> None:
        file.write_text(f'[apps.a]\napp_id = "i"\nproduction_key = "{key}"')

    say("old")
    given = settings(gateway_apps_file=file, leanplum_app_id=None, leanplum_production_key=None)
    apps = AppRegistry(lambda: read_apps(given, {}))
    refused = [apps.refused]
    file.write_text("[apps.a")
    apps.refresh()
    refused.append(apps.refused)
    file.unlink()
    apps.refresh()
    assert apps["a"].keys[KeyKind.PRODUCTION].get_secret_value() == "old"
    say("new")
    apps.refresh()
    assert [*refused, apps.refused] == [False, True, False]
    assert apps["a"].keys[KeyKind.PRODUCTION].get_secret_value() == "new"
    known = {secret.get_secret_value() for secret in apps.secrets()}
    assert known == {"old", "new"}, "an answer to a call with the old key may still echo it"


def test_each_app_that_a_new_file_adds_changes_or_removes_has_an_audit_record(
    file: Path, start: Callable[..., Talk]
) -> None:
    app = '[apps.{}]\napp_id = "i"\nproduction_key = "{}"\n'
    file.write_text(
        app.format("stays", SECRET) + app.format("changes", "k") + app.format("goes", "k")
    )
    talk = start(gateway_apps_file=file, leanplum_app_id=None, leanplum_production_key=None)
    file.write_text(
        app.format("stays", SECRET) + app.format("changes", SECRET) + app.format("comes", SECRET)
    )
    talk.do(talk.app.services.apps.refresh)
    talk.get("/readyz")  # proves a commit: nobody waits for these records
    acts = [one for one in talk.audit() if one["api"]["operation"].startswith("app.")]
    assert [(one["api"]["operation"], one["resources"], one["unmapped"]) for one in acts] == [
        (f"app.{how}", [{"uid": name}], {"app": name})
        for name, how in (("changes", "changed"), ("comes", "added"), ("goes", "removed"))
    ]
    assert SECRET not in str(acts)


def test_two_names_for_one_app_of_leanplums_are_warned_of(file: Path, settings: Make) -> None:
    app = '[apps.{}]\napp_id = "{}"\nproduction_key = "k"\n'
    file.write_text(app.format("a", "one") + app.format("b", "two") + app.format("c", "one"))
    given = settings(gateway_apps_file=file, leanplum_app_id=None, leanplum_production_key=None)
    with structlog.testing.capture_logs() as logs:
        AppRegistry(lambda: read_apps(given, {}))
    assert [(line["event"], line["log_level"], line["apps"]) for line in logs] == [
        ("apps.same", "warning", ["a", "c"])
    ]
