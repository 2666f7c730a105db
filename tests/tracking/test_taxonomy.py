"""The names that Leanplum keeps of an app: counted, warned of, refused, forgotten."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.callers import key_format
from app.database.engine import connect, transaction
from app.database.writer import Writer
from app.settings import Settings
from app.settings.validators import TAXONOMY
from app.tracking.name_store import AddNames, ForgetName, NameStore, read_names
from app.tracking.names import Name, NameLimits
from tests.support.gateway import Talk, pointers, problem
from tests.support.tracking_plans import GOOD, shop
from tests.support.wait import until

Start = Callable[..., Talk]
LITTLE = {
    "gateway_taxonomy_limits": "events=3,states=2,params=3,attributes=2",
    "gateway_taxonomy_warn_percent": 100,
}


@pytest.fixture
def enforcing(start: Start) -> Talk:
    return start(gateway_taxonomy_policy="enforce", **LITTLE)


@pytest.fixture
def warning(start: Start) -> Talk:
    return start(**LITTLE | {"gateway_taxonomy_warn_percent": 60})


def event(name: str, **params: Any) -> dict[str, Any]:
    return {"userId": "u1", "event": name, **({"params": params} if params else {})}


def names(talk: Talk) -> dict[str, list[str]]:
    found = talk.get("/v1/taxonomy").json()
    return {kind: [one["name"] for one in found[kind]["names"]] for kind in TAXONOMY}


def codes(answer: Any) -> dict[str, str]:
    return {one["pointer"]: one["code"] for one in answer.json().get("violations", ())}


def test_every_name_that_is_accepted_is_counted_once(enforcing: Talk) -> None:
    enforcing.event(event("A", p=1))
    enforcing.event(event("A", p=1, q=2))
    enforcing.post("/v1/users/u1/states", {"state": "S", "params": {"r": 1}})
    update = {"userAttributes": {"a": 1, "gone": None}, "events": {"B": {}}}
    update |= {"userAttributeValuesToIncrement": {"n": 1}}
    assert enforcing.post("/v1/users/u1", update, method="PATCH").status_code == 202
    assert names(enforcing) == {
        "events": ["A", "B"],
        "states": ["S"],
        "params": ["p", "q", "r"],
        "attributes": ["a", "n"],
    }
    told = enforcing.get("/v1/taxonomy").json()
    assert (told["policy"], told["events"]["count"], told["events"]["limit"]) == ("enforce", 2, 3)


def test_a_name_too_many_is_refused_under_enforce_and_known_ones_go_on(enforcing: Talk) -> None:
    for name in "ABC":
        assert enforcing.event(event(name)).status_code == 202
    assert pointers(problem(enforcing.event(event("D")), 422, "validation")) == {
        "/event": "taxonomy-limit"
    }
    assert enforcing.event(event("A")).status_code == 202
    assert names(enforcing)["events"] == ["A", "B", "C"]


def test_a_batch_fills_what_is_left_and_no_more(enforcing: Talk) -> None:
    answer = enforcing.batch(
        [{"action": "track"} | event(name) for name in ("A", "B", "A", "C", "D", "E", "B")]
    )
    assert [one["status"] for one in answer.json()["results"]] == [
        *("accepted", "accepted", "accepted", "accepted"),
        *("rejected", "rejected", "accepted"),
    ]
    assert names(enforcing)["events"] == ["A", "B", "C"]


def test_calls_at_once_do_not_overfill_it(enforcing: Talk) -> None:
    headers = {"Content-Type": "application/json"}
    sent = [
        ("POST", "/v1/events", {"json": event(f"E{number}"), "headers": headers})
        for number in range(20)
    ]
    statuses = [answer.status_code for answer in enforcing.at_once(*sent)]
    assert sorted(statuses) == [202] * 3 + [422] * 17
    assert len(names(enforcing)["events"]) == 3


def test_a_name_of_a_refused_item_takes_no_room(enforcing: Talk) -> None:
    assert enforcing.event(event("A", p=1, q=2, r=3, s=4)).status_code == 422
    assert names(enforcing) == {kind: [] for kind in TAXONOMY}
    assert enforcing.event(event("A") | {"id": "x"}).status_code == 202
    assert enforcing.event(event("B") | {"id": "x"}).status_code == 409
    assert names(enforcing)["events"] == ["A"]
    for name in "CD":
        assert enforcing.event(event(name)).status_code == 202


def test_a_refused_item_leaves_the_room_of_its_neighbours_alone(enforcing: Talk) -> None:
    sent = [
        event("A", p=1),
        event("A", p=1, q=1, r=1, s=1),
        event("A", q=1),
        event("A", r=1),
        event("A", s=1),
    ]
    answer = enforcing.batch([{"action": "track"} | one for one in sent])
    statuses = [one["status"] for one in answer.json()["results"]]
    assert statuses == ["accepted", "rejected", "accepted", "accepted", "rejected"]
    assert names(enforcing)["params"] == ["p", "q", "r"]


def test_under_warn_it_is_accepted_and_each_receipt_says_so(warning: Talk) -> None:
    answers = [warning.event(event(name)) for name in ("A", "B", "C", "D", "D", "A")]
    assert {answer.status_code for answer in answers} == {202}
    near, over = {"/event": "taxonomy-near-limit"}, {"/event": "taxonomy-limit"}
    assert [codes(answer) for answer in answers] == [{}, near, near, over, over, {}]
    assert names(warning)["events"] == ["A", "B", "C"]
    assert (
        'leanplum_gateway_taxonomy_beyond_limit_total{app="default",kind="events"} 2.0'
        in warning.get("/metrics").text
    )


def test_with_the_policy_off_names_are_counted_and_nothing_is_said(start: Start) -> None:
    talk = start(gateway_taxonomy_policy="off", **LITTLE)
    assert [codes(talk.event(event(name))) for name in "ABCD"] == [{}] * 4
    assert names(talk)["events"] == ["A", "B", "C"]


def test_a_state_and_an_event_may_not_share_a_name(enforcing: Talk) -> None:
    enforcing.event(event("A"))
    state = enforcing.post("/v1/users/u1/states", {"state": "A"})
    assert pointers(problem(state, 422, "validation")) == {"/state": "taxonomy-shared-name"}
    both = enforcing.batch(
        [
            {"action": "advance", "userId": "u1", "state": "B"},
            {"action": "track", "userId": "u1", "event": "B"},
        ]
    )
    assert [one["status"] for one in both.json()["results"]] == ["accepted", "rejected"]


def test_the_metrics_have_counts_and_limits(enforcing: Talk) -> None:
    enforcing.event(event("A", p=1))
    metrics = enforcing.get("/metrics").text
    assert 'leanplum_gateway_taxonomy_names{app="default",kind="params"} 1.0' in metrics
    assert 'leanplum_gateway_taxonomy_limit{kind="params"} 3.0' in metrics


def test_a_message_s_own_events_take_no_name(enforcing: Talk) -> None:
    enforcing.event({"userId": "u1", "event": "Open", "messageId": 5})
    enforcing.event({"userId": "u1", "event": "", "messageId": 5})
    assert names(enforcing)["events"] == []


def test_what_an_sdk_sends_is_counted_too(enforcing: Talk) -> None:
    def entry(action: str, **fields: Any) -> dict[str, Any]:
        return {"action": action, "userId": "u1", "reqId": str(fields), **fields}

    data = [
        entry("track", event="A", params='{"p":1}'),
        entry("advance", state="S", params={"q": 1}),
        entry("setUserAttributes", userAttributes='{"a":1}'),
        entry("track", event="1234", params="no JSON"),
    ]
    answer = enforcing.post(
        "/api", {"appId": "app_tests", "clientKey": enforcing.key, "action": "multi", "data": data}
    )
    entries = answer.json()["response"]
    assert [one["success"] for one in entries] == [True, True, True, False]
    assert "consist only of digits" in entries[3]["error"]["message"]
    assert names(enforcing) == {
        "events": ["A"],
        "states": ["S"],
        "params": ["p", "q"],
        "attributes": ["a"],
    }


def test_a_name_can_be_forgotten_and_counts_again_when_it_comes_again(enforcing: Talk) -> None:
    for name in ("A", "B/C", "D"):
        enforcing.event(event(name))
    assert enforcing.event(event("E")).status_code == 422
    gone = enforcing.call("DELETE", "/v1/taxonomy/events/B%2FC")
    assert gone.status_code == 204
    assert problem(enforcing.call("DELETE", "/v1/taxonomy/events/B%2FC"), 404, "not-found")
    assert names(enforcing)["events"] == ["A", "D"]
    assert enforcing.event(event("E")).status_code == 202
    assert enforcing.event(event("B/C")).status_code == 422
    (record,) = enforcing.audit(gone.headers["x-request-id"])
    assert (record["api"]["operation"], record["status_code"]) == (
        "DELETE /v1/taxonomy/{kind}/{name}",
        "204",
    )


@pytest.mark.parametrize("name", ["params/sku", "events/Purchase"])
def test_a_forgotten_name_of_a_planned_event_counts_again_too(
    start: Start, tmp_path: Path, name: str
) -> None:
    (tmp_path / "plan.yaml").write_text(shop())
    talk = start(gateway_tracking_plan=tmp_path / "plan.yaml")

    def counted_again() -> bool:
        assert [talk.event(GOOD).status_code for _ in range(3)] == [202] * 3
        kind, _, one = name.partition("/")
        return one in names(talk)[kind]

    assert counted_again()
    assert talk.call("DELETE", f"/v1/taxonomy/{name}").status_code == 204
    assert counted_again()


def test_names_are_there_after_a_restart(start: Start) -> None:
    key = key_format.make()
    first = start(gateway_bootstrap_key=key, **LITTLE)
    first.event(event("A"))
    second = start(gateway_bootstrap_key=key, **LITTLE)  # another gateway on the same database
    assert names(second)["events"] == ["A"]
    assert codes(second.event(event("A"))) == {}


def test_processes_see_each_other_s_names(start: Start) -> None:
    """Two gateways on one database, as two processes are."""
    given = {
        "gateway_bootstrap_key": key_format.make(),
        "gateway_taxonomy_policy": "enforce",
    } | LITTLE
    first, second = (start(**given) for _ in range(2))
    for name in "ABC":
        assert first.event(event(name)).status_code == 202
    until(lambda: counted(second) == 3)
    assert second.event(event("D")).status_code == 422
    assert second.event(event("A")).status_code == 202
    first.call("DELETE", "/v1/taxonomy/events/A")
    until(lambda: counted(second) == 2)
    assert second.event(event("D")).status_code == 202


def counted(talk: Talk) -> float:
    """How many event names a process knows of."""
    metrics = talk.get("/metrics").text
    found = re.search(
        r'^leanplum_gateway_taxonomy_names\{app="default",kind="events"\} (\S+)$',
        metrics,
        re.MULTILINE,
    )
    return float(found[1]) if found else 0


# --- on both databases ------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(database: str) -> Any:
    made = connect(database)
    yield made
    made.dispose()


def test_names_are_written_once_and_forgotten_one_by_one(engine: Engine) -> None:
    with transaction(engine) as cursor:
        AddNames.run_all(cursor, [AddNames("shop", [Name("events", "A"), Name("params", "A")], 1)])
        AddNames.run_all(cursor, [AddNames("shop", [Name("events", "A"), Name("events", "B")], 2)])
        AddNames.run_all(cursor, [AddNames("game", [Name("events", "A")], 3)])
    assert [(one.name, one.first_seen) for one in read_names(engine, "shop")] == [
        (("events", "A"), 1),
        (("events", "B"), 2),
        (("params", "A"), 1),
    ]
    told: list[object] = []
    with transaction(engine) as cursor:
        gone = [ForgetName("shop", Name("events", name), told.append) for name in ("A", "C")]
        assert list(ForgetName.run_all(cursor, gone)) == [True, False]
    assert len(told) == 1
    taxonomy = NameStore(engine, Writer(engine), NameLimits(TAXONOMY, 0.9), "warn")  # type: ignore[arg-type]
    found = taxonomy.read()
    assert (found["shop"]["events"], found["game"]["events"]) == ({"B"}, {"A"})


# --- settings ---------------------------------------------------------------------------------------------------------


def test_other_limits_may_be_set(settings: Callable[..., Settings]) -> None:
    assert settings(gateway_taxonomy_limits="attributes=200").taxonomy_limits == TAXONOMY | {
        "attributes": 200
    }


@pytest.mark.parametrize("text", ["events", "events=x", "events=0", "users=5", "events=-1"])
def test_limits_that_make_no_sense_are_refused(
    settings: Callable[..., Settings], text: str
) -> None:
    with pytest.raises(ValueError, match="must be a number of names for each kind"):
        settings(gateway_taxonomy_limits=text)


def test_the_limits_of_leanplum_are_the_default(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    assert settings().taxonomy_limits == {
        "events": 500,
        "states": 500,
        "params": 200,
        "attributes": 500,
    }
