"""An id of a user or device has one text, however it is written: order, locks and erasures go by
it.
"""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest

from app import ids
from tests.api.erasure_gateway import Gateway, gateway
from tests.support.gateway import make_settings
from tests.support.simulator import Leanplum, simulated
from tests.support.wait import until

EDGES = {
    "a space before": " 77",
    "a space after": "77 ",
    "spaces": "  77  ",
    "a tab": "\t77",
    "a tab after": "77\t",
    "a newline": "\n77",
    "a newline after": "77\n",
    "a return": "77\r\n",
    "no-break space": "\u00a077",
    "thin space": "77\u2009",
    "ideographic space": "\u300077\u3000",
    "zero-width space": "\u200b77",
    "byte order mark": "\ufeff77",
    "line separator": "77\u2028",
    "unit separator": "77\x1f",
    "next line": "\x8577",
    "NUL": "77\0",
    "NUL before": "\0 77",
}
NUMBERS = {
    "whole": "77",
    "with a point": "77.0",
    "with an exponent": "7.7e1",
    "another exponent": "770E-1",
}
NO_IDS = {"true": "true", "false": "false", "list": "[77]", "object": '{"id":77}'}
TOLD = {
    **{name: orjson.dumps(text).decode() for name, text in EDGES.items()},
    **NUMBERS,
    **NO_IDS,
}  # each as JSON

EVENT, LOGIN = '"event":"E"', '"userAttributes":{"a":1}'
# Where an id stands as JSON: path, type of the body, body with ID in it; what of the item it is.
PLACES: dict[str, tuple[str, str, str, str]] = {
    "an event's user": ("/v1/events", "json", '{"userId":ID,"event":"E"}', "userId"),
    "an event's device": ("/v1/events", "json", '{"deviceId":ID,"event":"E"}', "deviceId"),
    "a batch": ("/v1/batch", "json", '{"items":[{"action":"track","userId":ID,"event":"E"}]}', "userId"),
    "lines": ("/v1/batch", "x-ndjson", '{"action":"track","userId":ID,"event":"E"}', "userId"),
    "a batch's new id": (
        "/v1/batch", "json", '{"items":[{"action":"setUserAttributes","userId":"old","newUserId":ID}]}', "newUserId",
    ),
    "a batch's device": (
        "/v1/batch", "json", '{"items":[{"action":"track","userId":"old","deviceId":ID,"event":"E"}]}', "deviceId",
    ),
    "an SDK's user": ("/api", "json", '{KEYS,"action":"track","userId":ID,"event":"E"}', "userId"),
    "an SDK's device": ("/api", "json", '{KEYS,"action":"track","deviceId":ID,"event":"E"}', "deviceId"),
    "an SDK's batch": (
        "/api", "json", '{KEYS,"action":"multi","data":[{"action":"track","userId":ID,"event":"E"}]}', "userId",
    ),
    "an SDK's new id": (
        "/api", "json", '{KEYS,"action":"setUserAttributes","userId":"old","newUserId":ID}', "newUserId",
    ),
    "Segment's user": ("/segment/v1/track", "json", '{"userId":ID,"event":"E"}', "userId"),
    "Segment's anonymous": ("/segment/v1/track", "json", '{"anonymousId":ID,"event":"E"}', "deviceId"),
    "Segment's batch": ("/segment/v1/batch", "json", '{"batch":[{"type":"track","userId":ID,"event":"E"}]}', "userId"),
    "identify": ("/segment/v1/identify", "json", '{"userId":ID,"anonymousId":"old"}', "newUserId"),
    "alias": ("/segment/v1/alias", "json", '{"userId":ID,"previousId":"old"}', "newUserId"),
    "alias from": ("/segment/v1/alias", "json", '{"userId":"new","previousId":ID}', "userId"),
}  # fmt: skip


@pytest.fixture(scope="module")
def simulator() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def at(
    simulator: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Iterator[Gateway]:
    """A gateway that delivers nothing."""
    directory = tmp_path_factory.mktemp("ids")

    def settings(**given: Any) -> Any:
        return make_settings(directory, migrated, given)

    with gateway(settings, f"sqlite:///{directory / 'g.db'}", simulator, delivery=False) as found:
        yield found


def stored(at: Gateway, before: int) -> list[tuple[str, int, dict[str, Any]]]:
    """The items that came after a number: whom they are about, their lanes, and what Leanplum will
    get.
    """
    found = at.rows(f"SELECT subject, lane, body FROM items WHERE seq > {before} ORDER BY seq")
    return [(subject, lane, orjson.loads(body)) for subject, lane, body in found]


def last(at: Gateway) -> int:
    return int(at.rows("SELECT last FROM sequence")[0][0])


def said(at: Gateway, place: str, text: str) -> tuple[httpx.Response, str]:
    """The answer to a call with this JSON as an id, and the field that it is."""
    path, media, body, name = PLACES[place]
    body = body.replace("ID", text).replace("KEYS", f'"appId":"app_sandbox","clientKey":"{at.key}"')
    headers = {"Content-Type": f"application/{media}"}
    return at.call("POST", path, content=body.encode(), headers=headers), name


@pytest.mark.parametrize("place", PLACES)
def test_an_id_is_one_or_refused(at: Gateway, place: str) -> None:
    for form in TOLD:
        before, logins = last(at), at.rows("SELECT count(*) FROM logins")
        answer, name = said(at, place, TOLD[form])
        assert answer.status_code < 500, (form, answer.text)
        items = stored(at, before)
        if not items:
            assert answer.status_code in {200, 400, 422}, (form, answer.text)
            assert "rror" in answer.text, "it is told"
            assert at.rows("SELECT count(*) FROM logins") == logins
            continue
        ((subject, lane, body),) = items
        assert form not in NO_IDS or name not in body, (form, subject, body)
        assert str(body.get(name, 77)) == "77", (form, body)
        assert subject in {"u77", "d77", "uold", "dold", "unew"}, form
        assert lane == ids.lane("default", subject)


FOREIGN = [
    one for one in PLACES if "SDK" in one or "Segment" in one or one in {"identify", "alias"}
]


@pytest.mark.parametrize("place", FOREIGN)
def test_what_clients_send_is_taken(at: Gateway, place: str) -> None:
    for form in ("whole", "with a point", "a space before", "a tab after", "byte order mark"):
        before = last(at)
        answer, _ = said(at, place, TOLD[form])
        assert answer.status_code == 200, (form, answer.text)
        assert len(stored(at, before)) == 1, form


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/v1/users/ID", {"userAttributes": {"a": 1}}),
        ("PATCH", "/v1/users/ID", {"userId": 77, "userAttributes": {"a": 1}}),
        ("PATCH", "/v1/users/ID", {"userId": " 77", "userAttributes": {"a": 1}}),
        ("PATCH", "/v1/devices/ID", {"appVersion": "1"}),
        ("POST", "/v1/users/ID/states", {"state": "S"}),
    ],
)
def test_an_id_in_the_path_is_one_or_refused(
    at: Gateway, method: str, path: str, body: dict[str, Any]
) -> None:
    for text in EDGES.values():
        before = last(at)
        answer = at.call(method, path.replace("ID", quote(text)), body)
        items = stored(at, before)
        assert answer.status_code == (422 if "\0" in text else 202), (text, answer.text)
        assert {subject for subject, _, _ in items} <= {"u77", "d77"}
        assert answer.json().get("userId", answer.json().get("deviceId", "77")) == "77"


@pytest.mark.parametrize("query", ["userId=+77", "userId=77%09", "userId=%E3%80%8077", "userId=77"])
def test_an_id_in_an_sdk_s_query_is_one(at: Gateway, query: str) -> None:
    before = last(at)
    answer = at.call(
        "GET", f"/api?appId=app_sandbox&clientKey={at.key}&action=track&event=E&{query}"
    )
    assert answer.status_code == 200
    assert [(subject, body["userId"]) for subject, _, body in stored(at, before)] == [("u77", "77")]


@pytest.mark.parametrize("blank", ["", " ", "\t", "\u3000", "\u200b"])
def test_a_blank_id_is_none(at: Gateway, blank: str) -> None:
    before = last(at)
    refused = [
        at.call("POST", "/v1/events", {"userId": blank, "event": "E"}),
        at.call("PATCH", f"/v1/users/{quote(blank)}", {"userAttributes": {"a": 1}}),
        at.sdk(action="track", event="E", userId=blank),
        at.segment("track", event="E", userId=blank),
    ]
    assert all(answer.status_code in {400, 404, 405, 422} for answer in refused), [
        one.text for one in refused
    ]
    assert stored(at, before) == []
    assert at.sdk(action="track", event="E", userId=blank, deviceId="d").status_code == 200
    assert [subject for subject, _, _ in stored(at, before)] == ["dd"]


def test_what_is_inside_an_id_and_text_that_looks_like_a_number_stay(at: Gateway) -> None:
    before = last(at)
    names = ["7 7", "7\t7", "77.0", "7.7e1", "077", "+77", "\uff17\uff17", "a\u00a0b", "True"]
    for name in names:
        assert at.call("POST", "/v1/events", {"userId": name, "event": "E"}).status_code == 202
        assert at.sdk(action="track", event="E", userId=name).status_code == 200
    assert [subject for subject, _, _ in stored(at, before)] == [
        f"u{name}" for name in names for _ in range(2)
    ]


def test_an_sdk_s_whole_numbers_reach_leanplum_as_they_came(at: Gateway) -> None:
    before = last(at)
    at.sdk(action="track", event="E", userId=77)
    ((_, _, body),) = stored(at, before)
    assert body["userId"] == 77


USERS = [place for place, (_, _, _, name) in PLACES.items() if name != "deviceId"]


def test_whoever_is_erased_under_one_form_is_erased_under_all(
    settings: Callable[..., Any], database: str, simulator: Leanplum
) -> None:
    simulator.forget()
    with gateway(settings, database, simulator) as at:
        for _ in range(2):
            at.sdk(action="track", event="E", userId=77.0)
        until(lambda: not at.rows("SELECT 1 FROM items WHERE settled_at IS NULL"))
        assert at.erase("%2077%09", wait=10)["erased"]["receipts"] == 2
        for text in ("77", '"77"', "77.0", '" 77"', '"77\\t"', "7.7e1"):
            for place in USERS:
                said(at, place, text)
        assert simulator.user("77").get("error")
        users = [
            str(one.get("newUserId", one.get("userId"))).strip() for one in simulator.arrived()
        ]
        assert users.count("77") == 3, "two events and the deletion"
        records = at.call("GET", "/v1/audit?userId=%2077").json()["records"]
        assert len(records) == len(at.call("GET", "/v1/audit?userId=77").json()["records"]) > 0
