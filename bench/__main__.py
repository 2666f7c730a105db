"""`python -m bench`: measure, print the table, write JSON or an image, compare ratios.

The exit status is 1 after failures and lost items, and with `--check` if a ratio has fallen.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from bench import plot, ratios
from bench.children import ChildFailed, Fleet
from bench.keys import make_key
from bench.plan import FULL, QUICK, Plan
from bench.report import Row, document, exit_status, table
from bench.scenarios import (
    delivery,
    draining,
    large,
    latency,
    memory,
    postgres,
    relay,
    shared,
    throughput,
    workers,
)
from bench.scenarios.setting import Setting
from bench.stage import Stage

DESCRIPTION = "Measure the gateway, compared with its yardsticks."
ROOT = Path(__file__).parents[1]
SCENARIOS: dict[str, Callable[[Setting], list[Row]]] = {
    "throughput": throughput.measure,
    "shared": shared.measure,
    "delivery": delivery.measure,
    "draining": draining.measure,
    "workers": workers.measure,
    "postgres": postgres.measure,
    "latency": latency.measure,
    "memory": memory.measure,
    "relay": relay.measure,
    "large": large.measure,
}
ON_REQUEST = {"large"}  # they take long


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="shorter and less precise")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write all figures to this file"
    )
    parser.add_argument(
        "--only", action="append", choices=SCENARIOS, help="only this group (repeatable)"
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT / "data", help="folder for databases (on a real disk)"
    )
    parser.add_argument(
        "--postgres", default="", metavar="URL", help="use this server; by default one is started"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the table as SVG")
    parser.add_argument(
        "--check", action="store_true", help="fail if a ratio fell against bench/ratios.json"
    )
    parser.add_argument(
        "--commit-ratios", action="store_true", help="write the ratios to bench/ratios.json"
    )
    options = parser.parse_args(argv)
    if options.quick and options.commit_ratios:
        parser.error("--commit-ratios: the ratios of a quick run are too rough")
    return options


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Create a folder for databases and logs; remove it afterwards, with a parent that is new."""
    new = not parent.exists()
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=parent.absolute()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            if new:
                parent.rmdir()


def measure(name: str, setting: Setting) -> list[Row]:
    """Measure one group of rows and stop its servers; on an error, return a row with the reason."""
    try:
        with setting.stage.fleet.scope():
            return SCENARIOS[name](setting)
    except (ChildFailed, OSError, ValueError) as error:
        return [Row(f"({name}) not measured", failed=1, notes=(str(error),))]


def run(plan: Plan, names: Sequence[str], data: Path, postgres_url: str) -> list[Row]:
    """Start the servers, measure the groups, and stop all servers."""
    rows: list[Row] = []
    with scratch_folder(data) as scratch, Fleet(ROOT, scratch) as fleet:
        setting = Setting.prepare(Stage(fleet, scratch, make_key(), postgres_url), plan)
        for name in names:
            began = time.monotonic()
            rows += measure(name, setting)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return rows


def run_facts(plan: Plan, seconds: float) -> dict[str, object]:
    """Return the machine and the conditions of the run."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "load": "wrk" if shutil.which("wrk") else "own generator",
        "plan": asdict(plan),
        "seconds": round(seconds, 1),
    }


def stop_children_first() -> None:
    """Let Ctrl-C and SIGTERM leave all blocks, which stop every child and remove its files."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def main() -> int:
    """Run the command."""
    stop_children_first()
    options = arguments()
    plan, began = (QUICK if options.quick else FULL), time.monotonic()
    try:
        usual = [name for name in SCENARIOS if name not in ON_REQUEST]
        rows = run(plan, options.only or usual, options.data, options.postgres)
    except (ChildFailed, KeyboardInterrupt) as end:
        print(f"bench stopped: {str(end) or 'interrupted'}", file=sys.stderr)
        return 1
    facts = run_facts(plan, time.monotonic() - began)
    print(
        table(rows),
        f"\n{facts['seconds']} s, {facts['cores']} cores, load by {facts['load']}",
        sep="\n",
    )
    if options.json:
        options.json.write_text(json.dumps(document(rows, facts), indent=1) + "\n")
    if options.plot:
        options.plot.write_text(plot.svg(rows, f"{facts['machine']}, {facts['cores']} cores"))
    return max(exit_status(rows), compare_ratios(rows, options))


def compare_ratios(
    rows: Sequence[Row], options: argparse.Namespace, path: Path = ratios.COMMITTED
) -> int:
    """Compare the ratios with the committed ones, or commit them; return 1 if one has fallen."""
    measured, whole_run = ratios.ratios(rows), not options.only
    if options.commit_ratios:
        ratios.commit(measured, path, whole_run=whole_run)
    if not options.check:
        return 0
    found = ratios.faults(measured, ratios.load(path), whole_run=whole_run)
    print("", *(found or ["No ratio fell by more than 15 %."]), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
