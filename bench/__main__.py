"""`python -m bench`: measure, print the table, write JSON; status 1 on failures or lost items."""

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

from bench.children import ChildFailed, Fleet
from bench.keys import make_key
from bench.plan import FULL, QUICK, Plan
from bench.report import Row, document, exit_status, table
from bench.scenarios import delivery, large, latency, memory, relay, shared, throughput
from bench.scenarios.setting import Setting
from bench.stage import Stage

DESCRIPTION = "Measure the gateway, compared with its yardsticks."
ROOT = Path(__file__).parents[1]
SCENARIOS: dict[str, Callable[[Setting], list[Row]]] = {
    "throughput": throughput.measure,
    "shared": shared.measure,
    "delivery": delivery.measure,
    "latency": latency.measure,
    "memory": memory.measure,
    "relay": relay.measure,
    "large": large.measure,
}
ON_REQUEST = {"large"}  # they take long


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="within a minute, rougher")
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
        "--postgresql", default="", metavar="URL", help="a server, for --only large"
    )
    return parser.parse_args(argv)


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


def run(plan: Plan, names: Sequence[str], data: Path, postgresql: str = "") -> list[Row]:
    """Start the servers, measure the groups, and stop all servers."""
    rows: list[Row] = []
    with scratch_folder(data) as scratch, Fleet(ROOT, scratch) as fleet:
        setting = Setting.prepare(Stage(fleet, scratch, make_key(), postgresql), plan)
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


def main() -> int:
    """Run the command; Ctrl-C and SIGTERM stop every child first."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = arguments()
    plan, began = (QUICK if options.quick else FULL), time.monotonic()
    try:
        usual = [name for name in SCENARIOS if name not in ON_REQUEST]
        rows = run(plan, options.only or usual, options.data, options.postgresql)
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
    return exit_status(rows)


if __name__ == "__main__":
    sys.exit(main())
