"""The ratios of a run, and those that fell against the committed ones in `ratios.json`.

Only ratios are compared: absolute figures say more about the machine than about the code.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.report import Row

COMMITTED = Path(__file__).with_name("ratios.json")
ALLOWED_FALL = 0.15
YARDSTICKS = ("(a)", "(b)")

Ratios = Mapping[str, float]


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Return the gateway's ratios by row and base, as `(c) to a`; more is better for all."""
    found: dict[str, float] = {}
    for row in rows:
        mark = row.name.split()[0]
        if mark in YARDSTICKS:
            continue
        if row.to_a is not None:
            found[f"{mark} to a"] = round(row.to_a, 3)
        for target in row.targets:
            if target.base:
                found[f"{mark} to {target.base.removeprefix('of ')}"] = round(target.got, 3)
    return found


def faults(measured: Ratios, committed: Ratios, *, whole_run: bool) -> list[str]:
    """Return a line for each ratio that fell too far, or that a whole run did not measure."""
    lines = []
    for name, before in committed.items():
        now = measured.get(name)
        if now is None:
            if whole_run:
                lines.append(f"{name}: not measured, {before:g} is committed")
        elif now < before * (1 - ALLOWED_FALL):
            lines.append(f"{name}: {now:g}, {1 - now / before:.0%} less than {before:g}")
    return lines


def load(path: Path = COMMITTED) -> dict[str, float]:
    """Return the committed ratios; none if there is no file yet."""
    if not path.exists():
        return {}
    found: dict[str, float] = json.loads(path.read_text())
    return found


def commit(measured: Ratios, path: Path = COMMITTED, *, whole_run: bool) -> None:
    """Write the ratios; a run of some groups keeps those of the others."""
    kept = {} if whole_run else load(path)
    path.write_text(json.dumps({**kept, **measured}, indent=1) + "\n")
