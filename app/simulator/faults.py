"""The fault plan: which planned fault applies to which call and entries (fact sheet §10.7).

The first fault of the plan that matches a call decides. A fault of a whole call applies alone. A
fault of entries leaves the entries that it does not affect to later faults of entries. `times`
counts calls. The filters `userId`, `action` and `contains` (a text in an action) select actions; a
fault of a whole call applies if one of the call's actions matches.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.simulator.fault_effects import ENTRY_MODES, MODES


class InvalidFaultPlan(Exception):
    """The posted plan is invalid; the message says where and why."""


@dataclass
class PlannedFault:
    """A planned fault; its fields are documented by CHECKS."""

    mode: str
    times: int | None = 1
    """Calls that it still applies to; None: until removed."""
    seconds: float | None = None
    user_id: str | None = None
    action: str | None = None
    contains: str | None = None
    probability: float = 1.0
    delay: float = 0.0
    retry_after: float | str | None = None
    message: str | None = None
    status: int | None = None
    applied: bool = True
    """Execute the affected actions in spite of the fault."""
    until: float | None = None
    """End in epoch seconds, set by `seconds` when the fault is added."""

    @property
    def per_entry(self) -> bool:
        """True for a fault of entries, False for a fault of a whole call."""
        return self.mode in ENTRY_MODES

    def is_active(self, now: float) -> bool:
        """Return True unless the fault is used up or over."""
        return self.times != 0 and (self.until is None or now < self.until)

    def matches(self, item: dict[str, Any], user_id: str) -> bool:
        """Return True if the filters select this action."""
        if self.user_id not in (None, user_id) or self.action not in (None, item.get("action")):
            return False
        return self.contains is None or contains_text(item, self.contains)

    def as_json(self) -> dict[str, Any]:
        """Return the fault in the form in which it can be posted."""
        values = {name: getattr(self, attribute) for name, attribute in FIELDS.items()}
        return {
            name: value for name, value in values.items() if value is not None or name == "times"
        }


FIELDS = {
    "mode": "mode",
    "times": "times",
    "seconds": "seconds",
    "userId": "user_id",
    "action": "action",
    "contains": "contains",
    "probability": "probability",
    "delay": "delay",
    "retryAfter": "retry_after",
    "message": "message",
    "status": "status",
    "applied": "applied",
}
"""Field of a posted fault: attribute of PlannedFault."""


def contains_text(value: Any, text: str) -> bool:
    """Return True if a name or value in decoded JSON contains the text."""
    if isinstance(value, dict):
        return any(text in name or contains_text(inner, text) for name, inner in value.items())
    if isinstance(value, list):
        return any(contains_text(inner, text) for inner in value)
    return text in str(value)


@dataclass(frozen=True)
class CallFaults:
    """The faults that apply to a call: one of the whole call, or faults of entries by index."""

    whole: PlannedFault | None
    entries: dict[int, PlannedFault]

    @property
    def delay(self) -> float:
        """Seconds before the response."""
        faults = [self.whole] if self.whole else list(self.entries.values())
        return max((fault.delay for fault in faults), default=0.0)

    def allow_action(self, index: int) -> bool:
        """Return True if the action at this index is executed in spite of the faults."""
        fault = self.whole or self.entries.get(index)
        return fault is None or fault.applied


class FaultPlan:
    """Planned faults, in the order in which they were posted."""

    def __init__(self, seed: int | None) -> None:
        self._faults: list[PlannedFault] = []
        self._random = random.Random(seed)

    def add(self, faults: Sequence[PlannedFault], now: float) -> None:
        """Add faults to the end of the plan."""
        for fault in faults:
            fault.until = None if fault.seconds is None else now + fault.seconds
        self._faults.extend(faults)

    def clear(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    def active(self, now: float) -> list[PlannedFault]:
        """Return the faults that can still apply, and remove all others."""
        self._faults = [fault for fault in self._faults if fault.is_active(now)]
        return self._faults

    def choose(self, items: list[dict[str, Any]], users: list[str], now: float) -> CallFaults:
        """Choose the faults of a call, and count that they were used."""
        by_index: dict[int, PlannedFault] = {}
        for fault in self.active(now):
            if by_index and not fault.per_entry:
                continue
            matching = [
                index
                for index, item in enumerate(items)
                if index not in by_index and fault.matches(item, users[index])
            ]
            chosen = self._draw(fault, matching)
            if chosen and fault.times is not None:
                fault.times -= 1
            if chosen and not fault.per_entry:
                return CallFaults(fault, {})
            by_index.update(dict.fromkeys(chosen, fault))
        return CallFaults(None, by_index)

    def _draw(self, fault: PlannedFault, matching: list[int]) -> list[int]:
        """Draw by the probability: once for a whole call, or once for each entry."""
        if not fault.per_entry:
            return matching if self._random.random() < fault.probability else []
        drawn = [index for index in matching if self._random.random() < fault.probability]
        filters = (fault.user_id, fault.action, fault.contains)
        if ENTRY_MODES[fault.mode].first_only and filters == (None, None, None):
            return drawn[:1]
        return drawn


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 1)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_retry_after(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() and value.isprintable()
    return _is_number(value)


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "mode": (lambda value: isinstance(value, str) and value in MODES, f"one of {', '.join(MODES)}"),
    "times": (_is_count, "a whole number of 1 or more, or null (until removed)"),
    "seconds": (_is_number, "a number of seconds for which the fault is active"),
    "userId": (_is_text, "a string"),
    "action": (_is_text, "a string"),
    "contains": (_is_text, "a string that a name or value of the action contains"),
    "probability": (lambda value: _is_number(value) and value <= 1, "a number from 0 to 1"),
    "delay": (_is_number, "a number of seconds before the response"),
    "retryAfter": (_is_retry_after, "a number of seconds, or the text of the header"),
    "message": (_is_text, "a string"),
    "status": (
        lambda value: type(value) is int and 200 <= value <= 599,
        "an HTTP status from 200 to 599",
    ),
    "applied": (lambda value: isinstance(value, bool), "true or false"),
}
"""Field of a posted fault: its check, and what is expected."""


def parse_faults(plan: Any) -> list[PlannedFault]:
    """Return the faults of a posted plan. Raises InvalidFaultPlan if one is invalid."""
    faults = plan.get("faults") if isinstance(plan, dict) else None
    if not isinstance(faults, list):
        raise InvalidFaultPlan('expected {"faults": [{"mode": …}, …]}')
    return [_parse_fault(index, fault) for index, fault in enumerate(faults)]


def _parse_fault(index: int, given: Any) -> PlannedFault:
    path = f"faults[{index}]"
    if not isinstance(given, dict) or "mode" not in given:
        raise InvalidFaultPlan(f"{path}: expected an object with a mode")
    for name, value in given.items():
        if name not in CHECKS:
            raise InvalidFaultPlan(f"{path}: unknown field {name!r}; known: {', '.join(CHECKS)}")
        is_valid, expected = CHECKS[name]
        if not is_valid(value):
            raise InvalidFaultPlan(f"{path}.{name}: expected {expected}")
    if given["mode"] == "slow" and "delay" not in given:
        raise InvalidFaultPlan(f"{path}: slow needs a delay in seconds")
    attributes = {FIELDS[name]: value for name, value in given.items()}
    return PlannedFault(**{"applied": MODES[given["mode"]].applied, **attributes})
