"""Outcomes of items, read from the entries of Leanplum's answers; and labels of its warnings. Pure.

Leanplum answers success to things it did not do, and its texts are the only way to tell (fact
sheet: response envelope, messages verbatim).
"""

import re
from typing import Any

from app.model import DONE, ConfigRefused, Done, Ignored, ItemRefused, Outcome, Trouble

CONFIG_PREFIXES = (
    "Invalid access key",
    "App not found",
    "Development mode requested but not permitted",
    # Leanplum's redirect: never followed, since the operator chooses the host
    "App endpoint configuration mismatch",
)
THROTTLE_TEXTS = ("concurrent requests", "rate limit exceeded", "too many requests")
NOT_DONE_TEXTS = ("skipped", "not found")
DONE_TEXTS = ("rewriting timestamp", "anomaly detected")
NO_REASON = "Leanplum gave no reason"
MAX_MESSAGE = 5_000  # characters; what is stored of it is shorter (`value_redaction.py`)
# Fields by which Leanplum moves SDKs to another host
REDIRECTS = frozenset({"apiHost", "apiPath", "devServerHost"})
HOSTS = REDIRECTS | {"uploadUrl"}  # all fields that name a host; no caller gets them
HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?")
RESULT_FIELDS = frozenset({"messagesSent", "isOffline", "result"})

IGNORED = "ignored"
OTHER = "other"
# Labels of warnings, for a metric. A warning's text may hold a value of a user's, and its wording
# changes (fact sheet §9), so a label is one of this fixed set: that of the first row with a text
# (in lower case) that the warning contains. Source: fact sheet §4, §3.2.
WARNING_KINDS: tuple[tuple[tuple[str, ...], str], ...] = (
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
WARNING_LABELS = (*dict.fromkeys(label for _, label in WARNING_KINDS), OTHER)


def outcome_of(entry: dict[str, Any]) -> Outcome:
    """Return the outcome of the item that one entry of an answer is about."""
    # Nearly every entry has these two fields alone. To look no further takes half the time.
    if len(entry) == 2 and entry.get("success") is True and "reqId" in entry:
        return DONE
    error, warning = message_of(entry, "error"), message_of(entry, "warning")
    if is_config(error) or "apiHost" in entry:
        reason = error or "App endpoint configuration mismatch."
        return ConfigRefused(with_redirect(reason, entry))
    if error is not None and is_throttle(error):
        return Trouble(error, throttled=True)
    if entry.get("success") is not True:
        return ItemRefused(error or warning or NO_REASON)
    if error is not None:
        return Ignored(error, is_error=True)  # "even success:true items with error are skipped"
    if entry.get("ignored") is True:
        return Ignored(warning or "ignored", by_field=True)
    return DONE if warning is None else _outcome_with_warning(warning, entry)


def _outcome_with_warning(warning: str, entry: dict[str, Any]) -> Outcome:
    """Return the outcome of an entry with a warning.

    A warning means that nothing was done, unless its text or a result beside it says otherwise.
    """
    if is_missing(warning):
        return Ignored(warning)
    if _contains_any(warning, DONE_TEXTS) or entry.keys() & RESULT_FIELDS:
        return Done(warning)
    return Ignored(warning)


def message_of(entry: dict[str, Any], field: str) -> str | None:
    """Return the message of an entry's `error` or `warning`, an object with it or a text."""
    value = entry.get(field)
    if value is None or value is False:
        return None
    message = value.get("message") if isinstance(value, dict) else value
    return str(message)[:MAX_MESSAGE] if message else "(no message)"


def is_throttle(message: str) -> bool:
    """Return whether a message asks for fewer calls."""
    return _contains_any(message, THROTTLE_TEXTS)


def is_missing(message: str | None) -> bool:
    """Return whether a message says that nothing was done since something does not exist."""
    return message is not None and _contains_any(message, NOT_DONE_TEXTS)


def is_config(message: str | None) -> bool:
    """Return whether a message refuses our key or app."""
    return message is not None and message.startswith(CONFIG_PREFIXES)


def _contains_any(message: str, texts: tuple[str, ...]) -> bool:
    lowered = message.lower()
    return any(text in lowered for text in texts)


def with_redirect(reason: str, entry: dict[str, Any]) -> str:
    """Return the reason, with the host that the entry redirects to, where it does."""
    host = valid_host(entry.get("apiHost"))
    if host is None:
        return reason
    reason = reason.rstrip(".")
    return f"{reason}: Leanplum redirects this app to {host}; check LEANPLUM_API_URL"


def valid_host(value: Any) -> str | None:
    """Return the value where it is a host, with or without a port."""
    return value if isinstance(value, str) and HOST.fullmatch(value) else None


def label_of_text(warning: str) -> str:
    """Return the label of a warning's text."""
    for texts, label in WARNING_KINDS:
        if _contains_any(warning, texts):
            return label
    return OTHER


def label_of_entry(entry: dict[str, Any]) -> str | None:
    """Return the label of the warning in one entry of an answer; None where it has no warning."""
    return label_of_outcome(outcome_of(entry))


def label_of_outcome(outcome: Outcome) -> str | None:
    """Return the label of an outcome's warning; None where it has no warning."""
    match outcome:
        case Done(str(warning)):
            return label_of_text(warning)
        case Ignored(_, _, by_field=True):
            return IGNORED
        case Ignored(warning, is_error=False):
            return label_of_text(warning)
        case _:
            return None
