"""What the bench makes of a delivery and of its upstream's counts."""

from dataclasses import replace

from bench.figures import Slice
from bench.scenarios import postgres, workers
from bench.scenarios.delivery import Delivery, row
from bench.servers.upstream import ArrivalCounts, entries_of

ACCEPTED = Slice(requests=10, failed=0, items=1_000, seconds=1.0, p50=1.0, p99=2.0)
WHOLE = Delivery(ACCEPTED, distinct=1_000, repeated=0, calls=4, seconds=2.0)


def test_a_delivery_is_timed_to_the_last_arrival() -> None:
    found = row("(x)", WHOLE, ())
    assert (found.rate, found.lost) == (500, 0)


def test_what_was_acknowledged_and_did_not_arrive_is_lost() -> None:
    assert row("(x)", replace(WHOLE, distinct=990), ()).lost == 10


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
    assert seen.first_new == seen.last_new == moment


def test_a_call_has_the_entries_of_its_data_or_is_its_only_entry() -> None:
    assert entries_of({"data": [{"reqId": "1"}]}) == [{"reqId": "1"}]
    assert entries_of({"data": '[{"reqId":"1"}]'}) == [{"reqId": "1"}]
    assert entries_of({"event": "x"}) == [{"event": "x"}]


def rated(*rates: int) -> list[Slice]:
    return [replace(ACCEPTED, items=rate) for rate in rates]


def test_workers_are_compared_with_one_process_within_each_round() -> None:
    rounds = {
        "a": rated(100, 100, 100),
        "one, c": rated(10, 20, 40),
        "several, c": rated(15, 36, 60),
        "one, d": rated(100, 100, 100),
        "several, d": rated(120, 130, 140),
    }
    found = {line.name.split()[0]: line for line in workers.rows(rounds)}
    assert found["(w-c)"].targets[0].got == 1.5
    assert found["(w-c)"].targets[0].met
    assert found["(w-c)"].to_a == 0.36
    assert found["(w-d)"].notes == ("1.30 of one process",)


def test_rows_on_postgresql_are_compared_with_the_echo_within_each_round() -> None:
    rounds = {"a": rated(10, 20), "c": rated(5, 10), "d": rated(30, 20)}
    found = {line.name.split()[0]: line for line in postgres.rows(rounds)}
    assert (found["(p-c)"].to_a, found["(p-d)"].to_a) == (0.5, 2.0)
    assert found["(p-d)"].targets[0].met
