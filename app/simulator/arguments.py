"""Loosely typed arguments: JSON, strings of JSON, and form strings (fact sheet §1, §7)."""

import json
import math
from typing import Any

_TRUE = frozenset({"true", "1", "yes"})


def truthy(value: Any) -> bool:
    """Read a boolean: Android sends "false", iOS 0 or 1, JS a JSON boolean (fact sheet §7)."""
    if isinstance(value, str):
        return value.strip().lower() in _TRUE
    return bool(value)


def number(value: Any) -> float | None:
    """Return a finite number, also from a string such as "1.7E9"; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def decode_json(value: Any) -> Any:
    """Decode a string that is a JSON object or array; return any other value unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def text(value: Any) -> str:
    """Return an identifier as a string: ids may be numbers (fact sheet §5); "" is absent (§7)."""
    if value is None or isinstance(value, dict | list | bool):
        return ""
    return str(value)


def as_list(value: Any) -> list[Any]:
    """Return a list from a list, a JSON string of one, or a single value."""
    value = decode_json(value)
    return value if isinstance(value, list) else [value]


def decode_data(value: Any) -> Any:
    """Decode a multi's `data`: an array, {"data": […]}, or either as a string (fact sheet §3.7)."""
    value = decode_json(value)
    if isinstance(value, dict) and "data" in value:
        return decode_json(value["data"])
    return value
