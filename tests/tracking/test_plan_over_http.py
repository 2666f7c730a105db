"""A gateway with a plan: what is refused, what is told, what is counted, what is shown."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.callers.store import ALL_SCOPES
from tests.support.gateway import CANARY, Talk, pointers, problem
from tests.support.segment import post
from tests.support.tracking_plans import GOOD, PURCHASE, SKU, shop, text
from tests.support.wait import until

Start = Callable[..., Talk]
WARN = {"mode": "warn", "params": {"properties": {"n": {"type": "integer"}}}}
BAD = GOOD | {"params": {"sku": CANARY}}
WARNED = {"userId": "u1", "event": "Search", "params": {"n": CANARY}}
FULL = shop(
    events={"Search": WARN},
    unknown={"events": "warn", "attributes": "enforce"},
    attributes={"plan": {}},
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(FULL)
    return path


@pytest.fixture
def talk(start: Start, file: Path) -> Talk:
    return start(gateway_tracking_plan=file)


def test_what_breaks_the_plan_is_refused_under_enforce(talk: Talk) -> None:
    answer = talk.event(BAD)
    assert pointers(problem(answer, 422, "validation")) == {"/params/sku": "plan-pattern"}
    assert CANARY not in answer.text
    assert talk.items() == 0


def test_what_breaks_the_plan_is_accepted_under_warn_and_its_receipt_says_so(talk: Talk) -> None:
    expected = [{"pointer": "/params/n", "detail": "must be an integer", "code": "plan-type"}]
    fresh = talk.event(WARNED | {"id": "w1"})
    assert (fresh.status_code, fresh.json()["violations"]) == (202, expected)
    assert talk.get("/v1/receipts/w1").json()["violations"] == expected
    waited = talk.event(WARNED, headers={"Prefer": "wait=0"})
    assert (waited.status_code, waited.json()["violations"]) == (202, expected)
    good = talk.event(GOOD | {"id": "g1"})
    assert "violations" not in good.json()
    assert "violations" not in talk.get("/v1/receipts/g1").json()


def test_of_a_batch_only_the_items_that_break_it_are_refused(talk: Talk) -> None:
    items = [{"action": "track"} | one for one in (GOOD, BAD, WARNED, GOOD | {"event": "New"})]
    items.append(
        {"action": "setUserAttributes", "userId": "u1", "userAttributes": {"other": 1, "plan": "x"}}
    )
    results = talk.batch(items).json()["results"]
    assert [one["status"] for one in results] == [
        "accepted",
        "rejected",
        "accepted",
        "accepted",
        "rejected",
    ]
    assert results[1]["problem"]["errors"] == [
        {
            "pointer": "/items/1/params/sku",
            "detail": "must match ^[A-Z]-[0-9]+$",
            "code": "plan-pattern",
        }
    ]
    assert results[4]["problem"]["errors"][0]["pointer"] == "/items/4/userAttributes/other"
    assert [one["code"] for one in results[2]["violations"]] == ["plan-type"]
    assert [one["code"] for one in results[3]["violations"]] == ["plan-unknown-event"]
    assert "violations" not in results[0]


def test_the_plan_judges_the_other_writes_too(talk: Talk) -> None:
    update = talk.post("/v1/users/u1", {"userAttributes": {"other": 1}}, method="PATCH")
    assert pointers(problem(update, 422, "validation")) == {
        "/userAttributes/other": "plan-unknown-attribute"
    }


def test_a_repeat_with_the_same_id_is_a_duplicate_though_it_was_warned_of(talk: Talk) -> None:
    assert talk.event(WARNED | {"id": "w1"}).status_code == 202
    assert talk.event(WARNED | {"id": "w1"}).json()["duplicate"] is True


def test_violations_are_counted_by_name_code_and_caller(talk: Talk) -> None:
    other, stored = talk.app.services.keys.create("other", ALL_SCOPES, None, 0)
    talk.do(talk.app.services.directory.refresh)
    talk.batch([{"action": "track"} | one for one in (BAD, WARNED, WARNED)])
    talk.event(BAD, key=other)
    talk.event(GOOD | {"event": "New"})
    found = talk.get("/v1/tracking-plan/violations")
    assert CANARY not in found.text
    rows = {(one["name"], one["code"], one["keyId"]): one for one in found.json()["violations"]}
    mine = next(key for _, _, key in rows if key != stored.caller.key_id)
    assert {of: one["count"] for of, one in rows.items()} == {
        ("Purchase", "plan-pattern", mine): 1,
        ("Purchase", "plan-pattern", stored.caller.key_id): 1,
        ("Search", "plan-type", mine): 2,
        ("New", "plan-unknown-event", mine): 1,
    }
    search = rows["Search", "plan-type", mine]
    assert (search["kind"], search["pointer"]) == ("events", "/params/n")
    talk.event(WARNED)
    again = talk.get("/v1/tracking-plan/violations").json()["violations"][0]
    assert (again["name"], again["count"], again["firstSeen"]) == ("Search", 3, search["firstSeen"])


def test_the_metric_has_only_names_of_the_plan(talk: Talk) -> None:
    talk.event(WARNED)
    talk.event(GOOD | {"event": "New"})
    metrics = talk.get("/metrics").text
    violations = 'leanplum_gateway_plan_violations_total{app="default",'
    assert f'{violations}code="plan-type",event="Search"}} 1.0' in metrics
    assert f'{violations}code="plan-unknown-event",event="other"}} 1.0' in metrics
    assert '"New"' not in metrics


def test_what_is_loaded_can_be_looked_at(talk: Talk) -> None:
    found = talk.get("/v1/tracking-plan").json()
    assert (found["loaded"], found["version"], found["files"], found["refused"]) == (
        True,
        "1",
        ["plan.yaml"],
        [],
    )
    assert len(found["digest"]) == 64
    assert found["unknown"] == {"events": "warn", "states": "allow", "attributes": "enforce"}
    assert [one["name"] for one in found["events"]] == ["Purchase", "Search"]
    assert found["events"][0]["mode"] == "enforce"
    assert found["definitions"] == SKU


def test_without_a_plan_there_is_none(start: Start) -> None:
    talk = start()
    assert talk.get("/v1/tracking-plan").json() == {"loaded": False, "refused": []}
    assert talk.get("/v1/tracking-plan/violations").json() == {"violations": []}
    assert talk.event(BAD).status_code == 202


def test_a_changed_plan_takes_effect_while_the_gateway_runs(talk: Talk, file: Path) -> None:
    assert talk.event(BAD).status_code == 422
    file.write_text(text(**{"version": "2", "events": {"Purchase": {}}}))
    until(lambda: talk.get("/v1/tracking-plan").json()["version"] == "2")
    assert talk.event(BAD).status_code == 202


def test_a_plan_with_a_fault_is_refused_as_a_whole_and_the_old_one_stays(
    talk: Talk, file: Path
) -> None:
    bad = FULL.replace('"mode": "warn"', '"mode": "warm"')
    file.write_text(bad)
    line = bad[: bad.index("warm")].count("\n") + 1
    until(lambda: talk.get("/v1/tracking-plan").json()["refused"])
    told = talk.get("/v1/tracking-plan").json()
    assert told["refused"] == [
        f"plan.yaml:{line}: events.Search.mode: input should be 'off', 'warn' or 'enforce'"
    ]
    assert (told["loaded"], talk.event(BAD).status_code) == (True, 422)
    file.unlink()
    until(lambda: "can't be read" in talk.get("/v1/tracking-plan").json()["refused"][0])
    assert talk.event(BAD).status_code == 422
    file.write_text(FULL)
    until(lambda: not talk.get("/v1/tracking-plan").json()["refused"])


def test_each_app_has_its_own_plan(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "plans"
    (folder / "more").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "shop.yaml").write_text(
        text(apps=["shop"], events={"A": {"mode": "enforce", "value": False}})
    )
    (folder / "more" / "game.yml").write_text(text(apps=["game"], unknown={"events": "enforce"}))
    (folder / ".hidden" / "shop.yaml").write_text("no plan")
    (folder / "notes.txt").write_text("no plan")
    apps = tmp_path / "apps.toml"
    names = ("shop", "game", "other")
    apps.write_text(
        "".join(f'[apps.{name}]\napp_id = "{name}"\nproduction_key = "p"\n' for name in names)
    )
    given: dict[str, Any] = {"leanplum_app_id": None, "leanplum_production_key": None}
    talk = start(gateway_apps_file=apps, gateway_tracking_plan=folder, **given)

    def status(app: str, **fields: Any) -> int:
        body = {"userId": "u1", "event": "A", "value": 1} | fields
        return talk.event(body, headers={"X-Leanplum-App": app}).status_code

    assert [status(name) for name in names] == [422, 422, 202]
    assert [status(name, event="B") for name in names] == [202, 422, 202]
    documents = {
        name: talk.get("/v1/tracking-plan", headers={"X-Leanplum-App": name}).json()
        for name in names
    }
    assert [one["loaded"] for one in documents.values()] == [True, True, False]
    assert documents["game"]["files"] == ["plans/more/game.yml"]


def test_an_sdk_s_entry_that_breaks_the_plan_is_answered_so_and_its_neighbours_are_taken(
    talk: Talk,
) -> None:
    def entry(**fields: Any) -> dict[str, Any]:
        return {
            "action": "track",
            "userId": "u1",
            "reqId": str(fields),
            "devMode": "false",
            **fields,
        }

    good = entry(event="Purchase", value="9.5", params='{"sku":"A-1"}')
    bad = entry(event="Purchase", value="0.0", params='{"sku":"A-1","x":1}')
    warned = entry(event="Search", params='{"n":"many"}')
    message = entry(event="", messageId="5")
    body = {
        "appId": "app_tests",
        "clientKey": talk.key,
        "action": "multi",
        "data": [good, bad, warned, message],
    }
    answer = talk.post("/api", body)
    assert answer.status_code == 200
    entries = answer.json()["response"]
    assert [one["success"] for one in entries] == [True, False, True, True]
    said = entries[1]["error"]["message"]
    assert said.startswith("Refused: ")
    assert (
        "/value must be greater than 0" in said and "/params/x is not in the tracking plan" in said
    )
    assert talk.items() == 3
    assert {
        one["code"] for one in talk.get("/v1/tracking-plan/violations").json()["violations"]
    } == {
        "plan-exclusive-minimum",
        "plan-unknown-param",
        "plan-type",
    }


def test_segment_s_messages_are_held_against_it_and_its_faults_point_into_the_message(
    talk: Talk,
) -> None:
    def sent(**message: Any) -> dict[str, Any]:
        return {"type": "track", "userId": "u1", "properties": {}, **message}

    bad = sent(event="Purchase", properties={"revenue": 1, "sku": CANARY})
    warned = sent(event="Search", properties={"n": CANARY}, messageId="w1")
    answer = post(talk, "batch", {"batch": [bad, warned]})
    (refused,) = answer.json()["rejected"]
    assert (refused["index"], pointers(refused)) == (0, {"/batch/0/properties/sku": "plan-pattern"})
    assert CANARY not in answer.text
    assert [one["code"] for one in talk.get("/v1/receipts/w1").json()["violations"]] == [
        "plan-type"
    ]
    counted = talk.get("/v1/tracking-plan/violations").json()["violations"]
    assert {(one["name"], one["code"]) for one in counted} == {
        ("Purchase", "plan-pattern"),
        ("Search", "plan-type"),
    }


def test_a_preview_tells_what_breaks_the_plan_and_counts_nothing(talk: Talk) -> None:
    items = [{"action": "track"} | one for one in (BAD, WARNED)]
    bad, warned = talk.post("/v1/preview", {"items": items}).json()["results"]
    assert bad["problem"]["errors"][0]["code"] == "plan-pattern"
    assert warned["violations"][0]["code"] == "plan-type"
    assert talk.get("/v1/tracking-plan/violations").json() == {"violations": []}
    assert talk.get("/v1/taxonomy").json()["events"]["count"] == 0


def test_the_plan_judges_what_enrichment_has_made(start: Start, file: Path) -> None:
    closed = {"properties": {"address.city": {"type": "string"}}, "additionalProperties": False}
    file.write_text(text(mode="enforce", events={"Order": {"params": closed}}))
    talk = start(gateway_tracking_plan=file)
    nested = {"userId": "u1", "event": "Order", "params": {"address": {"city": "Ghent"}}}
    assert talk.event(nested).status_code == 202
    nested["params"] = {"address": {"city": "Ghent", "street": "x"}}
    assert pointers(problem(talk.event(nested), 422, "validation")) == {
        "/params/address/street": "plan-unknown-param"
    }


# --- the documentation ------------------------------------------------------------------------------------------------


def test_the_documentation_has_each_event_s_own_schema_and_example(
    start: Start, file: Path
) -> None:
    example = {"value": 3.5, "currencyCode": "EUR", "params": {"sku": "B-7"}}
    told = {"description": "A customer paid.", "owner": "checkout", "examples": [example]}
    file.write_text(
        text(
            definitions=SKU,
            events={"Purchase": PURCHASE | told},
            states={"Cart": {}},
            attributes={"p": {}},
        )
    )
    document = start(gateway_tracking_plan=file).get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    body = document["paths"]["/v1/events"]["post"]["requestBody"]["content"]["application/json"]
    refs = [one["$ref"].rpartition("/")[2] for one in body["schema"]["oneOf"]]
    assert refs == ["Event_Purchase", "OtherEvent"]
    purchase = schemas["Event_Purchase"]
    assert purchase["properties"]["event"] == {"const": "Purchase", "type": "string"}
    assert purchase["properties"]["params"]["properties"]["sku"] == {
        "$ref": "#/components/schemas/Plan1_sku"
    }
    assert schemas["Plan1_sku"] == SKU["sku"]
    assert {"event", "value", "params"} <= set(purchase["required"])
    assert purchase["description"] == "A customer paid. Owner: checkout. Violations are refused."
    assert body["examples"]["Purchase"]["value"] == {
        "userId": "user-1",
        "event": "Purchase",
        **example,
    }
    assert schemas["OtherEvent"]["properties"]["event"]["not"] == {"enum": ["Purchase"]}
    states = document["paths"]["/v1/users/{userId}/states"]["post"]["requestBody"]["content"][
        "application/json"
    ]
    assert states["schema"]["oneOf"][0] == {"$ref": "#/components/schemas/State_Cart"}
    assert "userId" not in states["examples"]["Cart"]["value"]
    assert "p" in schemas["UserUpdate"]["properties"]["userAttributes"]["properties"]


def test_the_documentation_follows_the_plan(talk: Talk, file: Path) -> None:
    def named() -> set[str]:
        return {
            name
            for name in talk.get("/openapi.json").json()["components"]["schemas"]
            if re.match("Event(_|$)", name)
        }

    assert named() == {"Event_Purchase", "Event_Search", "Event"} - {"Event"}
    file.write_text(text(**{"version": "2", "events": {"Add to cart": {}}}))
    until(lambda: named() == {"Event_Add_to_cart"})
    file.write_text(text(**{"version": "3"}))
    until(lambda: named() == {"Event"})


def test_apps_with_plans_of_their_own_are_told_apart(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "plans"
    folder.mkdir()
    for name in ("shop", "game"):
        (folder / f"{name}.yaml").write_text(
            text(apps=[name], events={"Start it": {"info": {"const": name}}})
        )
    document = start(gateway_tracking_plan=folder).get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert [schemas[name]["title"] for name in ("Event_Start_it", "Event_Start_it_2")] == [
        "Start it (game)",
        "Start it (shop)",
    ]


# --- what an SDK may send and no database takes -----------------------------------------------------------------------


def sdk(talk: Talk, **fields: Any) -> dict[str, Any]:
    data = [{"action": "track", "userId": "u1", "reqId": "1", **fields}]
    answer = talk.post(
        "/api", {"appId": "app_tests", "clientKey": talk.key, "action": "multi", "data": data}
    )
    assert answer.status_code == 200, answer.text
    entry: dict[str, Any] = answer.json()["response"][0]
    return entry


def test_names_that_are_none_are_counted_together_as_other(talk: Talk) -> None:
    assert not sdk(talk, event="a\0b")["success"]
    for name in ("x" * 5_000, "1234"):
        assert sdk(talk, event=name)["success"]
    sdk(talk, event="Search", params=json.dumps({"n\0": 1, "n": "x"}))
    found = talk.get("/v1/tracking-plan/violations").json()["violations"]
    assert {(one["name"], one["code"], one["count"]) for one in found} == {
        ("other", "plan-unknown-event", 2),
        ("Search", "plan-type", 1),
    }


def test_a_parameter_s_name_that_no_database_takes_does_not_stop_the_counting(
    start: Start, file: Path
) -> None:
    file.write_text(
        text(events={"A": {"params": {"properties": {"a": {}}, "additionalProperties": False}}})
    )
    talk = start(gateway_tracking_plan=file)
    assert sdk(talk, event="A", params=json.dumps({"n\0" + "x" * 5_000: 1}))["success"]
    (one,) = talk.get("/v1/tracking-plan/violations").json()["violations"]
    assert one["pointer"].startswith("/params/n?xxx")
    assert len(one["pointer"]) <= 400


def test_parameters_that_are_nested_too_deeply_to_be_judged_are_refused(talk: Talk) -> None:
    deep = '{"a":' * 600 + "1" + "}" * 600
    entry = sdk(talk, event="Search", params=f'{{"n":{deep}}}')
    assert (entry["success"], entry["error"]["message"]) == (
        False,
        "The action is nested too deeply.",
    )
