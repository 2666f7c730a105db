"""Tests that measure time run alone, whichever worker runs them."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import alone
from tests.support.wait import until

TIMED: Any = SimpleNamespace(get_closest_marker=lambda name: name == "timed" or None)
OTHER: Any = SimpleNamespace(get_closest_marker=lambda name: None)


class Workers:
    """The workers of a run, each with the locks of its own."""

    def __init__(self, *files: Path) -> None:
        self._files = files
        self.all = list[alone.Turns]()

    def add(self) -> alone.Turns:
        self.all.append(alone.Turns(*self._files))
        return self.all[-1]

    def begin(self, item: Any) -> threading.Event:
        """Let one more worker run a test; return the event that it has had its turn."""
        worker, has_run = self.add(), threading.Event()

        def run() -> None:
            with worker.turn(item, None):
                has_run.set()

        threading.Thread(target=run, daemon=True).start()
        return has_run


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    files = [tmp_path / "locked", tmp_path / "gate"]
    for file in files:
        file.touch()
    found = Workers(*files)
    yield found
    for worker in found.all:
        worker.close()


def test_timed_tests_come_first_and_the_others_keep_their_order() -> None:
    one: Any = SimpleNamespace(**vars(OTHER))
    two: Any = SimpleNamespace(**vars(OTHER))
    found = alone.first([one, TIMED, two])
    assert found[0] is TIMED
    assert found[1] is one
    assert found[2] is two


def test_tests_that_measure_nothing_run_together(workers: Workers) -> None:
    with workers.add().turn(OTHER, None):
        until(workers.begin(OTHER).is_set)


@pytest.mark.parametrize(("running", "second"), [(TIMED, OTHER), (OTHER, TIMED), (TIMED, TIMED)])
def test_a_timed_test_and_another_wait_for_each_other(
    workers: Workers, running: Any, second: Any
) -> None:
    with workers.add().turn(running, None):
        has_run = workers.begin(second)
        assert not has_run.wait(0.2)
    until(has_run.is_set)


def test_a_worker_keeps_its_turn_from_one_timed_test_to_the_next(workers: Workers) -> None:
    worker = workers.add()
    with worker.turn(TIMED, TIMED):
        pass
    has_run = workers.begin(OTHER)
    assert not has_run.wait(0.2)
    with worker.turn(TIMED, OTHER):
        assert not has_run.wait(0.2)
    until(has_run.is_set)


def test_no_other_test_begins_while_a_timed_one_waits_for_its_turn(workers: Workers) -> None:
    with workers.add().turn(OTHER, None):
        timed = workers.begin(TIMED)
        assert not timed.wait(0.2)
        other = workers.begin(OTHER)
        assert not other.wait(0.2)
    until(lambda: timed.is_set() and other.is_set())
