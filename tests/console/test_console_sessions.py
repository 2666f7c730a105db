"""Sessions of the console: signing in and out, cookies, expiry, and the end of their keys."""

import hashlib
import re
import time
from collections.abc import Callable

import pytest

from app.callers import key_format
from app.console.access import COOKIE
from app.model import Scope
from tests.console.visitor import ConsoleVisitor, signed_in
from tests.support.gateway import CANARY, Talk
from tests.support.wait import until

_BODY = f"lpgw_{'0' * 30}"
UNKNOWN = _BODY + key_format.checksum(_BODY)


def test_a_key_signs_in_and_the_overview_opens(gateway: Talk) -> None:
    visitor = ConsoleVisitor(gateway)
    answer = visitor.sign_in()
    assert (answer.status_code, answer.headers["location"]) == (303, "/console")
    page = visitor.get()
    assert page.status_code == 200
    assert "<h1>Overview</h1>" in page.text


def test_without_a_session_every_page_leads_to_the_sign_in_page(gateway: Talk) -> None:
    for cookie in ("", "unknown", "a" * 5_000):
        visitor = ConsoleVisitor(gateway)
        visitor.cookie = cookie
        answer = visitor.get()
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")
    assert "Caller key" in ConsoleVisitor(gateway).get("/sign-in").text


def test_the_cookie_is_for_this_console_alone_and_not_for_scripts(gateway: Talk) -> None:
    (header,) = ConsoleVisitor(gateway).sign_in().headers.get_list("set-cookie")
    name, _, attributes = header.partition("; ")
    assert re.fullmatch(rf"{COOKIE}=[A-Za-z0-9_-]{{43}}", name)
    assert attributes == "Path=/console; HttpOnly; Secure; SameSite=Strict"


def test_under_a_path_prefix_the_cookie_and_links_have_it(start: Callable[..., Talk]) -> None:
    talk = start(gateway_root_path="/gate")
    visitor = ConsoleVisitor(talk, prefix="/gate")
    answer = visitor.sign_in()
    assert answer.headers["location"] == "/gate/console"
    assert "Path=/gate/console;" in answer.headers["set-cookie"]
    page = visitor.get()
    assert 'action="/gate/console/sign-out"' in page.text
    assert 'href="/gate/assets/' in page.text


def test_the_database_has_only_a_hash_of_the_session(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    stored = [bytes(row[0]) for row in gateway.rows("SELECT hash FROM console_sessions")]
    assert hashlib.sha256(visitor.cookie.encode()).digest() in stored
    assert visitor.cookie.encode() not in gateway.path.read_bytes()


def test_each_sign_in_begins_a_new_session_whatever_cookie_came(gateway: Talk) -> None:
    visitor = ConsoleVisitor(gateway)
    visitor.cookie = "chosen-by-an-attacker"
    visitor.sign_in()
    first = visitor.cookie
    assert first != "chosen-by-an-attacker"
    visitor.sign_in()
    assert visitor.cookie != first
    fixed = ConsoleVisitor(gateway)
    fixed.cookie = "chosen-by-an-attacker"
    assert fixed.get().status_code == 303


def test_signing_in_again_ends_the_session_before_on_the_server(gateway: Talk) -> None:
    visitor, elsewhere = signed_in(gateway), signed_in(gateway)
    before = visitor.cookie
    visitor.sign_in()
    old = ConsoleVisitor(gateway)
    old.cookie = before
    assert old.get().status_code == 303
    assert visitor.get().status_code == elsewhere.get().status_code == 200


def test_a_refused_sign_in_leaves_the_session_as_it_is(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    assert visitor.sign_in(UNKNOWN).status_code == 401
    assert visitor.get().status_code == 200


def test_signing_out_ends_the_session_on_the_server(gateway: Talk) -> None:
    visitor = signed_in(gateway)
    cookie = visitor.cookie
    answer = visitor.post("/sign-out")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    copied = ConsoleVisitor(gateway)
    copied.cookie = cookie
    assert copied.get().headers["location"] == "/console/sign-in"


def test_a_session_ends_within_a_second_of_its_key_s_revocation(gateway: Talk) -> None:
    key_id, key = gateway.create_key(Scope.CONSOLE_READ)
    visitor = signed_in(gateway, key)
    gateway.app.services.keys.revoke(key_id, int(time.time() * 1000))  # as another process does
    until(lambda: visitor.get().status_code == 303, 1.0)


def test_a_session_ends_when_its_key_loses_the_scope(gateway: Talk) -> None:
    key_id, key = gateway.create_key(Scope.CONSOLE_READ)
    visitor = signed_in(gateway, key)
    gateway.post(f"/v1/keys/{key_id}", {"scopes": ["receipts:read"]}, method="PATCH")
    assert visitor.get().status_code == 303


def test_a_session_ends_with_the_overlap_of_a_rotated_key(gateway: Talk) -> None:
    key_id, key = gateway.create_key(Scope.CONSOLE_READ)
    visitor = signed_in(gateway, key)
    gateway.post(f"/v1/keys/{key_id}/rotate", {"overlapSeconds": 0})
    assert visitor.get().status_code == 303


def test_a_session_ends_when_its_key_expires(gateway: Talk) -> None:
    key_id, key = gateway.create_key(Scope.CONSOLE_READ)
    visitor = signed_in(gateway, key)
    gateway.post(f"/v1/keys/{key_id}", {"expiresAt": time.time() + 0.3}, method="PATCH")
    until(lambda: visitor.get().status_code == 303, 1.3)


def test_a_session_ends_without_use_and_at_its_longest(start: Callable[..., Talk]) -> None:
    talk = start(gateway_console_idle_seconds=0.6, gateway_console_session_seconds=1.5)
    idle, used = signed_in(talk), signed_in(talk)
    began = time.monotonic()
    ended = {"idle": 0.0}
    while used.get().status_code == 200:
        time.sleep(0.1)
    ended["used"] = time.monotonic() - began
    assert ended["used"] > 1.0
    assert idle.get().status_code == 303
    talk.do(talk.app.services.sessions.sweep)
    assert talk.rows("SELECT count(*) FROM console_sessions") == [(0,)]


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [
        ("", 401, "Enter a caller key"),
        (CANARY, 401, "mistyped"),
        (UNKNOWN, 401, "unknown, revoked or expired"),
    ],
)
def test_a_key_that_is_not_valid_does_not_sign_in(
    gateway: Talk, key: str, status: int, words: str
) -> None:
    visitor = ConsoleVisitor(gateway)
    answer = visitor.sign_in(key)
    assert answer.status_code == status
    assert words in answer.text
    assert not key or key not in answer.text
    assert visitor.cookie == ""


def test_a_key_without_the_scope_does_not_sign_in(gateway: Talk) -> None:
    _, key = gateway.create_key(*(set(Scope) - {Scope.CONSOLE_READ}))
    answer = ConsoleVisitor(gateway).sign_in(key)
    assert answer.status_code == 403
    assert "missing scope console:read" in answer.text


def test_failed_sign_ins_are_limited_by_address(start: Callable[..., Talk]) -> None:
    talk = start(gateway_failed_auth_per_minute=3)
    statuses = [ConsoleVisitor(talk).sign_in(key_format.make()).status_code for _ in range(4)]
    assert statuses == [401, 401, 401, 429]
    answer = ConsoleVisitor(talk).sign_in(key_format.make())
    assert "Too many failed authentications" in answer.text
    assert int(answer.headers["retry-after"]) > 0


def test_signing_in_and_out_is_audited_with_the_key_s_id(gateway: Talk) -> None:
    key_id, key = gateway.create_key(Scope.CONSOLE_READ)
    visitor = ConsoleVisitor(gateway)
    into = visitor.sign_in(key).headers["x-request-id"]
    visitor.get()
    out = visitor.post("/sign-out").headers["x-request-id"]
    for request_id, operation in ((into, "sign-in"), (out, "sign-out")):
        (record,) = gateway.audit(request_id)
        assert record["actor"]["user"]["uid"] == key_id
        assert record["api"]["operation"] == f"POST /console/{operation}"
        assert record["status_code"] == "303"


def test_a_refused_sign_in_of_a_known_key_is_audited(gateway: Talk) -> None:
    key_id, key = gateway.create_key(Scope.RECEIPTS_READ)
    answer = ConsoleVisitor(gateway).sign_in(key)
    (record,) = gateway.audit(answer.headers["x-request-id"])
    assert (record["actor"]["user"]["uid"], record["status_code"]) == (key_id, "403")


def test_the_key_of_the_form_is_nowhere_afterwards(
    gateway: Talk, capfd: pytest.CaptureFixture[str]
) -> None:
    _, key = gateway.create_key(Scope.CONSOLE_READ)
    visitor = ConsoleVisitor(gateway)
    answers = [visitor.sign_in(key), visitor.get(), visitor.get("/sign-in")]
    assert all(key not in answer.text + str(answer.headers) for answer in answers)
    assert key not in "".join(capfd.readouterr())
    assert key.encode() not in gateway.path.read_bytes()
    wal = gateway.path.with_name(f"{gateway.path.name}-wal")
    assert not wal.exists() or key.encode() not in wal.read_bytes()


def test_a_session_that_the_gateway_did_not_make_is_none(start: Callable[..., Talk]) -> None:
    talk = start()
    key_id, key = talk.create_key(Scope.CONSOLE_READ)
    visitor = signed_in(talk, key)
    other = signed_in(talk)
    secret = "(SELECT secret FROM console_sessions WHERE key_id != ?)"
    talk.execute(f"UPDATE console_sessions SET secret = {secret} WHERE key_id = ?", key_id, key_id)
    assert visitor.get().status_code == 303
    assert other.get().status_code == 200
