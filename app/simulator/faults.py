"""The fault plan: which planned fault strikes which call, and which entries of it (fact sheet
§10.7).

The first fault of the plan that matches a call decides it. A whole-call fault strikes alone. A
per-entry fault leaves the entries that it doesn't touch to the per-entry faults after it. `times`
counts calls. `userId`, `action` and `contains` (a text in an action) name the actions that a fault
is for; a whole-call fault strikes where one of the call's is.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.simulator.fault_effects import ENTRY_MODES


@dataclass
class Fault:
    """One planned fault. `times` is what is left of it (None: until removed), `until` when it is
    over.
    """

    mode: str
    times: int | None = 1
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
    until: float | None = None

    @property
    def per_entry(self) -> bool:
        return self.mode in ENTRY_MODES

    def alive(self, now: float) -> bool:
        return self.times != 0 and (self.until is None or now < self.until)

    def matches(self, item: dict[str, Any], user_id: str) -> bool:
        named = self.user_id in (None, user_id) and self.action in (None, item.get("action"))
        return named and (self.contains is None or holds(item, self.contains))

    def shown(self) -> dict[str, Any]:
        """The fault as it could be posted again."""
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


def holds(value: Any, text: str) -> bool:
    """Whether a text stands anywhere in what was sent: in a name or in a value, whatever the
    encoding was.
    """
    if isinstance(value, dict):
        return any(text in name or holds(inner, text) for name, inner in value.items())
    if isinstance(value, list):
        return any(holds(inner, text) for inner in value)
    return text in str(value)


@dataclass(frozen=True)
class Strike:
    """What the plan holds for one call: a fault of all of it, or faults of entries by index, or
    nothing.
    """

    whole: Fault | None
    entries: dict[int, Fault]

    @property
    def delay(self) -> float:
        faults = [self.whole] if self.whole else list(self.entries.values())
        return max((fault.delay for fault in faults), default=0.0)

    def applies(self, index: int) -> bool:
        """Whether the action at this index is done in spite of the fault."""
        fault = self.whole or self.entries.get(index)
        return fault is None or fault.applied


class FaultPlan:
    """Faults in the order in which they were posted."""

    def __init__(self, seed: int | None) -> None:
        self._faults: list[Fault] = []
        self._chance = random.Random(seed)

    def add(self, faults: Sequence[Fault], now: float) -> None:
        for fault in faults:
            fault.until = None if fault.seconds is None else now + fault.seconds
        self._faults.extend(faults)

    def clear(self) -> None:
        self._faults.clear()

    def in_force(self, now: float) -> list[Fault]:
        """The faults that can still strike; what is used up or over is dropped."""
        self._faults = [fault for fault in self._faults if fault.alive(now)]
        return self._faults

    def strike(self, items: list[dict[str, Any]], users: list[str], now: float) -> Strike:
        """Choose the faults of one call, and use them up."""
        struck: dict[int, Fault] = {}
        for fault in self.in_force(now):
            if struck and not fault.per_entry:
                continue
            free = (
                i
                for i, item in enumerate(items)
                if i not in struck and fault.matches(item, users[i])
            )
            chosen = self._drawn(fault, list(free))
            if chosen and fault.times is not None:
                fault.times -= 1
            if chosen and not fault.per_entry:
                return Strike(fault, {})
            struck.update(dict.fromkeys(chosen, fault))
        return Strike(None, struck)

    def _drawn(self, fault: Fault, matching: list[int]) -> list[int]:
        """Chance decides once for a whole call, and for each entry of its own in the per-entry
        modes.
        """
        if not fault.per_entry:
            return matching if self._chance.random() < fault.probability else []
        drawn = [index for index in matching if self._chance.random() < fault.probability]
        aimed = any(one is not None for one in (fault.user_id, fault.action, fault.contains))
        return drawn if aimed or not ENTRY_MODES[fault.mode].first_only else drawn[:1]
