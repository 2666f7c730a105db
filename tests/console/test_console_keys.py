"""The console's pages about keys."""

import re
import time
from collections.abc import Callable

import httpx
import pytest

from app.model import Scope
from tests.console.visitor import ConsoleVisitor, signed_in, text_of
from tests.support.gateway import Talk

KEY = re.compile(r'<code id="key">(lpgw_\w{36})</code>')
ID = re.compile(r"key_[0-9a-f]{16}")
MADE_ID = re.compile(r"<dd><code>(key_[0-9a-f]{16})</code>")
NEW = {"name": "shop", "scopes": ["events:write", "users:write"], "apps": ["*"]}


def created(visitor: ConsoleVisitor, **fields: object) -> tuple[str, str, httpx.Response]:
    """Create a key; return its id, the key, and the page."""
    page = visitor.post("/keys/create", NEW | fields)
    assert page.status_code == 200, text_of(page)
    key, key_id = KEY.search(page.text), MADE_ID.search(page.text)
    assert key
    assert key_id
    return key_id[1], key[1], page


def test_a_new_key_is_shown_once_works_and_is_listed(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    key_id, key, page = created(visitor, name="shop <b>backend</b>", rate="50", burst="70")
    assert gateway.event(key=key).status_code == 202
    listed, shown = visitor.get("/keys").text, visitor.get(f"/keys/{key_id}").text
    assert key not in listed + shown
    assert f"…{key[-4:]}" in listed
    assert "shop &lt;b&gt;backend&lt;/b&gt;" in listed
    assert "shop &lt;b&gt;backend&lt;/b&gt;" in shown
    assert "<b>backend" not in listed + shown + page.text
    document = gateway.get(f"/v1/keys/{key_id}").json()
    assert document["scopes"] == ["events:write", "users:write"]
    assert (document["apps"], document["ratePerSecond"], document["rateBurst"]) == (None, 50, 70)
    assert document["expiresAt"] is None


def test_the_expiry_of_a_form_is_in_utc(gateway: Talk) -> None:
    key_id, *_ = created(signed_in(gateway), expires="2100-01-31T12:00")
    assert gateway.get(f"/v1/keys/{key_id}").json()["expiresAt"] == "2100-01-31T12:00:00.000Z"


def test_creating_a_key_is_audited_as_the_visitor_s_act(gateway: Talk) -> None:
    own_id, own = gateway.create_key(Scope.CONSOLE_READ, Scope.KEYS_MANAGE)
    key_id, _, page = created(signed_in(gateway, own))
    (record,) = gateway.audit(page.headers["x-request-id"])
    assert record["actor"]["user"]["uid"] == own_id
    assert record["api"]["operation"] == "POST /console/keys/create"
    assert record["resources"] == [{"uid": key_id}]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"apps": []}, "apps"),
        ({"apps": ["another"]}, "apps"),
        ({"expires": "yesterday"}, "expires"),
        ({"expires": "2020-01-01T00:00"}, "expires"),
        ({"expires": "6000-01-01T00:00"}, "expires"),
        ({"expires": "9999-12-31T23:59-12:00"}, "expires"),
        ({"rate": "0"}, "rate"),
        ({"rate": "-1"}, "rate"),
        ({"rate": "many"}, "rate"),
        ({"burst": "9" * 13}, "burst"),
    ],
)
def test_a_form_with_a_fault_creates_nothing_and_comes_back_with_it(
    gateway: Talk, fields: dict[str, object], name: str
) -> None:
    visitor = signed_in(gateway)
    before = gateway.rows("SELECT count(*) FROM caller_keys")
    page = visitor.post("/keys/create", NEW | {"name": "kept"} | fields)
    assert page.status_code == 422
    assert f'id="{name}-fault"' in page.text
    assert "name" in fields or 'value="kept"' in page.text
    assert gateway.rows("SELECT count(*) FROM caller_keys") == before


def test_a_rotated_key_is_shown_once_also_if_the_form_is_sent_again(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    key_id, old, _ = created(visitor)
    fields = {"hours": "1", "once": "a" * 32}
    first = KEY.findall(visitor.post(f"/keys/{key_id}/rotate", fields).text)
    assert KEY.findall(visitor.post(f"/keys/{key_id}/rotate", fields).text) == first
    assert len(gateway.get(f"/v1/keys/{key_id}").json()["secrets"]) == 2
    assert [gateway.event(key=key).status_code for key in (old, *first)] == [202, 202]
    assert "Old key" in visitor.get(f"/keys/{key_id}").text
    (now,) = KEY.findall(visitor.post(f"/keys/{key_id}/rotate", {"hours": "0"}).text)
    assert [gateway.event(key=key).status_code for key in (old, *first, now)] == [401, 401, 202]


@pytest.mark.parametrize("hours", ["-1", "721", "1.5", "soon"])
def test_an_overlap_out_of_range_rotates_nothing(gateway: Talk, hours: str) -> None:
    visitor = signed_in(gateway)
    key_id, *_ = created(visitor)
    assert visitor.post(f"/keys/{key_id}/rotate", {"hours": hours}).status_code == 422
    assert len(gateway.get(f"/v1/keys/{key_id}").json()["secrets"]) == 1


def test_a_revoked_key_does_not_work_any_more_and_stays_listed(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    key_id, key, _ = created(visitor)
    answer = visitor.post(f"/keys/{key_id}/revoke")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/console/keys/{key_id}")
    assert gateway.event(key=key).status_code == 401
    page = visitor.get(f"/keys/{key_id}")
    assert "revoked" in page.text
    assert "/revoke" not in page.text
    (record,) = gateway.audit(answer.headers["x-request-id"])
    assert record["api"]["operation"] == "POST /console/keys/{key_id}/revoke"
    assert visitor.post(f"/keys/{key_id}/revoke").status_code == 404


def test_what_is_left_of_a_limit_is_shown(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    key_id, key, _ = created(visitor, rate="1", burst="1000")
    gateway.batch([{"action": "track", "userId": "u1", "event": "E"}] * 900, key=key)
    text = text_of(visitor.get(f"/keys/{key_id}"))
    left = re.search(r"Left now (\d+)", text)
    assert left
    assert 95 <= int(left[1]) <= 130
    assert "this process only" in text


def test_a_key_for_some_apps_sees_makes_and_changes_only_keys_for_these(
    start: Callable[..., Talk], two_apps: dict[str, object]
) -> None:
    talk = start(**two_apps)
    wide_id, _ = talk.create_key(Scope.EVENTS_WRITE)
    other_id, _ = talk.create_key(Scope.EVENTS_WRITE, apps=["two"])
    _, own = talk.create_key(Scope.CONSOLE_READ, Scope.KEYS_MANAGE, apps=["one"])
    visitor = signed_in(talk, own)
    key_id, *_ = created(visitor, apps=["one"])
    page = visitor.get("/keys").text
    assert key_id in page
    for hidden in (wide_id, other_id):
        assert hidden not in page
        assert visitor.get(f"/keys/{hidden}").status_code == 404
        for operation in ("rotate", "revoke"):
            assert visitor.post(f"/keys/{hidden}/{operation}").status_code == 404
    assert 'value="*"' not in visitor.get("/keys/new").text
    for apps in (["*"], ["two"], ["one", "two"]):
        assert visitor.post("/keys/create", NEW | {"apps": apps}).status_code == 422


def test_a_long_list_has_pages(start: Callable[..., Talk]) -> None:
    talk = start(gateway_rate_burst=10**6)
    for number in range(105):
        talk.app.services.keys.create(f"key {number}", [Scope.SDK], None, int(time.time() * 1000))
    visitor = signed_in(talk)
    first = visitor.get("/keys").text
    following = re.search(r'href="/console(/keys\?after=[^"]+)" rel="next"', first)
    assert following
    second = visitor.get(following[1]).text
    assert len(set(ID.findall(first))) == 100
    assert len(set(ID.findall(second)) - set(ID.findall(first))) == 6
    assert 'rel="next"' not in second


@pytest.mark.parametrize("after", ["x", "1", "1-key_", "9" * 30, "1-key_0123456789abcdeg"])
def test_a_position_that_no_page_gave_is_refused(gateway: Talk, after: str) -> None:
    assert signed_in(gateway).get(f"/keys?after={after}").status_code == 422


def test_a_nul_character_is_refused_in_forms_and_in_urls(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    assert visitor.post("/keys/create", NEW | {"name": "a\0b"}).status_code == 400
    assert visitor.get("/keys/key_%00").status_code == 422
    assert visitor.get("/keys?after=%00").status_code == 422
