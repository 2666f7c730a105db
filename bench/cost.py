"""The cost of a part of the gateway: `python -m bench.cost limits`, `audit` or `traces`.

Two gateways, one of them without the part, take the same load alternately, each paused while the
other is measured; each pair of slices gives a ratio.
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
from bench.stage import GATEWAY, NO_MORE, Stage

PAIRS, SECONDS = 25, 2
TICKS = os.sysconf("SC_CLK_TCK")


class Comparison(NamedTuple):
    """A load for two gateways; `whole` and `less` name the part that each lacks, "" for none.

    `sampled`: the share of the requests that the first one traces.
    """

    title: str
    traffic: Traffic
    whole: str = ""
    less: str = ""
    sampled: float = 0.0


COMPARISONS = {
    "limits": (Comparison("a single event, with limits to without", EVENT, less="limits"),),
    "traces": (
        Comparison("a single event, with 10 % traced to none", EVENT, sampled=0.1),
        Comparison("a single event, with all traced to none", EVENT, sampled=1.0),
    ),
    "audit": (
        Comparison("a batch of 100 for 2,000 users, with audit to without", BATCH, "", "audit"),
        Comparison(
            "the same, for users whom the audit does not know yet", BATCH, "memory", "audit"
        ),
    ),
}


class Measured(NamedTuple):
    """The figures of a slice: requests per second, and per second of processor time."""

    rate: float
    by_processor: float


def _processor_seconds(child: Child) -> float:
    fields = Path(f"/proc/{child.process.pid}/stat").read_text().rpartition(")")[2].split()
    # proc(5): utime and stime, at these places after the state.
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(load: Load, child: Child, traffic: Traffic) -> Measured:
    """Measure a slice of the greatest load that the server can take."""
    with child.resumed():
        began = _processor_seconds(child)
        taken = load.slice(child, traffic)
        processor_seconds = _processor_seconds(child) - began
        return Measured(taken.requests / taken.seconds, taken.requests / processor_seconds)


def program(part: str) -> Sequence[str]:
    """Return the gateway, `without` a part if one is named (servers/without.py)."""
    return ("bench.servers.without", part) if part else GATEWAY


def compare(stage: Stage, load: Load, comparison: Comparison) -> list[tuple[Measured, Measured]]:
    """Return pairs of slices: with and without the part."""
    upstream = stage.upstream()
    traces = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": stage.collector().url,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str(comparison.sampled),
    }
    whole = stage.gateway(
        upstream,
        program=program(comparison.whole),
        env=traces if comparison.sampled else NO_MORE,
    )
    less = stage.gateway(upstream, program=program(comparison.less))
    for child in (whole, less):
        with child.resumed():
            load.warm(child, comparison.traffic)
    pairs = []
    for number in range(PAIRS):
        order = (whole, less) if number % 2 else (less, whole)
        measured = {child.name: measure(load, child, comparison.traffic) for child in order}
        pairs.append((measured[whole.name], measured[less.name]))
    return pairs


def render(title: str, pairs: Sequence[tuple[Measured, Measured]]) -> str:
    """Return the median and the quartiles of the ratios, as text."""
    lines = [title]
    for name, which in (("requests a second", 0), ("requests a second of processor time", 1)):
        low, middle, high = statistics.quantiles(
            [whole[which] / less[which] for whole, less in pairs], n=4
        )
        lines.append(f"  {name}: {middle:.3f} ({low:.3f} to {high:.3f})")
    return "\n".join(lines)


def main() -> None:
    """Measure the part that the command line names, and print the ratios."""
    part = sys.argv[1] if len(sys.argv) == 2 else ""
    if part not in COMPARISONS:
        sys.exit(f"usage: python -m bench.cost {'|'.join(COMPARISONS)}")
    with scratch_folder(ROOT / "data") as scratch, Fleet(ROOT, scratch) as fleet:
        stage = Stage(fleet, scratch, make_key())
        load = Load(stage, replace(QUICK, slice=SECONDS))
        for comparison in COMPARISONS[part]:
            with fleet.scope():
                print(render(comparison.title, compare(stage, load, comparison)), flush=True)


if __name__ == "__main__":
    main()
