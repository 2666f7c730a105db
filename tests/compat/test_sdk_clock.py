"""A sender's wrong clock at /api: each entry's time is corrected by the call's own `time` (contract
§6).
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.support.gateway import WIDE, Talk, make_settings
from tests.support.sdk import Sdk, entries, settled
from tests.support.simulator import Leanplum, delivering_to, simulated
from tests.support.wait import until

DAY = 86_400.0
CLOSE = 2.0  # seconds that a request may take here
SKEWS = {"5 days behind": -5 * DAY, "30 days ahead": 30 * DAY, "20 hours behind": -20 * 3600, "90 s ahead": 90.0,
         "in 1970": -time.time() + 1000, "40 minutes behind": -2400.0}  # fmt: skip
FORMS: dict[str, Callable[[float], Any]] = {
    "number": float,
    "text": lambda at: f"{at:.6f}",
    "exponent": lambda at: f"{at:.15E}",
    "whole": int,
}


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture(scope="module")
def talk(
    leanplum: Leanplum, tmp_path_factory: pytest.TempPathFactory, migrated: Any
) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("clock")

    def settings(**given: Any) -> Any:
        return make_settings(folder, migrated, WIDE | given)

    with delivering_to(leanplum, settings, folder / "g.db") as found:
        yield found


@pytest.fixture
def sdk(talk: Talk, leanplum: Leanplum) -> Sdk:
    settled(talk)
    leanplum.forget()
    return Sdk(talk)


def track(**more: Any) -> dict[str, Any]:
    return {"action": "track", "userId": "u1", "event": "E", **more}


def marked(name: str, **more: Any) -> dict[str, Any]:
    return track(reqId=name, uuid=f"{name}-{time.time_ns()}", **more)


def receipt(talk: Talk) -> dict[str, Any]:
    """Return the receipt of the newest entry with a reqId and a uuid."""
    ((item_id,),) = talk.rows(
        "SELECT id FROM items WHERE id LIKE 'sdk:%' ORDER BY seq DESC LIMIT 1"
    )
    found: dict[str, Any] = talk.get(f"/v1/receipts/{item_id}").json()
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("skew", SKEWS)
def test_an_entry_arrives_with_the_time_at_which_it_happened(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, skew: str, form: str
) -> None:
    now = time.time()
    theirs = now + SKEWS[skew]
    sent = [marked("a", time=FORMS[form](theirs - 5)), marked("b", time=FORMS[form](theirs))]
    assert [one["success"] for one in entries(sdk.multi(*sent, time=FORMS[form](theirs)))] == [
        True,
        True,
    ]
    settled(talk)
    arrived = [one["time"] for one in leanplum.arrived()]
    assert [float(one) - now for one in arrived] == pytest.approx([-5, 0], abs=CLOSE)
    assert [isinstance(one, str) for one in arrived] == [form in {"text", "exponent"}] * 2
    correction = receipt(talk)["timeCorrection"]["seconds"]
    assert correction == pytest.approx(-SKEWS[skew], abs=CLOSE)
    assert "warning" not in receipt(talk)["leanplum"]


@pytest.mark.parametrize("given", ["absent", None, ""])
def test_without_a_time_of_the_call_an_entry_keeps_its_own(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, given: Any
) -> None:
    at = round(time.time() - 5 * DAY, 3)
    body = {"action": "multi", "data": [marked("a", time=at)]} | (
        {} if given == "absent" else {"time": given}
    )
    assert entries(sdk.post(body))[0]["success"] is True
    settled(talk)
    assert [one["time"] for one in leanplum.arrived()] == [at]
    assert not {"timeCorrection", "enrichment"} & receipt(talk).keys()


@pytest.mark.parametrize(
    "given", ["soon", True, "NaN", "-1e999", 0, -5, 1.7e12, "1700000000000", [1], {"a": 1}]
)
def test_a_time_of_the_call_that_is_none_corrects_nothing_and_the_receipt_says_so(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, given: Any
) -> None:
    at = round(time.time() - 50, 3)
    start = {"action": "start", "userId": "u1", "deviceId": "d1", "time": at}
    answer = sdk.multi(start, marked("a", time=at), time=given)
    assert [one["success"] for one in entries(answer)] == [True, True], answer.text
    settled(talk)
    assert [one["time"] for one in leanplum.arrived()] == [at, at]
    assert "not corrected" in receipt(talk)["enrichment"]["warnings"][0]


@pytest.mark.parametrize("own", ["soon", True, "", None, 1.7e12, [1], "NaN"])
def test_an_entry_without_a_time_of_its_own_is_left_as_it_is(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, own: Any
) -> None:
    now = time.time()
    sdk.multi(
        marked("a", time=own),
        track(event="F"),
        track(event="G", time=now - 5 * DAY),
        time=now - 5 * DAY,
    )
    settled(talk)
    odd, bare, usual = [one["time"] for one in leanplum.arrived()]
    assert odd == (pytest.approx(now, abs=CLOSE) if own in ("", None) else own)
    assert [bare, usual] == pytest.approx([now, now], abs=CLOSE)
    assert "timeCorrection" not in receipt(talk)


@pytest.mark.parametrize("skew", [-5 * DAY, 30 * DAY])
def test_a_start_among_entries_is_moved_as_they_are(
    sdk: Sdk, leanplum: Leanplum, talk: Talk, skew: float
) -> None:
    now = time.time()
    theirs = now + skew
    between = [{"action": action, "userId": "u1", "deviceId": "d1", "time": f"{theirs - at:.3f}"}
               for action, at in (("start", 30), ("getVars", 20))]  # fmt: skip
    answer = sdk.multi(
        track(time=theirs - 40), *between, track(time=theirs - 10), time=f"{theirs:.3f}"
    )
    assert not any("warning" in one for one in entries(answer))
    settled(talk)
    arrived = [float(one["time"]) for one in leanplum.arrived()]
    assert [at - now for at in arrived] == pytest.approx([-40, -30, -20, -10], abs=CLOSE)
    assert [b - a for a, b in pairwise(arrived)] == pytest.approx([10, 10, 10], abs=0.01)
    clocks = [float(call["args"]["time"]) - now for call in leanplum.calls()]
    assert clocks == pytest.approx([0] * len(clocks), abs=10)


def test_time_spent_waiting_for_delivery_moves_nothing(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    now = time.time()
    leanplum.fault(mode="429", times=3)
    sdk.multi(track(time=now - 5 * DAY - 7), time=now - 5 * DAY)
    until(lambda: len(leanplum.calls()) > 1 and talk.app.services.outbox.queued == 0)
    times = {float(one["time"]) for one in leanplum.arrived()}
    assert len(times) == 1
    assert times.pop() - now == pytest.approx(-7, abs=CLOSE)


def test_a_batch_that_is_sent_again_later_is_still_a_repeat(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    now = time.time()
    sent = [marked(name, time=now - 5 * DAY) for name in ("a", "b")]
    for later in (0, 10):  # the phone composes the call anew, with its clock of then
        assert entries(sdk.multi(*sent, time=now - 5 * DAY + later))[0]["success"] is True
    settled(talk)
    assert [one["reqId"] for one in leanplum.arrived()] == ["a", "b"]


def test_a_time_that_would_be_moved_out_of_what_times_are_is_left(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    sdk.multi(marked("a", time=9.9e10), time=1)
    settled(talk)
    assert [one["time"] for one in leanplum.arrived()] == [9.9e10]
    assert "not corrected" in receipt(talk)["enrichment"]["warnings"][0]


def test_a_call_of_one_action_keeps_its_time_which_is_its_entry_s(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    at = round(time.time() - 5 * DAY, 3)
    assert entries(sdk.post(marked("a", time=at)))[0]["success"] is True
    settled(talk)
    assert [one["time"] for one in leanplum.arrived()] == [at]


def test_the_time_of_a_form_and_of_a_query_count_alike(
    sdk: Sdk, leanplum: Leanplum, talk: Talk
) -> None:
    now, theirs = time.time(), time.time() - 5 * DAY
    keys = {"appId": "app_sandbox", "clientKey": sdk.key, "action": "multi"}
    data = json.dumps({"data": [track(time=f"{theirs:.6f}")]})
    sdk.call("POST", "/api", data={**keys, "time": f"{theirs:.6f}", "data": data})
    sdk.call("POST", "/api", params={**keys, "time": repr(theirs)}, content=data.encode())
    settled(talk)
    assert [float(one["time"]) - now for one in leanplum.arrived()] == pytest.approx(
        [0, 0], abs=CLOSE
    )


def test_on_each_database_a_repeat_with_another_clock_is_one_item_whose_receipt_states_the_correction(
    leanplum: Leanplum, settings: Callable[..., Any], tmp_path: Any, database: str
) -> None:
    leanplum.forget()
    with delivering_to(
        leanplum, settings, tmp_path / "g.db", gateway_database_url=database
    ) as talk:
        sdk, now = Sdk(talk), time.time()
        one = track(reqId="r", uuid="v", time=f"{now - 5 * DAY:.3f}")
        # The second time while the first may wait still, the third after its delivery
        for later in (0, 10):
            sdk.multi(one, time=now - 5 * DAY + later)
        settled(talk)
        sdk.multi(one, time=now - 5 * DAY + 20)
        settled(talk)
        (receipt,) = talk.get("/v1/receipts?reqId=r&uuid=v").json()["receipts"]
    assert receipt["timeCorrection"]["seconds"] == pytest.approx(5 * DAY, abs=CLOSE)
    assert [float(one["time"]) - now for one in leanplum.arrived()] == pytest.approx([0], abs=CLOSE)
