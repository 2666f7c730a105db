"""The model of the load that a gateway can carry."""

import pytest

from bench.capacity import ItemCost, Upstream, capacity, limits

COST = ItemCost(accepting=100, delivering=50, database=25, surroundings=25)


def test_the_least_limit_is_the_capacity() -> None:
    assert capacity({"cores": 10_000, "turns to write": 7_000}) == (7_000, "turns to write")


def test_one_process_accepts_and_delivers() -> None:
    parts = limits(COST, workers=1, cores=2)
    assert parts == pytest.approx({"cores": 10_000, "the process": 6_666.67})


def test_several_workers_share_the_accepting_and_one_process_delivers() -> None:
    parts = limits(COST, workers=2, cores=8)
    assert parts == {"cores": 40_000, "accepting processes": 20_000, "delivering process": 20_000}
    assert capacity(limits(COST, workers=4, cores=8)) == (20_000, "delivering process")


def test_turns_to_write_bound_any_number_of_processes() -> None:
    cost = ItemCost(accepting=100, turn=80)
    assert capacity(limits(cost, workers=4, cores=16)) == (12_500, "turns to write")


def test_leanplum_bounds_by_calls_in_flight_their_duration_and_their_items() -> None:
    slow = Upstream(concurrency=16, seconds=0.2, items_in_call=50)
    assert capacity(limits(COST, workers=4, cores=8, upstream=slow)) == (
        4_000,
        "calls to Leanplum",
    )
