"""What a part of the gateway costs: `python -m bench.cost limits`, `python -m bench.cost audit`.

Two gateways, one of them without the part, take the same load by turns, each paused while the other
is measured; a ratio is taken of each pair of slices.
"""

import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bench.__main__ import ROOT, scratch_folder
from bench.bodies import BATCH, EVENT, Traffic
from bench.children import Child, Fleet
from bench.keys import make_key
from bench.load import Load
from bench.plan import QUICK
from bench.stage import Stage

PAIRS, SECONDS = 25, 2
TICKS = os.sysconf("SC_CLK_TCK")


class Comparison(NamedTuple):
    """A load, and what of the gateway takes it in turns: `whole` and `less`, each without a part,
    or with all ("").
    """

    title: str
    traffic: Traffic
    whole: str
    less: str


COMPARISONS = {
    "limits": (Comparison("a single event, with limits to without", EVENT, "", "limits"),),
    "audit": (
        Comparison("a batch of 100 for 2,000 users, with audit to without", BATCH, "", "audit"),
        Comparison(
            "the same, each for users whom the audit does not know yet", BATCH, "memory", "audit"
        ),
    ),
}


class Measured(NamedTuple):
    """One slice: requests a second, and a second of processor time."""

    rate: float
    by_processor: float


def _processor_seconds(child: Child) -> float:
    fields = Path(f"/proc/{child.process.pid}/stat").read_text().rpartition(")")[2].split()
    # Proc(5): utime, stime, counted from the state on
    return (int(fields[11]) + int(fields[12])) / TICKS


def _slice(load: Load, child: Child, traffic: Traffic) -> Measured:
    with child.awake():
        began = _processor_seconds(child)
        found = load.slice(child, traffic)
        return Measured(
            found.requests / found.seconds, found.requests / (_processor_seconds(child) - began)
        )


def compare(stage: Stage, load: Load, one: Comparison) -> list[tuple[Measured, Measured]]:
    """Pairs of slices: with, and without."""
    upstream = stage.upstream()
    whole, less = (stage.gateway(upstream, without=part) for part in (one.whole, one.less))
    for child in (whole, less):
        with child.awake():
            load.warm(child, one.traffic)
    pairs = []
    for number in range(PAIRS):
        order = (whole, less) if number % 2 else (less, whole)
        found = {child.name: _slice(load, child, one.traffic) for child in order}
        pairs.append((found[whole.name], found[less.name]))
    return pairs


def told(one: Comparison, pairs: Sequence[tuple[Measured, Measured]]) -> str:
    """The medians of the ratios, and between which half of them are."""
    lines = [one.title]
    for name, which in (("requests a second", 0), ("requests a second of processor time", 1)):
        low, middle, high = statistics.quantiles(
            [whole[which] / less[which] for whole, less in pairs], n=4
        )
        lines.append(f"  {name}: {middle:.3f} ({low:.3f} to {high:.3f})")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print."""
    part = sys.argv[1] if len(sys.argv) == 2 else ""
    if part not in COMPARISONS:
        sys.exit(f"usage: python -m bench.cost {'|'.join(COMPARISONS)}")
    with scratch_folder(ROOT / "data") as scratch, Fleet(ROOT, scratch) as fleet:
        stage = Stage(fleet, scratch, make_key())
        load = Load(stage, replace(QUICK, slice=SECONDS))
        for one in COMPARISONS[part]:
            with fleet.scope():
                print(told(one, compare(stage, load, one)), flush=True)


if __name__ == "__main__":
    main()
