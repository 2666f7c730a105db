"""What `/metrics` shows of a gateway that delivers: names, labels and values."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.settings import Settings
from tests.support.gateway import Talk
from tests.support.promtool import faults, needs_promtool
from tests.support.simulator import Leanplum, delivering_to, simulated
from tests.support.wait import until

PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"
ROW = re.compile(r"^\| `(\w+)` \|([^|]*)\| (\w+) \| .+ \|$", re.MULTILINE)
SOON = {"gateway_retry_max_seconds": 0.1}


@pytest.fixture(scope="module")
def leanplum() -> Iterator[Leanplum]:
    with simulated() as found:
        yield found


@pytest.fixture
def talk(leanplum: Leanplum, settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Talk]:
    leanplum.mend()
    with delivering_to(leanplum, settings, tmp_path / "g.db", **SOON) as found:
        yield found


def event(talk: Talk, user: str, **more: Any) -> Any:
    return talk.event({"userId": user, "event": "E", **more})


def final(talk: Talk, user: str) -> str:
    """Send an event, and return the status that it has in the end."""
    answer = talk.event({"userId": user, "event": "E"}, headers={"Prefer": "wait=20"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["status"])


def shown(talk: Talk) -> str:
    return talk.get("/metrics", key=None).text


@needs_promtool
def test_promtool_finds_nothing_wrong_with_a_busy_gateway(talk: Talk, leanplum: Leanplum) -> None:
    use_everything(talk, leanplum)
    text = shown(talk)
    assert faults(text) == ""
    assert "_total" in faults("# HELP bad Bad\n# TYPE bad counter\nbad 1\n"), "it does look"


def use_everything(talk: Talk, leanplum: Leanplum) -> None:
    """Let as many metrics as possible have values."""
    leanplum.fault(mode="503")
    leanplum.fault(mode="success-false", userId="refused", times=None)
    assert final(talk, "ann") == "delivered"
    assert final(talk, "refused") == "rejected"
    talk.batch([{"action": "track", "userId": "ben", "event": "E"}] * 3)
    talk.event({})
    talk.get("/v1/receipts", key="no key")
    talk.get("/nothing")
    until(lambda: talk.metric('dead_letters{app="default"}') == 1)
    until(lambda: "leanplum_gateway_audit_checkpoint_age_seconds " in shown(talk))


def test_every_metric_has_the_labels_that_its_page_lists(talk: Talk, leanplum: Leanplum) -> None:
    use_everything(talk, leanplum)
    listed = {
        name: set(re.findall(r"`(\w+)`", labels))
        for name, labels, _ in ROW.findall(PAGE.read_text())
    }
    labels = dict[str, set[str]]()
    for family in text_string_to_metric_families(shown(talk)):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        for sample in family.samples:
            labels[name] = {*sample.labels} - {"le"}
    assert len(labels) > 25
    assert {name: listed[name] for name in labels} == labels


def test_an_item_that_was_tried_again_is_settled_once(talk: Talk, leanplum: Leanplum) -> None:
    leanplum.fault(mode="503", times=2)
    assert final(talk, "tried-again") == "delivered"
    assert settled(talk) == {"delivered": 1}
    assert talk.metric('retries_total{app="default",reason="unavailable"}') == 2
    assert talk.metric('calls_total{app="default",outcome="unavailable"}') == 2
    assert talk.metric('calls_total{app="default",outcome="ok"}') == 1
    assert talk.metric('item_delivery_seconds_count{app="default"}') == 1
    assert talk.metric('items_accepted_total{action="track",app="default"}') == 1


def test_an_item_that_was_held_is_settled_once(talk: Talk, leanplum: Leanplum) -> None:
    leanplum.fault(mode="403-key", times=None)
    event(talk, "held")
    until(lambda: talk.metric('queue_items{app="default",state="held"}') == 1)
    assert talk.metric('app_held{app="default"}') == 1
    assert talk.metric('queue_oldest_item_age_seconds{app="default"}') > 0
    assert settled(talk) == {}
    assert talk.metric('calls_total{app="default",outcome="refused"}') > 0
    leanplum.mend()
    talk.until_nothing_waits()
    assert settled(talk) == {"delivered": 1}
    until(lambda: talk.metric('queue_items{app="default",state="held"}') == 0)
    until(lambda: talk.metric('queue_oldest_item_age_seconds{app="default"}') == 0)


def settled(talk: Talk) -> dict[str, int]:
    """How many items are settled, by each status that any has."""
    found = re.findall(
        r'^leanplum_gateway_items_settled_total{app="default",status="(\w+)"} (\S+)$',
        shown(talk),
        re.MULTILINE,
    )
    return {status: int(float(count)) for status, count in found if float(count)}


def test_items_that_an_erasure_removes_have_left_the_queue(talk: Talk, leanplum: Leanplum) -> None:
    leanplum.fault(mode="503", times=None)
    event(talk, "gone")
    until(lambda: talk.metric('queue_items{app="default",state="retrying"}') == 1)
    answer = talk.call("DELETE", "/v1/users/gone?fullErasure=true")
    assert answer.status_code == 202, answer.text
    assert settled(talk) == {"erased": 1}


def test_the_fill_of_a_call_is_its_items_and_its_users(talk: Talk, leanplum: Leanplum) -> None:
    talk.batch([{"action": "track", "userId": f"u{n % 2}", "event": "E"} for n in range(6)])
    talk.until_nothing_waits()
    assert talk.metric('call_items_sum{app="default"}') == 6
    assert talk.metric('call_users_count{app="default"}') == talk.metric(
        'calls_total{app="default",outcome="ok"}'
    )


def test_a_call_without_a_valid_key_and_one_beyond_a_limit_are_counted(
    settings: Callable[..., Settings], tmp_path: Path, leanplum: Leanplum
) -> None:
    narrow = {"gateway_rate_per_second": 1, "gateway_rate_burst": 1}
    with delivering_to(leanplum, settings, tmp_path / "g.db", **narrow) as talk:
        assert talk.get("/v1/receipts", key="nobody").status_code == 401
        assert talk.metric("failed_authentications_total") == 1
        statuses = [event(talk, "ann").status_code for _ in range(4)]
        refused = statuses.count(429)
        assert refused > 0
        assert talk.metric('rate_limited_requests_total{limit="key"}') == refused
