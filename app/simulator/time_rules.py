"""When something happened: the time rules of fact sheet §5, as pure arithmetic on epoch seconds."""

from typing import NamedTuple

from app.simulator.config import Texts

DAY = 86_400.0
OLDEST = 365 * DAY


class Moment(NamedTuple):
    """The time to record, and the warning when it isn't the time that was sent."""

    time: float
    warning: str | None = None


def settle(
    sent: float | None, *, request_time: float, now: float, past_rule: bool, texts: Texts
) -> Moment:
    """The moment of an action.

    Older than 365 days before the request: rewritten to now (exactly 365 days passes). A request's
    own time is the sender's clock: the difference to the server's is added to every time, behind or
    ahead (fact sheet §12.2). Only a clock that is 24 h or more behind is told of (§5); no text is
    known for one that is ahead.
    """
    if sent is None:
        return Moment(now)
    age = request_time - sent
    if past_rule and age > OLDEST:
        return Moment(now, texts.past_event.format(days=int(age // DAY)))
    behind = now - request_time
    warning = texts.clock_skew.format(days=int(behind // DAY)) if behind >= DAY else None
    return Moment(sent + behind, warning)
