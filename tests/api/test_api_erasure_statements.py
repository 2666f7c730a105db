"""The signed statement of an erasure: in the response to the deletion, and later; verified offline."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from app.api import events
from app.audit import sealer
from app.audit.service import STATEMENT_SECONDS
from app.audit.tree import CheckpointSigner
from app.clock import instant
from app.model import Scope
from tests.api.erasure_gateway import Gateway, gateway
from tests.support.gateway import Talk, make_settings, problem
from tests.support.processes import ended
from tests.support.simulator import Leanplum, simulated
from tests.support.wait import until

DEVELOPMENT = {"leanplum_development_key": "dev_sandbox"}
USER, VALUE = "statement-user-5c21", "statement-value-88d0"
NOTHING = {"waiting": 0, "inFlight": 0, "deadLetters": 0, "receipts": 0, "ids": 0}
AUDIT_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
PUBLIC_KEY = CheckpointSigner(bytes(range(32))).public.text


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture
def at(leanplum: Leanplum, database: str, tmp_path: Path, migrated: Path) -> Iterator[Gateway]:
    """A gateway that does not deliver, on a database of each kind."""
    given = {"gateway_audit_key": AUDIT_KEY}

    def settings(**more: Any) -> Any:
        return make_settings(tmp_path, migrated, {**more, **given})

    with gateway(settings, database, leanplum, delivery=False) as found:
        yield found


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let responses wait longer for the seal: a busy machine may stand still for seconds."""
    monkeypatch.setattr(events, "STATEMENT_SECONDS", 60.0)


@pytest.fixture
def never_sealing(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sealers that start from now on seal once and then pause, and responses wait as usual."""
    monkeypatch.setattr(sealer, "SEAL_SECONDS", 3600.0)
    monkeypatch.setattr(events, "STATEMENT_SECONDS", STATEMENT_SECONDS)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder without settings and without a database."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def verified(folder: Path, content: bytes, *words: str, key: str = PUBLIC_KEY) -> tuple[int, str]:
    """Return the exit code and the output of the command, run offline in a folder."""
    (folder / "statement.json").write_bytes(content)
    given = ["audit", "verify", "--statement", "statement.json", "--public-key", key]
    done = ended(folder, *given, *words)
    assert sorted(path.name for path in folder.iterdir()) == ["statement.json"]
    return done.returncode, done.stdout + done.stderr


def event(user: str = USER, **fields: Any) -> dict[str, Any]:
    return {"userId": user, "event": "E", "info": VALUE, **fields}


def test_the_response_has_a_statement_that_is_verified_offline_and_names_neither_user_nor_value(
    at: Gateway, empty: Path
) -> None:
    for name in ("one", "two"):
        at.call("POST", "/v1/events", event(id=name))
    answer = at.call("DELETE", f"/v1/users/{USER}?fullErasure=true")
    found = answer.json()
    statement = found["statement"]
    assert found["erased"] == NOTHING | {"waiting": 2, "ids": 2}
    assert USER not in repr(statement)
    assert VALUE not in repr(statement)
    assert "statementPending" not in found
    ((until_ms, erased_at),) = at.rows("SELECT until, erased_at FROM erasures")
    (erasure,) = statement["erasures"]
    assert statement["erasedAt"] == instant(erased_at)
    assert erasure == {
        "user": erasure["user"],
        "removed": found["erased"],
        "fullErasure": True,
        "refusedUntil": instant(until_ms),
    }
    code, output = verified(empty, orjson.dumps(statement))
    assert code == 0, output
    for said in (instant(erased_at), "items not sent yet: 2", instant(until_ms), erasure["user"]):
        assert said in output
    assert verified(empty, answer.content)[0] == 0, "the response is verified as it is"
    later = at.call("GET", found["statementHref"])
    assert later.json()["record"] == statement["record"]
    code, output = verified(empty, later.content, "--json")
    assert (code, orjson.loads(output)["erasures"]) == (0, [erasure])


def test_a_user_of_whom_nothing_is_stored_has_a_statement_that_says_so(
    at: Gateway, empty: Path
) -> None:
    answer = at.call("DELETE", f"/v1/users/{USER}")
    (erasure,) = answer.json()["statement"]["erasures"]
    assert (erasure["removed"], erasure["fullErasure"]) == (NOTHING, False)
    code, output = verified(empty, answer.content)
    assert code == 0
    assert "nothing of the user was stored" in output


def test_the_gateway_s_own_settings_verify_it_as_well(at: Gateway, tmp_path: Path) -> None:
    answer = at.call("DELETE", f"/v1/users/{USER}")
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "statement.json").write_bytes(answer.content)
    settings = {
        "GATEWAY_DATABASE_URL": at.database,
        "GATEWAY_AUDIT_KEY": AUDIT_KEY,
    }
    done = ended(folder, "audit", "verify", "--statement", "statement.json", **settings)
    assert done.returncode == 0, done.stdout + done.stderr


def test_while_nothing_seals_the_response_says_where_the_statement_will_be(
    never_sealing: None, start: Callable[..., Talk]
) -> None:
    talk = start(**DEVELOPMENT)
    began = time.monotonic()
    answer = talk.call("DELETE", f"/v1/users/{USER}")
    assert time.monotonic() - began >= STATEMENT_SECONDS
    found = answer.json()
    assert (answer.status_code, "statement" in found) == (202, False)
    assert "statementHref" in found["statementPending"]
    assert found["erased"] == NOTHING
    pending = problem(talk.get(found["statementHref"]), 404, "not-found")
    assert "not sealed yet" in pending["detail"]
    talk.do(talk.app.services.sealer.attempt)
    assert talk.get(found["statementHref"]).json()["erasures"][0]["removed"] == NOTHING


def test_where_the_audit_log_was_changed_the_user_is_erased_and_there_is_no_statement(
    start: Callable[..., Talk],
) -> None:
    talk = start(**DEVELOPMENT)
    talk.event(event())
    until(lambda: talk.rows("SELECT size FROM audit_tree") != [(0,)])
    talk.execute("UPDATE audit_tree SET size = size + 100")
    answer = talk.call("DELETE", f"/v1/users/{USER}")
    found = answer.json()
    assert (answer.status_code, found["erased"]["waiting"]) == (202, 1)
    assert ("statement" in found, "statementPending" in found) == (False, True)
    problem(talk.get(found["statementHref"]), 503, "audit-broken")
    talk.execute("UPDATE audit_tree SET size = size - 100")
    until(lambda: talk.get(found["statementHref"]).status_code == 200)


@pytest.mark.timeout(300)  # a wait that is not bounded would take ten minutes
def test_a_preference_to_wait_bounds_the_wait_for_the_statement(
    never_sealing: None, start: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = start(**DEVELOPMENT)
    monkeypatch.setattr(events, "STATEMENT_SECONDS", 600.0)
    answer = talk.call("DELETE", f"/v1/users/{USER}", headers={"Prefer": "wait=0"})
    found = answer.json()
    assert answer.headers["preference-applied"] == "wait=0"
    assert ("statementPending" in found, "statementHref" in found) == (True, True)


def test_a_deletion_that_is_waited_for_has_its_statement_too(
    leanplum: Leanplum, settings: Callable[..., Any], path: Path
) -> None:
    with gateway(settings, f"sqlite:///{path}", leanplum) as at:
        found = at.erase(USER, wait=20)
        assert found["status"] in {"delivered", "skipped"}
        assert found["statement"]["erasures"][0]["removed"] == found["erased"]
        receipt = at.call("GET", f"/v1/receipts/{found['id']}").json()
        assert receipt["statementHref"] == found["statementHref"]


def test_a_repeat_and_the_receipt_tell_where_the_statement_is(start: Callable[..., Talk]) -> None:
    talk = start(**DEVELOPMENT)
    key = {"Idempotency-Key": "e1"}
    first = talk.call("DELETE", f"/v1/users/{USER}", headers=key).json()
    again = talk.call("DELETE", f"/v1/users/{USER}", headers=key).json()
    assert (again["duplicate"], "statement" in again) == (True, False)
    receipt = talk.get(first["href"]).json()
    hrefs = {each["statementHref"] for each in (first, again, receipt)}
    assert hrefs == {f"/v1/erasures/{first['statement']['recordId']}"}
    assert "erasureRecord" not in receipt


def test_a_batch_has_one_statement_of_all_the_users_whom_it_erases(
    at: Gateway, empty: Path
) -> None:
    at.call("POST", "/v1/events", event("ann"))
    items = [
        {"action": "deleteUser", "userId": "ann", "fullErasure": True},
        {"action": "deleteUser", "deviceId": "phone"},
        {"action": "track", "userId": "bob", "event": "E"},
    ]
    results = at.call("POST", "/v1/batch", {"items": items}).json()["results"]
    receipts = [at.call("GET", result["href"]).json() for result in results]
    assert receipts[0]["statementHref"] == receipts[1]["statementHref"]
    assert "statementHref" not in receipts[2]
    answer = until(lambda: retrieved(at, receipts[0]["statementHref"]))
    waiting = {
        each["removed"]["waiting"]: each["fullErasure"] for each in answer.json()["erasures"]
    }
    assert waiting == {1: True, 0: False}
    code, output = verified(empty, answer.content)
    assert (code, "erased 2 users" in output) == (0, True)


def retrieved(at: Gateway, href: str) -> httpx.Response | None:
    answer = at.call("GET", href)
    return answer if answer.status_code == 200 else None


def test_a_statement_is_for_the_key_that_erased_and_for_keys_that_read_the_audit(
    start: Callable[..., Talk],
) -> None:
    talk = start(**DEVELOPMENT)
    _, own = talk.create_key(Scope.USERS_ERASE)
    _, other = talk.create_key(Scope.USERS_ERASE)
    _, auditor = talk.create_key(Scope.USERS_ERASE, Scope.AUDIT_READ)
    _, reader = talk.create_key(Scope.AUDIT_READ)
    found = talk.call("DELETE", f"/v1/users/{USER}", key=own).json()
    href = found["statementHref"]
    assert found["statement"]["erasures"]
    assert talk.get(href, key=own).status_code == 200
    assert talk.get(href, key=auditor).status_code == 200
    assert "may see" in problem(talk.get(href, key=other), 404, "not-found")["detail"]
    problem(talk.get(href, key=reader), 403, "forbidden")
    problem(talk.get("/v1/erasures/1", key=own), 404, "not-found")  # the record of a new key
    problem(talk.get("/v1/erasures/999999", key=own), 404, "not-found")
    problem(talk.get("/v1/erasures/0", key=own), 422, "validation")


def test_a_key_for_another_app_gets_no_statement(
    start: Callable[..., Talk], tmp_path: Path
) -> None:
    apps = "".join(
        f'[apps.{name}]\napp_id = "{name}"\nproduction_key = "p"\ndevelopment_key = "d"\n'
        'api_url = "http://127.0.0.1:9/api"\n'
        for name in ("one", "two")
    )
    (tmp_path / "apps.toml").write_text(apps)
    talk = start(
        gateway_apps_file=tmp_path / "apps.toml",
        leanplum_app_id=None,
        leanplum_production_key=None,
    )
    _, key = talk.create_key(Scope.USERS_ERASE, Scope.AUDIT_READ, apps=["two"])
    erased = talk.call("DELETE", f"/v1/users/{USER}", headers={"X-Leanplum-App": "one"}).json()
    assert erased["statement"]["app"] == "one"
    problem(talk.get(erased["statementHref"], key=key), 404, "not-found")


def test_with_no_time_set_the_statement_names_none(start: Callable[..., Talk]) -> None:
    talk = start(**DEVELOPMENT, gateway_erased_seconds=0)
    found = talk.call("DELETE", f"/v1/users/{USER}").json()
    assert "refusedUntil" not in found["statement"]["erasures"][0]


def test_a_deletion_that_is_a_duplicate_or_refused_states_nothing(
    start: Callable[..., Talk],
) -> None:
    talk = start(**DEVELOPMENT)
    key = {"Idempotency-Key": "e1"}
    talk.call("DELETE", f"/v1/users/{USER}", headers=key)
    again = talk.call("DELETE", f"/v1/users/{USER}", headers=key)
    other = talk.call("DELETE", "/v1/users/other", headers=key)
    assert (again.status_code, other.status_code) == (200, 409)
    for answer in (again, other):
        (record,) = talk.audit(answer.headers["x-request-id"])
        assert "erasures" not in record["unmapped"]


def test_with_another_key_it_is_not_valid_and_with_a_text_that_is_no_key_nothing_is_verified(
    at: Gateway, empty: Path
) -> None:
    answer = at.call("DELETE", f"/v1/users/{USER}")
    other = CheckpointSigner(b"\7" * 32).public.text
    code, output = verified(empty, answer.content, key=other)
    assert code == 1
    assert "publicKey" in output
    code, output = verified(empty, answer.content, key="no key")
    assert code == 2
    assert "--public-key" in output
