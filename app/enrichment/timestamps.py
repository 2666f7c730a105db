"""The step `time`: corrects a sender's wrong clock, and warns of times that Leanplum changes.

What Leanplum does with old times is from the fact sheet, §5.
"""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.enrichment.draft import ItemDraft
from app.leanplum.actions import ACTIONS
from app.leanplum.values import LATEST, Time

DAY = 86_400
REWRITTEN_AFTER, OUT_OF_ANALYTICS_AFTER = 365 * DAY, 7 * DAY
REWRITTEN = "time: more than 365 days ago; Leanplum rewrites it to now"
OUT_OF_ANALYTICS = (
    "time: more than 7 days ago; Leanplum shows the event in the user's profile, not in Analytics"
)
SKEWED = (
    "time: a day or more ago; Leanplum takes it for the time of the call, assumes a wrong clock, "
    "and rewrites it"
)
UNCORRECTED = "sentAt: too far from now; time is not corrected"
TIME = TypeAdapter[Any](Time)
# Each of these is sent in a call of its own, where the item's time is the time of the call.
OWN_CALLS = frozenset(name for name, action in ACTIONS.items() if action.alone and action.later)


def seconds(value: Any) -> float | None:
    """Return a `time` as seconds since the epoch; None for an invalid one."""
    if type(value) is float and 0 <= value < LATEST:
        return value
    try:
        parsed: float = TIME.validate_python(value)
    except ValidationError:
        return None  # validation reports it
    return parsed


def correct_time(draft: ItemDraft) -> bool:
    """Add to `time` how far the sender's clock (`sentAt`) is behind; warn of old times."""
    time = seconds(draft.fields.get("time"))
    if time is None:
        return False
    now = draft.facts.received_at / 1000
    changed = False
    sent_at = draft.extras.get("sentAt")
    if sent_at is not None:
        corrected = round(time + now - sent_at, 3)
        if not 0 <= corrected < LATEST:
            draft.warn(UNCORRECTED)
        elif corrected != time:
            draft.derive("time", corrected, time)
            time, changed = corrected, True
    _warn_of_age(draft, now - time)
    return changed


def _warn_of_age(draft: ItemDraft, age: float) -> None:
    if draft.action == "track" and age > OUT_OF_ANALYTICS_AFTER:
        draft.warn(REWRITTEN if age > REWRITTEN_AFTER else OUT_OF_ANALYTICS)
    elif age > DAY and draft.action in OWN_CALLS:
        draft.warn(SKEWED)
