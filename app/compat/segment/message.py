"""A message on its way to being an item: what all kinds of messages need. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.compat.segment import plain_values
from app.compat.segment.request import Message
from app.errors import Fault, Invalid
from app.ingest.segment_context import SegmentRules
from app.leanplum.values import MAX_PARAMS
from app.model import NO_NOTES, Notes

PARAMS, ATTRIBUTES = "params", "userAttributes"
Fields = dict[str, Any]
Guard = Callable[[str, Fields], Notes]
"""Takes out of an action's fields what must not be stored."""


def unguarded(action: str, fields: Fields) -> Notes:
    """Takes out nothing."""
    return NO_NOTES


@dataclass(slots=True)
class Making:
    """A message on its way."""

    action: str
    message: Message
    context: Message
    rules: SegmentRules
    guard: Guard
    steps: tuple[str, ...] = ()
    changed: list[str] = field(default_factory=list)
    left_out: int = 0
    subject: str | None = None

    def flat(self, home: str, nested: Mapping[str, Any]) -> Fields:
        """What goes into the field `home`, before anything is taken out of it for a parameter of
        its own: so privacy rules see it whole, by the names of Segment's.
        """
        renamed = list[str]()
        fields: Fields = {home: plain_values.flattened(nested, renamed)}
        self.steps = self.guard(self.action, fields).steps or self.steps
        found = fields.get(home)
        if not isinstance(found, dict):
            return {}
        self.changed += [name for name in renamed if name in found]
        lists = home == ATTRIBUTES
        return {name: plain_values.value(one, lists=lists) for name, one in found.items()}

    def left(self, home: str, found: Any, key: str = "") -> Any:
        """Return the part that privacy rules leave of a value that goes into the field `home` (in
        it: under `key`), as it was sent; None where nothing is left.
        """
        if self.guard is unguarded or found is None:
            return found
        fields: Fields = {home: {key: found} if key else found}
        self.steps = self.guard(self.action, fields).steps or self.steps
        left = fields.get(home)
        return left.get(key) if key and isinstance(left, dict) else left

    def name(self, home: str, text: str) -> str:
        """A name that Leanplum takes, for the field `home`. What was sent is told to nobody."""
        made = plain_values.name(text)
        if made != text:
            self.changed.append(home)
        return made

    def params(self, flat: Mapping[str, Any]) -> Fields:
        """As many as Leanplum takes; null is no value of a param."""
        found = {name: one for name, one in flat.items() if one is not None}
        self.left_out += max(0, len(found) - MAX_PARAMS)
        return {PARAMS: dict([*found.items()][:MAX_PARAMS])} if found else {}

    @property
    def notes(self) -> Notes:
        """What had to be changed, for the receipt."""
        told = list[str]()
        if self.changed:
            told.append(
                f"Names were changed to such as Leanplum takes: {', '.join(self.changed[:5])}"
            )
        if self.left_out:
            told.append(f"{self.left_out} properties were left out: Leanplum takes {MAX_PARAMS}.")
        return Notes(self.steps, tuple(told)) if self.steps or told else NO_NOTES


def object_of(of: Mapping[str, Any], name: str, at: str = "") -> Message:
    """Return the object of this name; an empty one where there is none. PHP writes an empty object
    as an empty list.

    Raises Invalid with a pointer that starts with `at`.
    """
    found = of.get(name)
    if found is None or found == []:
        return {}
    if not isinstance(found, dict):
        raise Invalid((Fault(f"{at}/{name}", "must be an object", "type"),))
    return found


def first_text(*found: Any) -> str:
    """The first that is a text with something in it."""
    return next((one for one in found if isinstance(one, str) and one.strip()), "")


def whom(making: Making) -> Fields:
    """userId and anonymousId, as Leanplum's user and device (fact sheet §3: both are a pair, one
    alone is enough).
    """
    user, device = (
        plain_values.whose(making.message.get("userId")),
        plain_values.device_id(making.message.get("anonymousId")),
    )
    if making.rules.anonymous == "user":
        user, device = user or plain_values.whose(making.message.get("anonymousId")), None
    fields = {**({"userId": user} if user else {}), **({"deviceId": device} if device else {})}
    if not fields:
        raise Invalid((Fault("", "userId or anonymousId is required", "missing-subject"),))
    return fields
