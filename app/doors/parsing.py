"""JSON as foreign clients send it, read so that it can be sent on. Pure."""

import math
from typing import Any

import orjson

from app.intake.bodies import parse, strict


def parsed(text: bytes) -> Any:
    """JSON; what can't be sent on as it is (lone surrogates, NaN, numbers over 64 bits) is changed a little. Raises
    Malformed, TooLarge."""
    try:
        return strict(text)
    except orjson.JSONDecodeError:
        return _plain(parse(text))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_plain(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
