"""Types of the values that Leanplum accepts: names, ids, scalars, times.

Source: fact sheet, Leanplum's API limits and SDK checks.

Each is an annotated type, checked by pydantic's core, and has one sentence that says what it takes:
`TAKES`.
"""

import math
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from app.ids import plain
from app.model import APP_NAME, KEY_NAME

INT_LIMIT = 2**63
TOO_LARGE = "must be an integer from -2^63 to 2^63-1"
SURROGATE = re.compile("[\ud800-\udfff]")
MAX_PARAMS = 50
# Of a value that may be any JSON; less than a body's, so that both ways of reading one agree
MAX_VALUE_DEPTH = 32
ZERO_UUID = "00000000-0000-0000-0000-000000000000"
LATEST = 1e11  # seconds; what is above is surely milliseconds: the year 5138


def _name_pattern() -> str:
    """Return the pattern of a name.

    It has 1 or more characters without , | " { } tab, newline, CR or NUL. It does not start with
    . or -, end with / or consist only of digits.
    """
    bad = r',|"{}\t\n\r\x00'
    any_, last = f"[^{bad}]", f"[^{bad}/]"
    # A character that is no digit, and one that may also be the first
    letter, first = f"[^{bad}0-9]", rf"[^{bad}0-9.\-]"
    # Characters that may also be the last
    lone_letter, lone_first = f"[^{bad}0-9/]", rf"[^{bad}0-9.\-/]"
    return f"^(?:(?:[0-9]+{letter}|{first}){any_}*{last}|[0-9]+{lone_letter}|{lone_first})$"


NAME = _name_pattern()
NAME_OR_EMPTY = f"^$|{NAME}"
MAX_NAME = 139
TEXT = r"^[^\x00]*$"
USER_ID = "^[^\n\r\\x00'\"]*$"
DEVICE_ID = r"^[\x01-\x09\x0b\x0c\x0e-\x21\x23-\x26\x28-\x2b\x2d-\x5a\x5c-\x7f]*$"
ITEM_ID = r"^[A-Za-z0-9._:\-]*$"
CURRENCY = "^[A-Z]{3}$"
DIGITS = "^[0-9]{1,18}$"
DAY = "^20[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])$"

TAKES = {
    NAME: 'must be 1 to 139 characters without , | " { } tab, newline or NUL; it must not start '
    'with "." or "-", end with "/" or consist only of digits',
    TEXT: "must not contain a NUL character",
    USER_ID: "must not contain a quote, newline or NUL character",
    DEVICE_ID: "must be ASCII without quotes, commas, [, newlines or NUL characters",
    ITEM_ID: "must be 1 to 128 characters of A-Z a-z 0-9 . _ : -",
    CURRENCY: "must be an ISO 4217 currency code such as EUR",
    DAY: "must be a date in the form YYYYMMDD",
    KEY_NAME: "must be one line of text that is not blank",
    APP_NAME: "must be an app's name: 1 to 64 characters of A-Z a-z 0-9 _ -",
    DIGITS: "must be an integer of at most 18 digits",
}


def _one_text(value: str) -> str:
    """Return the canonical text of an id. Raises PydanticCustomError."""
    # As in `plain`, without a call: most ids are fine
    if not ("!" <= value[0] <= "~" and "!" <= value[-1] <= "~"):
        value = plain(value)
    if not value:
        raise PydanticCustomError("string_too_short", "must not be empty")
    if value == ZERO_UUID:
        raise PydanticCustomError("zero_id", "must not be the zero UUID")
    return value


def _not_whole(value: object) -> object:
    """Refuse a whole number, which is too large for `Int` and would become a rounded fraction."""
    if type(value) is int:
        raise PydanticCustomError("too_large", TOO_LARGE)
    return value


def deeper(value: dict[Any, Any] | list[Any], levels: int) -> bool:
    """Return whether parsed JSON is nested more deeply than so many levels."""
    level: list[Any] = [value]
    for _ in range(levels):
        inside = [
            one for outer in level for one in (outer.values() if type(outer) is dict else outer)
        ]
        level = [one for one in inside if type(one) is dict or type(one) is list]
        if not level:
            return False
    return True


def _plain(value: dict[str, object]) -> dict[str, object]:
    """Return any JSON that can be sent on. Raises PydanticCustomError."""
    if deeper(value, MAX_VALUE_DEPTH):
        raise PydanticCustomError("depth", f"must be nested at most {MAX_VALUE_DEPTH} levels deep")
    for path, inner in _leaves(value):
        _sendable(path, inner)
    return value


def _sendable(path: tuple[str | int, ...], value: object) -> None:
    """Raise PydanticCustomError for a value that JSON cannot carry to Leanplum unchanged."""
    kind = type(value)
    if kind is int and not is_whole(value):
        raise PydanticCustomError("too_large", TOO_LARGE, {"at": path})
    if kind is float and not math.isfinite(value):  # type: ignore[arg-type]
        raise PydanticCustomError("finite_number", "must be a finite number", {"at": path})
    texts = [value, *path[-1:]] if kind is str else path[-1:]
    if any(isinstance(text, str) and SURROGATE.search(text) for text in texts):
        raise PydanticCustomError("string_unicode", "must be valid Unicode", {"at": path})


def _leaves(value: object) -> Iterator[tuple[tuple[str | int, ...], object]]:
    """Yield every value inside an object or a list, with its path."""
    open_: list[tuple[tuple[str | int, ...], object]] = [((), value)]
    while open_:
        path, outer = open_.pop()
        inside: Iterable[tuple[str | int, object]] = ()
        if isinstance(outer, dict):
            inside = outer.items()
        elif isinstance(outer, list):
            inside = enumerate(outer)
        for key, inner in inside:
            yield (*path, key), inner
            if isinstance(inner, dict | list):
                open_.append(((*path, key), inner))


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number that fits into 64 bits with its sign."""
    return type(value) is int and -INT_LIMIT <= value < INT_LIMIT


def _epoch(value: float | str) -> float:
    """Return the seconds since the epoch of a number or an RFC 3339 text."""
    if isinstance(value, str):
        value = _rfc3339(value)
    if not 0 <= value < LATEST:
        raise PydanticCustomError(
            "time", "must be seconds since 1970 (not milliseconds) or an RFC 3339 time"
        )
    return value


def query_time(text: str) -> float:
    """Return the seconds since the epoch of a text with seconds or RFC 3339. Raises ValueError."""
    return _epoch(float(text) if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text) else text)


_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII
)


def _rfc3339(value: str) -> float:
    if not (match := _RFC3339.fullmatch(value)):
        raise PydanticCustomError(
            "time", "must be an RFC 3339 time with an offset, such as 2026-01-31T12:00:00Z"
        )
    day, clock, fraction, offset = match.groups()
    if clock.endswith(":60"):  # a leap second, which the epoch does not have: its neighbour
        clock = clock[:-2] + "59"
    try:
        return datetime.fromisoformat(
            f"{day}T{clock}.{(fraction or '0')[:6]:0<6}{offset.upper()}"
        ).timestamp()
    except (ValueError, OverflowError):
        raise PydanticCustomError("time", "must be a valid date and time") from None


def described(description: str, *examples: Any) -> Any:
    """Return the documentation of a field: its description and examples."""
    return Field(description=description, examples=list(examples) or None)


Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=NAME, strict=True)]
Text = Annotated[str, Field(pattern=TEXT, strict=True)]
Bool = Annotated[bool, Field(strict=True)]
Int = Annotated[int, Field(strict=True, ge=-INT_LIMIT, lt=INT_LIMIT)]
NumberAsText = Annotated[Int, AfterValidator(str)]  # clients in the field send whole numbers as ids
UserId = Annotated[
    Annotated[str, Field(min_length=1, max_length=400, pattern=USER_ID, strict=True)]
    | NumberAsText,
    Field(union_mode="left_to_right"),
    AfterValidator(_one_text),
]
DeviceId = Annotated[
    Annotated[str, Field(min_length=1, max_length=400, pattern=DEVICE_ID, strict=True)]
    | NumberAsText,
    Field(union_mode="left_to_right"),
    AfterValidator(_one_text),
]
# Of a message, a campaign …: Leanplum's are whole numbers; a path has them as text
EntityId = Annotated[
    Annotated[int, Field(strict=True, ge=0, lt=INT_LIMIT)]
    | Annotated[str, Field(strict=True, pattern=DIGITS), AfterValidator(int)],
    Field(union_mode="left_to_right"),
]
ItemId = Annotated[str, Field(min_length=1, max_length=128, pattern=ITEM_ID, strict=True)]
Currency = Annotated[str, Field(pattern=CURRENCY, strict=True)]
Fraction = Annotated[float, Field(strict=True, allow_inf_nan=False), BeforeValidator(_not_whole)]
Number = Annotated[Int | Fraction, Field(union_mode="left_to_right")]
Count = Annotated[int, Field(strict=True, ge=0, lt=INT_LIMIT)]
Scalar = Annotated[Text | Bool | Int | Fraction, Field(union_mode="left_to_right")]
Time = Annotated[
    Annotated[float, Field(strict=True, allow_inf_nan=False)] | Annotated[str, Field(strict=True)],
    Field(
        union_mode="left_to_right",
        json_schema_extra={"examples": ["2026-01-31T12:00:00Z", 1769860800]},
    ),
    AfterValidator(_epoch),
]
Params = Annotated[dict[Name, Scalar], Field(max_length=MAX_PARAMS)]
Plain = Annotated[dict[str, Any], AfterValidator(_plain)]
AttributeValue = Annotated[Scalar | list[Scalar] | None, Field(union_mode="left_to_right")]
