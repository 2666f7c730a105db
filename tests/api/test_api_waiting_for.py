"""Why a receipt says that its item waits."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.clock import instant, now_ms
from app.settings import Settings
from tests.support.gateway import EVENT, Talk, running
from tests.support.processes import ended
from tests.support.simulator import Leanplum, delivering_to, simulated
from tests.support.wait import until

Make = Callable[..., Settings]


@pytest.fixture
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


def receipt(talk: Talk, item_id: str) -> dict[str, Any]:
    found: dict[str, Any] = talk.get(f"/v1/receipts/{item_id}").json()
    return found


def reason(talk: Talk, item_id: str) -> str | None:
    waits = receipt(talk, item_id).get("waitingFor")
    return None if waits is None else waits["reason"]


def listed(talk: Talk) -> dict[str, str | None]:
    """Return the reasons that a list of receipts has, by the ids of the items."""
    found = talk.get("/v1/receipts").json()["receipts"]
    return {each["id"]: each.get("waitingFor", {}).get("reason") for each in found}


def send(talk: Talk, item_id: str, user: str = "ann", **headers: str) -> dict[str, Any]:
    answer = talk.event({**EVENT, "userId": user, "id": item_id}, headers=headers)
    found: dict[str, Any] = answer.json()
    return found


def test_a_receipt_says_that_its_app_is_held_whichever_process_is_asked(
    leanplum: Leanplum, settings: Make, path: Path
) -> None:
    with delivering_to(leanplum, settings, path, leanplum_production_key="wrong") as talk:
        send(talk, "first")
        until(lambda: receipt(talk, "first")["status"] == "held")
        assert receipt(talk, "first")["waitingFor"]["reason"] == "app-held"
        later = send(talk, "later", "bob", Prefer="wait=1")
        assert later["waitingFor"]["reason"] == "app-held"
        assert later["acceptedAt"] == later["waitingFor"]["since"], "it was held by then"
        assert "until" not in later["waitingFor"]
        until(lambda: talk.metric('queue_items{app="default",state="held"}') > 0)
        settled = re.findall(r"items_settled_total{.*} (\S+)", talk.get("/metrics", key=None).text)
        assert set(settled) == {"0.0"}
    with running(settings(), path) as accepting:
        accepting.key = talk.key
        send(accepting, "elsewhere", "cem")
        for item_id in ("first", "later", "elsewhere"):
            found = receipt(accepting, item_id)
            assert found.get("waitingFor", {}).get("reason") == "app-held", found
        assert listed(accepting) == dict.fromkeys(("elsewhere", "later", "first"), "app-held")


def test_a_receipt_says_until_when_a_retry_waits_and_what_waits_behind_it(
    leanplum: Leanplum, settings: Make, path: Path, tmp_path: Path
) -> None:
    with delivering_to(leanplum, settings, path) as talk:
        leanplum.fault(mode="503", retryAfter=600)
        send(talk, "first")
        until(lambda: receipt(talk, "first")["status"] == "retrying")
        found = receipt(talk, "first")
        since = found["acceptedAt"]
        assert found["waitingFor"] == {
            "reason": "retry",
            "since": since,
            "until": found["nextAttemptAt"],
        }
        behind = send(talk, "second", Prefer="wait=0")
        assert behind["waitingFor"] == {"reason": "earlier-item", "since": behind["acceptedAt"]}
        assert receipt(talk, "second") == behind
        assert "waitingFor" not in send(talk, "third"), (
            "nothing more is looked up for a plain write"
        )
        reasons = {"third": "earlier-item", "second": "earlier-item", "first": "retry"}
        assert listed(talk) == reasons
        assert "waitingFor" not in send(talk, "second"), "a plain repeat looks nothing up, too"
        assert send(talk, "second", Prefer="wait=0")["waitingFor"] == behind["waitingFor"]
        url = f"sqlite:///{path}"
        command = ended(tmp_path, "receipts", "find", "--json", GATEWAY_DATABASE_URL=url)
        assert {
            each["id"]: each["waitingFor"]["reason"] for each in json.loads(command.stdout)
        } == reasons


def test_a_receipt_says_that_leanplum_is_away(
    leanplum: Leanplum, settings: Make, path: Path
) -> None:
    with delivering_to(leanplum, settings, path) as talk:
        leanplum.fault(mode="503", times=None)
        for number in range(6):
            send(talk, f"first-{number}", f"user{number}", Prefer="wait=0")
        until(lambda: reason(talk, "first-0") == "retry")
        until(
            lambda: "waiting" in talk.get("/readyz").json()["parts"]["delivery"].get("detail", "")
        )
        with running(settings(), path) as accepting:
            accepting.key = talk.key
            send(accepting, "late", "bob")
            until(lambda: reason(accepting, "late") == "circuit-open")
            assert reason(talk, "late") == "circuit-open"
            assert listed(talk)["late"] == "circuit-open"


def test_a_receipt_says_that_leanplum_accepts_no_more_calls_whichever_process_is_asked(
    leanplum: Leanplum, settings: Make, path: Path
) -> None:
    with delivering_to(leanplum, settings, path) as talk:
        leanplum.fault(mode="429", retryAfter=600)
        send(talk, "first")
        until(lambda: receipt(talk, "first")["status"] == "retrying")
        with running(settings(), path) as accepting:
            accepting.key = talk.key
            send(accepting, "late", "bob")
            until(lambda: reason(accepting, "late") == "rate")
            waits = receipt(talk, "late")["waitingFor"]
            assert waits["since"] >= receipt(talk, "late")["acceptedAt"]
            assert waits["until"] > instant(now_ms() + 500_000)
            assert listed(talk)["late"] == "rate"


def test_an_item_behind_a_login_waits_for_an_earlier_item(
    leanplum: Leanplum, settings: Make, path: Path
) -> None:
    with delivering_to(leanplum, settings, path) as talk:
        leanplum.fault(mode="503", retryAfter=600)
        login = {"action": "setUserAttributes", "userId": "old", "newUserId": "new", "id": "login"}
        talk.batch([login])
        until(lambda: receipt(talk, "login")["status"] == "retrying")
        send(talk, "behind", "new")
        assert reason(talk, "behind") == "earlier-item"


def test_an_item_that_is_being_sent_waits_for_nothing(
    leanplum: Leanplum, settings: Make, path: Path
) -> None:
    with delivering_to(leanplum, settings, path) as talk:
        leanplum.fault(mode="slow", delay=3)
        send(talk, "sent")
        send(talk, "behind")
        until(lambda: talk.rows("SELECT 1 FROM attempts") != [])
        assert reason(talk, "sent") is None
        assert listed(talk)["sent"] is None


def test_a_receipt_that_is_settled_or_just_accepted_waits_for_nothing(
    leanplum: Leanplum, settings: Make, path: Path
) -> None:
    with delivering_to(leanplum, settings, path) as talk:
        done = send(talk, "done", Prefer="wait=10")
        assert done["status"] == "delivered"
        assert "waitingFor" not in done
        assert (
            'items_settled_total{app="default",status="delivered"} 1.0'
            in talk.get("/metrics", key=None).text
        )
    with running(settings(), path) as accepting:
        send(accepting, "alone")
        assert "waitingFor" not in receipt(accepting, "alone")
