"""What holds the items of one call against the tracking plan and the names that Leanplum keeps. Pure.

Nothing is counted, and no name is taken, before the call's items are accepted: a body may be judged twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson

from app.errors import Fault, Invalid
from app.intake.plan.judging import Plan, Violation
from app.intake.taxonomy import Caps, Name, NameKind, Names, judge
from app.model import NewItem

Policy = Literal["off", "warn", "enforce"]


class Guard:
    """The guard of one call. `found`: what broke the plan; `beyond`: the kinds of names that did not fit."""

    __slots__ = ("_caps", "_coming", "_names", "_new", "_plan", "_policy", "beyond", "found")

    def __init__(self, plan: Plan | None, names: Names, caps: Caps, policy: Policy) -> None:
        self._plan, self._names, self._caps, self._policy = plan, names, caps, policy
        self._new = names.new
        self.restart()

    def restart(self) -> None:
        """The body is judged again, from its start."""
        self.found: list[Violation] = []
        self.beyond: list[NameKind] = []
        self._coming: set[Name] = set()

    def judge(self, action: str, fields: Mapping[str, Any]) -> Sequence[Fault]:
        """What is to be told of an item that passed the rules. Raises Invalid where it must not go on."""
        found = () if self._plan is None else self._plan.judge(action, fields)
        new = self._new(action, fields)
        if not found and not new:
            return ()
        self.found += found
        verdicts = [judge(seen, self._names.known, self._coming, self._caps) for seen in new]
        self.beyond += [one.seen.name.kind for one in verdicts if one.breaks]
        enforced = [one.fault for one in found if one.enforced]
        if self._policy == "enforce":
            enforced += [one.fault for one in verdicts if one.breaks and one.fault is not None]
        if enforced:
            raise Invalid(tuple(enforced))
        self._coming.update(one.seen.name for one in verdicts if not one.breaks)
        told = [] if self._policy == "off" else [one.fault for one in verdicts if one.fault is not None]
        return [*(one.fault for one in found), *told]

    @property
    def learning(self) -> bool:
        """Whether there was a name that is new."""
        return bool(self._coming)

    def names_of(self, items: Sequence[NewItem]) -> list[Name]:
        """The new names that these items bring, as far as there is room for them."""
        found = {
            seen.name: None for item in items for seen in self._new(item.action, fields_of(orjson.loads(item.body)))
        }
        return [name for name in found if name in self._coming]


TEXTS = ("params", "userAttributes", "userAttributeValuesToAdd", "userAttributeValuesToIncrement", "events", "states")


def fields_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An item's fields with everything as it is in JSON: SDKs send objects as texts, and numbers as well. What is not
    of its kind is left out."""
    fields = {**entry, "event": _text(entry.get("event")), "state": _text(entry.get("state"))}
    for name in TEXTS:
        if name in entry and not isinstance(value := _parsed(entry[name]), dict):
            del fields[name]
        elif name in entry:
            fields[name] = value
    return fields


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
