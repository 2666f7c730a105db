"""The tables of docs/scaling.md, as `python -m bench.item_cost --docs` writes them."""

import re
from collections.abc import Callable, Mapping, Sequence

from bench.cost_of_items import Cost, Phase
from bench.predictions import WRITER, Prediction
from bench.sizing import size

Costs = Mapping[str, Mapping[str, Cost]]
Predictions = Mapping[str, Sequence[Prediction]]
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
LOADS = (100, 1_000, 5_000, 20_000)
EVENT_LOOP = "event loop"


def _processor(title: str, phase: Callable[[Cost], Phase]) -> dict[str, Callable[[Cost], float]]:
    def others(cost: Cost) -> float:
        threads = phase(cost).gateway.threads
        return sum(t for name, t in threads.items() if name not in (EVENT_LOOP, WRITER))

    return {
        f"{title}: event loop, µs": lambda cost: phase(cost).gateway.threads.get(EVENT_LOOP, 0.0),
        f"{title}: writer, µs": lambda cost: phase(cost).gateway.threads.get(WRITER, 0.0),
        f"{title}: other threads, µs": others,
        f"{title}: database server, µs": lambda cost: phase(cost).database.processor,
        f"{title}: written, bytes": lambda cost: (
            phase(cost).gateway.written + phase(cost).database.written
        ),
    }


FIGURES: dict[str, Callable[[Cost], float]] = {
    **_processor("accepting", lambda cost: cost.accepting),
    **_processor("delivering", lambda cost: cost.delivering),
    "delivering: calls to Leanplum": lambda cost: cost.delivering.calls,
    "both at once: process, µs": lambda cost: cost.flowing.gateway.processor,
    "both at once: database server, µs": lambda cost: cost.flowing.database.processor,
    "both at once: written, bytes": lambda cost: (
        cost.flowing.gateway.written + cost.flowing.database.written
    ),
    "both at once: calls to Leanplum": lambda cost: cost.flowing.calls,
    "in the database while it waits, bytes": lambda cost: cost.waiting_bytes,
    "in the database once delivered, bytes": lambda cost: cost.delivered_bytes,
    "of this, audit records, bytes": lambda cost: cost.audit_bytes,
}


def cost_table(costs: Costs) -> str:
    """Return what an item costs, a column for each database and way to send."""
    columns = {
        f"{NAMES[database]}, {name}": cost
        for database, by_name in costs.items()
        for name, cost in by_name.items()
    }
    rows = [
        [title, *(_figure(figure(cost)) for cost in columns.values())]
        for title, figure in FIGURES.items()
    ]
    return _table(["", *columns], rows)


def prediction_table(predictions: Predictions) -> str:
    """Return the rates that the model predicts beside those that were measured."""
    rows = [
        [
            NAMES[database],
            str(found.workers),
            found.what,
            f"{found.predicted:,.0f}",
            found.limit,
            f"{found.measured:,.0f}",
            f"{found.measured / found.predicted:.2f}",
        ]
        for database, several in predictions.items()
        for found in several
    ]
    headings = ["Database", "`--workers`", "What", "Predicted, items/s", "Limited by"]
    return _table([*headings, "Measured, items/s", "Ratio"], rows)


def sizing_table(costs: Costs) -> str:
    """Return what loads need, on the first database that suffices."""
    headings = ["Items per second", "Sent as", "Commands", "Database", "Cores", "Memory"]
    rows = [
        [f"{load:,}", name, *_needs(load, name, costs)]
        for name in ("single event", "item of a batch")
        for load in LOADS
    ]
    return _table([*headings, "Written", "Disk"], rows)


def _needs(load: int, name: str, costs: Costs) -> list[str]:
    for database, by_name in costs.items():
        if found := size(load, by_name[name]):
            return [
                found.command,
                NAMES[database],
                f"{max(1, found.cores):.0f}",
                f"{found.memory_mb:,.0f} MB",
                f"{found.written_per_second / 1e6:.1f} MB/s",
                f"{found.stored / 1e9:,.1f} GB",
            ]
    return ["more than one primary", *["–"] * 5]


def _figure(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.1 or not value else f"{value:.4f}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replace_table(page: str, name: str, table: str) -> str:
    """Replace the table between the marks of a name. Raises ValueError if the page has none."""
    begin, end = f"<!-- bench: {name} -->", "<!-- bench: end -->"
    between = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    found, count = between.subn(lambda marks: f"{marks[1]}\n{table}\n\n{marks[2]}", page)
    if count != 1:
        raise ValueError(f"the page has {count} places for the table {name}")
    return found
