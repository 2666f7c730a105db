"""What each Leanplum action does to the world; `table` lists them all."""

from app.simulator.actions.table import ACTIONS, Action, ContentAction, UserAction
from app.simulator.actions.turns import Moved, Refused, Skipped, Turn, UserTurn

__all__ = [
    "ACTIONS",
    "Action",
    "ContentAction",
    "Moved",
    "Refused",
    "Skipped",
    "Turn",
    "UserAction",
    "UserTurn",
]
