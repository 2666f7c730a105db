"""The simulated app without HTTP: a world, and a clock that the test moves."""

from typing import Any

from app.simulator import SimulatorConfig
from app.simulator.actions.table import ACTIONS
from app.simulator.config import ClientKeyKind
from app.simulator.execution import ActionExecutor
from app.simulator.profiles import User
from app.simulator.world import World

NOW = 1_800_000_000.0
MINUTE = 60.0


class App:
    """A world and a clock that the test moves."""

    def __init__(self) -> None:
        self.world = World(SimulatorConfig())
        self.now = NOW

    def do(self, action: str, **args: Any) -> dict[str, Any]:
        known = ACTIONS.get(action)
        key = known.key if known else ClientKeyKind.PRODUCTION
        return (
            ActionExecutor(self.world, key, self.now, self.now)
            .execute({"action": action, **args})
            .entry
        )

    def ann(self, action: str = "setUserAttributes", **args: Any) -> dict[str, Any]:
        return self.do(action, userId="ann", **args)

    @property
    def user(self) -> User:
        return self.world.users["ann"]
