"""JSON and forms as foreign clients send them, parsed into values that can be sent on. Pure.

Harmless defects are corrected: NaN becomes null, and a lone surrogate in a text becomes "?". A
whole number of more than 64 bits would become another number, so an object that has one is refused,
with a pointer to it. So is an id that no database can store: two users must not become one.
"""

import binascii
import math
import re
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
from app.ingest import (
    MAX_FAULTS,
    RestingThread,
    pointer,
)
from app.leanplum.values import SURROGATE, TOO_LARGE, is_whole

NO_UNICODE = "must be valid Unicode: it contains a lone surrogate"
NO_NUL = "must not contain a NUL character"
INFINITE = "must be a finite number"
JSON_STARTS = frozenset("{[-0123456789")
Fits = Callable[[int], bool]  # returns whether so many items may pass now


class BeyondLimit(Exception):
    """Signal that a batch has more items than the rate limit lets pass now."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


def anything_fits(count: int) -> bool:
    """Return True, for a call that is limited only after it is parsed."""
    return True


def refuse_beyond(fits: Fits, count: int) -> None:
    """Raise BeyondLimit when so many items do not fit, before each of them is parsed."""
    if count and not fits(count):
        raise BeyondLimit(count)


class _UnsendableNumber(str):
    """The text of a number that cannot be sent on."""


class _CorrectedText(str):
    """A text whose lone surrogates were replaced."""


class _LongNumberText(str):
    """A text that may be JSON with a whole number of more than 64 bits."""


class MarkedObject(dict[str, Any]):
    """An object that contains a marked value: one that was replaced or must be checked."""


class FaultyObject(dict[str, Any]):
    """An object that must be refused; `faults` says why, with pointers into it."""

    def __init__(self, fields: Mapping[str, Any], faults: tuple[Fault, ...]) -> None:
        super().__init__(fields)
        self.faults = faults


THREAD_BYTES = 256 * 1024  # a larger body is parsed in a thread, so that no request waits for it
MAX_TOLERANT_BYTES = 8 * 1024 * 1024  # of JSON that only the slow, tolerant parser takes
_Result = TypeVar("_Result")


_parser_thread = RestingThread("reading")


async def parse_in_thread(parse: Callable[[], _Result]) -> _Result:
    """Return the result of a function that parses a large body, in the thread for such work."""
    return await _parser_thread.call(parse)


def parse_json(text: bytes) -> Any:
    """Return the value of a JSON text. Raises Malformed and TooLarge.

    An object that contains a value that cannot be sent on as it is becomes a `MarkedObject`.
    """
    text = text.removeprefix(BOM)
    try:
        document = parse_strictly(text)
        if not has_long_number(text):
            return document
    except orjson.JSONDecodeError:
        pass
    if len(text) > MAX_TOLERANT_BYTES:
        raise TooLarge(f"The body has more than {MAX_TOLERANT_BYTES} bytes, and is not plain JSON.")
    return mark(require_shallow(parse_leniently(text, parse_constant=lambda name: None)))


def mark(value: Any) -> Any:
    """Return a value in which everything is marked that cannot be sent on, or might not be."""
    kind = type(value)
    if kind is str:
        return _mark_text(value)
    if kind is dict:
        fields = {_replace_surrogates(name): mark(inner) for name, inner in value.items()}
        if any(_is_marked(inner) for inner in fields.values()):
            return MarkedObject(fields)
        return fields
    if kind is list:
        return [mark(inner) for inner in value]
    if (kind is int and not is_whole(value)) or (kind is float and math.isinf(value)):
        return _UnsendableNumber(value)
    return value


def _mark_text(text: str) -> str:
    if not text.isascii() and SURROGATE.search(text):
        return _CorrectedText(_replace_surrogates(text))
    if text[:1] in JSON_STARTS and has_long_number(text.encode()):
        return _LongNumberText(text)
    return text


def _replace_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _is_marked(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_marked, value))
    return isinstance(value, _UnsendableNumber | _CorrectedText | _LongNumberText | MarkedObject)


def resolve_marks(value: Any, ids: Collection[str], json_texts: Collection[str] = ()) -> Any:
    """Return an object without marks, or a `FaultyObject` when it has to be refused.

    `ids` are the fields that must be as they were sent; `json_texts` are those that may be JSON as
    text. A value without marks is returned as it is.
    """
    if type(value) is not MarkedObject:
        return value
    faults = tuple(islice(_find_faults(value, ids, json_texts), MAX_FAULTS))
    return FaultyObject(value, faults) if faults else _remove_marks(value)


def _find_faults(
    marked: MarkedObject, ids: Collection[str], json_texts: Collection[str]
) -> Iterator[Fault]:
    for name, value in marked.items():
        if isinstance(value, _CorrectedText) and name in ids:
            yield Fault(pointer((name,)), NO_UNICODE, "characters")
        elif isinstance(value, _LongNumberText) and name in json_texts:
            yield from _find_unsendable_numbers(_parse_json_text(value), (name,))
        else:
            yield from _find_unsendable_numbers(value, (name,))


def _find_unsendable_numbers(value: Any, path: tuple[str, ...]) -> Iterator[Fault]:
    """Yield a fault for each number that cannot be sent on."""
    members: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, _UnsendableNumber):
        yield Fault(pointer(path), INFINITE if value.endswith("inf") else TOO_LARGE, "range")
    elif isinstance(value, MarkedObject):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    for name, inner in members:
        yield from _find_unsendable_numbers(inner, (*path, str(name)))


def _parse_json_text(text: str) -> Any:
    """Return the value of a JSON text; the text itself when it is not JSON."""
    try:
        return parse_json(text.encode())
    except (Malformed, TooLarge):
        return text


def _remove_marks(value: Any) -> Any:
    if isinstance(value, _CorrectedText | _LongNumberText):
        return str(value)
    if isinstance(value, MarkedObject):
        return {name: _remove_marks(inner) for name, inner in value.items()}
    return [_remove_marks(inner) for inner in value] if isinstance(value, list) else value


def find_nul_faults(fields: Mapping[str, Any], ids: Collection[str]) -> tuple[Fault, ...]:
    """Return a fault for each id with a NUL character, which PostgreSQL cannot store."""
    return tuple(
        Fault(pointer((name,)), NO_NUL, "characters")
        for name in ids
        if isinstance(value := fields.get(name), str) and "\0" in value
    )


NO_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
SLICE = 256 * 1024  # bytes that are decoded before other threads run
# Percent signs in a slice that begin no escape: to escape each costs as much as an object.
MAX_BARE = 1_000


def parse_form(form: bytes, max_fields: int) -> Iterator[tuple[str, str]]:
    """Yield the names and values that `parse_qsl(…, keep_blank_values=True)` yields.

    No Python object is made for each escape: `urllib.parse` takes 2.5 s and a gigabyte for 24 MB of
    escapes, this function 0.2 s. Raises ValueError for more than `max_fields`, and Malformed.
    """
    if form.count(b"&") >= max_fields:
        raise ValueError(max_fields)
    for field in form.split(b"&"):
        if field:
            name, _, value = field.partition(b"=")
            yield unquote(name), unquote(value)


def unquote(value: bytes) -> str:
    """Return the text of a form's value, as `unquote_plus` does. Raises Malformed."""
    value = value.replace(b"+", b" ")
    if b"%" in value:
        value = b"".join(map(_unescape, _split_between_escapes(value)))
    return value.decode("utf-8", "replace")


def _split_between_escapes(value: bytes) -> Iterator[bytes]:
    """Yield the value in slices, none of which ends within an escape."""
    start = 0
    while start < len(value):
        end = start + SLICE
        cut = value.find(b"%", end - 2, end)
        if cut > start and end < len(value):
            end = cut
        yield value[start:end]
        start = end


def _unescape(part: bytes) -> bytes:
    """Decode percent-escapes with the decoder of quoted-printable text, which is written in C.

    Quoted-printable differs in its escape sign, "=". Signs of it, and each "%" that begins no
    escape, are escaped first.
    """
    part, bare = NO_ESCAPE.subn(b"%25", part.replace(b"=", b"%3D"), MAX_BARE + 1)
    if bare > MAX_BARE:
        raise Malformed("The arguments have too many percent signs that begin no escape.")
    return binascii.a2b_qp(part.replace(b"%", b"="))
