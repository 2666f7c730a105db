"""Durations and sizes as people write them: `90s`, `15m`, `24h`; `5MiB`. Pure."""

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
DURATION_TAKES = "takes seconds, or a number with ms, s, m, h or d, as in 90s, 15m, 24h"
SIZE_TAKES = "takes bytes, or a number with kB, MB, GB, KiB, MiB or GiB, as in 5MiB"
NUMBER_UNIT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]{1,3})")
NUMBER = re.compile(r"[+-]?(?:[0-9._]+(?:e[+-]?[0-9]+)?|inf|nan|infinity)", re.IGNORECASE)


def seconds(value: object) -> object:
    """Return the seconds of a duration. What is a plain number is left as it is, for its field to
    check. Raises ValueError, whose text has the forms."""
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    found = NUMBER_UNIT.fullmatch(value)
    factor = None if found is None else SECONDS.get(found[2].lower())
    if found is None or factor is None:
        raise ValueError(DURATION_TAKES)
    return float(Decimal(found[1]) * factor)


def size(value: object) -> object:
    """Return the bytes of a size. What is a plain number is left as it is, for its field to check.
    Raises ValueError, whose text has the forms."""
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    found = NUMBER_UNIT.fullmatch(value)
    factor = None if found is None else BYTES.get(found[2].upper())
    if found is None or factor is None:
        raise ValueError(SIZE_TAKES)
    return int(Decimal(found[1]) * factor)
