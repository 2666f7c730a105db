"""What becomes of a message. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.doors.parsing import Faulty, with_nul
from app.doors.segment import mapping
from app.doors.segment.making import Guard, unguarded
from app.doors.segment.mapping import Mapped
from app.doors.segment.reading import AS_SENT, TYPES
from app.errors import Forbidden, GatewayError, Invalid
from app.intake import bodies, rules
from app.intake.refining import Refiner
from app.intake.segment import SegmentRules
from app.model import NO_NOTES, NewItem, Notes, Scope

OTHER = "other"
Verdict = NewItem | GatewayError | None
"""An item that went through the refiner and the rules; why it is refused; None: it is not for Leanplum."""


@dataclass(frozen=True, slots=True)
class Judge:
    """What the messages of a call are judged by. `guard` has the privacy rules alone: they see a message before
    anything is taken out of it."""

    scopes: frozenset[Scope]
    rules: SegmentRules
    refiner: Refiner
    guard: Guard = unguarded

    def of(self, message: Any, common: Mapping[str, Any]) -> Verdict:
        """What becomes of one message. `common`: what its batch says for all."""
        if (crowded := bodies.crowded(message)) is not None:
            return crowded
        for read in (message, common):
            if isinstance(read, Faulty):
                return Invalid(read.faults)
        if isinstance(message, dict) and (faults := with_nul(message, AS_SENT)):
            return Invalid(faults)
        try:
            found = mapping.mapped(message, common, self.rules, self.guard)
            return None if found is None else _item(found, self.scopes, self.refiner)
        except Invalid as error:
            return Invalid(tuple(mapping.told_of(one) for one in error.faults))
        except GatewayError as error:
            return error


def outcome(verdict: Verdict) -> str:
    """In a word."""
    if verdict is None:
        return "not-for-leanplum"
    return "accepted" if isinstance(verdict, NewItem) else "refused"


def _item(found: Mapped, scopes: frozenset[Scope], refiner: Refiner) -> NewItem:
    needed = rules.ACTIONS[found.action].scope
    if needed not in scopes:
        raise Forbidden(f"This needs a key with the scope {needed.value}.")
    refine = refiner if found.notes is NO_NOTES else _Noting(refiner, found.notes)
    made = rules.single(found.action, found.fields, refiner=refine)
    return made if found.subject is None else made._replace(subject=found.subject)


@dataclass(frozen=True, slots=True)
class _Noting:
    """A refiner that notes what the mapping had to change, too."""

    inner: Refiner
    notes: Notes

    @property
    def judges(self) -> bool:
        """As the inner one."""
        return self.inner.judges

    def refine(self, action: str, fields: dict[str, Any]) -> Notes:
        """As the inner one."""
        found = self.inner.refine(action, fields)
        steps = tuple(dict.fromkeys((*self.notes.steps, *found.steps)))
        return replace(found, steps=steps, warnings=(*self.notes.warnings, *found.warnings))

    def judge(self, action: str, fields: dict[str, Any], notes: Notes) -> Notes:
        """As the inner one."""
        return self.inner.judge(action, fields, notes)


def kind_of(message: object) -> str:
    """The message's type, as one of a few words."""
    kind = message.get("type") if isinstance(message, dict) else None
    return kind if isinstance(kind, str) and kind in TYPES else OTHER
