"""What one item costs, and the load that follows from it: `python -m bench.item_cost`.

For single events and for items of batches, on SQLite and on PostgreSQL: processor time by process
and thread, bytes written, and calls to Leanplum, accepting and delivering. With `--check`, the
capacity that follows from the cost (`capacity.py`) is compared with the rates that one, two and
four workers reach on the same cores. Nothing is pinned.
"""

import argparse
import json
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from bench import tables as tables_of
from bench.__main__ import ROOT, scratch_folder, stop_children_first
from bench.children import ChildFailed, Fleet
from bench.cost_of_items import TRAFFIC, Cost, measure
from bench.keys import make_key
from bench.plan import FULL, QUICK
from bench.postgres import PostgresServer
from bench.predictions import Prediction, check, render_check
from bench.scenarios.setting import Setting
from bench.stage import Stage
from bench.tables import Costs, Predictions

DOCS = ROOT / "docs" / "scaling.md"
SLICE = 8  # seconds; a few thousand items would cost what the first ones cost


def render(database: str, name: str, cost: Cost) -> str:
    """Return the cost of an item as text."""
    lines = [f"{database}, {name}"]
    for title, phase, of in (
        ("accepting", cost.accepting, "load"),
        ("delivering", cost.delivering, "upstream"),
        ("both at once", cost.flowing, "load"),
    ):
        threads = sorted(phase.gateway.threads.items(), key=lambda spent: -spent[1])
        spent = ", ".join(f"{thread} {time_:.1f}" for thread, time_ in threads if time_ >= 0.05)
        lines += [
            f"  {title} ({phase.items:,} items at {phase.rate:,.0f}/s)",
            f"    processor: {phase.gateway.processor:.1f} µs ({spent}); "
            f"database server {phase.database.processor:.1f}; {of} {phase.surroundings:.1f}",
            f"    written: {phase.gateway.written + phase.database.written:,.0f} bytes; "
            f"calls to Leanplum: {phase.calls:.4f}",
        ]
    lines += [
        f"  in the database: {cost.waiting_bytes:,.0f} bytes when it waits, "
        f"{cost.delivered_bytes:,.0f} once it is delivered, "
        f"{cost.audit_bytes:,.0f} of them in the audit log",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    stop_children_first()
    parser = argparse.ArgumentParser(prog="python -m bench.item_cost", description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), help="only this one")
    parser.add_argument("--check", action="store_true", help="also compare with several workers")
    parser.add_argument("--quick", action="store_true", help="with shorter slices, rougher")
    parser.add_argument("--postgres", default="", metavar="URL", help="use this server")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures")
    parser.add_argument("--docs", action="store_true", help="also write the tables of scaling.md")
    options = parser.parse_args()
    if options.docs and (options.database or options.quick or not options.check):
        parser.error("--docs: the tables need whole runs of both databases, with --check")
    try:
        costs, predictions = run(options)
    except (ChildFailed, KeyboardInterrupt) as end:
        print(f"stopped: {str(end) or 'interrupted'}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(document(costs, predictions), indent=1) + "\n")
    if options.docs:
        write_tables(DOCS, costs, predictions)
    return 0


def run(options: argparse.Namespace) -> tuple[Costs, Predictions]:
    """Start the servers, measure and print, and stop all servers."""
    costs: dict[str, dict[str, Cost]] = {}
    predictions: dict[str, list[Prediction]] = {}
    with scratch_folder(ROOT / "data") as scratch, Fleet(ROOT, scratch) as fleet:
        stage = Stage(fleet, scratch, make_key(), options.postgres)
        plan = QUICK if options.quick else replace(FULL, slice=SLICE)
        setting = Setting.prepare(stage, plan)
        for database in [options.database] if options.database else ["sqlite", "postgresql"]:
            with stage.postgresql() if database == "postgresql" else nullcontext() as server:
                costs[database] = _measure_costs(setting, database, server)
                if options.check:
                    predictions[database] = check(setting, costs[database], server)
                    print(render_check(database, predictions[database]), flush=True)
    return costs, predictions


def _measure_costs(
    setting: Setting, database: str, server: PostgresServer | None
) -> dict[str, Cost]:
    costs: dict[str, Cost] = {}
    for name, traffic in TRAFFIC.items():
        costs[name] = measure(setting, traffic, server)
        print(render(database, name, costs[name]), flush=True)
    return costs


def document(costs: Costs, predictions: Predictions) -> dict[str, object]:
    """Return the document of `--json`."""
    return {
        database: {
            "costs": {name: asdict(cost) for name, cost in by_name.items()},
            "predictions": [asdict(found) for found in predictions.get(database, ())],
        }
        for database, by_name in costs.items()
    }


def write_tables(path: Path, costs: Costs, predictions: Predictions) -> None:
    """Replace the tables of a page."""
    tables = {
        "cost": tables_of.cost_table(costs),
        "predictions": tables_of.prediction_table(predictions),
        "sizing": tables_of.sizing_table(costs),
    }
    page = path.read_text()
    for name, table in tables.items():
        page = tables_of.replace_table(page, name, table)
    path.write_text(page)


if __name__ == "__main__":
    sys.exit(main())
