"""Text that a database can't store, at every endpoint: only its own entry is refused, and both
databases agree.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import orjson
import pytest

from app.settings import Settings
from tests.support.gateway import WIDE
from tests.support.http_server import served
from tests.support.segment import basic

JSON = {"Content-Type": "application/json"}
GOOD = '{"action":"track","userId":"good","event":"E"}'
BAD = {"NUL": r"a\u0000b", "a lone surrogate": r"\ud800b", "half of a pair": r"b\udc00"}
OF_ITEMS = {  # where the text stands in an item: the pointer that names it
    '{"action":"track","userId":"%s","event":"E"}': "/userId",
    '{"action":"track","deviceId":"%s","event":"E"}': "/deviceId",
    '{"action":"track","userId":"u","deviceId":"%s","event":"E"}': "/deviceId",
    '{"action":"track","userId":"u","event":"%s"}': "/event",
    '{"action":"advance","userId":"u","state":"%s"}': "/state",
    '{"action":"setUserAttributes","userId":"u","newUserId":"%s"}': "/newUserId",
}
OF_MESSAGES = {
    '{"type":"track","userId":"%s","event":"E"}': "/userId",
    '{"type":"track","anonymousId":"%s","event":"E"}': "/anonymousId",
    '{"type":"track","userId":"u","anonymousId":"%s","event":"E"}': "/anonymousId",
    '{"type":"track","userId":"u","event":"E","messageId":"%s"}': "/messageId",
    '{"type":"identify","userId":"%s"}': "/userId",
    '{"type":"identify","userId":"u","anonymousId":"%s"}': "/anonymousId",
    '{"type":"page","userId":"%s","name":"N"}': "/userId",
    '{"type":"group","userId":"%s","groupId":"g"}': "/userId",
    '{"type":"alias","userId":"%s","previousId":"p"}': "/userId",
    '{"type":"alias","userId":"u","previousId":"%s"}': "/previousId",
}
MENDED = (  # no id: storable as it is, or without what is wrong with it
    '{"type":"track","userId":"u","event":"%s"}',
    '{"type":"track","userId":"u","event":"E","properties":{"%s":1,"a":"%s","b":["%s"]}}',
    '{"type":"identify","userId":"u","traits":{"%s":1,"a":"%s","timezone":"%s"}}',
    '{"type":"group","userId":"u","groupId":"%s"}',
    '{"type":"screen","userId":"u","name":"%s","context":{"ip":"%s","userAgent":"%s"}}',
)
PASSED_ON = (
    '{"action":"track","userId":"u","event":"E","params":{"%s":"%s"},"info":"%s"}',
    '{"action":"track","userId":"u","event":"E","reqId":"%s","uuid":"%s"}',
    '{"action":"setUserAttributes","userId":"u","userAttributes":{"%s":"%s"}}',
)
READS = (
    "GET /v1/receipts/a%00b",
    "GET /v1/keys/a%00b",
    "DELETE /v1/keys/a%00b",
    "PATCH /v1/keys/a%00b",
    "POST /v1/keys/a%00b/rotate",
    "DELETE /v1/taxonomy/events/a%00b",
    "PATCH /v1/users/a%00b",
    "POST /v1/users/a%00b/states",
    "PATCH /v1/devices/a%00b",
    "POST /v1/users/a%00b/sessions",
    "GET /v1/users/a%00b/variables",
    "POST /v1/messages/%00/send",
    "POST /v1/apps/a%00b/check",
    "GET /v1/dead-letters?action=a%00b",
    "GET /v1/dead-letters?app=a%00b",
    "GET /v1/audit?userId=a%00b",
    "GET /v1/audit?deviceId=a%00b",
    "GET /v1/audit?keyId=a%00b",
    "GET /v1/audit?app=a%00b",
    "GET /v1/audit?action=a%00b",
    "GET /v1/audit?requestId=a%00b",
    "GET /v1/audit?resource=a%00b",
    "GET /v1/audit?userHash=a%00b",
    "GET /v1/audit?a%00b=1",
)


@contextmanager
def gateway(settings: Callable[..., Settings], database: str) -> Iterator[tuple[httpx.Client, str]]:
    """A gateway behind its real server, and its key."""
    given = settings(gateway_database_url=database, **WIDE)
    assert given.gateway_bootstrap_key is not None
    key = given.gateway_bootstrap_key.get_secret_value()
    with (
        served(given) as port,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}
        ) as client,
    ):
        yield client, key


def filled(template: str, text: str) -> str:
    return template.replace("%s", text)


def test_only_the_item_of_a_batch_is_refused(
    settings: Callable[..., Settings], database: str
) -> None:
    with gateway(settings, database) as (client, _):
        for text in BAD.values():
            for template, at in {**OF_ITEMS, filled(GOOD[:-1], "") + ',"id":"%s"}': "/id"}.items():
                item = filled(template, text)
                for media, body in {
                    "application/json": f'{{"items":[{GOOD},{item},{GOOD}]}}',
                    "application/x-ndjson": f"{GOOD}\n{item}\n{GOOD}\n",
                }.items():
                    answer = client.post("/v1/batch", content=body, headers={"Content-Type": media})
                    assert answer.status_code == 202, answer.text
                    results = answer.json()["results"]
                    assert [one["status"] for one in results] == [
                        "accepted",
                        "rejected",
                        "accepted",
                    ]
                    (error,) = results[1]["problem"]["errors"]
                    assert error["pointer"].endswith(at) and error["code"] == "characters", (
                        answer.text
                    )


def test_only_the_entry_of_an_sdk_is_refused(
    settings: Callable[..., Settings], database: str
) -> None:
    with gateway(settings, database) as (client, key):

        def sent(*entries: str) -> list[dict[str, Any]]:
            call = f'{{"appId":"app_tests","clientKey":"{key}","action":"multi","data":[{",".join(entries)}]}}'
            answer = client.post("/api", content=call)
            assert answer.status_code == 200, answer.text
            found: list[dict[str, Any]] = answer.json()["response"]
            return found

        for text in BAD.values():
            for template, at in OF_ITEMS.items():
                before, refused, after = sent(GOOD, filled(template, text), GOOD)
                assert before["success"] and after["success"]
                assert (
                    not refused["success"] and f"Refused: {at} " in refused["error"]["message"]
                ), refused
            for template in PASSED_ON:
                assert all(one["success"] for one in sent(GOOD, filled(template, text)))
        for name in ("userId", "event"):
            args = {
                "userId": "u",
                "event": "E",
                name: "a\0b",
                "action": "track",
                "appId": "app_tests",
            }
            for answer in (
                client.get("/api", params={**args, "clientKey": key}),
                client.post("/api", data={**args, "clientKey": key}),
                client.post("/api", content=orjson.dumps({**args, "clientKey": key})),
            ):
                assert (answer.status_code, answer.json()["response"][0]["success"]) == (400, False)
                assert f"/{name} must not contain a NUL" in answer.text


def test_only_the_message_of_segment_is_refused(
    settings: Callable[..., Settings], database: str
) -> None:
    with gateway(settings, database) as (client, key):
        headers = JSON | basic(key)
        for text in BAD.values():
            for template, at in OF_MESSAGES.items():
                message = filled(template, text)
                batch = f'{{"batch":[{{"type":"track","userId":"g","event":"E"}},{message}]}}'
                answer = client.post("/segment/v1/batch", content=batch, headers=headers)
                assert (answer.status_code, answer.json().get("accepted")) == (200, 1), answer.text
                (refused,) = answer.json()["rejected"]
                assert refused["index"] == 1
                assert [error["pointer"].endswith(at) for error in refused["errors"]] == [True], (
                    refused
                )
                kind = orjson.loads(template)["type"]
                alone = client.post(f"/segment/v1/{kind}", content=message, headers=headers)
                assert (alone.status_code, alone.json()["errors"][0]["pointer"]) == (400, at)
            for template in MENDED:
                batch = f'{{"batch":[{filled(template, text)}]}}'
                answer = client.post("/segment/v1/batch", content=batch, headers=headers)
                assert (answer.status_code, answer.json()) == (200, {"success": True}), answer.text


def test_a_parameter_that_no_database_can_look_for_is_refused(
    settings: Callable[..., Settings], database: str
) -> None:
    with gateway(settings, database) as (client, _):
        for read in READS:
            method, _, url = read.partition(" ")
            answer = client.request(method, url, content=b"{}", headers=JSON)
            assert answer.status_code == 422, (read, answer.text)
            assert answer.json()["type"] == "/problems/validation"
            unknown = client.request(
                method, url, content=b"{}", headers=JSON | {"Authorization": "Bearer x"}
            )
            assert unknown.status_code == 401, read


@pytest.mark.parametrize("url", ["/v1/dead-letters/replay", "/v1/dead-letters/discard", "/v1/keys"])
def test_an_operator_s_body_with_such_text_is_refused(
    settings: Callable[..., Settings], database: str, url: str
) -> None:
    bodies = ('{"ids":["%s"]}', '{"filter":{"action":"%s"}}')
    if url == "/v1/keys":
        bodies = ('{"name":"%s","scopes":["sdk"]}', '{"name":"n","scopes":["sdk"],"apps":["%s"]}')
    with gateway(settings, database) as (client, _):
        for body in bodies:
            for text in BAD.values():
                answer = client.post(url, content=filled(body, text), headers=JSON)
                assert answer.status_code == 422, answer.text
