"""The comparison with the committed ratios."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.__main__ import arguments, compare_ratios
from bench.ratios import commit, faults, load, ratios
from bench.report import Row, at_least, at_most, none_lost

ROWS = [
    Row("(a) echo", to_a=1.0),
    Row("(c) single events", to_a=0.4, targets=(at_least(0.3, "a", 0.4),)),
    Row("(w-c) 2 workers", to_a=0.7, targets=(at_least(1.5, "of one process", 1.75),)),
    Row("(e5) faults", targets=(at_least(0.8, "of fault-free", 0.9), none_lost(0))),
    Row("(f) latency", targets=(at_most(10, "ms", 4.0, "p99"),)),
]


def test_the_ratios_are_those_to_a_and_to_other_rows_and_no_absolute_figures() -> None:
    assert ratios(ROWS) == {
        "(c) to a": 0.4,
        "(w-c) to a": 0.7,
        "(w-c) to one process": 1.75,
        "(e5) to fault-free": 0.9,
    }


def test_a_ratio_may_fall_by_fifteen_percent_and_no_further() -> None:
    committed = {"(c) to a": 0.4, "(d) to a": 4.0}
    assert faults({"(c) to a": 0.34, "(d) to a": 3.41}, committed, whole_run=True) == []
    assert faults({"(c) to a": 0.3, "(d) to a": 9.0}, committed, whole_run=True) == [
        "(c) to a: 0.3, 25% less than 0.4"
    ]


def test_a_committed_ratio_that_was_not_measured_is_a_fault_of_a_whole_run_only() -> None:
    assert faults({}, {"(c) to a": 0.4}, whole_run=True) == [
        "(c) to a: not measured, 0.4 is committed"
    ]
    assert faults({}, {"(c) to a": 0.4}, whole_run=False) == []


def test_a_new_ratio_is_no_fault() -> None:
    assert faults({"(z) to a": 0.1}, {}, whole_run=True) == []


def test_a_run_of_some_groups_commits_its_ratios_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "ratios.json"
    commit({"(c) to a": 0.4, "(d) to a": 4.0}, path, whole_run=True)
    commit({"(c) to a": 0.5}, path, whole_run=False)
    assert load(path) == {"(c) to a": 0.5, "(d) to a": 4.0}
    commit({"(c) to a": 0.6}, path, whole_run=True)
    assert load(path) == {"(c) to a": 0.6}


def test_without_a_file_there_is_nothing_to_fall_below(tmp_path: Path) -> None:
    assert load(tmp_path / "ratios.json") == {}


def test_a_check_fails_with_a_line_for_each_ratio_that_fell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ratios.json"
    assert compare_ratios(ROWS, arguments(["--commit-ratios"]), path) == 0
    assert compare_ratios(ROWS, arguments(["--check"]), path) == 0
    assert "No ratio fell" in capsys.readouterr().out
    slower = [replace(row, to_a=0.3) if row.name.startswith("(c)") else row for row in ROWS]
    slower[1] = replace(slower[1], targets=(at_least(0.3, "a", 0.3),))
    assert compare_ratios(slower, arguments(["--check"]), path) == 1
    assert "(c) to a: 0.3, 25% less than 0.4" in capsys.readouterr().out
    assert compare_ratios(slower, arguments([]), path) == 0


def test_the_ratios_of_a_quick_run_are_not_committed() -> None:
    with pytest.raises(SystemExit):
        arguments(["--quick", "--commit-ratios"])
