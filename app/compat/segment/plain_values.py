"""Names, values, ids and times of any kind, as such that Leanplum takes. Pure; the same in, the
same out.

Segment's libraries let a name be any text and a value any JSON. What Leanplum would refuse is
changed as little as can be, so that an event is not lost for one odd property.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from app.ids import text_of
from app.leanplum.values import DEVICE_ID, ITEM_ID, LATEST, ZERO_UUID, is_whole

MAX_NAME = 139
LONG_NUMBER = re.compile(r"\s*[-+]?[0-9]{19,}\s*", re.ASCII)
BAD = re.compile(r',|[|"{}\t\n\r\0]')


@lru_cache(8_192)
def name(text: str) -> str:
    """A name that Leanplum takes: what it does not take becomes "_", and 139 characters stay."""
    made = BAD.sub("_", text[:MAX_NAME])
    if made[:1] in {".", "-"}:
        made = f"_{made[1:]}"
    if made[-1:] == "/":
        made = f"{made[:-1]}_"
    return f"_{made}"[:MAX_NAME] if made.isascii() and made.isdigit() else made


def flattened(nested: Mapping[str, Any], changed: list[str]) -> dict[str, Any]:
    """Nested objects as names with dots; an empty object is nothing. `changed` gets the names that
    are not as they were sent.
    """
    found: dict[str, Any] = {}
    for path, one in _leaves(nested):
        if made := name(path):
            found[made] = one
            if made != path:
                changed.append(made)
    return found


def _leaves(nested: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Without recursion: how deep it goes is the sender's choice. What is over the longest name's
    end is cut there.
    """
    open_: list[tuple[str, Iterator[tuple[str, Any]]]] = [("", iter(nested.items()))]
    while open_:
        prefix, entries = open_[-1]
        entry = next(entries, None)
        if entry is None:
            open_.pop()
        elif isinstance(entry[1], dict):
            open_.append((f"{prefix}{entry[0]}."[: MAX_NAME + 1], iter(entry[1].items())))
        else:
            yield f"{prefix}{entry[0]}"[:MAX_NAME], entry[1]


def value(found: Any, *, lists: bool = False) -> Any:
    """A value that Leanplum takes: a list that it doesn't is its JSON text; NUL characters are
    taken out. `lists`: whether a list of scalars may stay one.
    """
    if isinstance(found, str):
        return found.replace("\0", "") if "\0" in found else found
    if not isinstance(found, list):
        return found
    if lists and not any(isinstance(one, list | dict) or one is None for one in found):
        return [value(one) for one in found]
    try:
        return orjson.dumps(found).decode()
    except TypeError:  # nested too deeply for it
        return None


def text_id(found: Any) -> str:
    """An id as text; numbers are ids too, and what is neither is none."""
    if isinstance(found, str):
        return found
    return str(found) if isinstance(found, int | float) and not isinstance(found, bool) else ""


def whose(found: Any) -> str:
    """The id of a user or device as text, the same however it is written; "" where there is
    none.
    """
    return text_of(found) or ""


def item_id(found: Any) -> str | None:
    """An item's id for a messageId: itself where it fits, else a hash of it."""
    text = text_id(found)
    return _fitting(text, ITEM_ID, 128) if text else None


def device_id(found: Any) -> str | None:
    """A deviceId for an anonymousId: itself where it fits, else a hash of it; None for none, or the
    zero UUID.
    """
    text = whose(found)
    return _fitting(text, DEVICE_ID, 400) if text and text != ZERO_UUID else None


def _fitting(text: str, pattern: str, length: int) -> str:
    if len(text) <= length and re.match(pattern, text) and not text.endswith("\n"):
        return text
    return "segment:" + hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def moment(found: Any) -> float | None:
    """Epoch seconds of ISO 8601 (without an offset: UTC), of seconds or of milliseconds; None for
    anything else.
    """
    seconds: float | None = None
    if isinstance(found, int | float) and not isinstance(found, bool):
        seconds = found / 1000 if found >= LATEST else float(found)
    elif isinstance(found, str):
        try:
            at = datetime.fromisoformat(found.strip())
        except ValueError:
            return None
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return seconds if seconds is not None and 0 <= seconds < LATEST else None


def number(found: Any) -> int | float | None:
    """A number, or a text that is one; None for anything else, as a whole number of more than 64
    bits.
    """
    if isinstance(found, str) and len(found) < 64:
        if LONG_NUMBER.fullmatch(found) and not is_whole(int(found)):
            return None
        try:
            found = float(found)
        except ValueError:
            return None
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    if isinstance(found, float) and not math.isfinite(found):
        return None
    return found
