"""Processes of the bench: all processes of a gateway are paused, and counted in its memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.__main__ import ROOT
from bench.children import Child, Fleet, proportional_mb
from bench.keys import make_key
from bench.stage import Stage
from tests.support.wait import until

FIELDS_AFTER_NAME = 2


def states(child: Child) -> set[str]:
    """Return the states of all its processes, as `proc(5)` writes them: T is stopped."""
    stats = [Path(f"/proc/{pid}/stat").read_text() for pid in child.pids()]
    return {stat.rpartition(")")[FIELDS_AFTER_NAME].split()[0] for stat in stats}


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    with Fleet(ROOT, tmp_path) as fleet:
        stage = Stage(fleet, tmp_path, make_key())
        yield stage.gateway(stage.upstream(pinned=False), workers=2, pinned=False)


def test_a_pause_stops_every_process_of_a_gateway_with_workers(child: Child) -> None:
    with child.paused():
        until(lambda: states(child) == {"T"})
    until(lambda: "T" not in states(child))
    assert child.answers("/readyz")


def test_the_memory_of_a_gateway_is_that_of_all_its_processes(child: Child) -> None:
    pids = list(child.pids())
    assert len(pids) >= 4  # a supervisor, two that accept, one that seals
    assert child.pss() > proportional_mb(pids[0])


def test_a_paused_gateway_can_be_stopped(child: Child, tmp_path: Path) -> None:
    pids = list(child.pids())
    child.pause()
    Fleet(ROOT, tmp_path).stop(child)
    assert child.process.returncode == 0
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
