"""JSON as foreign clients send it, read so that it can be sent on.

What is harmless is mended: NaN becomes null, and in texts a lone surrogate becomes "?". A whole
number of more than 64 bits would become another number, so whatever has one is refused, with a
pointer. So is an id that no database can store: two users must not become one.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import orjson

from app.errors import Fault, Malformed, TooLarge
from app.http.body import (
    BOM,
    has_long_number,
    parse_leniently,
    parse_strictly,
    require_shallow,
)
from app.ingest.time_slices import RestingThread
from app.ingest.validate import MAX_FAULTS, pointer
from app.leanplum.values import SURROGATE, TOO_LARGE, is_whole

NO_UNICODE = "must be valid Unicode: it contains a lone surrogate"
NO_NUL = "must not contain a NUL character"
INFINITE = "must be a finite number"
BEGINS = frozenset("{[-0123456789")
Fits = Callable[[int], bool]  # whether so many items may pass now


class BeyondLimit(Exception):
    """Ends the reading of a batch once its items are counted: they are more than may pass now."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


def anything_fits(count: int) -> bool:
    """Return True: for a call that is limited only once it is read."""
    return True


def refuse_beyond(fits: Fits, count: int) -> None:
    """Raise BeyondLimit for a batch that would not pass, before its items are looked at."""
    if count and not fits(count):
        raise BeyondLimit(count)


class _Number(str):
    """A number that can't be sent on, as text."""


class _Mended(str):
    """A text without the lone surrogates that were sent."""


class _Long(str):
    """A text that may be JSON and have a whole number of more than 64 bits in it."""


class Odd(dict[str, Any]):
    """An object with something in it that was replaced, or has to be looked at."""


class Faulty(dict[str, Any]):
    """An object that must be refused. `faults` says why, with pointers into it."""

    def __init__(self, found: Mapping[str, Any], faults: tuple[Fault, ...]) -> None:
        super().__init__(found)
        self.faults = faults


IN_A_THREAD = 256 * 1024  # bytes from which reading would keep others waiting
SLOW_BYTES = 8 * 1024 * 1024  # of what takes the slow way
_Made = TypeVar("_Made")


_reader = RestingThread("reading")


async def in_turn(function: Callable[[], _Made]) -> _Made:
    """Call a function that reads a large body, in the one thread for this."""
    return await _reader.call(function)


def parsed(text: bytes) -> Any:
    """Return the JSON of a text. Objects that are not quite as they were sent are `Odd`. Raises
    Malformed, TooLarge.
    """
    text = text.removeprefix(BOM)
    try:
        found = parse_strictly(text)
        if not has_long_number(text):
            return found
    except orjson.JSONDecodeError:
        pass
    if len(text) > SLOW_BYTES:
        raise TooLarge(f"The body has more than {SLOW_BYTES} bytes, and is not plain JSON.")
    return marked(require_shallow(parse_leniently(text, parse_constant=lambda name: None)))


def marked(value: Any) -> Any:
    """Return a value with a mark on everything that can't be sent on, or may be such."""
    kind = type(value)
    if kind is str:
        return _marked_text(value)
    if kind is dict:
        made = {_mended(name): marked(inner) for name, inner in value.items()}
        return Odd(made) if any(_is_odd(inner) for inner in made.values()) else made
    if kind is list:
        return [marked(inner) for inner in value]
    if (kind is int and not is_whole(value)) or (kind is float and math.isinf(value)):
        return _Number(value)
    return value


def _marked_text(text: str) -> str:
    if not text.isascii() and SURROGATE.search(text):
        return _Mended(_mended(text))
    return _Long(text) if text[:1] in BEGINS and has_long_number(text.encode()) else text


def _mended(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _is_odd(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_odd, value))
    return isinstance(value, _Number | _Mended | _Long | Odd)


def settled(found: Any, ids: Collection[str], texts: Collection[str] = ()) -> Any:
    """Return an object to go on with: itself, without marks where nothing is wrong, or `Faulty`.

    `ids` are the fields that must be as they were sent; `texts`, those that may be JSON as text.
    """
    if type(found) is not Odd:
        return found
    faults = tuple(islice(_faults(found, ids, texts), MAX_FAULTS))
    return Faulty(found, faults) if faults else _unmarked(found)


def _faults(found: Odd, ids: Collection[str], texts: Collection[str]) -> Iterator[Fault]:
    for name, value in found.items():
        if isinstance(value, _Mended) and name in ids:
            yield Fault(pointer((name,)), NO_UNICODE, "characters")
        elif isinstance(value, _Long) and name in texts:
            yield from _numbers(_opened(value), (name,))
        else:
            yield from _numbers(value, (name,))


def _numbers(value: Any, path: tuple[str, ...]) -> Iterator[Fault]:
    """Yield a fault for each number that can't be sent on."""
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, _Number):
        yield Fault(pointer(path), INFINITE if value.endswith("inf") else TOO_LARGE, "range")
    elif isinstance(value, Odd):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    for name, inner in inside:
        yield from _numbers(inner, (*path, str(name)))


def _opened(text: str) -> Any:
    """Return the JSON in a text; the text itself where it is none."""
    try:
        return parsed(text.encode())
    except (Malformed, TooLarge):
        return text


def _unmarked(value: Any) -> Any:
    if isinstance(value, _Mended | _Long):
        return str(value)
    if isinstance(value, Odd):
        return {name: _unmarked(inner) for name, inner in value.items()}
    return [_unmarked(inner) for inner in value] if isinstance(value, list) else value


def with_nul(found: Mapping[str, Any], ids: Collection[str]) -> tuple[Fault, ...]:
    """Return a fault for each of these fields that has a NUL character: no column of PostgreSQL
    takes one.
    """
    return tuple(
        Fault(pointer((name,)), NO_NUL, "characters")
        for name in ids
        if isinstance(value := found.get(name), str) and "\0" in value
    )
