"""The capacity that follows from the cost of an item, and the rates that are reached.

`python -m bench.item_cost --check` prints both for one, two and four workers, on the cores that it
may use.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.bodies import Traffic
from bench.capacity import ItemCost, capacity, limits
from bench.cost_of_items import TRAFFIC, Cost, Phase, load_cost, opened
from bench.postgres import PostgresServer
from bench.scenarios.delivery import Delivery, deliver
from bench.scenarios.setting import Setting

WORKERS = (1, 2, 4)
WRITER = "writer"


@dataclass(frozen=True)
class Prediction:
    """A rate that the model predicts, what limits it, and the rate that was measured."""

    what: str
    workers: int
    predicted: float
    limit: str
    measured: float


def accepting_cost(cost: Cost) -> ItemCost:
    """Return the cost of an item that is only accepted."""
    phase = cost.accepting
    return ItemCost(
        accepting=phase.gateway.processor,
        database=phase.database.processor,
        surroundings=phase.surroundings,
        turn=_turn(phase),
    )


def whole_cost(cost: Cost) -> ItemCost:
    """Return the cost of an item that is accepted and delivered."""
    accepting, delivering = cost.accepting, cost.delivering
    return ItemCost(
        accepting=accepting.gateway.processor,
        delivering=delivering.gateway.processor,
        database=accepting.database.processor + delivering.database.processor,
        surroundings=accepting.surroundings + delivering.surroundings,
        turn=_turn(accepting) + _turn(delivering),
    )


def _turn(phase: Phase) -> float:
    """Return the processor time of a turn to write, the least that a turn may take.

    Every transaction that writes takes the one lock of its database first. In it the writer and a
    server work by turns.
    """
    return phase.gateway.threads.get(WRITER, 0.0) + phase.database.processor


def check(
    setting: Setting, costs: dict[str, Cost], server: PostgresServer | None
) -> list[Prediction]:
    """Predict and measure what one, two and four workers accept, and accept and deliver."""
    found = []
    for workers in WORKERS:
        for name, traffic in TRAFFIC.items():
            cost = accepting_cost(costs[name])
            rate = _measure_accepting(setting, traffic, server, workers)
            found.append(_predict(f"accept: {name}", workers, cost, rate))
        cost = whole_cost(costs["item of a batch"])
        delivered = _measure_whole(setting, server, workers)
        # This load comes from our own generator, which costs more than wrk.
        around = load_cost(delivered.accepted) + costs["item of a batch"].delivering.surroundings
        cost = replace(cost, surroundings=around)
        found.append(_predict("accept and deliver: batches", workers, cost, delivered.rate))
    return found


def _predict(what: str, workers: int, cost: ItemCost, measured: float) -> Prediction:
    usable = len(os.sched_getaffinity(0))
    predicted, limit = capacity(limits(cost, workers=workers, cores=usable))
    return Prediction(what, workers, predicted, limit, measured)


def _measure_accepting(
    setting: Setting, traffic: Traffic, server: PostgresServer | None, workers: int
) -> float:
    with opened(setting.stage, server) as database:
        gateway = setting.stage.gateway(
            setting.upstream, database=database.url, workers=workers, pinned=False
        )
        setting.load.warm(gateway, traffic)
        return setting.load.slice(gateway, traffic, pinned=False).rate


def _measure_whole(setting: Setting, server: PostgresServer | None, workers: int) -> Delivery:
    with opened(setting.stage, server) as database:
        items = setting.plan.delivered_items
        return deliver(setting, items, workers=workers, database=database.url)


def render_check(database: str, predictions: Sequence[Prediction]) -> str:
    """Return the predictions as lines of text."""
    return "\n".join(
        f"{database}, --workers {found.workers}, {found.what}: {found.predicted:,.0f}/s by "
        f"{found.limit}, measured {found.measured:,.0f} ({found.measured / found.predicted:.2f})"
        for found in predictions
    )
