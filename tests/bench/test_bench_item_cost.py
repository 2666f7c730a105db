"""What the bench makes of the kernel's counts, and of the cost of an item."""

import os

import pytest

from bench.cost_of_items import Cost, Phase
from bench.item_cost import render
from bench.predictions import Prediction, accepting_cost, render_check, whole_cost
from bench.usage import Usage, read_usage

ACCEPTING = Phase(
    items=1_000,
    rate=500.0,
    gateway=Usage({"event loop": 30.0, "writer": 10.0}, written=600.0),
    database=Usage({"postgres": 20.0}, written=1_000.0),
    surroundings=2.0,
)
DELIVERING = Phase(
    items=1_000,
    rate=400.0,
    gateway=Usage({"event loop": 35.0, "writer": 15.0}),
    database=Usage({"postgres": 25.0}),
    surroundings=8.0,
    calls=0.0025,
)
FLOWING = Phase(
    items=1_000,
    rate=125.0,
    gateway=Usage({"event loop": 80.0, "writer": 30.0}, written=2_000.0),
    database=Usage({"postgres": 50.0}),
    surroundings=3.0,
    calls=0.03,
)
COST = Cost(
    ACCEPTING, DELIVERING, FLOWING, waiting_bytes=300.0, delivered_bytes=320.0, audit_bytes=40.0
)


def test_the_usage_of_an_item_is_its_share_of_what_was_used_meanwhile() -> None:
    before = Usage({"event loop": 100.0}, written=50)
    after = Usage({"event loop": 400.0, "writer": 200.0}, written=1_050)
    assert after.since(before).per(100) == Usage({"event loop": 3.0, "writer": 2.0}, 10.0)
    assert after.per(0) == Usage()


def test_the_kernel_counts_every_thread_of_a_process_and_skips_those_that_have_ended() -> None:
    used = read_usage([os.getpid(), 2**22 + 1])
    assert used.processor > 0
    assert used.written >= 0


def test_accepting_needs_a_turn_in_which_the_writer_and_a_server_work() -> None:
    cost = accepting_cost(COST)
    assert (cost.accepting, cost.delivering, cost.database, cost.turn) == (40.0, 0.0, 20.0, 30.0)


def test_an_item_that_is_delivered_costs_both_and_two_turns() -> None:
    cost = whole_cost(COST)
    assert (cost.accepting, cost.delivering, cost.database) == (40.0, 50.0, 45.0)
    assert (cost.surroundings, cost.turn) == (10.0, 70.0)


def test_the_cost_is_told_by_process_and_thread() -> None:
    lines = render("postgresql", "single event", COST).splitlines()
    assert lines[:4] == [
        "postgresql, single event",
        "  accepting (1,000 items at 500/s)",
        "    processor: 40.0 µs (event loop 30.0, writer 10.0); database server 20.0; load 2.0",
        "    written: 1,600 bytes; calls to Leanplum: 0.0000",
    ]
    assert lines[-2:] == [
        "    written: 2,000 bytes; calls to Leanplum: 0.0300",
        "  in the database: 300 bytes when it waits, 320 once it is delivered, "
        "40 of them in the audit log",
    ]


@pytest.mark.parametrize(("measured", "told"), [(900.0, "0.90"), (1_200.0, "1.20")])
def test_a_prediction_is_told_with_its_limit_and_what_was_measured(
    measured: float, told: str
) -> None:
    line = render_check("sqlite", [Prediction("accept: single event", 2, 1_000, "cores", measured)])
    assert line == (
        "sqlite, --workers 2, accept: single event: 1,000/s by cores, "
        f"measured {measured:,.0f} ({told})"
    )
