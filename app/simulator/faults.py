"""The fault plan: which planned fault applies to which call and entries (fact sheet §10.7).

The first fault of the plan that matches a call decides. A fault of a whole call applies alone. A
fault of entries leaves the entries that it does not affect to later faults of entries. `times`
counts calls. The filters `userId`, `action` and `contains` (a text in an action) select actions; a
fault of a whole call applies if one of the call's actions matches.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.simulator.fault_effects import ENTRY_MODES, MODES


class InvalidFaultPlan(Exception):
    """The posted plan is invalid; the message says where and why."""


@dataclass
class PlannedFault:
    """A planned fault; its fields are documented by PARAMETERS."""

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
        values = {
            name: getattr(self, parameter.attribute) for name, parameter in PARAMETERS.items()
        }
        return {
            name: value for name, value in values.items() if value is not None or name == "times"
        }


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
        self._removed = asyncio.Event()

    def add(self, faults: Sequence[PlannedFault], now: float) -> None:
        """Add faults to the end of the plan."""
        for fault in faults:
            fault.until = None if fault.seconds is None else now + fault.seconds
        self._faults.extend(faults)

    def clear(self) -> None:
        """Remove all faults, and end the delays of those that were applied."""
        self._faults.clear()
        self._removed.set()
        self._removed = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Wait as long as a fault delays a call, or until the faults are removed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._removed.wait()

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


def _is_mode(value: Any) -> bool:
    return isinstance(value, str) and value in MODES


def _is_probability(value: Any) -> bool:
    return _is_number(value) and value <= 1


def _is_status(value: Any) -> bool:
    return type(value) is int and 200 <= value <= 599


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


@dataclass(frozen=True)
class Parameter:
    """A field of a posted fault: its check, what the check expects, and what the field is for."""

    attribute: str
    """The attribute of PlannedFault."""
    is_valid: Callable[[Any], bool]
    expected: str
    description: str


PARAMETERS = {
    "mode": Parameter("mode", _is_mode, f"one of {', '.join(MODES)}", "What goes wrong."),
    "times": Parameter(
        "times",
        _is_count,
        "a whole number of 1 or more, or null (until removed)",
        "Calls that it applies to; 1 unless set, null until the faults are removed.",
    ),
    "seconds": Parameter(
        "seconds",
        _is_number,
        "a number of seconds for which the fault is active",
        "Seconds for which it is active.",
    ),
    "userId": Parameter("user_id", _is_text, "a string", "Only actions of this user."),
    "action": Parameter("action", _is_text, "a string", "Only this action, such as `track`."),
    "contains": Parameter(
        "contains",
        _is_text,
        "a string that a name or value of the action contains",
        "Only actions with this text in a name or value.",
    ),
    "probability": Parameter(
        "probability",
        _is_probability,
        "a number from 0 to 1",
        "The chance, from 0 to 1, that it applies to a call or entry; 1 unless set.",
    ),
    "delay": Parameter(
        "delay",
        _is_number,
        "a number of seconds before the response",
        "Seconds before the response.",
    ),
    "retryAfter": Parameter(
        "retry_after",
        _is_retry_after,
        "a number of seconds, or the text of the header",
        "The `Retry-After` header of the response: seconds, or any text.",
    ),
    "message": Parameter(
        "message", _is_text, "a string", "The text of the error, the warning or the page."
    ),
    "status": Parameter(
        "status", _is_status, "an HTTP status from 200 to 599", "The HTTP status of the response."
    ),
    "applied": Parameter(
        "applied", _is_truth, "true or false", "Whether the actions are done in spite of the fault."
    ),
}
"""The fields of a posted fault, by name."""


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
        if name not in PARAMETERS:
            known = ", ".join(PARAMETERS)
            raise InvalidFaultPlan(f"{path}: unknown field {name!r}; known: {known}")
        if not PARAMETERS[name].is_valid(value):
            raise InvalidFaultPlan(f"{path}.{name}: expected {PARAMETERS[name].expected}")
    if given["mode"] == "slow" and "delay" not in given:
        raise InvalidFaultPlan(f"{path}: slow needs a delay in seconds")
    attributes = {PARAMETERS[name].attribute: value for name, value in given.items()}
    return PlannedFault(**{"applied": MODES[given["mode"]].applied, **attributes})
