"""Sessions: start, stop, pause, resume, heartbeat (fact sheet §3.1)."""

from app.simulator.actions.attributes import apply_attributes, apply_device_fields, apply_profile
from app.simulator.actions.handler import Extra, UserTurn
from app.simulator.actions.newsfeed import to_be_synced
from app.simulator.actions.variables import variables
from app.simulator.values import truthy


def start(turn: UserTurn) -> Extra:
    sync = to_be_synced(turn)
    apply_attributes(turn, turn.user)
    apply_profile(turn, turn.user)
    apply_device_fields(turn)
    turn.user.begin_session(turn.now, background=truthy(turn.item.get("background")))
    return {**variables(turn), "token": f"token-{turn.user.user_id}", "syncNewsfeed": sync}


def stop(turn: UserTurn) -> Extra:
    turn.user.end_session(turn.now)
    return {}


def pause(turn: UserTurn) -> Extra:
    if current := turn.user.session(turn.now):
        current.state, current.touched = "paused", turn.now
    return {}


def resume(turn: UserTurn) -> Extra:
    """After a pause of 30 min the session has ended, so this begins one; a background one counts
    now.
    """
    current = turn.user.session(turn.now)
    if current is None:
        turn.user.begin_session(turn.now)
        return {}
    if current.state == "background":
        turn.user.count_session()
    current.state, current.touched = "open", turn.now
    return {}


def heartbeat(turn: UserTurn) -> Extra:
    if current := turn.user.session(turn.now):
        current.touched = turn.now
    return {}
