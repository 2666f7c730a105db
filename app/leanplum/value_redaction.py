"""Leanplum's texts without the values of the items that they are about. Pure.

A text of Leanplum's may repeat what was sent (fact sheet §9). It is stored, logged, and shown in
receipts, dead letters, the console and commands, where no attribute value may be. Ids of users are
replaced, too: a text about a whole call is stored with the items of several users, and an erasure
of one of them would not find it.

A value is found as it was sent, in upper or lower case. One in another form (a rounded number, a
formatted date) is not.
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
LEAST_PART = 8
# A shorter value of another item, which the text is probably not about, stays.
LEAST_OF_OTHERS = 6
MAX_TEXT = 1_000  # characters
# Texts of an item that are no values of attributes or parameters, nor an id of a user or a device
NAMES = frozenset({"event", "state", "currencyCode"})
STATUS_PREFIX = re.compile(r"HTTP \d{3}")  # ours, before Leanplum's words (`replies.py`)
# Texts that are wholly ours (`replies.py`, `outcomes.py`, `delivery/attempt.py`)
OURS = re.compile(
    r"No answer from Leanplum|Leanplum's answer |Leanplum answered \d|Leanplum gave no reason$"
    r"|The gateway failed|HTTP \d{3}(, a redirect to \S+)?(: not a response of Leanplum|$)"
    r"|.* is not set$"
)
WORD = re.compile(r"\w+")
# Words that are in nearly every body, as names of fields
FIELD_WORDS = frozenset({"userid", "deviceid", "event", "value", "params", "userattributes"})


def without_values(outcomes: Sequence[tuple[Item, Outcome]]) -> Sequence[tuple[Item, Outcome]]:
    """Return the outcomes of an attempt, with texts that repeat no value of its items."""
    about = defaultdict[str, list[str]](list)
    for item, outcome in outcomes:
        if outcome is not DONE and (text := _text(outcome)) is not None:  # nearly all are done
            about[text].append(item.body)
    if not about:
        return outcomes
    others = _values_of_others(about, [item.body for item, _ in outcomes])
    texts = {text: _redact(text, bodies, others) for text, bodies in about.items()}
    return [(item, _with_text(outcome, texts)) for item, outcome in outcomes]


def _text(outcome: Outcome) -> str | None:
    return outcome.warning if isinstance(outcome, Done) else outcome.reason


def _with_text(outcome: Outcome, texts: Mapping[str, str]) -> Outcome:
    if not isinstance(outcome, Done):
        return replace(outcome, reason=texts[outcome.reason])
    return outcome if outcome.warning is None else Done(texts[outcome.warning])


def _values_of_others(texts: Iterable[str], bodies: Sequence[str]) -> frozenset[str]:
    """Return the values of all bodies that are replaced in every text.

    There are none if no word of the texts, besides the names of fields, is in the bodies: that is
    much cheaper to tell than to parse them.
    """
    words = {word for text in texts for word in WORD.findall(text.casefold())} - FIELD_WORDS
    everything = "\n".join(bodies).casefold()
    if not any(word in everything for word in words):
        return frozenset()
    return frozenset(value for value in _values(bodies) if len(value) >= LEAST_OF_OTHERS)


def _redact(text: str, own: Iterable[str], others: frozenset[str]) -> str:
    """Return a text with `…` in the place of each value, the longest first.

    `own` are the bodies (JSON) of the items that have the text, `others` values of all items. The
    text is cut only then: half a value would not be found.
    """
    if OURS.match(text):
        return text
    prefix = STATUS_PREFIX.match(text)
    ours = prefix.group() if prefix else ""
    words = text[len(ours) :]
    folded = words.casefold()
    found = {value for value in others.union(_values(own)) if value.casefold() in folded}
    if found:
        longest_first = sorted(found, key=len, reverse=True)
        words = re.sub("|".join(map(_pattern, longest_first)), REDACTED, words, flags=re.IGNORECASE)
    return (ours + words)[:MAX_TEXT]


def _pattern(value: str) -> str:
    pattern = re.escape(value)
    return pattern if len(value) >= LEAST_PART else rf"(?<!\w){pattern}(?!\w)"


def _values(bodies: Iterable[str]) -> Iterator[str]:
    """Yield the texts and numbers of items, except the names of events and states."""
    for body in bodies:
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError:  # it cannot be decrypted, so it was not sent
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
    elif isinstance(value, float) and value.is_integer():
        yield from (str(value), str(int(value)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, str) and value:
        yield value
        if value[0] in "{[":  # such as `googlePlayPurchaseData`, which is JSON as a text
            yield from _leaves_of_json(value)


def _leaves_of_json(text: str) -> Iterator[str]:
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    yield from _leaves(parsed)
