"""Reading `Retry-After` (RFC 9110 §10.2.3): a number of seconds, a fraction of one too, or a date.
Pure.
"""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST_SECONDS = 3600.0
NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)


def as_number(header: str | None, *, date: str | None, now: float) -> str | None:
    """Return the header with a date replaced by the seconds until it; anything else is returned as
    it came.

    The date counts from the answer's own `date`, since both are by the sender's clock; from `now`
    (epoch seconds) where the answer has none.
    """
    until = _epoch(header)
    if until is None:
        return header
    since = _epoch(date)
    return f"{max(0.0, until - (now if since is None else since)):.3f}"


def seconds(header: str | None) -> float:
    """Return the number of seconds to wait, an hour at most; 0 for what is no number."""
    text = (header or "").strip()
    return min(float(text), LONGEST_SECONDS) if NUMBER.fullmatch(text) else 0.0


def _epoch(text: str | None) -> float | None:
    """Return the moment that an HTTP-date names, in any of its three forms (RFC 9110 §5.6.7)."""
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
