"""The tables of docs/scaling.md, and the sizes in them."""

from dataclasses import replace

import pytest

from bench.cost_of_items import Cost, Phase
from bench.item_cost import DOCS
from bench.predictions import Prediction
from bench.sizing import size
from bench.tables import cost_table, prediction_table, replace_table, sizing_table
from bench.usage import Usage

# An item costs 100 µs of accepting and 50 of delivering; each turn to write takes 10.
COST = Cost(
    accepting=Phase(
        items=1_000,
        rate=500.0,
        gateway=Usage({"event loop": 90.0, "writer": 10.0}, written=600.0),
        database=Usage(),
        surroundings=2.0,
        memory_mb=120.0,
    ),
    delivering=Phase(
        items=1_000,
        rate=400.0,
        gateway=Usage({"event loop": 40.0, "writer": 10.0}, written=400.0),
        database=Usage(),
        surroundings=8.0,
        memory_mb=150.0,
        calls=0.0025,
    ),
    flowing=Phase(
        items=1_000,
        rate=125.0,
        gateway=Usage({"event loop": 140.0, "writer": 30.0}, written=2_000.0),
        database=Usage(),
        surroundings=3.0,
        calls=0.03,
    ),
    waiting_bytes=300.0,
    delivered_bytes=200.0,
    audit_bytes=10.0,
)


def test_a_small_load_needs_one_process_at_half_of_its_capacity() -> None:
    found = size(3_000, COST)
    assert found is not None
    assert (found.command, found.memory_mb) == ("`serve`", 120.0)
    assert found.cores == pytest.approx(0.9)
    assert found.written_per_second == 6_000_000
    # Receipts of one day, and audit records of 89 more
    assert found.stored == 3_000 * 86_400 * (300 + 89 * 10)


def test_a_greater_load_needs_workers_and_a_deliverer() -> None:
    found = size(9_000, COST)
    assert found is not None
    assert (found.command, found.memory_mb) == ("`serve --workers 2`", 390.0)


def test_more_than_one_process_delivers_if_one_would_be_busy_for_more_than_half_of_the_time() -> (
    None
):
    found = size(25_000, COST)
    assert found is not None
    assert found.command == "`serve --workers 5 --no-delivery`, 3 × `deliver`"


def test_writers_that_take_turns_bound_the_load_of_one_database() -> None:
    assert size(25_000, COST) is not None
    assert size(25_001, COST) is None


def test_a_load_that_is_too_much_for_sqlite_is_sized_on_postgresql() -> None:
    slow = replace(COST, accepting=replace(COST.accepting, gateway=Usage({"writer": 1_000.0})))
    costs = {
        "sqlite": {"single event": slow, "item of a batch": COST},
        "postgresql": {"single event": COST, "item of a batch": COST},
    }
    lines = sizing_table(costs).splitlines()
    assert lines[2].startswith("| 100 | single event | `serve` | SQLite | 1 | 120 MB | ")
    assert lines[3].startswith("| 1,000 | single event | `serve` | PostgreSQL |")


def test_the_cost_has_a_column_for_each_database_and_way_to_send() -> None:
    lines = cost_table({"sqlite": {"single event": COST}}).splitlines()
    assert lines[0] == "|  | SQLite, single event |"
    assert "| accepting: event loop, µs | 90.0 |" in lines
    assert "| delivering: calls to Leanplum | 0.0025 |" in lines


def test_a_prediction_stands_beside_what_was_measured() -> None:
    found = Prediction("accept: single event", 2, 1_000, "cores", 900)
    last = prediction_table({"postgresql": [found]}).splitlines()[-1]
    assert last == "| PostgreSQL | 2 | accept: single event | 1,000 | cores | 900 | 0.90 |"


def test_a_table_replaces_the_one_between_its_marks_and_nothing_else() -> None:
    page = "a\n<!-- bench: cost -->\n\n| old |\n\n<!-- bench: end -->\nb\n"
    assert replace_table(page, "cost", "| new |") == page.replace("old", "new")
    with pytest.raises(ValueError, match="0 places for the table sizing"):
        replace_table(page, "sizing", "")


@pytest.mark.parametrize("name", ["cost", "predictions", "sizing"])
def test_the_page_has_a_place_for_each_table(name: str) -> None:
    assert "| new |" in replace_table(DOCS.read_text(), name, "| new |")
