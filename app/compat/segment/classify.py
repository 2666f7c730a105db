"""What becomes of a message. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.compat.json_values import Faulty, with_nul
from app.compat.segment import field_paths, mapping, plain_values
from app.compat.segment.mapping import Mapped
from app.compat.segment.message import Guard, unguarded
from app.compat.segment.request import AS_SENT, TYPES
from app.errors import Fault, Forbidden, GatewayError, Invalid
from app.http.body import crowded_error
from app.ingest import validate as rules
from app.ingest.json_pointers import parts
from app.ingest.ports import ItemSteps
from app.ingest.segment_context import SegmentRules
from app.model import NO_NOTES, NewItem, Notes, Scope

OTHER = "other"
AsSent = Callable[[Fault], Fault]
Verdict = NewItem | GatewayError | None
"""An item that went through the refiner and the rules; why it is refused; None: it is not for Leanplum."""


@dataclass(frozen=True, slots=True)
class Judge:
    """What the messages of a call are judged by. `guard` has the privacy rules alone: they see a
    message before anything is taken out of it.
    """

    scopes: frozenset[Scope]
    rules: SegmentRules
    refiner: ItemSteps
    guard: Guard = unguarded

    def of(self, message: Any, common: Mapping[str, Any], base: str = "") -> Verdict:
        """What becomes of one message. `common`: what its batch says for all. Pointers start with
        `base`.
        """
        verdict = self._of(message, common)
        if not base or not isinstance(verdict, Invalid):
            return verdict
        if isinstance(common, Faulty):
            return verdict
        shared = common.keys() - (message.keys() if isinstance(message, dict) else ())
        return Invalid(
            tuple(
                one
                if shared.intersection(parts(one.pointer)[:1])
                else replace(one, pointer=base + one.pointer)
                for one in verdict.faults
            )
        )

    def _of(self, message: Any, common: Mapping[str, Any]) -> Verdict:
        if (crowded := crowded_error(message)) is not None:
            return crowded
        for read in (message, common):
            if isinstance(read, Faulty):
                return Invalid(read.faults)
        if isinstance(message, dict) and (faults := with_nul(message, AS_SENT)):
            return Invalid(faults)
        try:
            found = mapping.mapped(message, common, self.rules, self.guard)
        except Invalid as error:
            return error

        def as_sent(fault: Fault) -> Fault:
            return field_paths.as_sent(fault, message, common, self.rules)

        try:
            return None if found is None else _item(found, self.scopes, self.refiner, as_sent)
        except Invalid as error:
            return Invalid(tuple(map(as_sent, error.faults)))
        except GatewayError as error:
            return error


def outcome(verdict: Verdict) -> str:
    """In a word."""
    if verdict is None:
        return "not-for-leanplum"
    return "accepted" if isinstance(verdict, NewItem) else "refused"


def _item(found: Mapped, scopes: frozenset[Scope], refiner: ItemSteps, as_sent: AsSent) -> NewItem:
    needed = rules.ACTIONS[found.action].scope
    if needed not in scopes:
        raise Forbidden(f"Forbidden: missing scope {needed.value}")
    made = rules.single(found.action, found.fields, refiner=_Noting(refiner, found.notes, as_sent))
    return made if found.subject is None else made._replace(subject=found.subject)


@dataclass(frozen=True, slots=True)
class _Noting:
    """A refiner that notes what the mapping had to change, too, and whose violations point into the
    message.
    """

    inner: ItemSteps
    notes: Notes
    as_sent: AsSent

    @property
    def has_checks(self) -> bool:
        """As the inner one."""
        return self.inner.has_checks

    def enrich(self, action: str, fields: dict[str, Any]) -> Notes:
        """As the inner one."""
        found = self.inner.enrich(action, fields)
        if self.notes is NO_NOTES:
            return found
        steps = tuple(dict.fromkeys((*self.notes.steps, *found.steps)))
        return replace(found, steps=steps, warnings=(*self.notes.warnings, *found.warnings))

    def check(self, action: str, fields: dict[str, Any], notes: Notes) -> Notes:
        """As the inner one."""
        found = self.inner.check(action, fields, notes)
        if found is notes or not found.violations:
            return found
        return replace(found, violations=tuple(map(self.as_sent, found.violations)))


def subject_of(message: object, common: Mapping[str, Any], rules: SegmentRules) -> str | None:
    """Return whom a message is about, as far as it says so."""
    if not isinstance(message, dict):
        return None
    ids = {**common, **message}
    user, anonymous = plain_values.whose(ids.get("userId")), ids.get("anonymousId")
    if not user and rules.anonymous == "user":
        user = plain_values.whose(anonymous)
    if user:
        return f"u{user}"
    device = plain_values.device_id(anonymous)
    return f"d{device}" if device else None


def kind_of(message: object) -> str:
    """The message's type, as one of a few words."""
    kind = message.get("type") if isinstance(message, dict) else None
    return kind if isinstance(kind, str) and kind in TYPES else OTHER
