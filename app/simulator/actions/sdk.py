"""What only SDKs call, and no documentation names: getMigrateState, log, restart (fact sheet §3.8),
and the old development actions of iOS (§12.9).
"""

from app.simulator.actions.handler import Extra, Turn
from app.simulator.migration import state_hash


def get_migrate_state(turn: Turn) -> Extra:
    """The answer that keeps an SDK with Leanplum alone."""
    return {"sdk": "lp", "sha256": state_hash(turn.world.config.app_id)}


def log(turn: Turn) -> Extra:
    return {}


def save_interface(turn: Turn) -> Extra:
    """Nothing is known but that it is there."""
    return {}


def restart(turn: Turn) -> Extra:
    """Nothing is known but that success is expected."""
    return {}
