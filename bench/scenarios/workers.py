"""Rows (w): `serve --workers 2` beside one process in the same rounds; nothing is pinned.

Gateways and the load share the cores of the machine, as they do on a small one.
"""

from bench.bodies import BATCH, EVENT, Traffic
from bench.children import Child
from bench.figures import Slice, median_ratio
from bench.report import Row, at_least, summarise
from bench.scenarios import delivery
from bench.scenarios.setting import Setting

WORKERS = 2
Rounds = dict[str, list[Slice]]


def measure(setting: Setting) -> list[Row]:
    """Measure accepting in rounds, without delivery; then from accepted to delivered."""
    stage = setting.stage
    one, several = (
        stage.gateway(setting.upstream, workers=workers, pinned=False) for workers in (1, WORKERS)
    )
    planned = {
        "one, c": (one, EVENT),
        "several, c": (several, EVENT),
        "one, d": (one, BATCH),
        "several, d": (several, BATCH),
    }
    for child in (one, several):
        setting.load.warm(child, EVENT)
        setting.load.warm(child, BATCH)
        child.pause()
    rounds: Rounds = {"a": [], **{name: [] for name in planned}}
    for _ in range(setting.plan.rounds):
        _one_round(setting, planned, rounds)
    stage.fleet.stop(one, several)
    name = f"(w-e) accepted to delivered, {WORKERS} workers"
    return [*rows(rounds), delivery.measure_beside(setting, name, 1.2, workers=WORKERS)]


def _one_round(setting: Setting, planned: dict[str, tuple[Child, Traffic]], rounds: Rounds) -> None:
    rounds["a"].append(setting.measure_a())
    for name, (child, traffic) in planned.items():
        with child.resumed():
            rounds[name].append(setting.load.slice(child, traffic, pinned=False))


def rows(rounds: Rounds) -> list[Row]:
    """Return figures and targets of the rounds."""
    to_a = {name: median_ratio(slices, rounds["a"]) for name, slices in rounds.items()}
    to_one = {
        f"several, {kind}": median_ratio(rounds[f"several, {kind}"], rounds[f"one, {kind}"])
        for kind in ("c", "d")
    }
    targets = {"several, c": (at_least(1.5, "of one process", to_one["several, c"]),)}
    names = {
        "one, c": "(w1-c) one process, single events",
        "several, c": f"(w-c) {WORKERS} workers, single events",
        "one, d": "(w1-d) one process, batches of 100",
        "several, d": f"(w-d) {WORKERS} workers, batches of 100",
    }
    return [
        summarise(
            names[name],
            rounds[name],
            to_a=to_a[name],
            targets=targets.get(name, ()),
            notes=(f"{to_one[name]:.2f} of one process",) if name in to_one else (),
        )
        for name in names
    ]
