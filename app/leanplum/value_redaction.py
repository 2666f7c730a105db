"""Leanplum's texts without the values of the items that they are about. Pure.

A text of Leanplum's may repeat what was sent (fact sheet §9). It is stored, logged, and shown in
receipts, dead letters, the console and commands, where no attribute value may be. Ids of users are
replaced, too: a text about a whole call is stored with the items of several users, and an erasure
of one of them would not find it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from app.model import DONE, Done, Item, Outcome

REDACTED = "…"
# A shorter value may be part of any word, so it is replaced only where it is a word of its own.
LEAST_CHARACTERS = 3
MOST_CHARACTERS = 500  # of a text
# Texts of an item that are no values of attributes or parameters, nor an id of a user or a device
NAMES = frozenset({"event", "state", "currencyCode"})
STATUS_PREFIX = re.compile(r"HTTP \d{3}")  # ours, before Leanplum's words (`replies.py`)


def without_values(outcomes: Sequence[tuple[Item, Outcome]]) -> Sequence[tuple[Item, Outcome]]:
    """Return outcomes whose texts repeat no value of the items that they are about.

    A text about several items, such as that of a refused call, repeats no value of any of them.
    """
    about = defaultdict[str, list[str]](list)
    for item, outcome in outcomes:
        if outcome is not DONE and (text := _text(outcome)) is not None:  # nearly all are done
            about[text].append(item.body)
    if not about:
        return outcomes
    texts = {text: redact_values(text, bodies) for text, bodies in about.items()}
    return [(item, _with_text(outcome, texts)) for item, outcome in outcomes]


def _text(outcome: Outcome) -> str | None:
    return outcome.warning if isinstance(outcome, Done) else outcome.reason


def _with_text(outcome: Outcome, texts: Mapping[str, str]) -> Outcome:
    if not isinstance(outcome, Done):
        return replace(outcome, reason=texts[outcome.reason])
    return outcome if outcome.warning is None else Done(texts[outcome.warning])


def redact_values(text: str, bodies: Sequence[str]) -> str:
    """Return a text with `…` in the place of each value of the bodies (JSON), the longest first.

    It is cut after 500 characters, and only then: half a value would not be found.
    """
    prefix = STATUS_PREFIX.match(text)
    ours = prefix.group() if prefix else ""
    words = text[len(ours) :]
    found = {value for value in _values(bodies) if value in words}
    if found:
        longest_first = sorted(found, key=len, reverse=True)
        words = re.sub("|".join(map(_pattern, longest_first)), REDACTED, words)
    return (ours + words)[:MOST_CHARACTERS]


def _pattern(value: str) -> str:
    pattern = re.escape(value)
    return pattern if len(value) >= LEAST_CHARACTERS else rf"(?<!\w){pattern}(?!\w)"


def _values(bodies: Iterable[str]) -> Iterator[str]:
    """Yield the texts and numbers of items, except the names of events and states."""
    for body in bodies:
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError:  # it can't be decrypted, so it was not sent
            continue
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
    elif isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
        yield str(value)
