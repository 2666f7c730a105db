"""DELETE /v1/users/{userId}: Leanplum deletes the user, and the gateway itself forgets them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Talk, problem
from tests.support.simulator import Leanplum, delivering_to, simulated
from tests.support.wait import until

DEVELOPMENT = {"leanplum_development_key": "dev_sandbox"}
NOTHING = {"waiting": 0, "inFlight": 0, "deadLetters": 0, "receipts": 0, "ids": 0}
USER, VALUE = "canary-user-9d1e", "canary-value-77aa"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture
def leanplum(simulator: Leanplum) -> Leanplum:
    simulator.forget()
    simulator.mend()
    return simulator


def event(user: str = "ann", **fields: Any) -> dict[str, Any]:
    return {"userId": user, "event": "E", **fields}


def erase(talk: Talk, user: str = "ann", **options: Any) -> Any:
    return talk.call("DELETE", f"/v1/users/{user}?fullErasure=true", **options)


def test_the_answer_is_the_receipt_and_what_was_removed_and_where(
    start: Callable[..., Talk],
) -> None:
    talk = start(**DEVELOPMENT)
    kept = [talk.event(event(id=name)).json()["href"] for name in ("one", "two")]
    talk.event(event("bob"))
    answer = erase(talk)
    found = answer.json()
    assert answer.status_code == 202
    assert found["erased"] == NOTHING | {"waiting": 2, "ids": 2}
    assert (found["action"], found["userId"], found["status"]) == ("deleteUser", "ann", "accepted")
    assert [talk.get(href).status_code for href in kept] == [404, 404]
    assert talk.get(found["href"]).json()["status"] == "accepted"
    assert talk.rows("SELECT subject FROM items ORDER BY seq") == [("ubob",), ("uann",)]


def test_a_repeat_with_the_same_idempotency_key_is_a_duplicate_and_one_without_erases_again(
    start: Callable[..., Talk],
) -> None:
    talk = start(**DEVELOPMENT)
    first = erase(talk, headers={"Idempotency-Key": "e1"})
    again = erase(talk, headers={"Idempotency-Key": "e1"})
    assert (again.status_code, again.json()["id"], again.json()["duplicate"]) == (
        200,
        first.json()["id"],
        True,
    )
    assert "erased" not in again.json()
    assert (erase(talk).status_code, talk.items()) == (202, 2)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/events", event()),
        ("POST", "/v1/events", event(id="own")),
        ("PATCH", "/v1/users/ann", {"userAttributes": {"a": 1}}),
        ("POST", "/v1/users/ann/states", {"state": "S"}),
        ("POST", "/v1/messages/1/send", {"userId": "ann"}),
        ("PUT", "/v1/users/ann/block", {}),
        ("POST", "/v1/users/ann/sessions", {}),
        ("GET", "/v1/users/ann/variables", None),
    ],
)
def test_nothing_is_taken_for_the_user_until_the_time_is_over(
    start: Callable[..., Talk], method: str, path: str, body: Any
) -> None:
    talk = start(**DEVELOPMENT)
    erase(talk)
    before = talk.items()
    answer = talk.call(method, path) if body is None else talk.post(path, body, method=method)
    assert "erased" in problem(answer, 403, "forbidden")["detail"]
    assert talk.items() == before


def test_in_a_batch_only_the_erased_user_s_items_are_refused(start: Callable[..., Talk]) -> None:
    talk = start(**DEVELOPMENT)
    erase(talk)
    answer = talk.batch(
        [{"action": "track", **event(id="a")}, {"action": "track", **event("bob", id="b")}]
    )
    first, second = answer.json()["results"]
    assert (answer.status_code, answer.json()["rejected"], second["status"]) == (202, 1, "accepted")
    assert (first["id"], first["status"], first["problem"]["type"]) == (
        "a",
        "rejected",
        "/problems/forbidden",
    )
    assert talk.batch([{"action": "track", **event()}]).status_code == 422


def test_a_batch_erases_users_too(start: Callable[..., Talk]) -> None:
    talk = start(**DEVELOPMENT)
    talk.event(event())
    answer = talk.batch([{"action": "deleteUser", "userId": "ann"}, {"action": "track", **event()}])
    assert [one["status"] for one in answer.json()["results"]] == ["accepted", "rejected"]
    assert talk.rows("SELECT action FROM items") == [("deleteUser",)]
    problem(talk.event(event()), 403, "forbidden")


def test_with_no_time_set_the_user_may_come_back_at_once(start: Callable[..., Talk]) -> None:
    talk = start(**DEVELOPMENT, gateway_erased_seconds=0)
    erase(talk)
    assert talk.event(event()).status_code == 202


def test_without_leanplum_s_key_for_it_nothing_is_erased(start: Callable[..., Talk]) -> None:
    talk = start()
    talk.event(event())
    problem(erase(talk), 501, "key-not-configured")
    assert talk.items() == 1


@pytest.mark.parametrize("action", ["track", "start"])
def test_the_sdk_door_refuses_in_leanplum_s_words_what_it_accepts_and_what_it_asks(
    leanplum: Leanplum, settings: Callable[..., Any], path: Path, action: str
) -> None:
    with delivering_to(leanplum, settings, path) as talk:
        erase(talk)
        keys = {"appId": "app_sandbox", "clientKey": talk.key}
        entry = {"action": action, "event": "E", "reqId": "1"}
        alone = talk.post("/api", {**keys, **entry, "userId": "ann"}, key=None)
        assert (alone.status_code, alone.json()["response"][0]["success"]) == (451, False)
        assert "erased" in alone.json()["response"][0]["error"]["message"]
        data = [{**entry, "userId": "ann"}, {**entry, "userId": "bob", "reqId": "2"}]
        both = talk.post("/api", {**keys, "action": "multi", "data": data}, key=None)
        assert (both.status_code, [one["success"] for one in both.json()["response"]]) == (
            200,
            [False, True],
        )
        until(lambda: any(one.get("userId") == "bob" for one in leanplum.arrived()))
        assert [one["action"] for one in leanplum.arrived() if one.get("userId") == "ann"] in (
            [],
            ["deleteUser"],
        )


def test_an_erased_user_may_be_looked_at(
    leanplum: Leanplum, settings: Callable[..., Any], path: Path
) -> None:
    with delivering_to(leanplum, settings, path) as talk:
        assert erase(talk, headers={"Prefer": "wait=10"}).json()["status"] in {
            "delivered",
            "skipped",
        }
        assert talk.get("/v1/users/ann").status_code == 404  # Leanplum has no such user


def test_once_it_is_done_the_receipt_no_longer_names_the_user(
    leanplum: Leanplum, settings: Callable[..., Any], path: Path
) -> None:
    with delivering_to(leanplum, settings, path) as talk:
        talk.event(event(), headers={"Prefer": "wait=10"})
        found = erase(talk, headers={"Prefer": "wait=10", "Idempotency-Key": "e1"}).json()
        assert (found["status"], "userId" in found) == ("delivered", False)
        assert found["erased"] == NOTHING | {"receipts": 1}
        assert erase(talk, headers={"Idempotency-Key": "e1"}).json()["duplicate"] is True
        assert leanplum.user("ann").get("error"), "Leanplum has deleted the user"


def files(path: Path) -> bytes:
    """All that the database has on the disk."""
    return b"".join(one.read_bytes() for one in path.parent.glob(f"{path.name}*"))


@pytest.mark.parametrize("data_key", [None, "a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="])
def test_after_an_erasure_no_row_and_no_file_holds_the_user_or_a_value_of_theirs(
    leanplum: Leanplum,
    settings: Callable[..., Any],
    path: Path,
    data_key: str | None,
    frequent_housekeeping: None,
) -> None:
    with delivering_to(
        leanplum, settings, path, gateway_data_key=data_key, gateway_rate_burst=10**6
    ) as talk:
        leanplum.fault(mode="success-false", message="Bad.", userId=USER, times=1)
        assert (
            talk.event(event(USER, info=VALUE), headers={"Prefer": "wait=10"}).json()["status"]
            == "rejected"
        )
        for size in (10, 3_000, 20_000):  # in a page, and over several
            items = [{"action": "track", **event(USER, info=VALUE + "x" * size)} for _ in range(40)]
            others = [
                {"action": "track", **event(f"user{number}", info="y" * size)}
                for number in range(40)
            ]
            mixed = [one for pair in zip(items, others, strict=True) for one in pair]
            assert talk.batch(mixed).json()["accepted"] == 80
        talk.until_nothing_waits()
        assert USER.encode() in files(path)
        assert erase(talk, USER, headers={"Prefer": "wait=10"}).json()["status"] == "delivered"
        # The housekeeper cleans them again and again: it can't while somebody reads
        until(lambda: USER.encode() not in files(path))
        assert VALUE.encode() not in files(path)
        tables = [
            name for (name,) in talk.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        assert USER not in repr([talk.rows(f"SELECT * FROM {table}") for table in tables])


def test_the_housekeeper_cleans_the_files_soon_after_each_erasure_also_right_after_the_last_time(
    start: Callable[..., Talk], frequent_housekeeping: None
) -> None:
    talk = start(**DEVELOPMENT)
    for user in (f"{USER}-1", f"{USER}-2", f"{USER}-3"):
        talk.event(event(user, info=VALUE))
        erase(talk, user)
        until(lambda: VALUE.encode() not in files(talk.path))


def test_a_deletion_may_say_that_the_body_it_has_not_is_json(start: Callable[..., Talk]) -> None:
    talk = start(**DEVELOPMENT)
    assert erase(talk, USER, headers={"Content-Type": "application/json"}).status_code == 202


def test_the_audit_names_the_call_and_neither_the_user_nor_a_value(
    start: Callable[..., Talk],
) -> None:
    talk = start(**DEVELOPMENT)
    talk.event(event(USER, info=VALUE))
    answer = erase(talk, USER)
    (record,) = talk.audit(answer.headers["x-request-id"])
    assert record["api"]["operation"] == "DELETE /v1/users/{userId}"
    assert USER not in repr(talk.audit())
