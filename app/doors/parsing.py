"""JSON as foreign clients send it, read so that it can be sent on."""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import orjson

from app.errors import TooLarge
from app.intake.bodies import parse, strict

IN_A_THREAD = 256 * 1024  # bytes from which reading would keep others waiting
SLOW_BYTES = 8 * 1024 * 1024  # of what takes the slow way
_reader = ThreadPoolExecutor(1, "reading")
_Made = TypeVar("_Made")


async def in_turn(function: Callable[[], _Made]) -> _Made:
    """Call a function that reads a large body, in the one thread for this. Several would take the
    interpreter's lock by turns, and everybody else waits for all of them each time."""
    return await asyncio.get_running_loop().run_in_executor(_reader, function)


def parsed(text: bytes) -> Any:
    """JSON; what can't be sent on as it is (lone surrogates, NaN, numbers over 64 bits) is changed a little. Raises
    Malformed, TooLarge."""
    try:
        return strict(text)
    except orjson.JSONDecodeError:
        if len(text) > SLOW_BYTES:
            raise TooLarge(f"The body has more than {SLOW_BYTES} bytes, and is not plain JSON.") from None
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
