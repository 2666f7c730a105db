"""Where a fault is: a pointer into the body as it was sent, or the name of a header or a
parameter.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.errors import Invalid
from app.http.request import parse_idempotency_key as key_of
from tests.support.gateway import NDJSON, WIDE, Talk, make_settings, problem, running
from tests.support.segment import basic
from tests.support.tracking_plans import shop

DEEP: dict[str, Any] = {"userId": "u", "event": "E"}
BAD = {"x": [1]}  # no value of a param


def places(found: dict[str, Any]) -> list[dict[str, str]]:
    """Where the faults of a problem are."""
    return [
        {name: text for name, text in one.items() if name not in {"detail", "code"}}
        for one in found["errors"]
    ]


def refused(answer: Any) -> list[dict[str, str]]:
    return places(problem(answer, 422, "validation"))


# --- the body ---------------------------------------------------------------------------------------------------------

SENT = {  # params as they are sent: the pointer to what is wrong in them
    '{"a":{"b":[1]}}': "/params/a/b",
    '{"a":{"b":{"c":[1]}}}': "/params/a/b/c",
    '{"a.b":[1]}': "/params/a.b",
    '{"a":{"b.c":[1]}}': "/params/a/b.c",
    '{"a.b":{"c":[1]}}': "/params/a.b/c",
    '{"a":{"x":1},"a.b":[1]}': "/params/a.b",
    '{"a":{"b":1},"a.b":{"c":[1]}}': "/params/a.b/c",
    '{"a/b":{"c~d":[1]}}': "/params/a~1b/c~0d",
    '{"a":{"":[1]}}': "/params/a/",
    '{"ä":{"ö":[1]}}': "/params/ä/ö",
    '{"a":{"b|c":1}}': "/params/a/b|c",
    '{"a":{"b":9223372036854775808}}': "/params/a/b",
}


@pytest.mark.parametrize(("params", "pointer"), SENT.items())
def test_a_pointer_leads_into_what_was_sent(gateway: Talk, params: str, pointer: str) -> None:
    item = f'{{"userId":"u","event":"E","params":{params}}}'
    assert refused(gateway.event(item.encode())) == [{"pointer": pointer}]
    typed = f'{{"action":"track",{item[1:]}'
    good = '{"action":"track","userId":"g","event":"E"}'
    batch = gateway.batch(f'{{"items":[{good},{typed}]}}'.encode())
    assert places(batch.json()["results"][1]["problem"]) == [{"pointer": f"/items/1{pointer}"}]
    lines = gateway.batch(f"{good}\n\n{typed}".encode(), headers={"Content-Type": NDJSON})
    (_, found) = lines.json()["results"]
    assert (found["index"], places(found["problem"])) == (1, [{"pointer": pointer}])
    preview = gateway.post("/v1/preview", f'{{"items":[{good},{typed}]}}'.encode())
    assert places(preview.json()["results"][1]["problem"]) == [{"pointer": f"/items/1{pointer}"}]


def test_attributes_and_lists_in_them_too(gateway: Talk) -> None:
    body = {"userAttributes": {"a": {"b": [1, {"c": 1}]}, "d": {"e": 2**63}}}
    answer = gateway.post("/v1/users/u", orjson.dumps(body), method="PATCH")
    assert refused(answer) == [
        {"pointer": "/userAttributes/a/b/1"},
        {"pointer": "/userAttributes/d/e"},
    ]


RENAMES = """
[renames.track]
"params.colour" = "params.color"
"params.shop.id" = "params.shop_id"
"info" = "params.note"
[renames.setUserAttributes]
"userAttributes.mail" = "userAttributes.email"
"""


def test_what_enrichment_renamed_is_where_it_was_sent(
    start: Callable[..., Talk], tmp_path: Path
) -> None:
    file = tmp_path / "enrichment.toml"
    file.write_text(RENAMES)
    talk = start(gateway_enrichment_file=file)
    assert refused(talk.event({**DEEP, "params": {"colour": [1]}})) == [
        {"pointer": "/params/colour"}
    ]
    assert refused(talk.event({**DEEP, "params": {"color": [1]}})) == [{"pointer": "/params/color"}]
    assert refused(talk.event({**DEEP, "params": {"shop": {"id": [1]}}})) == [
        {"pointer": "/params/shop/id"}
    ]
    assert refused(talk.event({**DEEP, "info": [1]})) == [{"pointer": "/info"}]
    answer = talk.post("/v1/users/u", {"userAttributes": {"mail": [[1]]}}, method="PATCH")
    assert refused(answer) == [{"pointer": "/userAttributes/mail/0"}]
    session = talk.post("/v1/users/u/sessions", {"userAttributes": {"a": {"b": [[1]]}}})
    assert refused(session) == [{"pointer": "/userAttributes/a/b/0"}]


NESTED = {
    "params": {"properties": {"cart.size": {"type": "integer"}, "cart.sku": {"type": "string"}}}
}


@pytest.mark.parametrize("mode", ["enforce", "warn"])
def test_what_breaks_the_plan_is_where_it_was_sent(
    start: Callable[..., Talk], tmp_path: Path, mode: str
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(shop(events={"Cart": {"mode": mode, **NESTED}}))
    talk = start(gateway_tracking_plan=plan)
    item = {"userId": "u", "event": "Cart", "params": {"cart": {"size": "big", "sku": 7}}}
    message = {"userId": "u", "event": "Cart", "properties": {"cart": {"size": "big", "sku": 7}}}
    answer = talk.event(item)
    sent = talk.post(
        "/segment/v1/batch",
        {"batch": [{"type": "track", **message}]},
        key=None,
        headers=basic(talk.key),
    )
    if mode == "enforce":
        assert refused(answer) == [
            {"pointer": "/params/cart/size"},
            {"pointer": "/params/cart/sku"},
        ]
        pointers = [one["pointer"] for one in sent.json()["rejected"][0]["errors"]]
        assert pointers == ["/batch/0/properties/cart/size", "/batch/0/properties/cart/sku"]
        return
    assert places({"errors": answer.json()["violations"]}) == [
        {"pointer": "/params/cart/size"},
        {"pointer": "/params/cart/sku"},
    ]
    ((notes,),) = talk.rows("SELECT notes FROM items ORDER BY seq DESC LIMIT 1")
    told = [one["pointer"] for one in orjson.loads(notes)["violations"]]
    assert told == ["/properties/cart/size", "/properties/cart/sku"]


OF_SEGMENT: dict[str, tuple[dict[str, Any], str]] = {
    "a user id": ({"type": "track", "userId": "a'b", "event": "E"}, "/userId"),
    "a property": ({"type": "track", "userId": "u", "event": "E", "properties": []}, ""),
    "no event": ({"type": "track", "userId": "u"}, "/event"),
    "properties": (
        {"type": "track", "userId": "u", "event": "E", "properties": "p"},
        "/properties",
    ),
    "traits": ({"type": "identify", "userId": "u", "traits": 7}, "/traits"),
    "traits of the context": (
        {"type": "identify", "userId": "u", "context": {"traits": 7}},
        "/context/traits",
    ),
    "a page": ({"type": "page", "userId": "u", "context": {"page": 7}}, "/context/page"),
    "a time": ({"type": "track", "userId": "u", "event": "E", "timestamp": "soon"}, "/timestamp"),
    "its original time": (
        {"type": "track", "userId": "u", "event": "E", "originalTimestamp": "x"},
        "/originalTimestamp",
    ),
    "a known user": ({"type": "identify", "userId": "a'b", "anonymousId": "x"}, "/userId"),
    "a type": ({"type": "tracks", "userId": "u"}, "/type"),
    "a group": ({"type": "group", "userId": "u"}, "/groupId"),
}


@pytest.mark.parametrize(("message", "pointer"), OF_SEGMENT.values(), ids=OF_SEGMENT.keys())
def test_a_pointer_leads_into_segment_s_batch(
    gateway: Talk, message: dict[str, Any], pointer: str
) -> None:
    batch = {"batch": [{"type": "track", "userId": "g", "event": "E"}, message]}
    found = gateway.post("/segment/v1/batch", batch, key=None, headers=basic(gateway.key)).json()
    if not pointer:
        assert found == {"success": True}
        return
    assert places(found["rejected"][0]) == [{"pointer": f"/batch/1{pointer}"}]


def test_what_a_batch_says_for_all_is_where_it_stands(gateway: Talk) -> None:
    batch = {"batch": [{"type": "track", "userId": "g", "event": "E"}], "context": "none"}
    found = gateway.post("/segment/v1/batch", batch, key=None, headers=basic(gateway.key)).json()
    assert places(found["rejected"][0]) == [{"pointer": "/context"}]


# --- headers and parameters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["spaces are none", '"a b"', "x" * 129, '"' + "x" * 129 + '"', '"open', '""', '"a"b"']
)
def test_a_fault_of_the_header_is_one_of_the_header(gateway: Talk, key: str) -> None:
    assert refused(gateway.event(headers={"Idempotency-Key": key})) == [
        {"header": "Idempotency-Key"}
    ]


def test_a_header_that_contradicts_the_body_is_a_fault_there(gateway: Talk) -> None:
    answer = gateway.event({**DEEP, "id": "one"}, headers={"Idempotency-Key": "two"})
    assert refused(answer) == [{"pointer": "/id"}]


OF_ADDRESSES = {
    "PATCH /v1/users/a'b": "userId",
    "PATCH /v1/users/00000000-0000-0000-0000-000000000000": "userId",
    "PATCH /v1/devices/a,b": "deviceId",
    "POST /v1/messages/seven/send": "messageId",
    "POST /v1/users/a'b/sessions": "userId",
    "POST /v1/users/a'b/sessions/stop": "userId",
    "GET /v1/users/a'b/variables": "userId",
    "GET /v1/users/u/variables?nonsense=1": "nonsense",
    "GET /v1/users/u/variables?userId=other": "userId",
    "POST /v1/users/u/sessions?devMode=maybe": "devMode",
    "GET /v1/messages?recent=maybe": "recent",
    "GET /v1/messages/seven": "id",
    "DELETE /v1/users/u?fullErasure=maybe": "fullErasure",
    "GET /v1/dead-letters?limit=none": "limit",
    "GET /v1/dead-letters?status=lost": "status",
    "GET /v1/audit?nonsense=1": "nonsense",
    "GET /v1/audit?limit=0": "limit",
    "GET /v1/audit/x/proof": "recordId",
    "GET /v1/audit/consistency?from=1": "to",
    "GET /v1/audit/consistency?from=2&to=1": "from",
    "DELETE /v1/taxonomy/fruit/apple": "kind",
    "GET /v1/receipts/a%00b": "id",
    "GET /v1/audit?app=%00": "app",
}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Any:
    """A gateway that has every kind of Leanplum's keys."""
    directory = tmp_path_factory.mktemp("keyed")
    kinds = ("development", "data_export", "content_read_only")
    given = {**WIDE, **{f"leanplum_{kind}_key": f"{kind}_secret" for kind in kinds}}
    with running(make_settings(directory, migrated, given), directory / "g.db") as talk:
        yield talk


BODIES: dict[str, Any] = {
    "PATCH /v1/users": {"userAttributes": {"a": 1}},
    "PATCH /v1/devices": {"deviceModel": "M"},
    "POST /v1/messages": {"userId": "u"},
}


@pytest.mark.parametrize(("call", "name"), OF_ADDRESSES.items())
def test_a_fault_of_the_address_names_the_parameter(keyed: Talk, call: str, name: str) -> None:
    method, _, url = call.partition(" ")
    required: Any = next((body for part, body in BODIES.items() if call.startswith(part)), {})
    options: dict[str, Any] = (
        {}
        if method == "GET"
        else {"content": orjson.dumps(required), "headers": {"Content-Type": "application/json"}}
    )
    answer = keyed.call(method, url, **options)
    assert refused(answer) == [{"parameter": name}], answer.text
    assert answer.json()["detail"] == "1 error in the URL; see errors."


def test_a_body_beside_it_keeps_its_pointers(gateway: Talk) -> None:
    answer = gateway.post(
        "/v1/users/a'b", {"userAttributes": {"x": {"y": [[1]]}}, "nonsense": 1}, method="PATCH"
    )
    found = refused(answer)
    assert {"parameter": "userId"} in found
    assert {"pointer": "/userAttributes/x/y/0"} in found
    assert {"pointer": "/nonsense"} in found
    assert answer.json()["detail"] == "3 errors in the request; see errors."


# --- the quoted key ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        (' "abc" ', "abc"),
        ('"abc";a=b', "abc"),
        (
            r'"a\"b\\c"',
            r"a\"b\\c".replace("\\\\", "\x00").replace('\\"', '"').replace("\x00", "\\"),
        ),
        ('""', ""),
        ('a"b', 'a"b'),
    ],
)
def test_a_key_in_quotes_is_the_key_in_them(header: str, key: str) -> None:
    assert key_of(header) == key


@pytest.mark.parametrize("header", ['"', '"abc', '"a"b"', r'"a\b"', '"a" x', '"ä"'])
def test_what_begins_with_a_quote_and_is_no_string_is_refused(header: str) -> None:
    with pytest.raises(Invalid):
        key_of(header)


def test_the_quoted_key_and_the_plain_one_are_the_same_id(gateway: Talk) -> None:
    first = gateway.event(headers={"Idempotency-Key": '"order-7"'})
    again = gateway.event(headers={"Idempotency-Key": "order-7"})
    in_body = gateway.event({"userId": "u1", "event": "Purchase", "id": "order-7"})
    assert (first.status_code, first.json()["id"]) == (202, "order-7")
    assert [(one.status_code, one.json()["duplicate"]) for one in (again, in_body)] == [
        (200, True),
        (200, True),
    ]


def test_a_rotation_knows_its_key_with_and_without_quotes(start: Callable[..., Talk]) -> None:
    talk = start()
    made = talk.post("/v1/keys", {"name": "n", "scopes": ["sdk"]}).json()
    url = f"/v1/keys/{made['id']}/rotate"
    first = talk.post(url, b"", headers={"Idempotency-Key": '"once"'}).json()
    again = talk.post(url, b"", headers={"Idempotency-Key": "once"}).json()
    assert first["key"] == again["key"] and first["lastFour"] == again["lastFour"]
    answer = talk.post(url, b"", headers={"Idempotency-Key": '"' + "x" * 256 + '"'})
    assert refused(answer) == [{"header": "Idempotency-Key"}]


def test_the_documentation_has_the_members(gateway: Talk) -> None:
    shape = gateway.get("/openapi.json").json()["components"]["schemas"]["Fault"]
    assert {"pointer", "header", "parameter"} <= shape["properties"].keys()
    assert sorted(shape["required"]) == ["code", "detail"]
