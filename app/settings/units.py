"""Durations and sizes with units, such as `90s`, `15m`, `24h` and `5MiB`. Pure."""

import re
from decimal import Decimal

MILLISECOND = Decimal("0.001")
SECONDS = {
    "ms": MILLISECOND,
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3_600),
    "d": Decimal(86_400),
}
BYTES = {
    "B": 1,
    "KB": 1_000,
    "MB": 1_000**2,
    "GB": 1_000**3,
    "KIB": 1_024,
    "MIB": 1_024**2,
    "GIB": 1_024**3,
}
DURATION_TAKES = "must be seconds, or a number with ms, s, m, h or d, as in 90s, 15m, 24h"
SIZE_TAKES = "must be bytes, or a number with kB, MB, GB, KiB, MiB or GiB, as in 5MiB"
DURATION_UNITS = ("d", "h", "m", "s", "ms")
SIZE_UNITS = ("GiB", "MiB", "KiB", "GB", "MB", "kB")
NUMBER_UNIT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]{1,3})")
NUMBER = re.compile(r"[+-]?(?:[0-9._]+(?:e[+-]?[0-9]+)?|inf|nan|infinity)", re.IGNORECASE)


def seconds(value: object) -> object:
    """Return a duration in seconds.

    A plain number is returned as it is, for its field to validate. Raises ValueError with the
    accepted forms.
    """
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    match = NUMBER_UNIT.fullmatch(value)
    factor = None if match is None else SECONDS.get(match[2].lower())
    if match is None or factor is None:
        raise ValueError(DURATION_TAKES)
    return float(Decimal(match[1]) * factor)


def size(value: object) -> object:
    """Return a size in bytes.

    A plain number is returned as it is, for its field to validate. Raises ValueError with the
    accepted forms.
    """
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    match = NUMBER_UNIT.fullmatch(value)
    factor = None if match is None else BYTES.get(match[2].upper())
    if match is None or factor is None:
        raise ValueError(SIZE_TAKES)
    return int(Decimal(match[1]) * factor)


def format_seconds(value: float) -> str:
    """Return a duration in the largest unit that needs no fraction, as settings accept it."""
    exact = Decimal(str(value))
    for unit in DURATION_UNITS:
        count, rest = divmod(exact, SECONDS[unit])
        if count and not rest:
            return f"{count:f}{unit}"
    return f"{exact:f}"


def format_size(value: int) -> str:
    """Return a size in the largest unit that needs no fraction, as settings accept it."""
    for unit in SIZE_UNITS:
        count, rest = divmod(value, BYTES[unit.upper()])
        if count and not rest:
            return f"{count}{unit}"
    return str(value)
