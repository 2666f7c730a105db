"""GATEWAY_SDK_RELAYED_ACTIONS: writes at /api that Leanplum is asked for while the caller waits."""

import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.apps import read_apps
from app.errors import StartRefused
from app.leanplum.outcomes import WARNING_LABELS
from app.settings import Settings, load
from tests.support.gateway import CANARY, WIDE, Talk, make_settings
from tests.support.postgres import Server
from tests.support.sdk import Sdk, entries, settled
from tests.support.simulator import KEYS, Leanplum, delivering_to, simulated
from tests.support.tracking_plans import shop
from tests.support.wait import until

YEARS = 2 * 366 * 86_400
RELAYED = "track, setUserAttributes"
Start = Callable[..., Talk]
PAST = r"Past event detected \(73\d days ago\)\. Rewriting timestamp\."


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def talk(
    request: pytest.FixtureRequest,
    leanplum: Leanplum,
    tmp_path_factory: pytest.TempPathFactory,
    migrated: Any,
    postgresql_server: Server,
) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("relayed")
    own = (
        {"gateway_database_url": postgresql_server.empty()} if request.param == "postgresql" else {}
    )

    def settings(**given: Any) -> Any:
        return make_settings(folder, migrated, WIDE | own | given)

    told = {"gateway_sdk_relayed_actions": RELAYED, "gateway_relay_timeout_seconds": 2}
    with delivering_to(leanplum, settings, folder / "g.db", **told) as found:
        yield found


@pytest.fixture(scope="module")
def begin(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Iterator[Start]:
    """Starts a gateway of these settings before the same Leanplum."""
    with ExitStack() as stack:

        def started(**more: Any) -> Talk:
            folder = tmp_path_factory.mktemp("relaying")

            def settings(**given: Any) -> Any:
                return make_settings(folder, migrated, WIDE | given)

            told = {"gateway_sdk_relayed_actions": RELAYED, **more}
            return stack.enter_context(delivering_to(leanplum, settings, folder / "g.db", **told))

        yield started


@pytest.fixture
def sdk(talk: Talk, leanplum: Leanplum) -> Sdk:
    leanplum.mend()
    settled(talk)
    leanplum.forget()
    return Sdk(talk)


def track(**more: Any) -> dict[str, Any]:
    return {"action": "track", "userId": "u1", "event": "E", **more}


def stored(talk: Talk) -> int:
    """How many items were ever accepted, as the metrics tell."""
    counts = re.findall(
        r"^leanplum_gateway_items_accepted_total{.*} (\S+)$",
        talk.get("/metrics").text,
        re.MULTILINE,
    )
    return int(sum(map(float, counts)))


def metric(talk: Talk, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", talk.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def warnings(talk: Talk, label: str) -> float:
    return metric(talk, f'leanplum_gateway_warnings_total{{app="default",warning="{label}"}}')


def actions(leanplum: Leanplum) -> list[str]:
    return [one["action"] for one in leanplum.arrived()]


# --- the answers ------------------------------------------------------------------------------------------------------


class Gem:
    """The Ruby gem's calls, as `lib/leanplum_api/api.rb` makes them (fact sheet §6, §12.7)."""

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk

    def multi(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Raises an error on anything but 200 with as many successes as there are actions."""
        query = {"appId": "app_sandbox", "clientKey": self._sdk.key, "apiVersion": "1.0.6", "devMode": "false",
                 "action": "multi", "time": str(int(time.time()))}  # fmt: skip
        answer = self._sdk.call("POST", f"/api?{httpx.QueryParams(query)}", json={"data": data})
        assert answer.status_code == 200, answer.text
        found = entries(answer)
        assert [str(one.get("success")).lower() for one in found] == ["true"] * len(data), found
        return found

    def track_multi(
        self, events: list[dict[str, Any]], attributes: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """With `force_anomalous_override`."""
        answers = self.multi(events + attributes)
        if any("warning" in one for one in answers):
            users = dict.fromkeys(event["userId"] for event in events)
            self.multi(
                [
                    {"action": "setUserAttributes", "resetAnomalies": True, "userId": user}
                    for user in users
                ]
            )
        return answers


def test_the_ruby_gem_s_anomaly_override_works(sdk: Sdk, leanplum: Leanplum, talk: Talk) -> None:
    old = int(time.time() - YEARS)
    events = [
        {
            "action": "track",
            "event": "purchase",
            "userId": 123456,
            "time": old,
            "params": {"a": "b"},
        },
        {"action": "track", "event": "view", "userId": 54321, "time": old},
    ]
    attributes = [{"action": "setUserAttributes", "userId": 777, "userAttributes": {"a": 1}}]
    before = stored(talk)
    answers = Gem(sdk).track_multi(events, attributes)
    for one in answers[:2]:
        assert re.fullmatch(PAST, one["warning"]["message"])
        assert one["isOffline"] is True
    assert answers[2] == {"success": True, "isOffline": True}
    first, second = leanplum.calls()
    assert [one["action"] for one in first["args"]["data"]] == [
        "track",
        "track",
        "setUserAttributes",
    ]
    assert second["args"]["clientKey"] == KEYS["leanplum_development_key"]
    assert [(one["userId"], one["resetAnomalies"]) for one in second["args"]["data"]] == [
        (123456, True),
        (54321, True),
    ]
    assert stored(talk) == before


@pytest.mark.parametrize("value", [True, "true", 1])
def test_a_reset_of_anomalies_takes_the_development_key_alone_or_in_a_batch(
    sdk: Sdk, leanplum: Leanplum, value: Any
) -> None:
    reset = {"action": "setUserAttributes", "userId": "u1", "resetAnomalies": value}
    assert [entries(sdk.post(reset)) for _ in range(2)] == [
        [{"success": True, "isOffline": True}]
    ] * 2
    assert [one["success"] for one in entries(sdk.multi(track(), reset, track()))] == [True] * 3
    kinds = [(one["action"], one["clientKey"]) for one in leanplum.arrived()]
    production, development = KEYS["leanplum_production_key"], KEYS["leanplum_development_key"]
    assert kinds == [*[("setUserAttributes", development)] * 2, ("track", production),
                     ("setUserAttributes", development), ("track", production)]  # fmt: skip


@pytest.mark.parametrize("form", ["batch", "single", "get", "form", "javascript"])
def test_leanplum_s_own_answer_comes_back_whatever_the_form(
    sdk: Sdk, leanplum: Leanplum, form: str
) -> None:
    entry = track(reqId=str(uuid.uuid4()), uuid="u", time=time.time() - YEARS)
    if form == "batch":
        answer = sdk.multi(entry)
    elif form == "single":
        answer = sdk.post(entry)
    elif form == "get":
        answer = sdk.get(**entry)
    elif form == "form":
        answer = sdk.android({**entry, "time": str(1.700000000123e9 - YEARS)})
    else:
        answer = sdk.javascript({**entry, "time": str(1.700000000123e9 - YEARS)})
    (told,) = entries(answer)
    assert re.fullmatch(PAST, told["warning"]["message"])
    assert (told["isOffline"], told["reqId"], told["success"]) == (True, entry["reqId"], True)
    assert actions(leanplum) == ["track"]


def test_other_actions_are_durable_as_before(sdk: Sdk, leanplum: Leanplum, talk: Talk) -> None:
    before = stored(talk)
    (told,) = entries(sdk.multi({"action": "advance", "userId": "nobody", "state": "S"}))
    assert told == {"success": True}
    settled(talk)
    assert stored(talk) == before + 1


@pytest.mark.parametrize("entry", [
    {"action": "track", "event": "E"}, {"action": "track", "userId": "u1"}, {"action": "track", "event": None,
    "userId": "u1"}, {"action": "setUserAttributes", "userAttributes": {}}])  # fmt: skip
def test_what_is_not_accepted_is_not_relayed(
    sdk: Sdk, leanplum: Leanplum, entry: dict[str, Any]
) -> None:
    assert entries(sdk.post(entry))[0]["success"] is False
    assert actions(leanplum) == []


# --- their order ------------------------------------------------------------------------------------------------------


def test_they_keep_their_order_with_what_is_durable(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    leanplum.fault(mode="slow", delay=0.3, times=1, action="setUserAttributes")
    assert (
        talk.post("/v1/users/u1", {"userAttributes": {"n": 1}}, method="PATCH").status_code == 202
    )
    advance = {"action": "advance", "userId": "u1", "state": "S"}
    sdk.multi(advance, track(), advance | {"state": "T"}, {"action": "setUserAttributes", "userId": "u1",
              "userAttributes": {"n": 2}}, track(event="F"))  # fmt: skip
    settled(talk)
    assert actions(leanplum) == [
        "setUserAttributes",
        "advance",
        "track",
        "advance",
        "setUserAttributes",
        "track",
    ]
    assert leanplum.user("u1")["attributes"] == {"n": 2}


def test_what_waits_for_a_retry_is_never_overtaken(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    leanplum.fault(mode="500-html", action="advance", times=50)
    sdk.multi(
        {"action": "advance", "userId": "u1", "state": "S", "createDisposition": "CreateIfNeeded"}
    )
    until(lambda: actions(leanplum).count("advance"))
    before, asked = stored(talk), time.monotonic()
    answer = sdk.multi(track())
    assert answer.status_code == 503
    assert "have not been delivered yet" in entries(answer)[0]["error"]["message"]
    assert int(answer.headers["retry-after"]) > 0
    assert time.monotonic() - asked < 8
    assert "track" not in actions(leanplum)
    assert entries(sdk.multi(track(userId="u2")))[0]["success"] is True
    assert stored(talk) == before
    leanplum.mend()
    settled(talk)
    assert entries(sdk.multi(track()))[0]["success"] is True


def test_a_login_joins_both_users_as_it_does_when_it_is_durable(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    login = {"action": "setUserAttributes", "userId": "a", "newUserId": "k"}
    sdk.multi(
        {"action": "advance", "userId": "a", "state": "S", "createDisposition": "CreateIfNeeded"},
        login,
    )
    sdk.multi({"action": "advance", "userId": "k", "state": "T"})
    settled(talk)
    assert [one["action"] for one in leanplum.arrived()] == [
        "advance",
        "setUserAttributes",
        "advance",
    ]
    assert set(leanplum.user("k")["states"]) == {"S", "T"}


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"mode": "500-html", "times": 20}, 503),
        ({"mode": "429", "times": 20}, 429),
        ({"mode": "slow", "delay": 2.6, "times": 1}, 504),
    ],
)
@pytest.mark.parametrize("batch", [True, False])
def test_a_failure_is_told_in_the_envelope_and_nothing_is_stored(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, fault: dict[str, Any], status: int, batch: bool
) -> None:
    user = str(uuid.uuid4())
    leanplum.fault(**fault, action="track")
    before = stored(talk)
    answer = (
        sdk.multi(track(userId=user, reqId="r9"))
        if batch
        else sdk.post(track(userId=user, reqId="r9"))
    )
    assert answer.status_code == status, answer.text
    (told,) = entries(answer)
    assert (told["success"], told["reqId"]) == (False, "r9")
    assert stored(talk) == before
    assert talk.get("/v1/receipts", params={"reqId": "r9"}).json() == {"receipts": []}


def test_what_leanplum_refuses_is_told_as_it_says_it(sdk: Sdk, leanplum: Leanplum) -> None:
    events = {"E": {"count": 1, "value": 0, "firstTime": "x", "lastTime": 5}}
    (told,) = entries(sdk.multi({"action": "setUserAttributes", "userId": "u1", "events": events}))
    assert told["success"] is False
    assert "firstTime is invalid" in told["error"]["message"]


def test_a_user_who_was_erased_is_refused(begin: Start, leanplum: Leanplum) -> None:
    talk = begin(gateway_erased_seconds=600)
    assert talk.call("DELETE", "/v1/users/gone?fullErasure=true").status_code == 202
    settled(talk)
    leanplum.forget()
    answer = Sdk(talk).post(track(userId="gone"))
    assert (answer.status_code, entries(answer)[0]["success"]) == (451, False)
    (told,) = entries(Sdk(talk).multi(track(userId="gone")))
    assert told["success"] is False
    assert actions(leanplum) == []


# --- the rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relayed", ["", RELAYED])
def test_the_tracking_plan_judges_them_as_it_judges_durable_entries(
    begin: Start, leanplum: Leanplum, tmp_path: Path, relayed: str
) -> None:
    (tmp_path / "plan.yaml").write_text(shop())
    talk = begin(gateway_tracking_plan=tmp_path / "plan.yaml", gateway_sdk_relayed_actions=relayed)
    leanplum.forget()
    good = track(event="Purchase", value=9.5, currencyCode="EUR", params={"sku": "A-1"})
    answer = Sdk(talk).multi(good, {**good, "params": '{"sku":"nothing"}'}, {**good, "value": "-1"})
    first, second, third = entries(answer)
    assert first["success"] is True, first
    assert second["success"] is third["success"] is False
    assert second["error"]["message"].startswith("Refused: /params/sku")
    assert third["error"]["message"].startswith("Refused: /value")
    settled(talk)
    assert [one["params"] for one in leanplum.arrived()] == [{"sku": "A-1"}]
    told = talk.get("/v1/tracking-plan/violations").json()["violations"]
    assert sum(one["count"] for one in told) == 2, told


@pytest.mark.parametrize("relayed", ["", RELAYED])
def test_their_names_count_once_leanplum_has_taken_them(
    begin: Start, leanplum: Leanplum, relayed: str
) -> None:
    limits = {"gateway_taxonomy_policy": "enforce", "gateway_taxonomy_limits": "events=2"}
    talk = begin(**limits, gateway_sdk_relayed_actions=relayed)
    sdk = Sdk(talk)
    answers = entries(sdk.multi(*(track(event=event) for event in "ABC")))
    assert [one["success"] for one in answers] == [True, True, False]
    (refused,) = entries(sdk.multi(track(event="D")))
    assert "exceeds the limit" in refused["error"]["message"]
    settled(talk)
    assert [one["name"] for one in talk.get("/v1/taxonomy").json()["events"]["names"]] == ["A", "B"]


def test_a_name_that_leanplum_did_not_take_does_not_count(begin: Start, leanplum: Leanplum) -> None:
    talk = begin(gateway_taxonomy_policy="enforce", gateway_taxonomy_limits="events=1")
    leanplum.fault(mode="500-html", action="track", times=1)
    assert Sdk(talk).multi(track(event="A")).status_code == 503
    leanplum.mend()
    assert entries(Sdk(talk).multi(track(event="B")))[0]["success"] is True


def test_privacy_rules_hold_for_them(begin: Start, leanplum: Leanplum, tmp_path: Path) -> None:
    file = tmp_path / "enrichment.toml"
    file.write_text('[[privacy]]\ndo = "drop"\nkeys = ["params.note"]\n')
    talk = begin(gateway_enrichment_file=file)
    leanplum.forget()
    for params in ({"note": CANARY, "a": 1}, f'{{"note":"{CANARY}","a":1}}'):
        assert entries(Sdk(talk).multi(track(params=params)))[0]["success"] is True
        assert entries(Sdk(talk).post(track(params=params)))[0]["success"] is True
    assert len(actions(leanplum)) == 4
    assert CANARY not in str(leanplum.calls())


def test_development_traffic_still_takes_the_development_key(sdk: Sdk, leanplum: Leanplum) -> None:
    assert entries(sdk.multi(track(userId="dev", devMode=True)))[0]["success"] is True
    assert [one["clientKey"] for one in leanplum.arrived()] == [KEYS["leanplum_development_key"]]


# --- what is counted --------------------------------------------------------------------------------------------------


def test_warnings_are_counted_by_their_kind_once_for_each_entry(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    before = {label: warnings(talk, label) for label in WARNING_LABELS}
    old = {"time": time.time() - YEARS}
    sdk.multi(track(**old), track(userId="u2", **old), track(userId="u3"))  # relayed
    skipped = {"action": "advance", "state": "S"}
    sdk.multi(*({**skipped, "userId": f"nobody{number}"} for number in range(3)))  # durable
    talk.event({"userId": "u1", "event": "E", "time": old["time"]})
    talk.event({"userId": "u9", "event": "E", "disposition": "requireActive"})
    assert talk.get("/v1/users/nobody").status_code == 404  # asked under /v1
    settled(talk)
    counted = {label: warnings(talk, label) - before[label] for label in WARNING_LABELS}
    expected = {"past-event": 3, "user-not-found": 4, "ignored": 1}
    assert {label: count for label, count in counted.items() if count} == expected


def test_no_text_of_a_warning_is_a_label(sdk: Sdk, leanplum: Leanplum, talk: Talk) -> None:
    leanplum.fault(mode="warning", message=f"New words about {CANARY}", times=2)
    before = warnings(talk, "other")
    sdk.multi(track())
    sdk.multi({"action": "stop", "userId": "u1"})
    settled(talk)
    assert warnings(talk, "other") == before + 2
    assert CANARY not in talk.get("/metrics").text


# --- the setting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["", " ", ",", "track", " track , setUserAttributes,", "advance,stop,heartbeat"]
)
def test_the_setting_takes_names_of_durable_actions(value: str) -> None:
    found = load({}, _env_file=None, gateway_sdk_relayed_actions=value).sdk_relayed
    assert found == {one.strip() for one in value.split(",")} - {""}


@pytest.mark.parametrize(
    "name", ["Track", "start", "getVars", "deleteUser", "block", "unblock", "startCampaign", "x"]
)
def test_another_name_prevents_the_start_with_one_line(name: str) -> None:
    with pytest.raises(StartRefused) as refused:
        load({}, _env_file=None, gateway_sdk_relayed_actions=f"track,{name}")
    (line,) = refused.value.lines
    assert line.startswith(
        f"GATEWAY_SDK_RELAYED_ACTIONS: {name} cannot be relayed; the actions are stop, "
    )
    assert "track" in line.partition("actions are")[2]


APP = '[apps.{0}]\napp_id = "{0}"\nproduction_key = "p"\n'


def test_an_app_s_own_value_wins(tmp_path: Path, settings: Callable[..., Settings]) -> None:
    file = tmp_path / "apps.toml"
    none = f"{APP.format('b')}sdk_relayed_actions = []\n"
    own = f'{APP.format("c")}sdk_relayed_actions = ["advance", "track"]\n'
    file.write_text(APP.format("a") + none + own)
    apps = read_apps(settings(gateway_apps_file=file, gateway_sdk_relayed_actions="track"), {})
    assert {name: set(app.sdk_relayed) for name, app in apps.items()} == {
        "default": {"track"}, "a": {"track"}, "b": set(), "c": {"advance", "track"}}  # fmt: skip


@pytest.mark.parametrize("value", ['["start"]', '"track"', "[1]", '["track", "trak"]', "true"])
def test_a_bad_value_of_an_app_is_refused_with_one_line(
    tmp_path: Path, settings: Callable[..., Settings], value: str
) -> None:
    file = tmp_path / "apps.toml"
    file.write_text(f"{APP.format('a')}sdk_relayed_actions = {value}\n")
    with pytest.raises(StartRefused) as refused:
        read_apps(settings(gateway_apps_file=file), {})
    (line,) = refused.value.lines
    assert line.startswith("GATEWAY_APPS_FILE: apps.a.sdk_relayed_actions")


def test_one_app_s_writes_are_relayed_and_another_s_are_durable(
    begin: Start, leanplum: Leanplum, tmp_path: Path
) -> None:
    file = tmp_path / "apps.toml"
    keys = f'app_id = "app_sandbox"\nproduction_key = "{KEYS["leanplum_production_key"]}"\n'
    file.write_text(f"[apps.durable]\n{keys}sdk_relayed_actions = []\n[apps.relayed]\n{keys}")
    talk = begin(gateway_apps_file=file, leanplum_app_id=None, **dict.fromkeys(KEYS))
    for name, relayed in (("durable", False), ("relayed", True)):
        body = {"clientKey": talk.key, **track(time=time.time() - YEARS)}
        answer = talk.call("POST", "/api", key=None, json=body, headers={"X-Leanplum-App": name})
        assert ("warning" in entries(answer)[0]) is relayed, answer.text
