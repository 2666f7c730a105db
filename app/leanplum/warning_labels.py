"""The kinds of Leanplum's warnings, as a metric counts them. Pure.

A warning's text may hold a value of a user's, and its wording changes (fact sheet §9). So a label
is one of a fixed set, found by what a text contains; what matches nothing is `other`.
"""

from typing import Any

from app.leanplum import replies
from app.model import Done, Ignored, Outcome

IGNORED = "ignored"
OTHER = "other"
# The first that matches: texts in lower case that a warning contains, and the label. Source: fact
# sheet §4, §3.2.
KINDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("anomal",), "anomaly"),
    (("past event",), "past-event"),
    (("clock skew", "time skew"), "clock-skew"),
    (("rewriting timestamp", "timestamp"), "time-rewritten"),
    (("user not found",), "user-not-found"),
    (("message entity not found", "message not found"), "message-not-found"),
    (("not found",), "not-found"),
    (("skipped",), "skipped"),
    (("ignored",), IGNORED),
)
LABELS = (*dict.fromkeys(label for _, label in KINDS), OTHER)


def of_text(warning: str) -> str:
    """Return the label of a warning's text."""
    text = warning.lower()
    for parts, label in KINDS:
        if any(part in text for part in parts):
            return label
    return OTHER


def of_entry(entry: dict[str, Any]) -> str | None:
    """Return the label of one entry of an answer; None where it has no warning."""
    return of_outcome(replies.judge(entry))


def of_outcome(outcome: Outcome) -> str | None:
    """Return the label of what became of an item; None where it came without a warning."""
    match outcome:
        case Done(str(warning)):
            return of_text(warning)
        case Ignored(_, _, by_field=True):
            return IGNORED
        case Ignored(warning, is_error=False):
            return of_text(warning)
        case _:
            return None
