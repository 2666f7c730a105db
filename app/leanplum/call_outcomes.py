"""The outcomes of whole calls, and the reasons of retries: the labels of metrics. Pure.

What became of each item of a call is in `outcomes.py`.
"""

from app.leanplum.replies import THROTTLES, Doubtful, Reply, SplitNeeded
from app.model import ConfigRefused, Trouble

OK = "ok"  # Leanplum answered about the items, whatever it said of each
REJECTED = "rejected"  # it rejects the call as a whole
THROTTLED = "throttled"  # it asks for fewer calls
REFUSED = "refused"  # it refuses the key or the app
UNAVAILABLE = "unavailable"  # no connection, or an error of the server
TIMEOUT = "timeout"  # the call was sent, and no complete answer came
TEMPORARY = "temporary"  # Leanplum reports a temporary failure of one item


def outcome_of_status(status: int | None, *, sent: bool = True) -> str:
    """Return the outcome of a call by its HTTP status alone.

    None: no complete answer came. `sent`: Leanplum may have received the call.
    """
    if status is None:
        return TIMEOUT if sent else UNAVAILABLE
    if status in THROTTLES:
        return THROTTLED
    if status >= 500:
        return UNAVAILABLE
    if status < 300 or status == 404:  # 404: something of the request was not found
        return OK
    return REFUSED if status < 400 or status in (401, 403) else REJECTED


def outcome_of_reply(reply: Reply, status: int | None, *, sent: bool = True) -> str:
    """Return the outcome of a call that delivers items, by what Leanplum said of them."""
    if isinstance(reply, SplitNeeded | Doubtful):
        return REJECTED
    if any(isinstance(outcome, ConfigRefused) for outcome in reply):
        return REFUSED
    if any(isinstance(outcome, Trouble) and outcome.throttled for outcome in reply):
        return THROTTLED
    if status is not None and 200 <= status < 300:
        return OK
    by_status = outcome_of_status(status, sent=sent)
    # A status that is known to be about the items has answered for each of them
    return OK if by_status == REJECTED else by_status


def retry_reason(trouble: Trouble, status: int | None) -> str:
    """Return why an item is tried again; `status` is that of its last call, None if none came."""
    if trouble.throttled:
        return THROTTLED
    if status is None:
        return TIMEOUT if trouble.lost else UNAVAILABLE
    return UNAVAILABLE if status >= 500 else TEMPORARY
