"""What each record names: the app that is checked, jobs and where data goes, dead letters; and acts
that failed.
"""

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.callers.store import KeyStore
from app.cli import dead_letters
from app.clock import now_ms
from app.model import Scope, Settled, Status
from app.outbox.dead_letters import DeadLetterFilter
from tests.support.dead_letters import event, settle
from tests.support.gateway import WIDE, Talk, make_settings
from tests.support.simulator import KEYS, Leanplum, delivering_to, simulated
from tests.support.wait import until

MOST = 50
SECRET = "s3cret-path"
DAY = time.strftime("%Y%m%d", time.gmtime(time.time() - 3 * 86_400))


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def talk(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("gaps")

    def settings(**given: Any) -> Any:
        return make_settings(folder, migrated, WIDE | given)

    with delivering_to(leanplum, settings, folder / "g.db", **KEYS) as found:
        yield found


def record_of(talk: Talk, answer: Any) -> dict[str, Any]:
    (record,) = talk.audit(answer.headers["x-request-id"])
    return record


def named(record: dict[str, Any]) -> list[str]:
    return [one["uid"] for one in record.get("resources", ())]


# --- apps -------------------------------------------------------------------------------------------------------------


def test_a_check_of_an_app_names_it_and_is_found_by_who_may_see_the_app_only(talk: Talk) -> None:
    answer = talk.call("POST", "/v1/apps/default/check")
    assert answer.status_code == 200
    record = record_of(talk, answer)
    assert (record["unmapped"]["app"], named(record)) == ("default", ["default"])
    mine = {"name": "auditor", "scopes": ["audit:read"], "apps": ["default"]}
    auditor = talk.post("/v1/keys", mine).json()["key"]
    found = talk.get("/v1/audit?resource=default", key=auditor).json()["records"]
    assert record in [one["record"] for one in found]


def test_a_check_of_an_app_that_is_not_there_names_what_was_asked_for(talk: Talk) -> None:
    answer = talk.call("POST", "/v1/apps/nowhere/check")
    assert answer.status_code == 404
    record = record_of(talk, answer)
    assert (record["unmapped"]["app"], named(record)) == ("", ["nowhere"])


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_an_export_names_its_job_its_days_and_its_bucket_and_never_a_key(talk: Talk) -> None:
    asked = {
        "startDate": DAY,
        "s3BucketName": "bucket",
        "s3ObjectPrefix": "daily",
        "s3AccessId": "access-id",
        "s3AccessKey": SECRET,
    }
    answer = talk.post("/v1/exports/data", asked)
    assert answer.status_code == 200, answer.text
    record, job = record_of(talk, answer), answer.json()["jobId"]
    assert named(record) == [job]
    assert (record["unmapped"]["target"], record["unmapped"]["startDate"]) == (
        "s3://bucket/daily",
        DAY,
    )
    assert SECRET not in json.dumps(record)
    looked = talk.get(f"/v1/exports/{job}")
    assert named(record_of(talk, looked)) == [job]


def test_an_export_of_users_and_a_report_name_their_jobs_and_no_text_that_a_caller_chose(
    talk: Talk,
) -> None:
    users = talk.post("/v1/exports/users", {"audienceName": "Buyers"})
    report = talk.post("/v1/exports/report", {"startDate": DAY, "dataType": "UserActivity"})
    for answer in (users, report):
        assert answer.status_code == 200, answer.text
        assert named(record_of(talk, answer)) == [answer.json()["jobId"]]
    assert record_of(talk, report)["unmapped"]["dataType"] == "UserActivity"
    assert "Buyers" not in json.dumps(record_of(talk, users))


IMPORTS: dict[str, Callable[[Talk], Any]] = {
    "of a bucket": lambda talk: talk.post(
        "/v1/imports", {"gcsBucket": "bucket", "file": "rows.csv", "defaultAction": "track"}
    ),
    "of rows": lambda talk: talk.post(
        "/v1/imports?defaultAction=track&gcsBucket=bucket",
        b"userId,event\nann,E\n",
        headers={"Content-Type": "text/csv"},
    ),
    "of a form": lambda talk: talk.call(
        "POST",
        "/v1/imports",
        files={"file": ("rows.csv", b"userId,event\nann,E\n", "text/csv")},
        data={"defaultAction": "track", "gcsBucket": "bucket"},
    ),
}


@pytest.mark.parametrize("send", IMPORTS.values(), ids=IMPORTS.keys())
def test_an_import_names_its_job_and_where_its_rows_are(
    talk: Talk, send: Callable[[Talk], Any]
) -> None:
    answer = send(talk)
    assert answer.status_code == 200, answer.text
    record, job = record_of(talk, answer), answer.json()["jobId"]
    assert named(record) == [job]
    assert record["unmapped"]["defaultAction"] == "track"
    assert record["unmapped"]["target"].startswith("gs://bucket/")
    assert named(record_of(talk, talk.get(f"/v1/imports/{job}"))) == [job]


def test_a_postback_names_its_id_and_its_host_and_a_keyed_hash_of_its_address(talk: Talk) -> None:
    url = f"https://user:pw@hooks.example.com:8443/{SECRET}?token={SECRET}"
    answer = talk.post("/v1/postbacks", {"type": "messageEvents", "postbackUrl": url})
    assert answer.status_code == 200, answer.text
    record, made = record_of(talk, answer), str(answer.json()["postbackId"])
    assert named(record) == [made]
    assert record["unmapped"]["target"] == "https://hooks.example.com:8443"
    hashed = record["unmapped"]["targetHash"]
    assert hashed != hashlib.sha256(url.encode()).hexdigest(), (
        "whoever guesses the address could try it"
    )
    again = talk.post("/v1/postbacks", {"type": "messageEvents", "postbackUrl": url})
    assert record_of(talk, again)["unmapped"]["targetHash"] == hashed
    assert SECRET not in json.dumps(record)
    gone = talk.call("DELETE", f"/v1/postbacks/{made}")
    assert (gone.status_code, named(record_of(talk, gone))) == (200, [made])


def test_an_export_that_leanplum_refuses_names_its_target_too(talk: Talk) -> None:
    answer = talk.get("/v1/exports/no-such-job")
    assert answer.status_code >= 400
    assert named(record_of(talk, answer)) == ["no-such-job"]


def test_an_export_through_the_sdk_endpoint_names_its_job_and_target_too(talk: Talk) -> None:
    scopes = ["sdk", "exports:run"]
    key = talk.post("/v1/keys", {"name": "backend", "scopes": scopes}).json()["key"]
    asked = {
        "action": "exportData",
        "startDate": DAY,
        "s3BucketName": "bucket",
        "s3AccessKey": SECRET,
    }
    app_id = talk.app.services.apps["default"].app_id
    answer = talk.post("/api", {"appId": app_id, "clientKey": key, **asked}, key=None)
    told = answer.json()["response"][0]
    assert told["success"], told
    record = record_of(talk, answer)
    assert (named(record), record["unmapped"]["target"]) == ([told["jobId"]], "s3://bucket/")
    assert SECRET not in json.dumps(record)


# --- dead letters -----------------------------------------------------------------------------------------------------


def dead(talk: Talk, *item_ids: str) -> None:
    for at in range(0, len(item_ids), 500):
        talk.batch([event(one, f"user-{one}") for one in item_ids[at : at + 500]])
    settle(
        talk, dict.fromkeys(item_ids, Settled(Status.REJECTED, {"success": False, "error": "Bad."}))
    )


@pytest.mark.parametrize(("act", "done"), [("replay", "replayed"), ("discard", "discarded")])
def test_a_few_dead_letters_are_named_one_by_one_and_found_by_their_ids(
    start: Callable[..., Talk], act: str, done: str
) -> None:
    talk = start()
    made = talk.event({"userId": "ann", "event": "E"}).json()["id"]
    settle(talk, {made: Settled(Status.REJECTED, {"success": False, "error": "Bad."})})
    dead(talk, "a", "b")
    answer = talk.post(f"/v1/dead-letters/{act}", {"filter": {}})
    record = record_of(talk, answer)
    assert (named(record), record["unmapped"][done]) == ([made, "a", "b"], 3)
    found = talk.get("/v1/audit?resource=a").json()["records"]
    assert record in [one["record"] for one in found]


@pytest.mark.parametrize("act", ["replay", "discard"])
def test_many_dead_letters_are_named_by_a_hash_over_their_ids_and_their_number(
    start: Callable[..., Talk], act: str
) -> None:
    talk = start()
    item_ids = [f"i{number:03}" for number in range(MOST + 1)]
    dead(talk, *item_ids)
    record = record_of(talk, talk.post(f"/v1/dead-letters/{act}", {"filter": {}}))
    hashed = hashlib.sha256("\n".join(item_ids).encode()).hexdigest()
    assert (named(record), record["unmapped"]["itemsHash"]) == ([], hashed)
    assert MOST + 1 in record["unmapped"].values()


def test_a_command_names_the_dead_letters_too(start: Callable[..., Talk]) -> None:
    talk = start()
    dead(talk, "a", "b")
    settings = talk.app.services.settings
    dead_letters.apply(settings, "discard", None, DeadLetterFilter(item_ids=("b",)))
    assert named(talk.audit()[-1]) == ["1 items", "b"]


# --- acts that failed -------------------------------------------------------------------------------------------------


def failing(talk: Talk, path: str) -> None:
    """Let each transaction fail that has made a change through `path`, when its own record is
    written.
    """
    beside(
        talk,
        "CREATE TRIGGER fails AFTER INSERT ON audit_records "
        f"WHEN instr(NEW.record, '{path}') AND instr(NEW.record, '\"status_code\":\"2') "
        "BEGIN SELECT RAISE(ABORT, 'the disk is broken'); END",
    )


def beside(talk: Talk, statement: str) -> None:
    with closing(sqlite3.connect(talk.path, isolation_level=None)) as connection:
        connection.execute(statement)


ACTS: dict[str, Callable[[Talk, str], Any]] = {
    "made": lambda talk, _: talk.post("/v1/keys", {"name": "x", "scopes": ["sdk"]}),
    "changed": lambda talk, one: talk.post(one, {"name": "x"}, method="PATCH"),
    "rotated": lambda talk, one: talk.post(f"{one}/rotate", {}),
    "revoked": lambda talk, one: talk.call("DELETE", one),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
def test_a_change_of_a_key_whose_commit_fails_leaves_a_record_of_the_failure(
    start: Callable[..., Talk], act: Callable[[Talk, str], Any]
) -> None:
    talk = start()
    key_id = talk.post("/v1/keys", {"name": "shop", "scopes": ["sdk"]}).json()["id"]
    before = (
        talk.rows("SELECT * FROM caller_keys ORDER BY id"),
        talk.rows("SELECT * FROM row_sets ORDER BY name"),
    )
    failing(talk, "/v1/keys")
    answer = act(talk, f"/v1/keys/{key_id}")
    assert answer.status_code == 503, answer.text
    record = record_of(talk, answer)
    assert (record["status_code"], record["status_id"]) == ("503", 2)
    assert named(record) == ([] if act is ACTS["made"] else [key_id])
    after = (
        talk.rows("SELECT * FROM caller_keys ORDER BY id"),
        talk.rows("SELECT * FROM row_sets ORDER BY name"),
    )
    assert after == before, "nothing was changed"


@pytest.mark.parametrize("act", ["replay", "discard"])
def test_a_replay_whose_commit_fails_leaves_a_record_of_the_failure_that_names_the_items(
    start: Callable[..., Talk], act: str
) -> None:
    talk = start()
    dead(talk, "a", "b")
    failing(talk, "/v1/dead-letters")
    answer = talk.post(f"/v1/dead-letters/{act}", {"ids": ["a", "b"]})
    assert answer.status_code == 503
    # the database has just failed, so the record waits for a second
    (record,) = until(lambda: talk.audit(answer.headers["x-request-id"]))
    assert (record["status_code"], named(record)) == ("503", ["a", "b"])


# --- keys of others ---------------------------------------------------------------------------------------------------


def test_whose_key_it_is_is_looked_at_in_the_transaction_that_changes_it(
    start: Callable[..., Talk],
) -> None:
    """A key that is given to another app while a manager's change of it waits for the database is
    not changed.
    """
    talk = start()
    gateway = talk.app.services
    store = KeyStore(gateway.engine, gateway.macs)
    _, mine = store.create("mine", [Scope.SDK], ["one"], now_ms())
    one = f"/v1/keys/{mine.caller.key_id}"
    made = talk.post("/v1/keys", {"name": "m", "scopes": ["keys:manage"], "apps": ["one"]}).json()
    manager = made["key"]
    acts: tuple[Callable[[], Any], ...] = (
        lambda: talk.post(one, {"name": "taken"}, method="PATCH", key=manager),
        lambda: talk.post(f"{one}/rotate", {}, key=manager),
        lambda: talk.call("DELETE", one, key=manager),
    )
    for act in acts:
        answers = list[Any]()
        with closing(sqlite3.connect(talk.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asking = threading.Thread(target=ask, args=(act, answers))
            asking.start()
            # Long enough to come as far as the lock; the answer is the same where it does not
            time.sleep(0.5)
            other.execute("UPDATE caller_keys SET apps = 'two' WHERE id = ?", (mine.caller.key_id,))
            other.execute("COMMIT")
            asking.join(20)
        assert answers[0].status_code == 404, answers[0].text
        name, revoked = talk.rows("SELECT name, revoked_at FROM caller_keys WHERE apps = 'two'")[0]
        assert (name, revoked) == ("mine", None)
        beside(talk, "UPDATE caller_keys SET apps = 'one' WHERE apps = 'two'")


def ask(act: Callable[[], Any], answers: list[Any]) -> None:
    answers.append(act())
