"""What the bench makes of a delivery and of its upstream's counts."""

from dataclasses import replace

from bench.figures import Slice
from bench.scenarios.delivery import Delivery, row
from bench.servers.upstream import ArrivalCounts, entries_of

ACCEPTED = Slice(requests=10, failed=0, items=1_000, seconds=1.0, p50=1.0, p99=2.0)
WHOLE = Delivery(ACCEPTED, distinct=1_000, repeated=0, calls=4, seconds=2.0)


def test_a_delivery_is_timed_to_the_last_arrival_and_compared_with_its_surroundings() -> None:
    found = row(WHOLE, a=[ACCEPTED], b=[ACCEPTED], limit=9)
    assert (found.rate, found.to_a, found.lost) == (500, 0.5, 0)


def test_what_was_acknowledged_and_did_not_arrive_is_lost() -> None:
    assert row(replace(WHOLE, distinct=990), a=[ACCEPTED], b=[ACCEPTED], limit=9).lost == 10


def test_the_upstream_counts_each_request_id_once_and_repeats_apart() -> None:
    seen = ArrivalCounts()
    seen.add(["a", "b"])
    seen.add(["b", "c"])
    assert (seen.calls, seen.distinct, seen.repeated) == (2, 3, 1)


def test_a_repeat_does_not_move_the_time_of_the_last_arrival() -> None:
    seen = ArrivalCounts()
    seen.add(["a"])
    moment = seen.last_new
    seen.add(["a"])
    assert seen.last_new == moment


def test_a_call_has_the_entries_of_its_data_or_is_its_only_entry() -> None:
    assert entries_of({"data": [{"reqId": "1"}]}) == [{"reqId": "1"}]
    assert entries_of({"data": '[{"reqId":"1"}]'}) == [{"reqId": "1"}]
    assert entries_of({"event": "x"}) == [{"event": "x"}]
