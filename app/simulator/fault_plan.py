"""Fault plans as they are posted: checked field by field, refused with a sentence that says what is
wrong.
"""

from collections.abc import Callable
from typing import Any

from app.simulator.fault_effects import MODES
from app.simulator.faults import FIELDS, Fault


class BadPlan(Exception):
    """The posted plan can't be meant; the message tells why."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 1)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_header(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "mode": (lambda value: isinstance(value, str) and value in MODES, f"one of {', '.join(MODES)}"),
    "times": (_is_count, "a whole number of 1 or more, or null (until removed)"),
    "seconds": (_is_number, "a number of seconds for which the fault stays"),
    "userId": (_is_text, "a string"),
    "action": (_is_text, "a string"),
    "contains": (_is_text, "a string that stands in an action's names or values"),
    "probability": (lambda value: _is_number(value) and value <= 1, "a number from 0 to 1"),
    "delay": (_is_number, "a number of seconds before the answer"),
    "retryAfter": (
        lambda value: _is_number(value) or _is_header(value),
        "a number of seconds, or the header's text",
    ),
    "message": (_is_text, "a string"),
    "status": (
        lambda value: type(value) is int and 200 <= value <= 599,
        "an HTTP status from 200 to 599",
    ),
    "applied": (lambda value: isinstance(value, bool), "true or false"),
}


def read_plan(value: Any) -> list[Fault]:
    """The faults of a posted plan; all of it is refused when one is wrong."""
    faults = value.get("faults") if isinstance(value, dict) else None
    if not isinstance(faults, list):
        raise BadPlan('expected {"faults": [{"mode": …}, …]}')
    return [_read(index, fault) for index, fault in enumerate(faults)]


def _read(index: int, given: Any) -> Fault:
    if not isinstance(given, dict) or "mode" not in given:
        raise BadPlan(f"faults[{index}]: expected an object with a mode")
    for name, value in given.items():
        check = CHECKS.get(name)
        if check is None:
            raise BadPlan(f"faults[{index}]: unknown field {name!r}; known are {', '.join(CHECKS)}")
        if not check[0](value):
            raise BadPlan(f"faults[{index}].{name}: expected {check[1]}")
    if given["mode"] == "slow" and "delay" not in given:
        raise BadPlan(f"faults[{index}]: slow needs a delay in seconds")
    named = {FIELDS[name]: value for name, value in given.items()}
    return Fault(**{"applied": MODES[given["mode"]].applied, **named})
