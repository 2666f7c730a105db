"""The setting of all scenarios: stage, load, plan, and the two yardsticks."""

import json
import urllib.request
from dataclasses import dataclass
from typing import Any

from bench.bodies import EVENT
from bench.children import Child
from bench.figures import Slice
from bench.load import Load
from bench.plan import Plan
from bench.stage import Stage


@dataclass(frozen=True)
class Setting:
    """The servers and tools of a run; echo and seed are paused except while they are measured."""

    stage: Stage
    load: Load
    plan: Plan
    upstream: Child
    echo: Child
    seed: Child

    @classmethod
    def prepare(cls, stage: Stage, plan: Plan) -> "Setting":
        """Start the yardsticks, and check that each works."""
        load, upstream = Load(stage, plan), stage.upstream()
        echo, seed = stage.echo(), stage.seed(upstream)
        for child in (echo, seed):
            with child.resumed():
                load.warm(child, EVENT)
        return cls(stage, load, plan, upstream, echo, seed)

    def measure_a(self) -> Slice:
        """Measure a slice of yardstick (a)."""
        with self.echo.resumed():
            return self.load.slice(self.echo, EVENT)

    def measure_b(self) -> Slice:
        """Measure a slice of yardstick (b), with the few connections that suit its client best."""
        with self.seed.resumed():
            return self.load.slice(self.seed, EVENT, self.plan.seed_connections)


def read_counts(upstream: Child) -> dict[str, Any]:
    """Return the counts of an upstream."""
    with urllib.request.urlopen(f"{upstream.url}/stats", timeout=5) as answer:
        counts: dict[str, Any] = json.load(answer)
        return counts
