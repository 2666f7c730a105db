"""Classification of a call's messages: each becomes an item, a refusal or nothing. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.compat.body_formats import FaultyObject, find_nul_faults
from app.compat.segment import field_paths, mapping, plain_values
from app.compat.segment.request import TYPES, VERBATIM_FIELDS
from app.errors import Fault, Forbidden, GatewayError, Invalid
from app.http.body import crowded_error
from app.ingest import (
    ItemSteps,
    SegmentRules,
    parts,
    validate,
)
from app.model import NO_NOTES, NewItem, Notes, Scope

OTHER = "other"
LocateFault = Callable[[Fault], Fault]
ClassifiedMessage = NewItem | GatewayError | None
"""An enriched and validated item, why a message is refused, or None: it is not for Leanplum."""


@dataclass(frozen=True, slots=True)
class MessageClassifier:
    """Classify the messages of a call.

    `apply_privacy` has the privacy rules alone, which see a message before anything is taken out
    of it; `item_steps` has all steps around validation.
    """

    scopes: frozenset[Scope]
    rules: SegmentRules
    item_steps: ItemSteps
    apply_privacy: mapping.ApplyPrivacy = mapping.keep_everything

    def classify(
        self, message: Any, common: Mapping[str, Any], base: str = ""
    ) -> ClassifiedMessage:
        """Return the item of a message, why it is refused, or None when it is not for Leanplum.

        `common` are the fields that its batch has for all messages. Pointers to faults start with
        `base`, unless they point into the common fields.
        """
        classified = self._classify(message, common)
        if not base or not isinstance(classified, Invalid) or isinstance(common, FaultyObject):
            return classified
        own_names = message.keys() if isinstance(message, dict) else ()
        shared_names = common.keys() - own_names
        faults = list[Fault]()
        for fault in classified.faults:
            is_shared = bool(shared_names.intersection(parts(fault.pointer)[:1]))
            faults.append(fault if is_shared else replace(fault, pointer=base + fault.pointer))
        return Invalid(tuple(faults))

    def _classify(self, message: Any, common: Mapping[str, Any]) -> ClassifiedMessage:
        crowded = crowded_error(message)
        if crowded is not None:
            return crowded
        for fields in (message, common):
            if isinstance(fields, FaultyObject):
                return Invalid(fields.faults)
        if isinstance(message, dict) and (faults := find_nul_faults(message, VERBATIM_FIELDS)):
            return Invalid(faults)
        try:
            mapped = mapping.map_message(message, common, self.rules, self.apply_privacy)
        except Invalid as error:
            return error
        if mapped is None:
            return None

        def locate(fault: Fault) -> Fault:
            return field_paths.locate_fault(fault, message, common, self.rules)

        try:
            return self._make_item(mapped, locate)
        except Invalid as error:
            return Invalid(tuple(map(locate, error.faults)))
        except GatewayError as error:
            return error

    def _make_item(self, mapped: mapping.MappedMessage, locate: LocateFault) -> NewItem:
        needed = validate.ITEM_ACTIONS[mapped.action].scope
        if needed not in self.scopes:
            raise Forbidden(f"Forbidden: missing scope {needed.value}")
        steps = _MessageSteps(self.item_steps, mapped.notes, locate)
        item = validate.single(mapped.action, mapped.fields, item_steps=steps)
        return item if mapped.subject is None else item._replace(subject=mapped.subject)


@dataclass(frozen=True, slots=True)
class _MessageSteps:
    """Item steps that add the notes of the mapping, and whose violations point into the message."""

    inner: ItemSteps
    notes: Notes
    locate: LocateFault

    @property
    def has_checks(self) -> bool:
        """True when the inner steps check anything."""
        return self.inner.has_checks

    def enrich(self, action: str, fields: dict[str, Any]) -> Notes:
        """Enrich an item with the inner steps; return their notes and those of the mapping."""
        notes = self.inner.enrich(action, fields)
        if self.notes is NO_NOTES:
            return notes
        steps = tuple(dict.fromkeys((*self.notes.steps, *notes.steps)))
        return replace(notes, steps=steps, warnings=(*self.notes.warnings, *notes.warnings))

    def check(self, action: str, fields: dict[str, Any], notes: Notes) -> Notes:
        """Check an item with the inner steps; return notes with violations located."""
        checked = self.inner.check(action, fields, notes)
        if checked is notes or not checked.violations:
            return checked
        return replace(checked, violations=tuple(map(self.locate, checked.violations)))


def name_outcome(classified: ClassifiedMessage) -> str:
    """Return the label of an outcome, for metrics."""
    if classified is None:
        return "not-for-leanplum"
    return "accepted" if isinstance(classified, NewItem) else "refused"


def find_subject(message: object, common: Mapping[str, Any], rules: SegmentRules) -> str | None:
    """Return the user or device that a message names; None when it names none."""
    if not isinstance(message, dict):
        return None
    fields = {**common, **message}
    user, anonymous = plain_values.to_subject_id(fields.get("userId")), fields.get("anonymousId")
    if not user and rules.anonymous == "user":
        user = plain_values.to_subject_id(anonymous)
    if user:
        return f"u{user}"
    device = plain_values.make_device_id(anonymous)
    return f"d{device}" if device else None


def type_of(message: object) -> str:
    """Return the type of a message, or "other" for an unknown one."""
    kind = message.get("type") if isinstance(message, dict) else None
    return kind if isinstance(kind, str) and kind in TYPES else OTHER
