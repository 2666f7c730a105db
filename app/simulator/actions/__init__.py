"""What each Leanplum action does to the world; `table` lists them all."""

from app.simulator.actions.handler import Moved, Refused, Skipped, Turn, UserTurn
from app.simulator.actions.table import ACTIONS, Action, ContentAction, UserAction

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
