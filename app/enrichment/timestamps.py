"""Time: a sender's clock that is wrong is corrected, and what Leanplum will make of a time is told
(fact sheet §5).
"""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.enrichment.draft import Draft
from app.leanplum.actions import ACTIONS
from app.leanplum.values import LATEST, Time

DAY = 86_400
REWRITTEN_AFTER, OUT_OF_ANALYTICS_AFTER = 365 * DAY, 7 * DAY
REWRITTEN = "time: more than 365 days ago; Leanplum rewrites it to now"
OUT_OF_ANALYTICS = (
    "time: more than 7 days ago; Leanplum shows the event in the user's profile, not in Analytics"
)
SKEWED = "time: a day or more ago; Leanplum takes it for the time of the call, and for a wrong clock, and rewrites it"
UNCORRECTED = "sentAt: is so far from now that time is left as it is"
SECONDS = TypeAdapter[Any](Time)
# Of a call of its own, the item's time is the time of the call.
OWN_CALLS = frozenset(name for name, action in ACTIONS.items() if action.alone and action.later)


def seconds(value: Any) -> float | None:
    """A `time` as seconds since the epoch; None for what is none, which the rules will say."""
    if type(value) is float and 0 <= value < LATEST:
        return value
    try:
        found: float = SECONDS.validate_python(value)
    except ValidationError:
        return None
    return found


def time(draft: Draft) -> bool:
    """`time` plus what the receiver's clock is ahead of the sender's. Warns of what Leanplum
    rewrites or leaves out.
    """
    at = seconds(draft.fields.get("time"))
    if at is None:
        return False
    now = draft.facts.received_at / 1000
    changed = False
    if (sent := draft.extras.get("sentAt")) is not None:
        corrected = round(at + now - sent, 3)
        if not 0 <= corrected < LATEST:
            draft.warn(UNCORRECTED)
        elif corrected != at:
            draft.make("time", corrected, at)
            at, changed = corrected, True
    _warn(draft, now - at)
    return changed


def _warn(draft: Draft, age: float) -> None:
    if draft.action == "track" and age > OUT_OF_ANALYTICS_AFTER:
        draft.warn(REWRITTEN if age > REWRITTEN_AFTER else OUT_OF_ANALYTICS)
    elif age > DAY and draft.action in OWN_CALLS:
        draft.warn(SKEWED)
