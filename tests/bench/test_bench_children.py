"""Processes of the bench: all processes of a gateway are paused, and counted in its memory."""

from pathlib import Path

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


def test_a_pause_a_stop_and_the_memory_cover_all_processes_of_a_gateway_with_workers(
    tmp_path: Path,
) -> None:
    with Fleet(ROOT, tmp_path) as fleet:
        stage = Stage(fleet, tmp_path, make_key())
        child = stage.gateway(stage.upstream(pinned=False), workers=2, pinned=False)
        pids = list(child.pids())
        assert len(pids) >= 4  # a supervisor, two that accept, one that seals
        assert child.pss() > proportional_mb(pids[0])
        with child.paused():
            until(lambda: states(child) == {"T"})
        until(lambda: "T" not in states(child))
        assert child.answers("/readyz")
        child.pause()
        fleet.stop(child)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
