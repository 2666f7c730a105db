"""What every scenario is given: the stage, the load, the plan, and the two yardsticks that stay
up.
"""

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
    """One run's equipment; echo and seed are paused except while they are measured."""

    stage: Stage
    load: Load
    plan: Plan
    upstream: Child
    echo: Child
    seed: Child

    @classmethod
    def prepare(cls, stage: Stage, plan: Plan) -> "Setting":
        """Start the yardsticks and see that each works."""
        load, upstream = Load(stage, plan), stage.upstream()
        echo, seed = stage.echo(), stage.seed(upstream)
        for child in (echo, seed):
            with child.awake():
                load.warm(child, EVENT)
        return cls(stage, load, plan, upstream, echo, seed)

    def measure_a(self) -> Slice:
        """A slice of yardstick (a)."""
        with self.echo.awake():
            return self.load.slice(self.echo, EVENT)

    def measure_b(self) -> Slice:
        """A slice of yardstick (b), with the few connections at which its HTTP client does best."""
        with self.seed.awake():
            return self.load.slice(self.seed, EVENT, self.plan.seed_connections)


def seen_by(upstream: Child) -> dict[str, Any]:
    """What an upstream has counted so far."""
    with urllib.request.urlopen(f"{upstream.url}/stats", timeout=5) as answer:
        found: dict[str, Any] = json.load(answer)
        return found
