"""Events and states: track, advance, pauseState, resumeState (fact sheet §3.2, §3.3)."""

from app.simulator.actions.handler import Extra, Skipped, UserTurn
from app.simulator.people import Tally
from app.simulator.values import truthy

_KEPT = ("reqId", "currencyCode", "info", "messageId")


def track(turn: UserTurn) -> Extra:
    name = _event_name(turn)
    value = turn.number("value", 0.0) if turn.given("value") else None
    params = turn.mapping("params")
    disposition = _disposition(turn)
    offline = turn.user.session(turn.now) is None
    if offline and disposition == "requireActive":
        raise Skipped(turn.texts.inactive, ignored=True)
    _count(turn, turn.user.events, name, value, params)
    if disposition == "active":
        turn.user.mark_active(turn.now)
    return {"isOffline": True} if offline else {}


def advance(turn: UserTurn) -> Extra:
    """Enter a state; an empty name leaves the current one (fact sheet §3.3)."""
    name, params = turn.text("state"), turn.mapping("params")
    turn.user.state, turn.user.state_paused = name or None, False
    if name:
        _count(turn, turn.user.states, name, None, params)
    return {}


def pause_state(turn: UserTurn) -> Extra:
    turn.user.state_paused = True
    return {}


def resume_state(turn: UserTurn) -> Extra:
    turn.user.state_paused = False
    return {}


def _event_name(turn: UserTurn) -> str:
    """An empty event with a message id is that message's sending, shown as `.m<id>` (fact sheet
    §3.2, §5).
    """
    name, message = turn.text("event"), turn.text("messageId")
    if not name and not message:
        raise turn.invalid("event")
    return name or f".m{message}"


def _disposition(turn: UserTurn) -> str:
    """`allowOffline` is the deprecated way to say it: true is passive (fact sheet §3.2)."""
    old_way = "passive" if truthy(turn.item.get("allowOffline")) else "active"
    disposition = turn.text("disposition") or old_way
    if disposition not in ("active", "passive", "requireActive"):
        raise turn.invalid("disposition")
    return disposition


def _count(
    turn: UserTurn, tallies: dict[str, Tally], name: str, value: float | None, params: Extra
) -> None:
    kept = {key: turn.item[key] for key in _KEPT if key in turn.item}
    tallies.setdefault(name, Tally()).add(turn.time, value, {"params": params, **kept})
