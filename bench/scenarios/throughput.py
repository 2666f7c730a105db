"""Rows (a) to (d): yardsticks and accepting in rounds, on one core, one server at a time."""

from bench.bodies import BATCH, BATCH_WITH_IDS, EVENT, Traffic
from bench.children import Child
from bench.figures import Slice, median_ratio
from bench.report import Row, at_least, summarise
from bench.scenarios.setting import Setting

Rounds = dict[str, list[Slice]]


def measure(setting: Setting) -> list[Row]:
    """Measure all rounds."""
    gateways = [setting.stage.gateway(setting.upstream) for _ in range(3)]
    planned = list(zip(("c", "d", "d-id"), gateways, (EVENT, BATCH, BATCH_WITH_IDS), strict=True))
    for _, gateway, traffic in planned:
        with gateway.resumed():
            setting.load.warm(gateway, traffic)
    rounds: Rounds = {"a": [], "b": [], "c": [], "d": [], "d-id": []}
    for _ in range(setting.plan.rounds):
        _one_round(setting, planned, rounds)
    return rows(rounds)


def _one_round(setting: Setting, planned: list[tuple[str, Child, Traffic]], rounds: Rounds) -> None:
    rounds["a"].append(setting.measure_a())
    rounds["b"].append(setting.measure_b())
    for name, gateway, traffic in planned:
        with gateway.resumed():
            rounds[name].append(setting.load.slice(gateway, traffic))


def rows(rounds: Rounds) -> list[Row]:
    """Return figures and targets of the rounds."""
    to_a = {name: median_ratio(slices, rounds["a"]) for name, slices in rounds.items()}
    to_b = {name: median_ratio(slices, rounds["b"]) for name, slices in rounds.items()}
    targets = {
        "c": (at_least(0.3, "a", to_a["c"]),),
        "d": (at_least(4, "a", to_a["d"]), at_least(100, "b", to_b["d"])),
    }
    names = {
        "a": "(a) bare ASGI echo",
        "b": "(b) seed way: one call an event",
        "c": "(c) gateway, single events",
        "d": "(d) gateway, batches of 100, items",
        "d-id": "(d-id) the same with callers' ids",
    }
    return [
        summarise(
            names[name], slices, to_a=to_a[name], to_b=to_b[name], targets=targets.get(name, ())
        )
        for name, slices in rounds.items()
    ]
