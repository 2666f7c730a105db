"""Values of the fields of queries and forms, and what is wrong with them."""

import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from app.console.forms import Form
from app.errors import Fault, Invalid
from app.leanplum.values import LATEST
from app.model import KEY_NAME

MOST_CHARACTERS = 200
_LINE = re.compile(KEY_NAME)


class Problems:
    """Collects all faults in the fields of a form, so that they can be corrected at once."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, name: str, detail: str) -> None:
        """Note a fault of a field."""
        self._faults.append(Fault(name, detail, "invalid", "parameter"))

    def check(self) -> None:
        """Raise Invalid if anything is wrong."""
        if self._faults:
            raise Invalid(tuple(self._faults))


def line_of(form: Form, name: str, problems: Problems) -> str:
    """Return the text of a field that must have one, in one line."""
    text = form.text(name)
    if not text:
        problems.add(name, "is required")
    elif len(text) > MOST_CHARACTERS or not _LINE.match(text):
        problems.add(name, f"must be one line of at most {MOST_CHARACTERS} characters")
    return text


def number_of(form: Form, name: str, least: int, most: int, problems: Problems) -> int | None:
    """Return the whole number in a field; None if the field is empty."""
    text = form.text(name)
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text) or not least <= int(text) <= most:
        problems.add(name, f"must be a whole number from {least:,} to {most:,}")
        return None
    return int(text)


def choices_of(
    form: Form, name: str, offered: Collection[str], problems: Problems
) -> Sequence[str]:
    """Return the values that were chosen of those offered; at least one must be."""
    chosen = [value for value in form.all(name) if value]
    if not chosen:
        problems.add(name, "choose at least one")
    elif not set(offered).issuperset(chosen):
        problems.add(name, "is not one of those offered")
    return chosen


def time_of(text: str, name: str, problems: Problems) -> int | None:
    """Return the time (epoch milliseconds) in a field, in UTC; None if the field is empty."""
    try:
        return parse_time(text)
    except ValueError:
        problems.add(name, "must be a time such as 2026-01-31T12:00 (UTC)")
        return None


def parse_time(text: str) -> int | None:
    """Return a time of a form in epoch milliseconds; None for "". Raises ValueError.

    Without an offset it is in UTC, as browsers send it.
    """
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if not 0 <= moment.timestamp() < LATEST:
        raise ValueError
    return int(moment.timestamp() * 1000)
