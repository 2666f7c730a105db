"""What a call to /api was refused is in the audit: how many entries, which actions, whom they were
about.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.processes import APP_ID, Process, serving
from tests.support.segment import basic
from tests.support.wait import until

VICTIM, OTHER = (
    {"action": "deleteUser", "userId": "victim"},
    {"action": "deleteUser", "userId": "other"},
)
VARS = {"action": "setVars", "vars": "{}"}
UNKNOWN = {"action": "X" * 300, "userId": "victim"}
TRACK = {"action": "track", "userId": "u", "event": "E"}
TRACK_IN_STEPS = {**TRACK, "reqId": "r"}
OF_DEVICE = {"action": "deleteUser", "deviceId": "phone"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("refused-entries")
    more = {"GATEWAY_LOG_LEVEL": "error"}
    with serving(folder, "http://127.0.0.1:9", "--no-delivery", **more) as running:
        yield running


def multi(gateway: Process, key: str, *entries: Any) -> httpx.Response:
    call = {"appId": APP_ID, "clientKey": key, "action": "multi", "data": list(entries)}
    return gateway.http.post("/api", json=call)


def records(gateway: Process, query: str) -> list[dict[str, Any]]:
    answer = gateway.call("GET", f"/v1/audit?{query}&limit=100&order=oldest")
    return [one["record"] for one in answer.json()["records"]]


def record_of(gateway: Process, answer: httpx.Response) -> dict[str, Any]:
    """The one record of a call."""
    (record,) = records(gateway, f"requestId={answer.headers['x-request-id']}")
    return record


CASES: dict[str, tuple[int, tuple[Any, ...], int, dict[str, int], int]] = {
    # status, entries, accepted, refused actions, how many users
    "all are refused": (200, (VICTIM, OTHER, VARS), 0, {"deleteUser": 2, "setVars": 1}, 2),
    "one is accepted": (200, (VICTIM, TRACK), 1, {"deleteUser": 1}, 2),
    "one is accepted that may be a repeat": (
        200,
        (VICTIM, TRACK_IN_STEPS),
        1,
        {"deleteUser": 1},
        2,
    ),
    "none is known": (403, (UNKNOWN, UNKNOWN), 0, {"(unknown)": 2}, 1),
    "no objects, no actions": (200, (7, {}, OF_DEVICE), 0, {"(unknown)": 2, "deleteUser": 1}, 1),
}


@pytest.mark.parametrize(
    ("status", "entries", "accepted", "actions", "users"), CASES.values(), ids=CASES
)
def test_entries_that_are_refused_are_counted_and_named(
    gateway: Process,
    status: int,
    entries: tuple[Any, ...],
    accepted: int,
    actions: dict[str, int],
    users: int,
) -> None:
    _, key = gateway.create_key()
    answer = multi(gateway, key, *entries)
    assert answer.status_code == status
    record = record_of(gateway, answer)
    told = record["unmapped"]
    assert (told["accepted"], told["rejected"]) == (accepted, len(entries) - accepted)
    assert told["refusedActions"] == actions
    assert len(told["users"] if users > 1 else [told["user"]]) == users
    for text in ("victim", "other", "phone", "XXX"):
        assert text not in str(record)


SEGMENT_TRACK = {"type": "track", "userId": "u", "event": "E"}
NO_EVENT = {"type": "track", "userId": "victim"}
NO_TYPE = {"type": "X" * 300, "anonymousId": "phone-1"}
MESSAGES: dict[str, tuple[int, tuple[Any, ...], int, dict[str, int], int]] = {
    "all are refused": (400, (NO_EVENT, NO_TYPE), 0, {"track": 1, "other": 1}, 2),
    "one is accepted": (200, (NO_EVENT, SEGMENT_TRACK), 1, {"track": 1}, 2),
    "no objects, no users": (400, (7, {"userId": "victim", "event": 1}), 0, {"other": 2}, 1),
}


@pytest.mark.parametrize(
    ("status", "sent", "accepted", "types", "users"), MESSAGES.values(), ids=MESSAGES
)
def test_messages_that_are_refused_are_counted_and_named(
    gateway: Process,
    status: int,
    sent: tuple[Any, ...],
    accepted: int,
    types: dict[str, int],
    users: int,
) -> None:
    _, key = gateway.create_key("events:write", "users:write")
    answer = gateway.http.post("/segment/v1/batch", json={"batch": list(sent)}, headers=basic(key))
    assert answer.status_code == status
    record = record_of(gateway, answer)
    told = record["unmapped"]
    assert (told["accepted"], told["rejected"]) == (accepted, len(sent) - accepted)
    assert told["refusedActions"] == types
    assert len(told["users"] if users > 1 else [told["user"]]) == users
    for text in ("victim", "phone", "XXX"):
        assert text not in str(record)


def test_a_call_of_one_action_that_is_refused_names_it_also_when_it_is_folded(
    gateway: Process,
) -> None:
    key_id, key = gateway.create_key()
    for at in range(30):
        call = {
            "appId": APP_ID,
            "clientKey": key,
            "action": "deleteUser",
            "userId": f"user-{at % 3}",
        }
        assert gateway.http.post("/api", json=call).status_code == 403
    found = list[dict[str, Any]]()

    def folded() -> bool:
        nonlocal found
        found = records(gateway, f"keyId={key_id}")
        return len(found) == 2

    until(folded, 30, pause=0.5)
    first, rest = found
    assert first["unmapped"]["refusedActions"] == {"deleteUser": 1}
    assert rest["count"] == 29
    assert rest["unmapped"]["refusedActions"] == {"deleteUser": 29}
    assert len(rest["unmapped"]["users"]) == 3
    assert first["unmapped"]["user"] in rest["unmapped"]["users"]


def test_of_many_users_that_a_refused_batch_names_fifty_are_recorded(gateway: Process) -> None:
    _, key = gateway.create_key()
    answer = multi(gateway, key, *({**VICTIM, "userId": f"user-{at}"} for at in range(200)))
    told = record_of(gateway, answer)["unmapped"]
    assert (told["rejected"], told["refusedActions"], len(told["users"])) == (
        200,
        {"deleteUser": 200},
        50,
    )
