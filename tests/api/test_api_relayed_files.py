"""What comes from Leanplum with a media type of its own never runs in the gateway's origin, nor is
kept for others.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from app.settings import Settings
from tests.support.gateway import WIDE, Talk, make_settings
from tests.support.simulator import KEYS, Leanplum, delivering_to, simulated

GUARDS = {
    "content-disposition": "attachment",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}
SCRIPT = b"<script>document.title = 'run'</script>"
MEDIA = {
    "a.html": "text/html",
    "a.svg": "image/svg+xml",
    "a.xhtml": "application/xhtml+xml",
    "a.js": "text/javascript",
}


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def talk(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("files")
    keys = "".join(
        f'{name.removeprefix("leanplum_")} = "{value}"\n' for name, value in KEYS.items()
    )
    app = f'[apps.second]\napp_id = "app_sandbox"\napi_url = "{leanplum.url}/api"\n{keys}'
    (folder / "apps.toml").write_text(app)

    def settings(**given: Any) -> Settings:
        return make_settings(folder, migrated, WIDE | given)

    with ExitStack() as stack:
        given = {"gateway_apps_file": folder / "apps.toml"}
        yield stack.enter_context(delivering_to(leanplum, settings, folder / "g.db", **given))


def upload(talk: Talk, name: str) -> None:
    answer = talk.call(
        "POST", "/v1/files", data={"data": f'[{{"filename": "{name}"}}]'}, files={"file0": (name, SCRIPT, MEDIA[name])},
        headers={"X-Leanplum-App": "default"},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text


def fetched(talk: Talk, name: str) -> dict[str, httpx.Response]:
    args = {
        "appId": "app_sandbox",
        "clientKey": talk.key,
        "action": "downloadFile",
        "filename": name,
    }
    named = {"X-Leanplum-App": "default"}
    return {
        "by /v1": talk.get(f"/v1/files/{name}", headers=named),
        "by GET": talk.call("GET", f"/api?{urlencode(args)}", key=None),
        "by POST": talk.call("POST", "/api", key=None, json=args),
        "by a form": talk.call("POST", "/api", key=None, data=args),
    }


@pytest.mark.parametrize("name", MEDIA)
def test_a_file_is_saved_and_never_shown_whichever_way_it_is_asked_for(
    talk: Talk, name: str
) -> None:
    upload(talk, name)
    for way, answer in fetched(talk, name).items():
        assert (answer.status_code, answer.content) == (200, SCRIPT), (way, answer.text)
        for header, value in GUARDS.items():
            assert answer.headers.get_list(header) == [value], (way, header)
        assert "ratelimit" in answer.headers


def test_what_an_sdk_asks_is_kept_by_no_cache(talk: Talk) -> None:
    args = {"appId": "app_sandbox", "clientKey": talk.key, "action": "getVars", "userId": "u1"}
    answer = talk.call("GET", f"/api?{urlencode(args)}", key=None)
    assert answer.status_code == 200
    assert {one.strip() for one in answer.headers["cache-control"].split(",")} == {
        "private",
        "no-store",
    }
    assert answer.headers["content-type"].startswith("application/json")


def test_a_kept_answer_is_one_app_s_and_one_key_s(talk: Talk) -> None:
    first, second = (
        talk.get("/v1/messages", headers={"X-Leanplum-App": app}) for app in ("default", "second")
    )
    assert first.content == second.content
    assert first.headers["etag"] != second.headers["etag"]
    for answer in (first, second, _again(talk, first)):
        assert {"authorization", "x-api-key", "x-leanplum-app"} <= _names(answer.headers["vary"])
        assert "private" in answer.headers["cache-control"]
        assert "public" not in answer.headers["cache-control"]
    assert _again(talk, first).status_code == 304
    assert _again(talk, first, app="second").status_code == 200


def _again(talk: Talk, answer: httpx.Response, app: str = "default") -> httpx.Response:
    return talk.get(
        "/v1/messages", headers={"X-Leanplum-App": app, "If-None-Match": answer.headers["etag"]}
    )


def _names(vary: str) -> set[str]:
    return {name.strip().lower() for name in vary.split(",")}
