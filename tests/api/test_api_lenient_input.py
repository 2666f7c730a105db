"""Input that is not quite right and means one thing only: it is taken for that."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from app.apps import read_apps
from app.errors import StartRefused
from app.settings import Settings
from tests.support.gateway import NDJSON, WIDE, Talk, problem
from tests.support.http_server import served
from tests.support.segment import basic
from tests.support.tracking_plans import shop

BOM = "\ufeff"
EVENT = '{"userId":"u","event":"E"}'
ITEM = '{"action":"track","userId":"u","event":"E"}'
FORMS = [
    "application/x-www-form-urlencoded",
    "application/x-www-form-urlencoded; charset=UTF-8",
    "multipart/form-data",
]


# --- PHP's [] ---------------------------------------------------------------------------------------------------------

EMPTY: dict[str, dict[str, Any]] = {
    "properties": {"type": "track", "userId": "u", "event": "E", "properties": []},
    "context": {"type": "track", "userId": "u", "event": "E", "context": []},
    "integrations": {"type": "track", "userId": "u", "event": "E", "integrations": []},
    "options of an integration": {
        "type": "track",
        "userId": "u",
        "event": "E",
        "integrations": {"Leanplum": []},
    },
    "traits": {"type": "identify", "userId": "u", "traits": []},
    "traits of the context": {
        "type": "identify",
        "userId": "u",
        "traits": [],
        "context": {"traits": []},
    },
    "parts of the context": {
        "type": "identify",
        "userId": "u",
        "anonymousId": "a",
        "context": {"device": [], "os": [], "app": [], "location": [], "page": [], "library": []},
    },
    "a page": {
        "type": "page",
        "userId": "u",
        "name": "N",
        "properties": [],
        "context": {"page": []},
    },
    "a screen": {"type": "screen", "userId": "u", "name": "N", "properties": []},
    "a group": {"type": "group", "userId": "u", "groupId": "g", "traits": []},
    "an alias": {
        "type": "alias",
        "userId": "u",
        "previousId": "p",
        "context": [],
        "integrations": [],
    },
}


@pytest.mark.parametrize("message", EMPTY.values(), ids=EMPTY.keys())
def test_an_empty_list_is_an_empty_object_of_segment_s(
    gateway: Talk, message: dict[str, Any]
) -> None:
    before = gateway.items()
    batch = {"batch": [message], "context": [], "integrations": []}
    for path, body in (("batch", batch), (message["type"], message)):
        answer = gateway.post(f"/segment/v1/{path}", body, key=None, headers=basic(gateway.key))
        assert (answer.status_code, answer.json()) == (200, {"success": True}), answer.text
    assert gateway.items() == before + 2
    with_objects = json.loads(json.dumps(message).replace("[]", "{}"))
    gateway.post(
        f"/segment/v1/{message['type']}", with_objects, key=None, headers=basic(gateway.key)
    )
    rows = gateway.rows("SELECT body FROM items ORDER BY seq DESC LIMIT 3")
    assert (
        len({orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS) for (body,) in rows})
        == 1
    )


def test_a_list_with_something_in_it_is_still_no_object(gateway: Talk) -> None:
    message = {"userId": "u", "event": "E", "properties": [1]}
    answer = gateway.post("/segment/v1/track", message, key=None, headers=basic(gateway.key))
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, "/properties")


# --- byte-order macs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_a_byte_order_mark_is_skipped(gateway: Talk, encoding: str) -> None:
    packed: Callable[[bytes], bytes] = gzip.compress if encoding == "gzip" else bytes
    headers = {"Content-Encoding": encoding}

    def sent(
        url: str, text: str, media: str = "application/json", **options: Any
    ) -> httpx.Response:
        given = {**headers, "Content-Type": media, **options.pop("headers", {})}
        return gateway.post(url, packed((BOM + text).encode()), headers=given, **options)

    assert sent("/v1/events", EVENT).status_code == 202
    assert sent("/v1/batch", f'{{"items":[{ITEM}]}}').json()["accepted"] == 1
    assert sent("/v1/batch", f"{ITEM}\n{BOM}{ITEM}\n", NDJSON).json()["accepted"] == 2
    assert sent("/v1/preview", ITEM).status_code == 200
    assert sent("/v1/users/u", '{"userAttributes":{"a":1}}', method="PATCH").status_code == 202
    assert sent("/v1/dead-letters/replay", '{"filter":{},"dryRun":true}').status_code == 200
    call = f'{{"appId":"app_tests","clientKey":"{gateway.key}","action":"track","userId":"u","event":"E"}}'
    assert sent("/api", call, key=None).json() == {"response": [{"success": True}]}
    assert sent("/segment/v1/track", EVENT, key=None, headers=basic(gateway.key)).json() == {
        "success": True
    }
    form = f"action=track&userId=u&event=E&appId=app_tests&clientKey={gateway.key}"
    assert sent("/api", form, key=None).json() == {"response": [{"success": True}]}


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_utf_16_is_refused_with_what_to_do(gateway: Talk, codec: str) -> None:
    body = (BOM + EVENT).encode(codec)
    assert "send it in UTF-8" in problem(gateway.event(body), 400, "malformed")["detail"]
    lines = gateway.batch((BOM + ITEM).encode(codec), headers={"Content-Type": NDJSON})
    assert "send it in UTF-8" in problem(lines, 400, "malformed")["detail"]
    for url in ("/api", "/segment/v1/track"):
        answer = gateway.post(url, body, key=None, headers=basic(gateway.key))
        assert (answer.status_code, "send it in UTF-8" in answer.text) == (400, True), answer.text


def test_configuration_may_begin_with_a_mark(
    tmp_path: Path, start: Callable[..., Talk], settings: Callable[..., Settings]
) -> None:
    apps, enrichment, plan = (
        tmp_path / "apps.toml",
        tmp_path / "enrichment.toml",
        tmp_path / "plan.yaml",
    )
    secret = tmp_path / "key"
    secret.write_text(BOM + "prod_secret\n", encoding="utf-8")
    apps.write_text(
        f'{BOM}[apps.shop]\napp_id = "app_shop"\nproduction_key = {{ file = "{secret}" }}\n',
        encoding="utf-8",
    )
    enrichment.write_text(f'{BOM}[currency]\ndefault = "SEK"\n', encoding="utf-8")
    plan.write_text(BOM + shop(), encoding="utf-8")
    given = {"leanplum_app_id": None, "leanplum_production_key": None, "gateway_apps_file": apps}
    (app,) = read_apps(settings(**given)).values()
    assert [key.get_secret_value() for key in app.keys.values()] == ["prod_secret"]
    talk = start(gateway_enrichment_file=enrichment, gateway_tracking_plan=plan, **given)
    answer = talk.post(
        "/v1/preview", {"action": "track", "userId": "u", "event": "E", "value": 1}
    ).json()
    assert answer["results"][0]["leanplum"]["currencyCode"] == "SEK"
    assert talk.get("/v1/tracking-plan").json()["loaded"]
    apps.write_text("[apps.shop]", encoding="utf-16")
    with pytest.raises(StartRefused, match="UTF-8"):
        read_apps(settings(**given))


# --- empty posts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media", [*FORMS, "text/plain;charset=UTF-8"])
def test_an_empty_post_with_another_media_type_is_an_empty_post(
    settings: Callable[..., Settings], media: str
) -> None:
    given = settings(**WIDE)
    assert given.gateway_bootstrap_key is not None
    headers = {
        "Authorization": f"Bearer {given.gateway_bootstrap_key.get_secret_value()}",
        "Content-Type": media,
    }
    with (
        served(given) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as client,
    ):
        for content in (b"", iter([b""])):  # with a length of nothing, and in chunks
            stopped = client.post("/v1/users/u/sessions/stop", content=content)
            assert stopped.status_code == 202, stopped.text
        assert client.put("/v1/users/u/block", content=b"").status_code == 202
        made = client.post(
            "/v1/keys",
            json={"name": "n", "scopes": ["sdk"]},
            headers={"Content-Type": "application/json"},
        )
        assert client.post(f"/v1/keys/{made.json()['id']}/rotate", content=b"").status_code == 200
        for content in (b"a=1", iter([b"a=", b"1"])):
            refused = client.post("/v1/users/u/sessions/stop", content=content)
            assert refused.status_code == 415, refused.text
        assert client.post("/v1/events", content=b"").status_code == 415


# --- a slash at the end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/", "/api-batch/"])
def test_leanplum_s_endpoint_with_a_slash_at_its_end_is_leanplum_s_endpoint(
    gateway: Talk, path: str
) -> None:
    call: dict[str, Any] = {
        "appId": "app_tests",
        "clientKey": gateway.key,
        "userId": "u",
        "event": "E",
    }
    call |= (
        {"action": "multi", "data": [{"action": "track", "userId": "u", "event": "E"}]}
        if "batch" in path
        else {}
    )
    good = gateway.post(path, {"action": "track", **call}, key=None)
    assert (good.status_code, good.json()) == (200, {"response": [{"success": True}]})
    for answer, status in (
        (gateway.post(path, {**call, "action": "track", "clientKey": "wrong"}, key=None), 403),
        (gateway.call("PUT", path, key=None), 405),
        (gateway.get(path, key=None), 403),
    ):
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.json()["response"][0]["success"] is False
    assert gateway.call("OPTIONS", path, key=None).status_code == 204


def test_segment_s_paths_may_end_in_a_slash(gateway: Talk) -> None:
    answer = gateway.post(
        "/segment/v1/track/", EVENT.encode(), key=None, headers=basic(gateway.key)
    )
    assert (answer.status_code, answer.json()) == (200, {"success": True})
