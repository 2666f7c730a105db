"""Conversion of any names, values, ids and times to such as Leanplum takes. Pure and deterministic.

Segment's libraries let a name be any text and a value any JSON. What Leanplum would refuse is
changed as little as possible, so that an event is not lost because of one property.
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
FORBIDDEN_IN_NAMES = re.compile(r',|[|"{}\t\n\r\0]')


@lru_cache(8_192)
def to_name(text: str) -> str:
    """Return a name of at most 139 characters; characters that Leanplum refuses become "_"."""
    name = FORBIDDEN_IN_NAMES.sub("_", text[:MAX_NAME])
    if name[:1] in {".", "-"}:
        name = f"_{name[1:]}"
    if name[-1:] == "/":
        name = f"{name[:-1]}_"
    return f"_{name}"[:MAX_NAME] if name.isascii() and name.isdigit() else name


def flatten(nested: Mapping[str, Any], renamed: list[str]) -> dict[str, Any]:
    """Return nested objects as one object with dots in its names; empty objects disappear.

    `renamed` receives the names that are not as they were sent.
    """
    flat: dict[str, Any] = {}
    for path, value in _find_leaves(nested):
        if name := to_name(path):
            flat[name] = value
            if name != path:
                renamed.append(name)
    return flat


def _find_leaves(nested: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the dotted path and the value of each leaf; paths are cut at the longest name.

    There is no recursion, since the sender chooses how deep the objects are.
    """
    open_objects: list[tuple[str, Iterator[tuple[str, Any]]]] = [("", iter(nested.items()))]
    while open_objects:
        prefix, members = open_objects[-1]
        member = next(members, None)
        if member is None:
            open_objects.pop()
            continue
        name, value = member
        if isinstance(value, dict):
            inner_prefix = f"{prefix}{name}."[: MAX_NAME + 1]
            open_objects.append((inner_prefix, iter(value.items())))
        else:
            yield f"{prefix}{name}"[:MAX_NAME], value


def to_value(value: Any, *, lists: bool = False) -> Any:
    """Return a value without NUL characters, and a list as its JSON text.

    With `lists`, a list of scalars stays a list.
    """
    if isinstance(value, str):
        return value.replace("\0", "") if "\0" in value else value
    if not isinstance(value, list):
        return value
    if lists and not any(isinstance(item, list | dict) or item is None for item in value):
        return [to_value(item) for item in value]
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # nested too deeply for orjson
        return None


def to_id_text(value: Any) -> str:
    """Return an id as text: a number is written out, and any other type becomes ""."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def to_subject_id(value: Any) -> str:
    """Return the only text form of the id of a user or device; "" when there is none."""
    return text_of(value) or ""


def make_item_id(message_id: Any) -> str | None:
    """Return an item's id for a messageId: the same text when it is a valid id, else a hash."""
    text = to_id_text(message_id)
    return _keep_or_hash(text, ITEM_ID, 128) if text else None


def make_device_id(anonymous_id: Any) -> str | None:
    """Return a deviceId for an anonymousId: the same text when it is a valid id, else a hash.

    It is None when there is no id, and for the zero UUID.
    """
    text = to_subject_id(anonymous_id)
    return _keep_or_hash(text, DEVICE_ID, 400) if text and text != ZERO_UUID else None


def _keep_or_hash(text: str, pattern: str, max_length: int) -> str:
    if len(text) <= max_length and re.match(pattern, text) and not text.endswith("\n"):
        return text
    return "segment:" + hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def to_epoch_seconds(value: Any) -> float | None:
    """Return a time as epoch seconds; None for any value that is not a time.

    A text is ISO 8601, in UTC unless it has an offset; a number is seconds or milliseconds.
    """
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value / 1000 if value >= LATEST else float(value)
    elif isinstance(value, str):
        try:
            time = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
        seconds = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return seconds if seconds is not None and 0 <= seconds < LATEST else None


def to_number(value: Any) -> int | float | None:
    """Return a number, also from its text; None otherwise, and for more than 64 bits."""
    if isinstance(value, str) and len(value) < 64:
        if LONG_NUMBER.fullmatch(value) and not is_whole(int(value)):
            return None
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
