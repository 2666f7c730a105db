"""The audit over HTTP: records found by who, what, when and about whom; checkpoints
and proofs.
"""

import base64
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.audit import merkle
from app.audit.tree import PublicKey
from app.clock import now_ms
from app.model import Scope
from tests.support.gateway import CANARY, EVENT, WIDE, Talk, make_settings, problem, running
from tests.support.wait import until

APPS = "".join(
    f'[apps.{name}]\napp_id = "{name}"\nproduction_key = "p"\napi_url = "http://127.0.0.1:9/api"\n'
    for name in ("one", "two")
)
ONE, TWO = {"X-Leanplum-App": "one"}, {"X-Leanplum-App": "two"}
USER = f"ann-{CANARY}"


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("audit")
    (folder / "apps.toml").write_text(APPS)
    given = {
        "gateway_apps_file": folder / "apps.toml",
        "leanplum_app_id": None,
        "leanplum_production_key": None,
    }
    with running(make_settings(folder, migrated, WIDE | given), folder / "g.db") as found:
        found.event(EVENT | {"userId": USER}, headers=ONE | {"X-Request-ID": "single"})
        items = [EVENT | {"action": "track", "userId": user} for user in (USER, "bob")]
        found.batch(items, headers=ONE | {"X-Request-ID": "batch"})
        found.event(EVENT | {"userId": USER}, headers=TWO | {"X-Request-ID": "other"})
        found.post(
            f"/v1/users/{USER}/states", {"bad": 1}, headers=ONE | {"X-Request-ID": "refused"}
        )
        found.get(f"/v1/users/{USER}/variables", headers=ONE | {"X-Request-ID": "asked"})
        found.audit()
        yield found


@pytest.fixture(scope="module")
def keys(talk: Talk) -> dict[str, str]:
    store = talk.app.services.keys
    apps = {"two": ["two"], "all": None}
    made = {name: store.create(name, [Scope.AUDIT_READ], apps[name], now_ms())[0] for name in apps}
    talk.do(talk.app.services.directory.refresh)
    return made


def ids(talk: Talk, key: str = "", **query: Any) -> list[str]:
    """The request ids of what is found, oldest first, less those of such questions."""
    answer = talk.get("/v1/audit", params=query | {"order": "oldest"}, key=key)
    assert answer.status_code == 200, answer.text
    found = [one["record"]["api"] for one in answer.json()["records"]]
    return [
        api.get("request", {}).get("uid", "")
        for api in found
        if "/v1/audit" not in api["operation"]
    ]


def test_records_are_found_by_user_in_single_calls_batches_refusals_and_calls_to_leanplum(
    talk: Talk,
) -> None:
    assert ids(talk, userId=USER, app="one") == ["single", "batch", "refused", "", "asked"]
    assert ids(talk, userId=USER) == ["single", "batch", "other", "refused", "", "asked"]
    assert ids(talk, userId="bob") == ["batch"]
    of = talk.app.services.pseudonyms.of
    assert ids(talk, userHash=of("two", f"u{USER}")) == ["other"]
    assert ids(talk, userId=USER, userHash=of("one", "ubob")) == []


def test_records_are_found_by_key_app_action_outcome_request_and_time(
    talk: Talk, keys: dict[str, str]
) -> None:
    (key_id,) = [
        one.caller.key_id for one in talk.app.services.keys.all() if one.caller.name == "bootstrap"
    ]
    assert ids(talk, keyId=key_id, outcome="success") == ["single", "batch", "other"]
    assert ids(talk, keyId="key_none") == []
    assert ids(talk, app="two") == ["other"]
    assert ids(talk, action="track") == ["single", "batch", "other"]
    assert ids(talk, action="getVars") == [""]
    assert ids(talk, action="POST /v1/batch") == ["batch"]
    assert ids(talk, outcome="refused") == ["refused"]
    assert ids(talk, outcome="failed") == ["", "asked"]
    assert ids(talk, requestId="batch") == ["batch"]
    assert ids(talk, since="2000-01-01T00:00:00Z", requestId="batch") == ["batch"]
    assert ids(talk, until="2000-01-01T00:00:00Z") == []
    assert ids(talk, since=str(int(time.time()) + 60)) == []


def test_a_key_for_one_app_sees_only_its_records_and_no_act_about_keys(
    talk: Talk, keys: dict[str, str]
) -> None:
    assert ids(talk, keys["two"]) == ["other"]
    assert ids(talk, keys["two"], userId=USER) == ["other"]
    problem(talk.get("/v1/audit?app=one", key=keys["two"]), 403, "forbidden")
    first = talk.get("/v1/audit?app=one&limit=1").json()["records"][0]["recordId"]
    problem(talk.get(f"/v1/audit/{first}/proof", key=keys["two"]), 404, "not-found")


def test_pages_follow_one_another_in_both_orders_without_a_gap(talk: Talk) -> None:
    for order in ("oldest", "newest"):
        seen: list[int] = []
        query = {"order": order, "limit": 2}
        while True:  # each question adds a record, and each page has two
            page = talk.get("/v1/audit", params=query).json()
            seen += [one["recordId"] for one in page["records"]]
            if "nextCursor" not in page:
                break
            query["cursor"] = page["nextCursor"]
        assert sorted(seen) == list(range(1, len(seen) + 1))
        assert seen == sorted(seen, reverse=order == "newest")


def test_records_of_a_user_of_an_app_that_is_configured_no_more_are_found(
    start: Callable[..., Talk], tmp_path: Path
) -> None:
    file = tmp_path / "apps.toml"
    file.write_text(APPS)
    talk = start(gateway_apps_file=file, leanplum_app_id=None, leanplum_production_key=None)
    talk.event(EVENT | {"userId": USER}, headers=TWO | {"X-Request-ID": "other"})
    file.write_text(APPS.partition("[apps.two]")[0])
    talk.do(talk.app.services.apps.refresh)
    assert [*talk.app.services.apps] == ["one"]
    assert ids(talk, userId=USER) == ["other"]


def test_a_filter_that_is_misspelt_is_refused_and_finds_not_everything(talk: Talk) -> None:
    for path in (
        "?userid=x",
        "?limit=1&Action=track",
        "/checkpoint?size=1",
        "/consistency?from=1&to=1&x=",
        "/1/proof?x=",
    ):
        found = problem(talk.get(f"/v1/audit{path}"), 422, "validation")
        assert found["errors"][0]["detail"].startswith("unknown query parameter; ")
        assert (found["title"], found["detail"]) == (
            "Validation failed",
            "1 error in the URL; see errors.",
        )
    for path in ("?limit=x", "/consistency?from=3&to=2"):
        assert "in the URL" in problem(talk.get(f"/v1/audit{path}"), 422, "validation")["detail"]
    problem(talk.get("/v1/audit?userid=x", key=None), 401, "unauthorized")


def test_no_answer_repeats_the_user_that_was_asked_for(talk: Talk) -> None:
    answers = [
        talk.get("/v1/audit", params={"userId": USER}), talk.get("/v1/audit", params={"userId": USER, "limit": "x"}),
        talk.get("/v1/audit", params={"userId": USER, "cursor": USER}),
    ]  # fmt: skip
    assert [one.status_code for one in answers] == [200, 422, 422]
    assert not [one.text for one in answers if CANARY in one.text]
    assert not talk.rows("SELECT record FROM audit_records WHERE record LIKE ?", f"%{CANARY}%")


def sealed(talk: Talk, upto: int) -> dict[str, Any]:
    """The newest checkpoint, once it is about so many records."""
    deadline = time.monotonic() + 20
    while True:
        answer = talk.get("/v1/audit/checkpoint")
        if answer.status_code == 200 and answer.json()["size"] >= upto:
            found: dict[str, Any] = answer.json()
            return found
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)


def decoded(texts: list[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in texts]


def test_a_record_is_proven_by_the_signed_checkpoint_and_the_log_by_an_older_one(
    talk: Talk,
) -> None:
    first = sealed(talk, 3)
    for _ in range(5):
        talk.event(headers=ONE)
    proof = talk.get("/v1/audit/2/proof").json()
    second = (
        proof["checkpoint"]
        if proof["checkpoint"]["size"] > first["size"]
        else sealed(talk, first["size"] + 1)
    )
    for told in (first, second):
        opened = PublicKey.parse(told["publicKey"]).verify(told["note"])
        assert (opened.size, opened.root) == (told["size"], base64.b64decode(told["rootHash"]))
    size, root = proof["checkpoint"]["size"], base64.b64decode(proof["checkpoint"]["rootHash"])
    leaf = merkle.leaf_hash(proof["record"].encode())
    assert base64.b64decode(proof["leafHash"]) == leaf
    assert merkle.included(leaf, proof["leafIndex"], size, decoded(proof["hashes"]), root)
    grew = talk.get(
        "/v1/audit/consistency", params={"from": first["size"], "to": second["size"]}
    ).json()
    roots = [base64.b64decode(one["rootHash"]) for one in (first, second)]
    assert merkle.consistent(
        first["size"], roots[0], second["size"], roots[1], decoded(grew["hashes"])
    )


def test_what_is_not_there_or_not_sealed_yet_is_told_helpfully(talk: Talk) -> None:
    problem(talk.get("/v1/audit/999999999/proof"), 404, "not-found")
    newest = talk.get("/v1/audit?limit=1").json()["records"][0]["recordId"]
    answer = talk.get(f"/v1/audit/{newest}/proof")
    assert answer.status_code == 200 or "try again" in problem(answer, 404, "not-found")["detail"]
    problem(talk.get("/v1/audit/consistency?from=1&to=999999999"), 404, "not-found")
    problem(talk.get("/v1/audit/consistency?from=3&to=2"), 422, "validation")


def change(talk: Talk, statement: str, *values: Any) -> None:
    """As somebody does who has the database, and not the gateway."""
    with closing(sqlite3.connect(talk.path, timeout=10)) as connection, connection:
        connection.execute(statement, values)


def test_whatever_somebody_does_to_the_records_and_hashes_in_the_database_reading_them_is_answered(
    talk: Talk,
) -> None:
    told = sealed(talk, 3)
    key = talk.app.services.keys.create("two", [Scope.AUDIT_READ], ["two"], now_ms())[0]
    talk.do(talk.app.services.directory.refresh)
    newest = told["size"]
    change(talk, "DELETE FROM audit_records WHERE seq = 3")
    change(talk, "UPDATE audit_tree SET removed = 3")
    broken(talk.get("/v1/audit/3/proof"))
    problem(talk.get("/v1/audit/3/proof", key=key), 404, "not-found")
    change(talk, "UPDATE audit_tree SET removed = 0")
    for text in (
        "no JSON",
        "{}",
        "[1]",
        '{"api":{"operation":"x"},"unmapped":[]}',
        '{"api":7,"unmapped":{}}',
    ):
        change(talk, "UPDATE audit_records SET record = ? WHERE seq = 2", text)
        for query in (
            {},
            {"keyId": "k"},
            {"action": "track"},
            {"outcome": "failed"},
            {"requestId": "r"},
        ):
            for of in ("", key):
                found = talk.get("/v1/audit", params=query | {"order": "oldest"}, key=of)
                assert found.status_code == 200
        broken(talk.get("/v1/audit/2/proof"))
        problem(talk.get("/v1/audit/2/proof", key=key), 404, "not-found")
    for statement, value in (
        ("audit_checkpoints SET note", "no note"),
        ("audit_tree SET tail", b""),
    ):
        change(talk, f"UPDATE {statement} = ?", value)
        for path in ("checkpoint", f"{newest}/proof", "consistency?from=1&to=2"):
            broken(talk.get(f"/v1/audit/{path}"))


def test_that_sealing_stopped_is_told_by_a_metric_and_by_readyz_and_events_are_taken_all_the_same(
    start: Callable[..., Talk],
) -> None:
    talk = start()
    sealed(talk, 1)
    assert told_of(talk) == ("0.0", {"ok": True})
    change(talk, "UPDATE audit_tree SET size = size + 1")
    until(lambda: told_of(talk)[0] == "1.0")
    assert "audit.not_sealed" in told_of(talk)[1]["detail"]
    assert talk.get("/readyz").status_code == 200
    assert talk.event().status_code == 202
    change(talk, "UPDATE audit_tree SET size = size - 1")
    until(lambda: told_of(talk) == ("0.0", {"ok": True}))


def test_a_misfit_is_told_by_a_metric_of_its_own(start: Callable[..., Talk]) -> None:
    talk = start()
    sealed(talk, 1)
    change(talk, "UPDATE audit_tree SET size = size + 1")
    until(lambda: told_of(talk)[0] == "1.0")
    assert "leanplum_gateway_audit_tampering_detected 1.0" in talk.get("/metrics").text
    assert "differs from what was recorded" in told_of(talk)[1]["detail"]
    change(talk, "UPDATE audit_tree SET size = size - 1")
    until(lambda: "leanplum_gateway_audit_tampering_detected 0.0" in talk.get("/metrics").text)


def told_of(talk: Talk) -> tuple[str, dict[str, Any]]:
    """The metric, and the part of /readyz."""
    (metric,) = re.findall(
        r"^leanplum_gateway_audit_sealing_failing (\S+)$", talk.get("/metrics").text, re.MULTILINE
    )
    part: dict[str, Any] = talk.get("/readyz").json()["parts"]["audit"]
    return metric, part


def broken(answer: Any) -> None:
    """It says what to do, and gives nothing that proves nothing."""
    assert "audit verify" in problem(answer, 503, "audit-broken")["detail"]
    assert int(answer.headers["retry-after"]) > 0
