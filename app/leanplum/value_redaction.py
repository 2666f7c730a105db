"""Leanplum's texts without the values of the item that they are about. Pure.

A text of Leanplum's may repeat what was sent (fact sheet §9). It is stored, and shown in receipts,
dead letters, the console and commands, where no attribute value may be.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson

from app.model import DONE, Done, Ignored, ItemRefused, Outcome, Trouble

REDACTED = "…"
# A shorter value may be part of any word.
LEAST_CHARACTERS = 3
# Texts of an item that are no values of attributes or parameters: they name what it is about.
NAMES = frozenset({"userId", "newUserId", "deviceId", "event", "state", "currencyCode"})


def without_values(outcome: Outcome, body: str) -> Outcome:
    """Return an outcome whose text repeats no value of the item's body (JSON)."""
    if outcome is DONE:  # nearly always
        return outcome
    match outcome:
        case Done(str(text)):
            return replace(outcome, warning=redact_values(text, body))
        case Ignored(text) | ItemRefused(text) | Trouble(text):
            return replace(outcome, reason=redact_values(text, body))
        case _:
            return outcome


def redact_values(text: str, body: str) -> str:
    """Return a text with `…` in the place of each value of a body, the longest first."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:  # it is encrypted with a key that is not configured here
        return text
    for value in sorted(set(_values(fields)), key=len, reverse=True):
        text = text.replace(value, REDACTED)
    return text


def _values(fields: Any) -> Iterator[str]:
    """Yield the texts and numbers in the fields of an item that are long enough."""
    for name, value in fields.items():
        if name not in NAMES:
            yield from _leaves(value)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        text = str(value)
        if len(text) >= LEAST_CHARACTERS:
            yield text
