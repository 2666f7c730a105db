"""Rows (p): the gateway on PostgreSQL; gateway, database and load share the cores."""

from bench.bodies import BATCH, EVENT, Traffic
from bench.children import Child
from bench.figures import Slice, median_ratio
from bench.report import Row, Target, at_least, summarise
from bench.scenarios import delivery, draining
from bench.scenarios.setting import Setting

Rounds = dict[str, list[Slice]]


def measure(setting: Setting) -> list[Row]:
    """Measure accepting in rounds with (a), then delivering, then draining."""
    with setting.stage.postgresql() as server, setting.stage.fleet.scope():
        rounds = _rounds(setting, server.new_database())
        name = "(p-e) accepted to delivered on PostgreSQL"
        delivered = delivery.measure_beside(setting, name, 0.6, database=server.new_database())
        drained = draining.drain(
            setting, "(p-r) one deliverer drains PostgreSQL", server.new_database()
        )
    return [*rows(rounds), delivered, drained]


def _rounds(setting: Setting, database: str) -> Rounds:
    gateway = setting.stage.gateway(setting.upstream, database=database, pinned=False)
    for traffic in (EVENT, BATCH):
        setting.load.warm(gateway, traffic)
    rounds: Rounds = {"a": [], "c": [], "d": []}
    for _ in range(setting.plan.rounds):
        with gateway.paused():
            rounds["a"].append(setting.measure_a())
        rounds["c"].append(_slice(setting, gateway, EVENT))
        rounds["d"].append(_slice(setting, gateway, BATCH))
    setting.stage.fleet.stop(gateway)
    return rounds


def _slice(setting: Setting, gateway: Child, traffic: Traffic) -> Slice:
    return setting.load.slice(gateway, traffic, pinned=False)


def rows(rounds: Rounds) -> list[Row]:
    """Return figures and targets of the rounds."""
    to_a = {name: median_ratio(slices, rounds["a"]) for name, slices in rounds.items()}
    targets: dict[str, tuple[Target, ...]] = {"c": (), "d": (at_least(2, "a", to_a["d"]),)}
    names = {
        "c": "(p-c) single events on PostgreSQL",
        "d": "(p-d) batches of 100 on PostgreSQL, items",
    }
    return [
        summarise(names[name], rounds[name], to_a=to_a[name], targets=targets[name])
        for name in names
    ]
