"""Loose values: one argument comes as JSON, as a string of JSON, or as a form string (fact sheet
§1, §7).
"""

import json
import math
from collections.abc import Mapping
from typing import Any

Args = Mapping[str, Any]

_TRUE = frozenset({"true", "1", "yes"})


def truthy(value: Any) -> bool:
    """Android sends "false" as a string, iOS 0/1, JS real booleans (fact sheet §7)."""
    return value.strip().lower() in _TRUE if isinstance(value, str) else bool(value)


def number(value: Any) -> float | None:
    """A finite number, also from strings such as "1.7E9"; None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def decoded(value: Any) -> Any:
    """The value, with a string of a JSON object or array decoded; any other string as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def text(value: Any) -> str:
    """An identifier as a string; ids may come as numbers (fact sheet §5), and "" means absent
    (§7).
    """
    return "" if value is None or isinstance(value, dict | list | bool) else str(value)


def listed(value: Any) -> list[Any]:
    """A list from a list, a JSON string of one, or a single value."""
    value = decoded(value)
    return value if isinstance(value, list) else [value]


def parsed_data(value: Any) -> Any:
    """`data` of a multi: an array, {"data": […]}, or a string of either (fact sheet §3.7)."""
    value = decoded(value)
    return decoded(value["data"]) if isinstance(value, dict) and "data" in value else value
