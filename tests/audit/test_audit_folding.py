"""Repeated refusals are counted, the first of each kind is recorded by itself, and no count is
lost.
"""

import json
from collections import Counter
from typing import Any

import pytest

from app.audit import folded_refusals
from app.audit.folded_refusals import (
    FOLD_SECONDS,
    MAX_NETWORKS,
    MAX_SINGLE,
    RefusalFolder,
    RefusedCall,
)


class Written:
    """A recorder that keeps what it is given."""

    def __init__(self) -> None:
        self.records = list[dict[str, Any]]()

    def soon(self, time: int, text: str, *, along: bool = False) -> None:
        self.records.append(json.loads(text))


class Desk:
    """Refusals that are counted, with a clock that the test moves."""

    def __init__(self) -> None:
        self.now, self.written = 100.0, Written()
        self.folding = RefusalFolder(self.written, lambda: self.now)
        self.alone = 0

    def refuse(self, number: int = 1, *, network: str = "192.0.2.1", **given: Any) -> None:
        for at in range(number):
            if not self.folding.fold(refused(at, **given), network):
                self.alone += 1

    @property
    def counts(self) -> list[int]:
        return [record["count"] for record in self.written.records]


def refused(at: int, **given: Any) -> RefusedCall:
    call = RefusedCall(
        1_000 + at, "GET (unknown)", "key", "", "192.0.2.1", f"request-{at}", 404, None, (), 0
    )
    return call._replace(**given)


def test_the_first_is_recorded_by_itself_and_the_rest_are_counted_in_one_record() -> None:
    desk = Desk()
    desk.refuse(500)
    assert (desk.alone, desk.written.records) == (1, [])
    desk.now += FOLD_SECONDS
    desk.folding.flush_due()
    (record,) = desk.written.records
    assert (record["count"], record["start_time"], record["end_time"]) == (499, 1_001, 1_499)
    assert record["actor"]["user"]["uid"] == "key"
    assert record["api"] == {"operation": "GET (unknown)", "request": {"uid": "request-499"}}
    assert (record["status_code"], record["status_id"], record["src_endpoint"]) == (
        "404",
        2,
        {"ip": "192.0.2.1"},
    )


def test_while_refusals_go_on_there_is_one_record_for_each_span_of_time() -> None:
    desk = Desk()
    for _ in range(5):
        desk.refuse(100)
        desk.now += FOLD_SECONDS
        desk.folding.flush_due()
    assert (desk.alone, desk.counts) == (1, [99, 100, 100, 100, 100])


def test_after_a_quiet_span_the_next_one_is_the_first_again() -> None:
    desk = Desk()
    desk.refuse()
    desk.now += FOLD_SECONDS
    desk.folding.flush_due()
    desk.refuse()
    assert (desk.alone, desk.counts) == (2, [])


def test_before_its_time_nothing_is_recorded() -> None:
    desk = Desk()
    desk.refuse(3)
    desk.now += FOLD_SECONDS - 0.1
    desk.folding.flush_due()
    assert desk.written.records == []


@pytest.mark.parametrize(
    "other",
    [
        {"key_id": "other"},
        {"network": "192.0.2.2"},
        {"operation": "PUT (unknown)"},
        {"status": 429},
        {"app": "shop"},
    ],
    ids=str,
)
def test_refusals_of_another_key_address_kind_or_app_are_no_repeats(other: dict[str, Any]) -> None:
    desk = Desk()
    desk.refuse()
    desk.refuse(**other)
    assert desk.alone == 2


@pytest.mark.parametrize("status", [400, 401])
def test_refusals_for_what_a_call_has_in_it_are_recorded_singly_up_to_a_number(status: int) -> None:
    desk = Desk()
    desk.refuse(MAX_SINGLE + 5, status=status, items=2)
    desk.folding.flush()
    assert (desk.alone, desk.counts) == (MAX_SINGLE, [5])
    assert desk.written.records[0]["unmapped"] == {
        "app": "",
        "accepted": 0,
        "duplicates": 0,
        "rejected": 10,
    }


def test_of_calls_that_there_is_no_room_to_read_only_the_first_is_recorded_singly() -> None:
    desk = Desk()
    desk.refuse(30, status=503)
    desk.folding.flush()
    assert (desk.alone, desk.counts) == (1, [29])


@pytest.mark.parametrize(
    ("status", "alone"), [(401, MAX_SINGLE), (403, 1), (404, 1), (429, 1), (503, 1)]
)
def test_refusals_of_a_key_from_many_networks_are_counted_together(status: int, alone: int) -> None:
    desk = Desk()
    for at in range(1_000):
        desk.refuse(MAX_SINGLE + 10, network=f"2001:db8:0:{at:x}::/64", status=status)
    assert desk.alone == (MAX_NETWORKS + 1) * alone
    desk.folding.flush()
    assert len(desk.counts) == MAX_NETWORKS + 1
    assert desk.alone + sum(desk.counts) == 1_000 * (MAX_SINGLE + 10)


def test_while_the_refusals_from_many_networks_go_on_no_network_is_new() -> None:
    desk = Desk()
    for at in range(100):
        desk.refuse(network=f"network-{at}")
    for at in range(500, 1_000):
        desk.now += FOLD_SECONDS / 10
        desk.folding.flush_due()
        desk.refuse(network=f"network-{at}")
    assert desk.alone == MAX_NETWORKS + 1
    desk.refuse(5, network="another", key_id="other")
    assert desk.alone == MAX_NETWORKS + 2, "each key has networks of its own"
    for _ in range(3):
        desk.now += FOLD_SECONDS
        desk.folding.flush_due()
    desk.refuse(network="network-7")
    desk.refuse(network="network-8")
    assert desk.alone == MAX_NETWORKS + 4, "after a quiet span each network counts again"
    assert desk.alone + sum(desk.counts) == 607


def test_whom_and_what_they_were_about_is_kept_within_bounds() -> None:
    desk = Desk()
    for at in range(80):
        desk.refuse(users=(f"user-{at}",), resource=f"resource-{at}")
    desk.refuse(users=("user-1",), resource="resource-1")
    desk.folding.flush()
    (record,) = desk.written.records
    assert record["count"] == 80
    assert record["unmapped"]["users"] == [f"user-{at}" for at in range(1, 51)]
    assert record["resources"] == [{"uid": f"resource-{at}"} for at in range(1, 51)]


def test_at_the_end_and_where_kinds_are_too_many_all_that_was_counted_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folded_refusals, "MAX_KINDS", 3)
    desk = Desk()
    for key in ("a", "b", "c", "d"):
        desk.refuse(10, key_id=key)
    assert Counter(desk.counts) == {9: 3}
    desk.folding.flush()
    assert Counter(desk.counts) == {9: 4}
    assert desk.alone + sum(desk.counts) == 40
    desk.folding.flush()
    assert len(desk.counts) == 4, "nothing is recorded twice"
